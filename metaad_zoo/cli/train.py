"""`python train.py`: LightningCLI over any learner and any DataModule of the package."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from metaad_zoo.cli.conclude import conclude, write_predictions
from metaad_zoo.cli.parsing import HintingParser, arrange
from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.learners import Learner

METRICS_FILE = "metrics.csv"


class _SaveConfig(SaveConfigCallback):
    """The resolved config is written when fit starts; a resumed run writes it again."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


class TrainingCLI(LightningCLI):
    """Parses configs and overrides, and builds learner, data and trainer; :func:`run` then does what the verb says.

    Args:
        args: the command line without verb.
        verb: one of :data:`metaad_zoo.cli.parsing.VERBS`, or None for fit and test.
    """

    def __init__(self, args: Sequence[str], verb: str | None) -> None:
        self.verb = verb
        super().__init__(
            Learner,
            EpisodeDataModule,
            save_config_callback=_SaveConfig,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            parser_class=HintingParser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=list(args),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            # Learners adapt by gradients in validation too; data loaders deal out episodes to processes themselves.
            trainer_defaults={"inference_mode": False, "use_distributed_sampler": False, "log_every_n_steps": 10},
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # LightningCLI warns where sys.argv is not empty beside args; ours are taken from it, so that says nothing.
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str, default="run", help="the run writes to <runs>/<name>/<time>/")
        parser.add_argument("--runs", type=str, default="runs", help="folder of all runs")
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="a .ckpt, or last or best of <name>")
        parser.add_argument("--alpha", type=float, default=0.1, help="false-alarm rate that thresholds aim at")
        parser.add_argument("--next", type=str | None, default=None, help="a command to propose at the end")
        parser.link_arguments(
            "data",
            "model.init_args.input_shapes",
            compute_fn=lambda data: data.input_shapes,
            apply_on="instantiate",
        )

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        self.resume_from = find_checkpoint(self.config["ckpt_path"], Path(self.config["runs"]) / self.config["name"])
        self.run_dir = self._choose_run_dir()
        given = self.config_init["trainer"]
        if self.verb not in (None, "fit"):
            kwargs["logger"] = False  # a finished run's own logs stay as they are
        elif given["logger"] in (None, True):
            _keep_earlier_metrics(self.run_dir)
            place: dict[str, Any] = {
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
        callbacks: list[pl.Callback] = [_Bar(refresh_rate=10)] if bar else []
        if given["enable_checkpointing"] is False or given["fast_dev_run"]:
            return callbacks
        place: dict[str, Any] = {
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
    """The newest state, for resuming: every so many steps and at the end."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt", weights_only=False)  # all of the state


def _keep_earlier_metrics(run_dir: Path) -> None:
    """CSVLogger starts its file anew; what a resumed run logged before is kept beside it as metrics-1.csv, ..."""
    file = run_dir / METRICS_FILE
    if file.is_file() and getattr(rank_zero_only, "rank", 0) == 0:
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
        raise SystemExit(f"--ckpt_path {wanted}: no run in {folder} has one yet; start one without --ckpt_path")
    return found[-1]


def run(argv: Sequence[str] | None = None) -> TrainingCLI:
    """Train, validate, test or predict as a command line says.

    Args:
        argv: without the program's name; None takes ``sys.argv``.
    """
    # Lightning's own calls of functions that torch and jsonargparse have renamed; not ours to mend.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    # A resumed run goes on in its own folder, and keeps what was logged there.
    warnings.filterwarnings("ignore", message="(Checkpoint|Experiment logs) directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="(?s).*(jsonargparse|Jsonargparse|instantiate_classes|skip_none).*")
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
    elif cli.verb in (None, "test") and not cli.config["trainer"]["fast_dev_run"]:
        if checkpoint and Path(checkpoint).is_file():
            learner.load_state_dict(torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"])
        conclude(cli, learner, data)
