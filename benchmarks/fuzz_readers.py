"""Fuzz every reader with mutated real files: `python benchmarks/fuzz_readers.py [READER ...] --cases 10000`.

Each case is a pure function of ``(--seed, reader, number)``: a small sound file is mutated (:mod:`fuzz_mutations`) and
read as the package reads it (:mod:`fuzz_targets`), in a process with limits of time and memory and an audit hook that
watches for code, commands, connections and files outside the case's folder. Outcomes:

- ``read``: values, the same as those of a reference reader of the same bytes where there is one;
- ``named``: a ValueError that names the file;
- ``unnamed``: a ValueError that does not; ``crash``: any other exception, or the end of the process;
- ``hang``: more than --seconds of CPU time; ``memory``: more than the bound;
- ``wrong``: values that differ from the reference's, without a note that says so;
- ``executed``: the hook saw something.

All but the first two are failures. benchmarks/results/fuzz_readers.json is its result (--json). `--case READER NUMBER`
shows one case with its traceback and leaves its files in --room.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import os
import re
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_cases import Target, clear, differing, rng_of, write_case
from fuzz_targets import TARGETS

from metaad_zoo.data.read.memory import LIMIT_VARIABLE

FINE = ("read", "named")
LIMIT_MIB = 32
"""Limit of what an archive or an image may unpack to while it is fuzzed."""
SLACK_MIB = 32
"""Buffers of the libraries, beyond twice the limit or twice the file."""
UNPACKS = ("images", "npz", "parquet", "manifest")
EXAMPLES = 5
WALL_SECONDS = 120
OUTCOMES = ("read", "named", "unnamed", "crash", "hang", "memory", "wrong", "executed")
WATCHED = re.compile(
    r"os\.(system|exec|posix_spawn|spawn|fork|forkpty|startfile|putenv|chmod|chown)|subprocess\.|pty\.|socket\.connect|"
    r"socket\.(bind|getaddrinfo|sendto)|urllib\.|ftplib\.|http\.|webbrowser\.|pickle\.find_class|ctypes\.dlopen"
)
WRITES = re.compile(
    r"os\.(remove|rename|rmdir|mkdir|link|symlink|truncate)|shutil\.(rmtree|move|copyfile|unpack_archive)"
)
EVALUATE = ("typing", "dataclasses", "collections", "importlib", "enum", "inspect", "jsonargparse", "torch", "_pytest")
"""Modules that evaluate source code of the package or of themselves, such as annotations."""


class Hang(BaseException):
    """The CPU time of a case is spent."""


class Watch:
    """Audit hook that records, while it is on, what no reader of a file should do.

    Args:
        inside: folders in which files may be opened and written.
        may_name_files: whether files elsewhere may be opened to be read, as a config names them like a command line.
    """

    def __init__(self, inside: list[Path], may_name_files: bool = False) -> None:
        self.on, self.events, self._may_name_files = False, list[str](), may_name_files
        self._inside = tuple(f"{folder}{os.sep}" for folder in inside) + tuple(map(str, inside))
        roots = {sys.prefix, sys.base_prefix, str(Path(__file__).resolve().parent.parent)}
        self._own = (
            *roots,
            os.path.realpath("/proc/self"),
            "/sys",
            "/usr/share/zoneinfo",
            "/usr/lib",
            "/dev/urandom",
            "/dev/null",
            "/etc/localtime",
        )
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "exec":
            code = arguments[0]
            caller = sys._getframe(1).f_globals.get("__name__", "").partition(".")[0]
            if not str(code.co_filename).startswith((*self._own, "<frozen")) and caller not in EVALUATE:
                self.events.append(f"exec of {code.co_filename} by {caller}")
        elif event == "open":
            if isinstance(arguments[0], (str, bytes)):
                path = os.path.realpath(os.fsdecode(arguments[0]))
                flags = arguments[2] if isinstance(arguments[2], int) else 0
                writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
                may_read = self._may_name_files or path.startswith(self._own)
                if not path.startswith(self._inside) and (writes or not may_read):
                    self.events.append(f"open of {path}{' to write' if writes else ''}")
        elif WRITES.fullmatch(event):
            folder = next((f"/proc/self/fd/{x}" for x in arguments[1:] if isinstance(x, int) and x > 2), os.curdir)
            path = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes)) else ""
            path = os.path.realpath(os.path.join(folder, path)) if path else ""
            if path and not path.startswith(self._inside):
                self.events.append(f"{event} of {path}")
        elif WATCHED.match(event):
            self.events.append(f"{event} {str(arguments)[:200]}")


def _status(field: str) -> int:
    """A field of the process's status in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(field))
    return int(line.split()[1]) << 10


@contextlib.contextmanager
def _measured(seconds: float) -> Iterator[list[int]]:
    """Limit CPU time; gives the growth of resident memory in bytes at its highest."""
    growth = [0]

    def stop(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGPROF, stop)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the highest value starts anew
    before = _status("VmRSS")
    signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
    try:
        yield growth
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        growth[0] = max(0, _status("VmHWM") - before)


class Runner:
    """Runs cases of one reader in this process.

    Args:
        target: reader.
        seed: seed of all cases.
        room: folder of a case, emptied before each.
        seconds: limit of CPU time.
    """

    def __init__(self, target: Target, seed: int, room: Path, seconds: float) -> None:
        self.target, self.seed, self.room, self.seconds = target, seed, room, seconds
        self.before_reference: Callable[[], object] = lambda: None
        self.watch = Watch([room, Path(tempfile.gettempdir())], target.name == "config")
        self._usual = self._notes_of_sound_files()

    def _notes_of_sound_files(self) -> set[str]:
        """Read the sound files in all ways, so that what is imported and allocated once is there."""
        notes: set[str] = set()
        for i, files in enumerate(self.target.seeds):
            for way in range(12):
                clear(self.room)
                file = write_case(files, self.room)
                with contextlib.suppress(ValueError):  # such as an archive of images read as a table
                    notes |= {*self.target.read(self.room, file, np.random.default_rng([i, way])).notes}
                with contextlib.suppress(Exception):
                    self.target.reference(self.room, file)
        return notes

    def run(self, number: int, show: bool = False) -> dict[str, Any]:
        """Outcome of a case, with what tells failures apart, and its growth of memory in MiB."""
        rng = rng_of(self.seed, self.target.name, number)
        files = self.target.case(rng)
        clear(self.room)
        file = write_case(files, self.room)
        if self.target.name == "manifest":
            (self.room / "link.png").symlink_to("/etc/hostname")
        size = sum(map(len, files.values()))
        reading, error = None, None
        self.watch.events.clear()
        with _measured(self.seconds) as growth:
            self.watch.on = True
            try:
                reading = self.target.read(self.room, file, rng)
            except (Exception, SystemExit, Hang) as problem:
                error = problem
                if show:
                    traceback.print_exc()
            finally:
                self.watch.on = False
        mib = growth[0] / (1 << 20)
        bound = SLACK_MIB + 2 * (LIMIT_MIB if self.target.name in UNPACKS else size / (1 << 20))
        result = {"mib": round(mib, 1), **self._outcome(file, files, reading, error)}
        if self.watch.events:
            result |= {"outcome": "executed", "what": self.watch.events[0]}
        elif result["outcome"] in FINE and mib > bound:
            result |= {"outcome": "memory", "what": f"{mib:.0f} MiB more, bound {bound:.0f} MiB"}
        return result

    def _outcome(self, file: str, files: dict[str, bytes], reading: Any, error: BaseException | None) -> dict[str, Any]:
        if isinstance(error, Hang):
            where = traceback.extract_tb(error.__traceback__)[-1]
            return {"outcome": "hang", "what": f"in {Path(where.filename).name}, {where.name}"}
        if isinstance(error, ValueError):
            words = str(error)
            named = any(Path(name).name in words for name in files) or str(self.room) in words
            return {"outcome": "named"} if named else {"outcome": "unnamed", "what": _place(error)}
        if error is not None:
            return {"outcome": "crash", "what": _place(error)}
        self.before_reference()
        try:
            reference = self.target.reference(self.room, file)
        except Exception as refusal:  # whatever another library says of a damaged file
            return {"outcome": "read", "reference": f"{type(refusal).__name__}"}
        names = differing(reading, reference)
        if names and not any(note not in self._usual for note in reading.notes):
            return {"outcome": "wrong", "what": f"{names[:3]}"}
        return {"outcome": "read", "compared": len(reading.values.keys() & reference.keys()) > 0}


def _place(error: BaseException) -> str:
    """Kind of an error, its words without numbers, and the innermost frame of the package."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "metaad_zoo" in f.filename] or [None]
    place = "" if frames[-1] is None else f" in {Path(frames[-1].filename).name}:{frames[-1].name}"
    return f"{type(error).__name__}{place}: {re.sub(r'[0-9]+', '0', ' '.join(str(error).split()))[:110]}"


def worker(target: Target, options: argparse.Namespace, numbers: range, out: int) -> None:
    """Run cases and write a line before and after each."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # codecs complain there
    room = Path(tempfile.mkdtemp())
    tempfile.tempdir = str(room.parent / f"{room.name}-scratch")
    Path(tempfile.tempdir).mkdir()
    warnings.simplefilter("ignore")
    # Decoders that fail on memory are to fail in this process alone.
    most = _status("VmSize") + (4 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    runner = Runner(target, options.seed, room / "room", options.seconds)
    gc.collect()
    gc.freeze()
    gc.disable()  # twice as fast with so many objects
    with open(out, "w", buffering=1, encoding="utf-8", errors="replace") as pipe:
        runner.before_reference = lambda: pipe.write("reference\n")
        for number in numbers:
            if number % 100 == 0:
                gc.collect()
            pipe.write(f"{number}\n")
            pipe.write(json.dumps({"number": number, **runner.run(number)}) + "\n")
    clear(room)
    clear(Path(tempfile.tempdir))


def outcomes(target: Target, options: argparse.Namespace, numbers: range) -> Iterator[dict[str, Any]]:
    """Outcomes of successive cases of a reader; a process that ends or stops is replaced."""
    number = numbers.start
    while number < numbers.stop:
        source, out = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(source)
            try:
                worker(target, options, range(number, numbers.stop), out)
            except BaseException:
                print(traceback.format_exc())
                sys.stdout.flush()
            finally:
                os._exit(0)
        os.close(out)
        started, in_reference, waited_out = number, False, True
        with open(source, encoding="utf-8") as pipe:
            while select.select([pipe], [], [], WALL_SECONDS)[0]:
                line = pipe.readline()
                if not line:
                    waited_out = False
                    break
                if line.startswith("{"):
                    result = json.loads(line)
                    number = result["number"] + 1
                    yield result
                elif line == "reference\n":
                    in_reference = True
                else:
                    started, in_reference = int(line), False
        if waited_out:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if number < numbers.stop:
            ended = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
            if in_reference:  # another library's fault
                yield {"number": started, "outcome": "read", "reference": ended, "mib": 0}
            else:
                kind, what = ("hang", "no answer") if waited_out else ("crash", f"process ended: {ended}")
                yield {"number": started, "outcome": kind, "what": what, "mib": 0}
            number = started + 1


def fuzz(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Counts and examples of one reader."""
    counts: Counter[str] = Counter()
    examples: dict[str, dict[str, Any]] = {}
    started, most, compared, refused = time.time(), 0.0, 0, 0
    edges = [options.cases * i // options.processes for i in range(options.processes + 1)]
    with ThreadPoolExecutor(options.processes) as pool:
        parts = pool.map(
            lambda numbers: list(outcomes(TARGETS[name](), options, numbers)),
            [range(start, stop) for start, stop in itertools.pairwise(edges)],
        )
    for result in itertools.chain.from_iterable(parts):
        counts[result["outcome"]] += 1
        most = max(most, result["mib"])
        compared += bool(result.get("compared"))
        refused += "reference" in result
        if result["outcome"] not in FINE:
            example = examples.setdefault(f"{result['outcome']}: {result['what']}", {"times": 0, "cases": []})
            example["times"] += 1
            example["cases"] = [*example["cases"], result["number"]][:EXAMPLES]
    report = {"cases": sum(counts.values()), **{kind: counts[kind] for kind in OUTCOMES}, "compared": compared}
    report |= {"read_though_the_reference_refuses": refused, "most_mib": most, "seconds": round(time.time() - started)}
    return {**report, "failures": dict(sorted(examples.items(), key=lambda e: -e[1]["times"]))}


def show(name: str, number: int, options: argparse.Namespace) -> None:
    """Run one case in this process."""
    room = Path(options.room)
    room.mkdir(parents=True, exist_ok=True)
    print(json.dumps(Runner(TARGETS[name](), options.seed, room, options.seconds).run(number, True), indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", help=f"those of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--cases", type=int, default=10_000, help="cases of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10, help="CPU time of a case")
    parser.add_argument("--case", nargs=2, metavar=("READER", "NUMBER"), help="show one case")
    parser.add_argument("--room", default=str(Path(tempfile.gettempdir()) / "fuzz_case"), help="folder of --case")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ[LIMIT_VARIABLE] = str(LIMIT_MIB)
    if options.case:
        show(options.case[0], int(options.case[1]), options)
        return
    import timm  # noqa: F401 - once for all processes, as imports open files of the system
    import torch

    import metaad_zoo.cli.train  # noqa: F401
    from metaad_zoo.evaluation.protocol import environment

    torch.set_num_threads(1)
    readers = {}
    for name in options.readers or TARGETS:
        readers[name] = fuzz(name, options)
        print(name, json.dumps(readers[name], indent=1), flush=True)
        if options.json:
            about = {"seed": options.seed, "limit_mib": LIMIT_MIB, "slack_mib": SLACK_MIB, "seconds": options.seconds}
            before = json.loads(options.json.read_text())["readers"] if options.json.exists() else {}
            content = {"settings": about, "readers": before | readers, "environment": environment("cpu")}
            options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
