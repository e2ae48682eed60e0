"""Mutations of files: of bytes, and of the structure of PNG, npz, WAV, safetensors, JSON, YAML and CSV files.

A structured mutation keeps what a byte-level one destroys (a checksum, a length, quotes), so that the damage gets past
the first check of a reader.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

Mutation = Callable[[bytes, np.random.Generator], bytes]

EXTREMES = (0, 1, -1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
WORDS = [str(n) for n in EXTREMES] + "-0 0.0 1e308 -1e308 1e400 1e-320 nan NaN inf -inf Infinity null true".split()
WORDS += ["", " ", '"', "'", "''", "\x00", "é", "\ud83d".encode("utf-8", "surrogatepass").decode("latin1"), "\ufeff"]
WORDS += (
    "1,5 1.234,5 0x10 1_000 007 2024-01-01 2024-13-45 25:61 ../x /etc/passwd ~ C:\\x [] {} [[]] - : # & * ! %".split()
)
WORDS += ["9" * 400, "a" * 5000, "../" * 50, "=1+1", "__import__('os')", "!!python/object/apply:os.system [id]"]


def _at(content: bytes, rng: np.random.Generator) -> int:
    """A position; every other one among the first 128 bytes or the last 128, where headers and footers are."""
    n = len(content)
    end = int(rng.integers(4))
    if end == 0:
        return int(rng.integers(min(n, 128)))
    return n - 1 - int(rng.integers(min(n, 128))) if end == 1 else int(rng.integers(n))


def _span(content: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = _at(content, rng)
    return start, min(len(content), start + int(2 ** rng.integers(0, 9)))


def flip_bits(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(int(2 ** rng.integers(0, 5))):
        changed[_at(content, rng)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def set_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _span(content, rng)
    kind = int(rng.integers(3))
    new = rng.bytes(stop - start) if kind == 0 else (b"\x00" if kind == 1 else b"\xff") * (stop - start)
    return content[:start] + new + content[stop:]


def truncate(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: _at(content, rng)]


def cut_out(content: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _span(content, rng)
    return content[:start] + content[stop:]


def repeat(content: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _span(content, rng)
    return content[:stop] + content[start:stop] * int(2 ** rng.integers(0, 8)) + content[stop:]


def exchange(content: bytes, rng: np.random.Generator) -> bytes:
    """Two parts exchanged."""
    a, b, c, d = sorted(int(rng.integers(len(content) + 1)) for _ in range(4))
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def set_number(content: bytes, rng: np.random.Generator) -> bytes:
    """An extreme number of 1 to 8 bytes in the place of another."""
    size, order = int(2 ** rng.integers(0, 4)), ("little", "big")[rng.integers(2)]
    number = int(rng.choice(EXTREMES)) % 2 ** (8 * size)
    at = _at(content, rng)
    at -= at % int(rng.choice([1, 2, 4]))
    return content[:at] + number.to_bytes(size, order) + content[at + size :]  # type: ignore[arg-type]


def insert_word(content: bytes, rng: np.random.Generator) -> bytes:
    at = _at(content, rng)
    return content[:at] + str(rng.choice(np.array(WORDS, object))).encode("utf-8", "replace") + content[at:]


BYTES: tuple[Mutation, ...] = (
    flip_bits,
    flip_bits,
    set_bytes,
    truncate,
    cut_out,
    repeat,
    exchange,
    set_number,
    set_number,
    insert_word,
)


def splice(content: bytes, donor: bytes, rng: np.random.Generator) -> bytes:
    """The beginning of one file and the end of another."""
    return content[: _at(content, rng)] + donor[_at(donor, rng) :]


@cache
def zeros_packed(size: int) -> bytes:
    """So many zeros in the format of zlib."""
    return zlib.compress(bytes(size))


def png_chunks(content: bytes, rng: np.random.Generator) -> bytes:
    """A chunk changed, doubled, moved, removed or inserted; its checksum is right."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        chunks.append([content[at + 4 : at + 8], content[at + 8 : at + 8 + size]])
        at += 12 + size
    kind, i = int(rng.integers(7)), int(rng.integers(len(chunks)))
    if kind == 0:  # lying dimensions, depth, colour type, interlacing
        header = bytearray(chunks[0][1])
        at = int(rng.choice([0, 4, 8, 9, 10, 11, 12]))
        if at < 8:
            header[at : at + 4] = struct.pack(">I", int(rng.choice(EXTREMES)) % 2**32)
        else:
            header[at] = int(rng.integers(20))
        chunks[0][1] = bytes(header)
    elif kind == 1:
        chunks[i][1] = any_of(BYTES, chunks[i][1] or b"\x00", rng)
    elif kind == 2:
        chunks.insert(int(rng.integers(1, len(chunks))), list(chunks[i]))
    elif kind == 3:
        chunks.insert(int(rng.integers(len(chunks))), chunks.pop(i))
    elif kind == 4 and len(chunks) > 1:
        chunks.pop(i)
    elif kind == 5:
        names = b"PLTE tRNS tEXt zTXt iTXt iCCP gAMA pHYs eXIf acTL fcTL fdAT bKGD sBIT XXXX".split()
        body = rng.bytes(int(rng.integers(40)))
        if rng.integers(2):
            body = b"key\x00\x00" + zeros_packed(int(rng.choice([10, 10**6, 80 * 10**6])))
        chunks.insert(int(rng.integers(1, len(chunks))), [names[rng.integers(len(names))], body])
    else:
        pixels = b"".join(data for name, data in chunks if name == b"IDAT")
        try:
            raw = any_of(BYTES, zlib.decompress(pixels), rng)
        except zlib.error:
            raw = pixels
        chunks = [c for c in chunks if c[0] != b"IDAT"]
        chunks.insert(max(1, len(chunks) - 1), [b"IDAT", zlib.compress(raw)])
    parts = [content[:8]]
    for name, data in chunks:
        parts.append(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    return b"".join(parts)


def npz_members(content: bytes, rng: np.random.Generator) -> bytes:
    """A member's array header or data changed, or its name; the archive itself is sound."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    names = list(members)
    name, kind = names[rng.integers(len(names))], int(rng.integers(6))
    body = members[name]
    end = body.find(b"\n") + 1
    if kind == 0:
        members[name] = any_of(BYTES, body, rng)
    elif kind == 1:
        members[name] = npy_header(body, rng)
    elif kind == 2:
        members[name] = any_of(BYTES, body[:end] or b"\x00", rng) + body[end:]
    elif kind == 3:
        del members[name]
        new = rng.choice(["../x.npy", "/tmp/x.npy", "X.npy", "x", "y.npy", "x.npy/", "names.npy", "é.npy", "t.npy"])
        members[str(new)] = body
    elif kind == 4:
        donor = names[rng.integers(len(names))]
        members[name] = members[donor]
    else:
        members[name] = body[:end] + any_of(BYTES, body[end:] or b"\x00", rng)
    out = io.BytesIO()
    packing = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)[rng.integers(4)]
    with zipfile.ZipFile(out, "w", packing) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return out.getvalue()


def npy_header(body: bytes, rng: np.random.Generator) -> bytes:
    """An array with a header that says another shape, type or order than the data have."""
    end = body.find(b"\n") + 1
    try:
        data = np.load(io.BytesIO(body))
    except Exception:  # it is damaged already
        return any_of(BYTES, body, rng)
    shape = list(data.shape)
    descr: object = data.dtype.str
    kind = int(rng.integers(4))
    if kind == 0 and shape:
        shape[rng.integers(len(shape))] = int(rng.choice(EXTREMES))
    elif kind == 1:
        shape = [int(rng.choice(EXTREMES)) for _ in range(int(rng.integers(5)))]
    elif kind == 2:
        types = "|O <f2 >f8 <f16 |b1 <c16 <U4 |S3 <M8[s] <m8[D] |V4 <i8 >u2 |u1 (2,3)f4 x".split()
        descr = types[rng.integers(len(types))]
    else:
        descr = [("a", "<f4"), ("b", "|O")] if rng.integers(2) else [("a", "<f4")]
    header = {"descr": descr, "fortran_order": bool(rng.integers(2)), "shape": tuple(shape)}
    text = (repr(header) + " " * 20 + "\n").encode()
    version = (b"\x01\x00" + struct.pack("<H", len(text))) if len(text) < 65536 else b"\x02\x00"
    return b"\x93NUMPY" + version + text + body[end:]


def wav_header(content: bytes, rng: np.random.Generator) -> bytes:
    """A field of the header replaced: sizes, format, channels, rate, width."""
    fields = [(4, "<I"), (16, "<I"), (20, "<H"), (22, "<H"), (24, "<I"), (28, "<I"), (32, "<H"), (34, "<H"), (40, "<I")]
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 3))):
        at, form = fields[rng.integers(len(fields))]
        size = struct.calcsize(form)
        number = int(rng.choice(EXTREMES)) if rng.integers(2) else int(rng.integers(40))
        struct.pack_into(form, changed, at, number % 2 ** (8 * size))
    return bytes(changed)


def safetensors_header(content: bytes, rng: np.random.Generator) -> bytes:
    """A tensor's name, type, shape or place changed, or the header's length."""
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    names = [name for name in header if name != "__metadata__"]
    name, kind = names[rng.integers(len(names))], int(rng.integers(8))
    if kind == 0:
        types = "F64 F32 F16 BF16 F8_E4M3 F8_E5M2 I64 I32 I8 U8 BOOL C64 X".split()
        header[name]["dtype"] = types[rng.integers(len(types))]
    elif kind == 1:
        header[name]["shape"] = [int(rng.choice(EXTREMES)) for _ in range(int(rng.integers(4)))]
    elif kind == 2:
        header[name]["data_offsets"][rng.integers(2)] = int(rng.choice(EXTREMES))
    elif kind == 3:
        header[str(rng.choice(["learner/x", "extra/calibration", "extra/support/x", "x", ""]))] = header.pop(name)
    elif kind == 4:
        donor = names[rng.integers(len(names))]
        header[name], header[donor] = header[donor], header[name]
    elif kind == 5:
        del header[name]
    elif kind == 6:
        data = any_of(BYTES, data or b"\x00", rng)
    text = json.dumps(header).encode()
    length = len(text) if kind != 7 else int(rng.choice(EXTREMES)) % 2**64
    return struct.pack("<Q", length) + text + data


def json_values(content: bytes, rng: np.random.Generator) -> bytes:
    """A value or a key of a JSON document replaced by another kind of value."""
    document = json.loads(content)
    change_inside(document, rng)
    return json.dumps(document).encode()


def change_inside(document: object, rng: np.random.Generator) -> None:
    """Replace, remove or rename one value somewhere inside nested dicts and lists."""
    places: list[tuple[dict | list, object]] = []  # type: ignore[type-arg]
    rest = [document]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            places += [(value, key) for key in value]
            rest += value.values()
        elif isinstance(value, list):
            places += [(value, i) for i in range(min(5, len(value)))]
            rest += value[:5]
    if not places:
        return
    inside, key = places[rng.integers(len(places))]
    kind = int(rng.integers(5))
    if kind == 0:
        del inside[key]  # type: ignore[arg-type, call-overload]
    elif kind == 1 and isinstance(inside, dict):
        inside[str(rng.choice(np.array(WORDS, object)))] = inside.pop(key)
    elif kind == 2:
        donor, donor_key = places[rng.integers(len(places))]
        inside[key] = json.loads(json.dumps(donor[donor_key], default=str))  # type: ignore[index, call-overload]
    else:
        values = [None, True, [], {}, "", 0, -1, 0.5, 2**31, 2**63, -(2**63), 1e308, "x" * 1000, [[[]]], {"a": {}}]
        values += [[1] * 100, "../x", "/etc/passwd", "\x00", "nan", 1e-320, [None]]
        inside[key] = values[rng.integers(len(values))]  # type: ignore[index, call-overload]


def text_cells(content: bytes, rng: np.random.Generator) -> bytes:
    """A cell of a table of text replaced, removed, doubled or exchanged, or a line; or written in another codec."""
    lines = content.split(b"\n")
    kind, i, j = int(rng.integers(7)), int(rng.integers(len(lines))), int(rng.integers(len(lines)))
    cells = lines[i].split(b",")
    k = int(rng.integers(len(cells)))
    if kind < 3:
        cells[k] = str(rng.choice(np.array(WORDS, object))).encode("utf-8", "replace")
    elif kind == 3:
        cells = cells[:k] + cells[k + 1 :] if rng.integers(2) else cells[: k + 1] + cells[k:]
    elif kind == 4:
        lines[i], lines[j] = lines[j], lines[i]
        return b"\n".join(lines)
    elif kind == 5:
        delimiter = (b";", b"\t", b"|", b" ", b"\r\n", b",,")[rng.integers(6)]
        return content.replace(b"\n" if delimiter == b"\r\n" else b",", delimiter)
    else:
        codec = ("utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32", "cp037")[rng.integers(6)]
        return content.decode("latin1").encode(codec, "replace")
    lines[i] = b",".join(cells)
    return b"\n".join(lines)


def yaml_lines(content: bytes, rng: np.random.Generator) -> bytes:
    """A value, key or indentation of a YAML document replaced, line by line."""
    lines = content.decode("utf-8").split("\n")
    i, kind = int(rng.integers(len(lines))), int(rng.integers(6))
    key, colon, value = lines[i].partition(":")
    if kind < 2:
        lines[i] = f"{key}{colon} {rng.choice(np.array(WORDS, object))}"
    elif kind == 2:
        lines[i] = f"{key[: len(key) - len(key.lstrip())]}{rng.choice(np.array(WORDS, object))}:{value}"
    elif kind == 3:
        lines[i] = " " * int(rng.integers(6)) + lines[i]
    elif kind == 4:
        lines.insert(int(rng.integers(len(lines))), lines[i])
    else:
        lines.pop(i)
    return "\n".join(lines).encode("utf-8", "replace")


def any_of(mutations: Sequence[Mutation], content: bytes, rng: np.random.Generator) -> bytes:
    """One of these mutations, by chance; an empty file stays as it is."""
    return mutations[rng.integers(len(mutations))](content, rng) if content else content
