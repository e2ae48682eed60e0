"""Readers that are fuzzed, by name; configs and checkpoints among them, see also :mod:`fuzz_data_files`."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import fuzz_mutations as fm
import numpy as np
import yaml
from fuzz_cases import Files, Reading, Target
from fuzz_data_files import Archives, Csv, Images, Manifests, Parquet, Recordings

CONFIG = """name: fuzz
seed_everything: 3
alpha: 0.2
trainer: {max_steps: 4, accelerator: cpu, logger: false}
data:
  class_path: metaad_zoo.data.TabularEpisodes
  init_args:
    dataset: sklearn_tables
    splits: {train: [generated], val: [generated], test: ["*"]}
    episode: {support_normal: 5, query_normal: 10}
    val_episodes: 20
model:
  class_path: metaad_zoo.learners.GradientLearner
  init_args:
    backbone: columns
    inner_loop: {engine: vectorized, steps: 1, lr: 0.1}
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.002}}
"""


class Configs(Target):
    """Configs of `metaad train` and `train.py`, parsed; nothing is built."""

    name = "config"
    structured = (fm.yaml_lines, lambda content, rng: _yaml_values(content, rng))

    def sound(self) -> list[Files]:
        classes = CONFIG.replace("metaad_zoo.data.", "").replace("metaad_zoo.learners.", "")
        return [{"c.yaml": CONFIG.encode()}, {"c.yaml": classes.encode()}]

    @cached_property
    def _parser(self) -> Any:
        from metaad_zoo.cli.train import TrainingCLI

        class Parsed(TrainingCLI):
            def instantiate_classes(self) -> None:
                """Leave it at the parser."""

        with contextlib.redirect_stdout(io.StringIO()):
            return Parsed(["--model", "PrototypicalNetwork", "--data", "TabularEpisodes"], None).parser

    def read(self, room: Path, file: str, rng: np.random.Generator) -> Reading:
        errors = io.StringIO()
        try:
            with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
                config = self._parser.parse_args(["--config", str(room / file)])
        except SystemExit as error:  # as a parser of a command line ends
            if error.code != 2 or not errors.getvalue().startswith("error: "):
                raise
            raise ValueError(errors.getvalue()) from error
        return Reading({key: np.array(str(value)) for key, value in _leaves(config.as_dict())})

    def reference(self, room: Path, file: str) -> dict[str, np.ndarray]:
        """Plain values, as PyYAML reads them."""
        values = dict(_leaves(yaml.safe_load((room / file).read_bytes())))
        return {key: np.array(str(value)) for key, value in values.items() if "class_path" not in key}


def _leaves(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{prefix}.{key}".lstrip("."))]
    if isinstance(value, (str, bool, int)) and prefix:
        return [(prefix, value)]
    return []


def _yaml_values(content: bytes, rng: np.random.Generator) -> bytes:
    document = yaml.safe_load(content)
    fm.change_inside(document, rng)
    return yaml.safe_dump(document).encode()


class Checkpoints(Target):
    """Folders of checkpoints; half of the damaged weights and configs have the sha256 that the manifest names."""

    name = "checkpoint"

    def sound(self) -> list[Files]:
        import torch

        from metaad_zoo.episodes import NORMAL
        from metaad_zoo.learners import GradientLearner
        from metaad_zoo.zoo import Checkpoint
        from metaad_zoo.zoo.checkpoint import SUPPORT_LABELS, checkpoint_files

        learner = GradientLearner("mlp", {"widths": [4]}, {"tabular": [3]})
        scores = {"calibration/5": torch.arange(9.0), "calibration": torch.arange(5.0)}
        support = {"support/tabular": torch.eye(3), SUPPORT_LABELS: torch.full((3,), NORMAL)}
        new = Checkpoint(learner, ["a", "b"], scores, "name: sound\n")
        adapted = Checkpoint(learner, ["a"], {**scores, **support}, "name: sound\n", splits=None)
        cards = {
            "README.md": b"---\ntags: []\n---\n# A card\n",
            "metrics.json": b'{"methods": {"x": {"mean": {"auroc": 0.5}}}}',
        }
        return [{**checkpoint_files(checkpoint), **cards} for checkpoint in (new, adapted)]

    def victim(self, files: Files, rng: np.random.Generator) -> str:
        names = ["manifest.json", "manifest.json", "model.safetensors", "model.safetensors", "config.yaml", *files]
        return names[rng.integers(len(names))]

    def structures(self, name: str) -> tuple[fm.Mutation, ...]:
        if name.endswith(".json"):
            return (fm.json_values,)
        return (fm.safetensors_header,) if name.endswith(".safetensors") else (fm.yaml_lines,)

    def finished(self, files: Files, name: str, rng: np.random.Generator) -> Files:
        if name in ("model.safetensors", "config.yaml") and rng.integers(4):
            manifest = json.loads(files["manifest.json"])
            manifest["sha256"][name] = hashlib.sha256(files[name]).hexdigest()
            files["manifest.json"] = json.dumps(manifest).encode()
        return files

    def read(self, room: Path, file: str, rng: np.random.Generator) -> Reading:
        from metaad_zoo.cli import main
        from metaad_zoo.detector import load_detector
        from metaad_zoo.zoo.opening import open_checkpoint
        from metaad_zoo.zoo.published import read_published

        way = int(rng.integers(6))
        if way == 0:
            with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
                code = main(["info", str(room), *["--json"] * int(rng.integers(2))])
            if code:
                raise ValueError(errors.getvalue())
        elif way == 1:
            read_published(room)
        elif way == 2:
            detector = load_detector(room)
            if detector.is_fitted:
                return Reading({"score": detector.score(np.ones((1, 3)))})
        else:
            state = open_checkpoint(room).learner.state_dict()
            return Reading({f"learner/{name}": x.numpy() for name, x in state.items()})
        return Reading()

    def reference(self, room: Path, file: str) -> dict[str, np.ndarray]:
        from safetensors.numpy import load

        return {n: x for n, x in load((room / "model.safetensors").read_bytes()).items() if n.startswith("learner/")}


TARGETS: Mapping[str, Callable[[], Target]] = {
    kind.name: kind for kind in (Images, Csv, Parquet, Archives, Recordings, Manifests, Configs, Checkpoints)
}
