"""`python train.py`: LightningCLI over any learner and any DataModule of the package."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich.console import Console

from metaad_zoo.cli.fine_tune import take_parents_shape
from metaad_zoo.cli.parsing import HintingParser, arrange, own_error
from metaad_zoo.cli.resume import find_checkpoint
from metaad_zoo.cli.verbs import run_verb
from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.learners import Learner

METRICS_FILE = "metrics.csv"


class _SaveConfig(SaveConfigCallback):
    """Writes the resolved config into the run's folder when fit starts; a resumed run writes it again."""

    def __init__(self, parser: LightningArgumentParser, config: Any, run_dir: Path) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.run_dir = run_dir

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.run_dir.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, self.run_dir / "config.yaml", skip_none=False, overwrite=True)


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
        parser.add_argument("--allow_transductive", type=bool, default=False, help="test what normalises over queries")
        parser.add_argument("--next", type=str | None, default=None, help="a command to propose at the end")
        parser.link_arguments(
            "data",
            "model.init_args.input_shapes",
            compute_fn=_input_shapes,
            apply_on="instantiate",
        )

    def before_instantiate_classes(self) -> None:
        told = take_parents_shape(self.config)
        if told:
            Console().print(told, soft_wrap=True)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        self.resume_from = find_checkpoint(self.config["ckpt_path"], Path(self.config["runs"]) / self.config["name"])
        self.run_dir = self._choose_run_dir()
        self.save_config_kwargs = {"run_dir": self.run_dir}
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
        """A resumed training goes on in its own folder; anything else gets a new one, named by the time."""
        folder = Path(self.config["runs"]) / self.config["name"]
        if (
            self.verb in (None, "fit")
            and self.resume_from is not None
            and self.resume_from.parent.name == "checkpoints"
        ):
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
            *([] if given["logger"] is False else [LearningRateMonitor("step")]),
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
    # What Lightning tells of itself and its makers' services: advice to install them, accelerators that are not used.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_news)
    verb, args = arrange(sys.argv[1:] if argv is None else argv)
    try:
        cli = TrainingCLI(args, verb)
        run_verb(cli)
    except (ValueError, FloatingPointError, MisconfigurationException) as error:
        raise SystemExit(f"error: {own_error(error) or error}") from error
    return cli


def _is_news(record: logging.LogRecord) -> bool:
    return not re.match(r"(💡 Tip|(GPU|TPU|HPU) available)", record.getMessage())


def _input_shapes(data: EpisodeDataModule) -> dict[str, tuple[int, ...]]:
    return data.input_shapes
