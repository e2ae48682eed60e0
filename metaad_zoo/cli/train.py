"""`python train.py`: LightningCLI over any learner and any DataModule of the package."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from metaad_zoo.cli.conclude import conclude, write_predictions
from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.learners import Learner

VERBS = ("fit", "validate", "test", "predict")
_VALUELESS = ("-h", "--help")
METRICS_FILE = "metrics.csv"


def arrange(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Find the verb wherever it stands, and put configs first, so that an override wins wherever it stands.

    Args:
        argv: the command line without the program's name.

    Returns:
        The verb, None if there is none, and the other arguments.

    Example:
        >>> arrange(["--trainer.max_steps", "5", "fit", "--config", "a.yaml"])
        ('fit', ['--config', 'a.yaml', '--trainer.max_steps', '5'])
    """
    verb, configs, others = None, [], []
    tokens = iter(argv)
    for token in tokens:
        takes_value = token.startswith("-") and "=" not in token and token not in _VALUELESS
        takes_value &= not token.startswith("--print_config")
        into = configs if token.split("=")[0] in ("-c", "--config") else others
        if token in VERBS and verb is None:
            verb = token
            continue
        into.append(token)
        if takes_value and (value := next(tokens, None)) is not None:
            into.append(value)
    return verb, configs + others


class _Parser(LightningArgumentParser):
    """Errors about an unknown key name the nearest known ones."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        near = [hint for key in _unknown_keys(message) for hint in _nearest(key, self._known_keys())]
        if near:
            message += f"\nDid you mean {' or '.join(dict.fromkeys(near))}?"
        super().error(message, ex)
        raise AssertionError("argparse's error does not return")

    def _known_keys(self) -> set[str]:
        known = {action.dest for action in self._actions}
        for prefix, base in (("model", Learner), ("data", EpisodeDataModule)):
            for kind in _subclasses(base):
                known |= {f"{prefix}.{name}" for name in _settings(kind)}
        return known


def _subclasses(kind: type) -> Iterator[type]:
    yield kind
    for child in kind.__subclasses__():
        yield from _subclasses(child)


def _settings(kind: type) -> Iterator[str]:
    """Names of a class's constructor arguments and of those of the dataclasses among them."""
    for name, parameter in inspect.signature(kind).parameters.items():
        yield name
        fields = getattr(type(parameter.default), "__dataclass_fields__", {})
        yield from (f"{name}.{field}" for field in fields)


def _unknown_keys(message: str) -> list[str]:
    found = re.findall(r"[Kk]ey '?\"?([\w.]+)'?\"? is not expected|--([\w.]+)|option '([\w.]+)'", message)
    return [next(filter(None, groups)).replace("init_args.", "") for groups in found]


def _nearest(key: str, known: set[str]) -> list[str]:
    """Known keys that are like this one as a whole or in their last part."""
    whole = difflib.get_close_matches(key, known, n=2, cutoff=0.75)
    last = key.rpartition(".")[2]
    ends = {k.rpartition(".")[2]: k for k in sorted(known)}
    return whole or [ends[e] for e in difflib.get_close_matches(last, ends, n=2, cutoff=0.7)]


class _SaveConfig(SaveConfigCallback):
    """The resolved config is written when fit starts; a resumed run writes it again."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


class TrainingCLI(LightningCLI):
    """Parses configs and overrides, and builds learner, data and trainer; :func:`run` then does what the verb says.

    Args:
        args: the command line without verb.
        verb: one of :data:`VERBS`, or None for fit and test.
    """

    def __init__(self, args: Sequence[str], verb: str | None) -> None:
        self.verb = verb
        super().__init__(
            Learner,
            EpisodeDataModule,
            save_config_callback=_SaveConfig,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            parser_class=_Parser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=list(args),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            # Learners adapt by gradients in validation too; data loaders deal out episodes to processes themselves.
            trainer_defaults={"inference_mode": False, "use_distributed_sampler": False},
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # LightningCLI warns where sys.argv is not empty beside args; ours are taken from it, so that says nothing.
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str, default="run", help="the run writes to <runs>/<name>/<time>/")
        parser.add_argument("--runs", type=str, default="runs", help="folder of all runs")
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="a .ckpt, or last or best of <name>"
        )
        parser.add_argument(
            "--alpha", type=float, default=0.1, help="false-alarm rate that thresholds aim at"
        )
        parser.add_argument("--next", type=str | None, default=None, help="a command to propose at the end")
        parser.link_arguments(
            "data",
            "model.init_args.input_shapes",
            compute_fn=lambda data: data.input_shapes,
            apply_on="instantiate",
        )

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        self.resume_from = find_checkpoint(
            self.config["ckpt_path"], Path(self.config["runs"]) / self.config["name"]
        )
        self.run_dir = self._choose_run_dir()
        given = self.config_init["trainer"]
        if given["logger"] in (None, True):
            _keep_earlier_metrics(self.run_dir)
            place = {
                "save_dir": self.run_dir.parent.parent,
                "name": self.run_dir.parent.name,
                "version": self.run_dir.name,
            }
            kwargs["logger"] = [CSVLogger(**place), TensorBoardLogger(**place)]
        given["callbacks"] = [*(given["callbacks"] or []), *self._callbacks(given)]
        return super().instantiate_trainer(**kwargs)

    def _choose_run_dir(self) -> Path:
        """A resumed run goes on in its own folder; any other gets a new one, named by the time."""
        folder = Path(self.config["runs"]) / self.config["name"]
        if self.resume_from is not None and self.resume_from.parent.name == "checkpoints":
            return self.resume_from.parent.parent
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        names = (stamp if i == 0 else f"{stamp}-{i}" for i in range(1000))
        return next(folder / name for name in names if not (folder / name).exists())

    def _callbacks(self, given: Any) -> list[pl.Callback]:
        bar = given["enable_progress_bar"] is not False and not any(
            isinstance(c, ProgressBar) for c in given["callbacks"] or []
        )
        callbacks: list[pl.Callback] = [_Bar()] if bar else []
        if given["enable_checkpointing"] is False or given["fast_dev_run"]:
            return callbacks
        place = {
            "dirpath": self.run_dir / "checkpoints",
            "enable_version_counter": False,
            "auto_insert_metric_name": False,
        }
        return [
            *callbacks,
            ModelCheckpoint(**place, filename="best", monitor="val/auroc", mode="max", save_top_k=1),
            _Last(**place, filename="last", every_n_train_steps=50, save_top_k=1),
            LearningRateMonitor("step"),
        ]


class _Bar(TQDMProgressBar):
    """Loss, validation AUROC and episodes per second on one line."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)  # the run's folder, told at the end
        return metrics


class _Last(ModelCheckpoint):
    """The newest state, for resuming; a class of its own, since callbacks of one class share their saved state."""


def _keep_earlier_metrics(run_dir: Path) -> None:
    """CSVLogger starts its file anew; what a resumed run logged before is kept beside it as metrics-1.csv, ..."""
    file = run_dir / METRICS_FILE
    if file.is_file() and rank_zero_only.rank == 0:
        n = len(list(run_dir.glob("metrics-*.csv"))) + 1
        file.rename(run_dir / f"metrics-{n}.csv")


def find_checkpoint(wanted: str | None, folder: Path) -> Path | None:
    """The checkpoint file that ``--ckpt_path`` means.

    Args:
        wanted: a file; ``"last"`` or ``"best"`` of the newest run in ``folder``; or None.
        folder: ``<runs>/<name>``.

    Raises:
        SystemExit: there is no such file.
    """
    if wanted is None:
        return None
    if wanted not in ("last", "best"):
        if not Path(wanted).is_file():
            raise SystemExit(f"--ckpt_path {wanted}: there is no such file; give a .ckpt, or last or best")
        return Path(wanted)
    found = sorted(folder.glob(f"*/checkpoints/{wanted}.ckpt"), key=lambda p: p.parent.parent.name)
    if not found:
        raise SystemExit(
            f"--ckpt_path {wanted}: no run in {folder} has one yet; start one without --ckpt_path"
        )
    return found[-1]


def run(argv: Sequence[str] | None = None) -> TrainingCLI:
    """Train, validate, test or predict as a command line says.

    Args:
        argv: without the program's name; None takes ``sys.argv``.
    """
    # Lightning's own call of a pytree function that torch has renamed; not ours to mend.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    verb, args = arrange(sys.argv[1:] if argv is None else argv)
    try:
        cli = TrainingCLI(args, verb)
        _run_verb(cli)
    except (ValueError, FloatingPointError) as error:
        raise SystemExit(f"error: {error}") from error
    return cli


def _run_verb(cli: TrainingCLI) -> None:
    trainer, learner, data = cli.trainer, cli.model, cli.datamodule
    checkpoint = str(cli.resume_from) if cli.resume_from else None
    if cli.verb in (None, "fit"):
        trainer.fit(learner, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        checkpoint = str(cli.run_dir / "checkpoints" / "best.ckpt")
    if trainer.interrupted or (cli.verb in (None, "test") and not trainer.is_global_zero):
        return
    if cli.verb == "validate":
        trainer.validate(learner, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    elif cli.verb == "predict":
        write_predictions(
            trainer.predict(learner, datamodule=data, ckpt_path=checkpoint, weights_only=True), cli.run_dir
        )
    elif cli.verb in (None, "test") and not trainer.fast_dev_run:
        if checkpoint and Path(checkpoint).is_file():
            learner.load_state_dict(
                torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]
            )
        conclude(cli, learner, data)
