"""Make tests/data/forged by `python -m tests.zoo.forge`: checkpoints, each damaged or forged in one way.

`sound` is as it should be; the others are made from it. `cases.json` holds what the error of each must say. Nothing in
them is random. They are kept as files so that what was refused once is refused by every later version.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as to_safetensors

from metaad_zoo.learners import GradientLearner
from metaad_zoo.zoo import Checkpoint, save_checkpoint

FORGED = Path(__file__).resolve().parent.parent / "data" / "forged"
SHA, DAMAGED = r"model\.safetensors has sha256", r"manifest\.json is damaged"
NO_FILE, NOT_BUILT = "is no safetensors file", "describes a learner that can't be built"
FOREIGN = "do not fit the learner"
NO_SCORES, NO_SUPPORT = "calibration scores that are not an ascending row", "a support set that does not fit"
NO_COMPLEX = "is no safetensors file"
"""What safetensors before 0.7 says of complex numbers, which it does not know."""


class Malice:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('unpickled!')",)


def sound(folder: Path) -> None:
    learner = GradientLearner("mlp", {"widths": [4]}, {"tabular": [3]})
    state = {name: torch.linspace(-1, 1, x.numel()).reshape(x.shape) for name, x in learner.state_dict().items()}
    learner.load_state_dict(state)
    save_checkpoint(folder, Checkpoint(learner, ["a", "b"], {"calibration": torch.arange(9.0)}, "name: sound\n"))


def weights(change: Callable[[bytes], bytes], rehash: bool = True) -> Callable[[Path], None]:
    """Other weights, with the hash that belongs to them or the old one."""

    def forge(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = change(path.read_bytes())
        path.write_bytes(content)
        if rehash:
            manifest = json.loads((folder / "manifest.json").read_text())
            manifest["sha256"]["model.safetensors"] = hashlib.sha256(content).hexdigest()
            (folder / "manifest.json").write_text(json.dumps(manifest))

    return forge


def flip(place: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        at = place % len(content)
        return content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :]

    return change


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Another header of the weights, with a matching hash."""

    def new(content: bytes) -> bytes:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        changed = change(header)
        text = changed if isinstance(changed, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return weights(new)


def first(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors[min(n for n in tensors if n.startswith("learner/"))].update(fields)


def filled(value: float) -> Callable[[bytes], bytes]:
    """The last weight of the learner replaced; calibration stands first in the file."""
    return lambda content: content[:-4] + struct.pack("<f", value)


def in_8_bits(content: bytes) -> bytes:
    tensors = load_safetensors(content)
    name = min(n for n in tensors if n.startswith("learner/"))
    return to_safetensors({**tensors, name: tensors[name].to(torch.float8_e4m3fn)})


def extra(**tensors: torch.Tensor) -> Callable[[Path], None]:
    """Further tensors, such as a detector keeps, with a matching hash."""

    def change(content: bytes) -> bytes:
        return to_safetensors({**load_safetensors(content), **{f"extra/{name}": x for name, x in tensors.items()}})

    return weights(change)


def support(**tensors: torch.Tensor) -> Callable[[Path], None]:
    """An adapted detector's support set."""
    given = {"support/tabular": torch.eye(3), "support_labels": torch.zeros(3, dtype=torch.int64), **tensors}
    return extra(**given)


def columns(text: bytes) -> Callable[[Path], None]:
    return support(support_columns=torch.tensor(list(text), dtype=torch.uint8))


def manifest(**changes: Any) -> Callable[[Path], None]:
    def forge(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return forge


def arguments(**changes: Any) -> Callable[[Path], None]:
    def forge(folder: Path) -> None:
        path = folder / "manifest.json"
        content = json.loads(path.read_text())
        content["arguments"] |= changes
        path.write_text(json.dumps(content))

    return forge


def inner_loop(**changes: Any) -> Callable[[Path], None]:
    def forge(folder: Path) -> None:
        inner_loop = json.loads((folder / "manifest.json").read_text())["arguments"]["inner_loop"]
        arguments(inner_loop={**inner_loop, **changes})(folder)

    return forge


def text(change: Callable[[str], str | bytes], name: str = "manifest.json") -> Callable[[Path], None]:
    def forge(folder: Path) -> None:
        content = change((folder / name).read_text())
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return forge


def config(content: str) -> Callable[[Path], None]:
    """Another config, with a matching hash."""

    def forge(folder: Path) -> None:
        (folder / "config.yaml").write_text(content)
        sha256 = json.loads((folder / "manifest.json").read_text())["sha256"]
        manifest(sha256={**sha256, "config.yaml": hashlib.sha256(content.encode()).hexdigest()})(folder)

    return forge


def swapped(content: bytes) -> bytes:
    """The first two calibration scores (0 and 1) in the other order."""
    return content.replace(struct.pack("<2f", 0, 1), struct.pack("<2f", 1, 0), 1)


SOURCE = {"origin": "wheel", "name": "x", "sha256": "0" * 64, "stored": False}
LAUGHS = "a: &a [x, x]\n" + "".join(f"{c}: &{c} [{', '.join([f'*{b}'] * 9)}]\n" for b, c in pairwise("abcdefghijkl"))

CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    **{
        f"flipped_{region}": (weights(flip(place), rehash=False), SHA)
        for region, place in {"header_length": 0, "header": 30, "calibration": -140, "data": -60, "end": -1}.items()
    },
    "flipped_header_length_rehashed": (weights(flip(1)), NO_FILE),
    "flipped_header_start_rehashed": (weights(flip(8)), NO_FILE),
    "flipped_name_rehashed": (weights(lambda c: c.replace(b"learner/", b"lEarner/", 1)), "belongs to no learner"),
    **{f"truncated_to_{n}": (weights(lambda c, n=n: c[:n], rehash=False), SHA) for n in (0, 4, 60, -1)},
    **{f"truncated_to_{n}_rehashed": (weights(lambda c, n=n: c[:n]), NO_FILE) for n in (0, 4, 60, -1)},
    "longer_rehashed": (weights(lambda c: c + b"more"), NO_FILE),
    "wrong_hash": (manifest(sha256={"model.safetensors": "0" * 64}), SHA),
    "no_hash": (manifest(sha256={}), SHA),
    "hash_of_wrong_type": (manifest(sha256={"model.safetensors": 5}), SHA),
    "pickle": (weights(lambda _: pickle.dumps(Malice(), protocol=2)), NO_FILE),
    "pickle_in_a_zip": (weights(lambda _: b"PK\x03\x04" + pickle.dumps(Malice(), protocol=2)), NO_FILE),
    "header_of_2_to_62_bytes": (weights(lambda c: struct.pack("<Q", 2**62) + c[8:]), NO_FILE),
    "header_no_json": (header(lambda _: b"{" * 40), NO_FILE),
    "header_nested": (header(lambda _: b'{"a":' * 5000 + b"1" + b"}" * 5000), NO_FILE),
    "header_twice_a_name": (
        header(lambda h: json.dumps(h).encode()[:-1] + b"," + json.dumps(h).encode()[1:]),
        "is no safetensors file .*stands there twice",
    ),
    "shape_of_2_to_62": (header(first(shape=[2**62])), NO_FILE),
    "shape_that_overflows": (header(first(shape=[2**33, 2**33])), NO_FILE),
    "shape_below_zero": (header(first(shape=[-4])), NO_FILE),
    "shape_transposed": (header(first(shape=[2, 2])), FOREIGN),
    "offsets_behind_the_end": (header(first(data_offsets=[0, 2**40])), NO_FILE),
    "offsets_backwards": (header(first(data_offsets=[16, 0])), NO_FILE),
    "dtype_unknown": (header(first(dtype="PICKLE")), NO_FILE),
    "dtype_of_whole_numbers": (header(first(dtype="I32")), FOREIGN),
    "weights_of_8_bits": (weights(in_8_bits), r"model\.safetensors holds 'learner/.*' as torch.float8_e4m3fn"),
    "weight_nan": (weights(filled(float("nan"))), "NaN or infinite weights"),
    "weight_infinite": (weights(filled(float("inf"))), "NaN or infinite weights"),
    "format_newer": (manifest(format=99), r"format 99, this version .*pip install -U"),
    "format_true": (manifest(format=True), "names no format"),
    "format_zero": (manifest(format=0), "names format 0"),
    "manifest_empty": (text(lambda _: ""), DAMAGED),
    "manifest_list": (text(lambda _: "[1]"), "names no format"),
    "manifest_half": (text(lambda t: t[: len(t) // 2]), DAMAGED),
    "manifest_no_utf8": (text(lambda t: t.encode() + b"\xff"), DAMAGED),
    "manifest_key_twice": (
        text(lambda t: t.replace('"format"', '"learner": "anil", "format"', 1)),
        "stands there twice",
    ),
    "manifest_nan": (text(lambda t: t.replace('"lr": 0.1', '"lr": NaN')), "holds NaN"),
    "manifest_infinite": (text(lambda t: t.replace('"lr": 0.1', '"lr": 1e999')), "infinite number"),
    "manifest_nested": (text(lambda t: t.replace('"lr": 0.1', f'"lr": {"[" * 30000}{"]" * 30000}')), "nested too deep"),
    "manifest_nested_100": (text(lambda t: t.replace('"lr": 0.1', f'"lr": {"[" * 100}{"]" * 100}')), "nested too deep"),
    "manifest_number_of_5000_digits": (text(lambda t: t.replace('"lr": 0.1', f'"lr": {"9" * 5000}')), DAMAGED),
    "trained_on_numbers": (manifest(trained_on=[1]), "trained_on missing or of a wrong type"),
    "learner_unknown": (manifest(learner="mamml"), r"unknown learner 'mamml'; did you mean 'maml'"),
    "learner_a_path": (manifest(learner="os.system"), "unknown learner"),
    "learner_another": (manifest(learner="protonet"), NOT_BUILT),
    "backbone_unknown": (arguments(backbone="mpl"), r"unknown backbone 'mpl'; did you mean 'mlp'"),
    "backbone_of_wrong_type": (arguments(backbone=["mlp"]), NOT_BUILT),
    "backbone_of_another_modality": (arguments(backbone="conv4"), NOT_BUILT),
    "argument_unknown": (arguments(malice=1), "unexpected keyword argument 'malice'"),
    "argument_optimizer": (arguments(optimizer="os.system"), "unknown argument of learner 'maml': 'optimizer'"),
    "option_unknown": (arguments(backbone_options={"widths": [4], "hook": "x"}), "'hook'"),
    "option_of_wrong_type": (arguments(backbone_options={"widths": "four"}), NOT_BUILT),
    "option_below_zero": (arguments(backbone_options={"widths": [-4]}), NOT_BUILT),
    "option_another_width": (arguments(backbone_options={"widths": [5]}), FOREIGN),
    "width_absurd": (arguments(backbone_options={"widths": [10**12]}), "at most 2,000,000"),
    "width_bomb": (arguments(backbone_options={"widths": [2 * 10**6, 2 * 10**6]}), FOREIGN),
    "layer_bomb": (arguments(backbone_options={"widths": [1] * 5000}), "asks for more than"),
    "layer_bomb_by_number": (
        arguments(backbone="transformer", backbone_options={"layers": 10**6}, input_shapes={"sequence": [8, 1]}),
        "asks for more than",
    ),
    "fetches_weights": (
        arguments(backbone="timm/resnet18", backbone_options={"pretrained": True}, input_shapes={"image": [3, 32, 32]}),
        FOREIGN,
    ),
    "pretrained_of_no_backbone": (manifest(format=2, pretrained={"network": SOURCE}), "no backbones of the learner"),
    "pretrained_of_another_backbone": (manifest(format=2, pretrained={"network.backbone": SOURCE}), FOREIGN),
    "pretrained_unhashed": (
        manifest(pretrained={"network.backbone": {**SOURCE, "sha256": "ab"}}),
        "pretrained missing",
    ),
    "pretrained_of_a_local_file": (
        manifest(pretrained={"network.backbone": {**SOURCE, "origin": "file"}}),
        "pretrained missing or of a wrong type",
    ),
    "shapes_absurd": (arguments(input_shapes={"tabular": [10**9]}), "expected a sample of at most"),
    "shapes_of_wrong_type": (arguments(input_shapes={"tabular": "3"}), "expected input_shapes as lists"),
    "shapes_below_zero": (arguments(input_shapes={"tabular": [-3]}), "expected a sample"),
    "shapes_of_unknown_modality": (arguments(input_shapes={"smell": [3]}), NOT_BUILT),
    "steps_absurd": (inner_loop(steps=10**6), "at most 10000 steps"),
    "steps_of_wrong_type": (inner_loop(steps="5"), NOT_BUILT),
    "rate_of_wrong_type": (inner_loop(lr="fast"), NOT_BUILT),
    "rule_unknown": (inner_loop(rule="eval"), "unknown inner_loop.rule"),
    "setting_unknown": (inner_loop(hook="x"), "unknown setting of inner_loop: 'hook'"),
    "steps_a_truth_value": (inner_loop(steps=True), "steps is True; expected int"),
    "count_no_whole_number": (arguments(diagnose_every=1e308), r"diagnose_every is 1e\+308; expected int"),
    "scaling_of_wrong_type": (arguments(scaling=0), r"scaling is 0; expected (Optional\[)?dict"),
    "inner_loop_of_wrong_type": (arguments(inner_loop=[1]), "expected its settings by name"),
    "config_runs_python": (config("a: !!python/object/apply:os.system ['true']\n"), r"config\.yaml is no plain YAML"),
    "config_changed": (text(lambda _: "name: other\n", "config.yaml"), r"config\.yaml has sha256"),
    "config_laughs": (config(LAUGHS), "more than 2,000,000 values"),
    "config_in_itself": (config("a: &a [*a]\n"), "nested too deep"),
    "config_no_yaml": (config("a: [\n"), r"config\.yaml is no plain YAML"),
    "config_gone": (lambda folder: (folder / "config.yaml").unlink(), r"config\.yaml can't be read"),
    "weights_gone": (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors can't be read"),
    "config_unnamed": (
        text(
            lambda t: json.dumps(
                {**json.loads(t), "sha256": {k: v for k, v in json.loads(t)["sha256"].items() if "y" not in k}}
            )
        ),
        r"config\.yaml is not named by manifest\.json",
    ),
    "calibration_unsorted": (weights(swapped), NO_SCORES),
    "calibration_infinite": (extra(calibration=torch.tensor([0.0, float("inf")])), NO_SCORES),
    "calibration_complex": (extra(calibration=torch.zeros(9, dtype=torch.complex64)), f"{NO_SCORES}|{NO_COMPLEX}"),
    "calibration_of_8_bits": (extra(calibration=torch.zeros(9).to(torch.float8_e4m3fn)), NO_SCORES),
    "calibration_of_whole_numbers": (extra(calibration=torch.arange(9)), NO_SCORES),
    "extra_unknown": (extra(hook=torch.zeros(1)), r"holds \['hook'\], which no detector keeps"),
    "support_of_another_modality": (support(**{"support/image": torch.zeros(3, 1, 2, 2)}), "which no detector keeps"),
    "support_without_labels": (extra(**{"support/tabular": torch.eye(3)}), "a support set without its labels"),
    "support_of_another_width": (support(**{"support/tabular": torch.eye(4)}), NO_SUPPORT),
    "support_infinite": (support(**{"support/tabular": torch.full((3, 3), torch.inf)}), NO_SUPPORT),
    "support_of_8_bits": (support(**{"support/tabular": torch.eye(3).to(torch.float8_e4m3fn)}), NO_SUPPORT),
    "support_complex": (
        support(**{"support/tabular": torch.eye(3, dtype=torch.complex64)}),
        f"{NO_SUPPORT}|{NO_COMPLEX}",
    ),
    "labels_too_few": (support(support_labels=torch.zeros(2, dtype=torch.int64)), NO_SUPPORT),
    "labels_of_half_precision": (support(support_labels=torch.zeros(3, dtype=torch.bfloat16)), NO_SUPPORT),
    "labels_all_anomalous": (support(support_labels=torch.ones(3, dtype=torch.int64)), NO_SUPPORT),
    "columns_no_json": (columns(b"["), NO_SUPPORT),
    "columns_no_utf8": (columns(b"\xff\xfe"), NO_SUPPORT),
    "columns_nested": (columns(b"[" * 5000 + b"]" * 5000), f"{NO_SUPPORT}.*nested too deep"),
    "columns_a_number": (columns(b"5"), f"{NO_SUPPORT}.*no columns by modality"),
    "columns_too_few": (columns(b'["a", "b"]'), f"{NO_SUPPORT}.*name 2 columns"),
    "columns_of_one_name": (columns(b'["a", "a", "a"]'), f"{NO_SUPPORT}.*name 1 columns"),
    "columns_below_zero": (support(support_columns=torch.tensor([-91, -93])), f"{NO_SUPPORT}.*expected text"),
}
"""By name how it is forged, and what the error must say."""


FILE: dict[str, Any] = {"sha256": "0" * 64, "bytes": 10}
ENTRY: dict[str, Any] = {
    "modality": "tabular",
    "backbone": "mlp",
    "learner": "maml",
    "data": ["adbench"],
    "licence": "Apache-2.0",
    "figures": {"auroc": 0.5, "ci95": None, "tasks": 1, "episodes": 1},
    "files": dict.fromkeys(("model.safetensors", "manifest.json", "config.yaml", "metrics.json"), FILE),
}
GOOD = "tabular-mlp-maml-adbench"


def index(name: str = GOOD, files: dict[str, Any] | None = None, **fields: Any) -> str:
    entry = {**ENTRY, "files": {**ENTRY["files"], **(files or {})}, **fields}
    return json.dumps({"format": 1, "checkpoints": {name: entry}})


INDEXES: dict[str, tuple[str, str]] = {
    "name_goes_up": (index("../../etc/passwd"), "is no name of a checkpoint"),
    "name_goes_up_in_disguise": (index("tabular-mlp-maml-../../x"), "is no name of a checkpoint"),
    "name_absolute": (index("/etc/passwd"), "is no name of a checkpoint"),
    "name_ends_in_a_line": (index(GOOD + "\n"), "is no name of a checkpoint"),
    "name_empty": (index(""), "is no name of a checkpoint"),
    "file_goes_up": (index(files={"../../../etc/passwd": FILE}), "nothing else is read"),
    "file_absolute": (index(files={"/etc/passwd": FILE}), "nothing else is read"),
    "file_backwards": (index(files={"..\\secret": FILE}), "nothing else is read"),
    "file_with_code": (index(files={"model.py": FILE}), "nothing else is read"),
    "file_without_hash": (index(files={"manifest.json": {"bytes": 1}}), "has no sha256"),
    "file_with_half_a_hash": (index(files={"manifest.json": {"sha256": "ab", "bytes": 1}}), "has no sha256"),
    "file_of_no_bytes": (index(files={"manifest.json": {**FILE, "bytes": -1}}), "has -1 bytes"),
    "file_of_2_to_62_bytes": (index(files={"manifest.json": {**FILE, "bytes": 2**62}}), "bytes"),
    "file_of_true_bytes": (index(files={"manifest.json": {**FILE, "bytes": True}}), "has True bytes"),
    "no_weights": (json.dumps({"format": 1, "checkpoints": {GOOD: {**ENTRY, "files": {}}}}), "files are missing"),
    "figures_of_wrong_type": (index(figures={"auroc": "high"}), "figures or data are of a wrong type"),
    "data_of_wrong_type": (index(data=[1]), "figures or data are of a wrong type"),
    "modality_missing": (index(modality=None), "a field is missing or of a wrong type"),
    "entry_a_list": (json.dumps({"format": 1, "checkpoints": {GOOD: []}}), "a field is missing or of a wrong type"),
    "newer": ('{"format": 2, "checkpoints": {}}', "format 2, this version .*pip install -U"),
    "no_format": ('{"checkpoints": {}}', "names no format"),
    "a_list": ("[]", "names no format"),
    "name_twice": (f'{{"format": 1, "checkpoints": {{"{GOOD}": 1, "{GOOD}": 2}}}}', "stands there twice"),
    "nested": ("[" * 50000, "is damaged"),
    "empty": ("", "is damaged"),
}
"""By name an index that is damaged or forged, and what the error must say."""


def main() -> None:
    shutil.rmtree(FORGED / "folders", ignore_errors=True)
    sound(FORGED / "folders" / "sound")
    for name, (forge, _) in CASES.items():
        shutil.copytree(FORGED / "folders" / "sound", FORGED / "folders" / name)
        forge(FORGED / "folders" / name)
    said = {name: complaint for name, (_, complaint) in CASES.items()}
    shutil.rmtree(FORGED / "indexes", ignore_errors=True)
    (FORGED / "indexes").mkdir()
    for name, (content, complaint) in INDEXES.items():
        (FORGED / "indexes" / f"{name}.json").write_text(content)
        said[f"indexes/{name}.json"] = complaint
    (FORGED / "cases.json").write_text(json.dumps(said, indent=2) + "\n")


if __name__ == "__main__":
    main()
