"""Resume a run, or load its weights: find the checkpoint and check that it fits."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from metaad_zoo.cli.terminal import note
from metaad_zoo.episodes import SplitRecord
from metaad_zoo.experiment.training_config import difference, read_config
from metaad_zoo.learners import Learner


def find_checkpoint(wanted: str | None, folder: Path, run: str | None = None) -> Path | None:
    """The checkpoint file that ``--ckpt_path`` means.

    Args:
        wanted: a file; ``"last"`` or ``"best"`` of a run in ``folder``; or None. If ``"last"`` is missing or damaged,
            the newest whole checkpoint of the run takes its place, and a note says so.
        folder: ``<runs>/<name>``.
        run: folder of the run in ``folder``; None: the newest.

    Raises:
        ValueError: there is no such file, or no checkpoint of the run is whole.
    """
    if wanted is None:
        return None
    if wanted not in ("last", "best"):
        if not Path(wanted).is_file():
            raise ValueError(f"--ckpt_path {wanted}: there is no such file; give a .ckpt, or last or best")
        return Path(wanted)
    configs = folder.glob(f"{run or '*'}/config.yaml")  # trainings; a test has none of its own
    runs = [path.parent for path in sorted(configs, key=lambda path: (path.stat().st_mtime_ns, path))]
    if not runs:
        raise ValueError(f"--ckpt_path {wanted}: there is no run in {folder} yet; start one without --ckpt_path")
    file = runs[-1] / "checkpoints" / f"{wanted}.ckpt"
    if wanted == "last":
        whole, reason = _newest_whole(file)
        if whole is not None:
            return whole
        if file.is_file():
            raise ValueError(
                f"{reason}; the run has no other whole checkpoint: remove {runs[-1]} and start without --ckpt_path"
            )
    if not file.is_file():
        raise ValueError(
            f"--ckpt_path {wanted}: the newest run {runs[-1]} has no {file.name} yet; start a new run without "
            "--ckpt_path, or name an older run's file"
        )
    return file


def _newest_whole(last: Path) -> tuple[Path | None, str]:
    """``last``, or the newest whole checkpoint beside it if ``last`` is missing or damaged (None: there is none), and
    the reason why ``last`` can't be taken."""
    files = sorted(last.parent.glob("*.ckpt"), key=lambda path: -path.stat().st_mtime_ns)
    others = [path for path in files if path != last and ".part." not in path.name]
    reason = f"{last} does not exist"
    for path in (last, *others):
        if not path.is_file():
            continue
        try:
            _load(path)
        except ValueError as error:
            reason = str(error) if path == last else reason
            continue
        if path != last:
            note(f"{reason}; {path.name} is taken, the newest whole checkpoint of the run")
        return path, reason
    return None, reason


def read_checkpoint(path: Path, learner: Learner) -> dict[str, Any]:
    """A training checkpoint, refused where it is damaged or of another model.

    Raises:
        ValueError: as said; the file is named.
    """
    checkpoint = _load(path)
    saved = {name: x.shape for name, x in checkpoint["state_dict"].items()}
    expected = {name: x.shape for name, x in learner.state_dict().items()}
    differing = [n for n in sorted(saved.keys() | expected.keys()) if saved.get(n) != expected.get(n)]
    if differing:
        raise ValueError(
            f"{path} belongs to a model with other settings: {differing[0]} has shape {saved.get(differing[0])} there, "
            f"{expected.get(differing[0])} here; take the config.yaml of its run"
        )
    return checkpoint


def splits_of_checkpoint(path: Path) -> SplitRecord:
    """Splits of a training checkpoint's classes and what it has seen, for any kind of data.

    Raises:
        ValueError: the file is damaged, or does not say what it has seen.
    """
    states = [s for s in _load(path).values() if isinstance(s, dict) and {"place", "seen"} <= s.keys()]
    if not states:
        raise ValueError(
            f"{path} does not say which classes it has seen, so that no test of it would be honest: take a checkpoint "
            "that train.py wrote"
        )
    if "splits" not in states[0]:
        Console(stderr=True).print(
            f"{path} does not record its splits: new ones are drawn, and classes that it has seen are not tested",
            soft_wrap=True,
        )
    return SplitRecord.parse(states[0].get("splits"), states[0]["seen"])


def _load(path: Path) -> dict[str, Any]:
    """The content of a training checkpoint.

    Raises:
        ValueError: it is damaged.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        if not all(isinstance(x, Tensor) for x in checkpoint["state_dict"].values()):
            raise TypeError("its state_dict holds other things than tensors")
    except (RuntimeError, OSError, EOFError, KeyError, AttributeError, TypeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} can't be read as a training checkpoint ({type(error).__name__}: {error})") from error
    return checkpoint


def refuse_other_config(run_dir: Path, now: dict[str, Any]) -> None:
    """Refuse to resume a run with another model, other data or another seed: it would be neither of the two.

    Args:
        run_dir: the run to resume, with its ``config.yaml``.
        now: this command's resolved config.

    Raises:
        ValueError: names the first difference.
    """
    before = read_config(run_dir)
    changed = None if before is None else difference(before, now, ("model", "data", "seed_everything"))
    if changed is not None:
        setting, earlier, current = changed
        raise ValueError(
            f"the run in {run_dir} has {setting}={earlier}, this command {current}: resume with its own settings "
            f"(--config {run_dir / 'config.yaml'}), or start a new run without --ckpt_path"
        )
