"""`python train.py`: LightningCLI over any learner and any DataModule of the package."""

from __future__ import annotations

import logging
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import yaml
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich.console import Console
from torch import Tensor

from metaad_zoo import data as data_room
from metaad_zoo.atomic_write import write_whole
from metaad_zoo.cli.first_picture import FirstPicture
from metaad_zoo.cli.loggers import given_loggers, log_hyperparameters, log_test_figures
from metaad_zoo.cli.lost import lost_process
from metaad_zoo.cli.resume import find_checkpoint, read_checkpoint, refuse_other_config, splits_of_checkpoint
from metaad_zoo.cli.sweep import run_sweep, take_sweep
from metaad_zoo.cli.terminal import NARROW, error_in_words, note, note_account, progress_bars, wide_console
from metaad_zoo.cli.train_arguments import arrange, take_imports, take_option
from metaad_zoo.cli.train_parser import HintingParser, own_error
from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.episodes import SplitRecord
from metaad_zoo.evaluation.report import results_table
from metaad_zoo.experiment.conclude import (
    Comparisons,
    Conclusion,
    check_before_training,
    conclude,
    save_model,
    write_predictions,
)
from metaad_zoo.experiment.whole_checkpoints import TERMINATED, LastCheckpoint, WholeCheckpointIO
from metaad_zoo.learners import Learner
from metaad_zoo.learners.training import trainable
from metaad_zoo.modality import get_modality
from metaad_zoo.plugins import import_plugins
from metaad_zoo.zoo import parent_aspect, parent_shapes, parent_splits
from metaad_zoo.zoo.rebuild import plugins_of

METRICS_FILE = "metrics.csv"
FINE_TUNED = "metaad_zoo.zoo.FineTuned"
for _name in data_room.__all__:  # every DataModule must be imported to be known by its short name
    getattr(data_room, _name)
PROGRAM = "python train.py"
SWEEP_OPTIONS = (
    "Several trainings: --seeds 0 1 2, --grid KEY=VALUE,VALUE and --jobs N. Modules of yours: --import MODULE."
)
BEST = "best validation AUROC"
"""Description of the weights of `best.ckpt` in the protocol."""


class TrainingCLI(LightningCLI):
    """Parses configs and overrides, and builds learner, data and trainer; :func:`run` then does what the verb says.

    Args:
        args: command line without the verb.
        verb: one of :data:`metaad_zoo.cli.train_arguments.VERBS`, or None for fit and test.
        program: the program's name in help and errors.
        folder: name of the run's folder in <runs>/<name>; None: the time.
    """

    def __init__(
        self, args: Sequence[str], verb: str | None, program: str = PROGRAM, folder: str | None = None
    ) -> None:
        self.verb, self.folder = verb, folder
        super().__init__(
            Learner,  # type: ignore[arg-type]
            EpisodeDataModule,
            save_config_callback=None,  # _save_config does it, also where nothing is trained
            seed_everything_default=0,
            parser_class=HintingParser,
            parser_kwargs={"prog": program, "epilog": SWEEP_OPTIONS},
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
        parser.add_argument(
            "--comparisons", type=Comparisons, default="all", help="quick leaves out the network trained from scratch"
        )
        parser.add_argument("--next", type=str | None, default=None, help="a command to propose at the end")
        shapes = "model.init_args.input_shapes"
        parser.link_arguments("data", shapes, compute_fn=self._input_shapes, apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        self.resume_from = find_checkpoint(
            self.config["ckpt_path"], Path(self.config["runs"]) / self.config["name"], self.folder
        )
        changed = _take_parents_shape(self.config)
        if changed:
            print(changed)

    def _input_shapes(self, data: EpisodeDataModule) -> dict[str, tuple[int, ...]]:
        """Shapes of the data's samples, once the data hold to the splits of the checkpoint."""
        record = splits_of_checkpoint(self.resume_from) if self.resume_from else _splits_of_parent(self.config)
        if record is not None:
            data.keep_splits(record)
        return data.input_shapes

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        self.run_dir = self._choose_run_dir()
        settings = self.config_init["trainer"]
        kwargs["logger"] = self._loggers(settings["logger"])
        settings["callbacks"] = [*(settings["callbacks"] or []), *self._callbacks(settings)]
        plugins = settings["plugins"] or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            settings["plugins"] = [*plugins, WholeCheckpointIO()]
        try:
            return super().instantiate_trainer(**kwargs)
        except TypeError as error:  # such as --trainer.devices nan
            asked = ", ".join(f"trainer.{name}={settings[name]}" for name in ("accelerator", "devices", "strategy"))
            raise ValueError(f"Lightning can't build the trainer with {asked}: {error}") from error

    def _loggers(self, configured: Any) -> list[Logger] | Literal[False]:
        """Loggers of the trainer: the configured ones, TensorBoard by default, and while training ``metrics.csv``.

        Args:
            configured: ``trainer.logger``: a logger, several, None or True for the default, False for none at all.
        """
        if configured is False or self.verb in ("validate", "predict"):
            return False
        folder = self.run_dir.parent
        place: dict[str, Any] = {"save_dir": folder.parent, "name": folder.name, "version": self.run_dir.name}
        default = configured in (None, True)
        if self.verb == "test":  # what a test alone yields is in results.json; only a tracking server may want a copy
            return False if default else given_loggers(configured)
        _keep_earlier_metrics(self.run_dir)
        return [CSVLogger(**place), *([TensorBoardLogger(**place)] if default else given_loggers(configured))]

    def _choose_run_dir(self) -> Path:
        """A resumed training continues in its own folder; all others get a new one, named by the time."""
        folder = Path(self.config["runs"]) / self.config["name"]
        checkpoints = self.resume_from.parent if self.resume_from else None
        if self.verb in (None, "fit") and checkpoints is not None and checkpoints.name == "checkpoints":
            return checkpoints.parent
        if self.folder is not None:
            return folder / self.folder
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        names = (stamp if i == 0 else f"{stamp}-{i}" for i in range(1000))
        return next(folder / name for name in names if not (folder / name).exists())

    def _callbacks(self, settings: Any) -> list[pl.Callback]:
        bar = settings["enable_progress_bar"] is not False and not any(
            isinstance(c, ProgressBar) for c in settings["callbacks"] or []
        )
        callbacks: list[pl.Callback] = [_Bar(refresh_rate=10)] if bar else []
        if settings["enable_checkpointing"] is False or settings["fast_dev_run"]:
            return callbacks
        place: dict[str, Any] = {
            "dirpath": self.run_dir / "checkpoints",
            "enable_version_counter": False,
            "auto_insert_metric_name": False,
        }
        return [
            *callbacks,
            ModelCheckpoint(**place, filename="best", monitor="val/auroc", mode="max", save_top_k=1),
            LastCheckpoint(**place, filename="last", every_n_train_steps=50, save_top_k=1),
            FirstPicture(self.run_dir),
            *([] if settings["logger"] is False else [LearningRateMonitor("step")]),
        ]


class _Bar(TQDMProgressBar):
    """Loss, validation AUROC and episodes per second on one line."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)  # the run's folder, which is printed at the end
        return metrics


def _keep_earlier_metrics(run_dir: Path) -> None:
    """CSVLogger starts a new file; what a resumed run logged before is kept as metrics-1.csv, ..."""
    file = run_dir / METRICS_FILE
    if file.is_file() and getattr(rank_zero_only, "rank", 0) == 0:
        n = len(list(run_dir.glob("metrics-*.csv"))) + 1
        file.rename(run_dir / f"metrics-{n}.csv")


def _take_parents_shape(config: Any) -> str | None:
    """Set the data's image size, channels, window or length to what the checkpoint of a fine-tuning reads.

    Nothing else would fit it; where an option has no place in this DataModule, :func:`metaad_zoo.zoo.FineTuned`
    compares the shapes.

    Args:
        config: parsed config, changed in place.

    Returns:
        What was set, for the user; None where nothing was.
    """
    model, data = config["model"], config["data"]
    if not str(model["class_path"]).startswith(FINE_TUNED):
        return None
    options = data["init_args"]
    own = options.get("dataset", "own") == "own"
    wanted: dict[str, Any] = {}
    for name, shape in parent_shapes(model["init_args"]["checkpoint"]).items():
        if "sample_shapes" in options:
            wanted["sample_shapes"] = {**wanted.get("sample_shapes", {}), name: list(shape)}
        else:
            wanted |= get_modality(name).data_options(shape, own)
    wanted["aspect"] = parent_aspect(model["init_args"]["checkpoint"])
    changed = {key: value for key, value in wanted.items() if key in options and options[key] != value}
    if not changed:
        return None
    for key, value in changed.items():
        options[key] = value
    return f"{', '.join(f'data.{k}={v}' for k, v in changed.items())}: as {model['init_args']['checkpoint']} reads them"


def _splits_of_parent(config: Any) -> SplitRecord | None:
    """Splits of the classes that a fine-tuning's checkpoint has met; None where the config is no fine-tuning."""
    model = config["model"]
    return parent_splits(model["init_args"]["checkpoint"]) if str(model["class_path"]).startswith(FINE_TUNED) else None


def run(argv: Sequence[str] | None = None, program: str = PROGRAM) -> TrainingCLI | None:
    """Train, validate, test or predict as a command line says, or run the trainings of ``--seeds`` and ``--grid``.

    Args:
        argv: command line without the program's name; None takes ``sys.argv``.
        program: the program's name in help and errors.

    Returns:
        What was parsed and built; None for several trainings.
    """
    # Lightning's own calls of functions that torch and jsonargparse have renamed; not ours to mend.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    # A resumed run continues in its own folder and keeps what was logged there.
    warnings.filterwarnings("ignore", message="(Checkpoint|Experiment logs) directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="(?s).*(jsonargparse|Jsonargparse|instantiate_classes|skip_none).*")
    # Lightning's messages about itself and related services: advice to install them, accelerators that are not used.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_news)
    try:
        modules, rest = take_imports(sys.argv[1:] if argv is None else argv)
        import_plugins(modules)
        sweep, rest = take_sweep(rest)
        if sweep is not None:
            shared = [*rest, *(f"--import={module}" for module in modules)]
            run_sweep(sweep, shared, lambda line: _checked_config(line, program))
            return None
        folder, rest = take_option(rest, "--folder")
        verb, args = arrange(rest)
        cli = TrainingCLI(args, verb, program, folder)
        _run_verb(cli)
    except SIGTERMException as stop:
        if stop.code == 0:  # one of several processes; the first one tells
            raise
        note("stopped by SIGTERM; --ckpt_path last continues from the last whole checkpoint, if there is one")
        raise SystemExit(TERMINATED) from stop
    except (ValueError, ChildProcessError, FloatingPointError, MisconfigurationException) as error:
        raise SystemExit(f"error: {own_error(error) or error}") from error
    except OSError as error:
        raise SystemExit(f"error: {error_in_words(error)}") from error
    except RuntimeError as error:
        if (cause := lost_process(error)) is None:
            raise
        raise SystemExit(f"error: {cause}") from error
    return cli


def _checked_config(argv: Sequence[str], program: str) -> dict[str, Any]:
    """The resolved config of a training, after the checks that it does before its first step.

    Raises:
        ValueError: it can't be trained, or another program has started this process as one of several.
    """
    _, args = arrange(take_imports(argv)[1])
    cli = TrainingCLI(args, None, program)
    _refuse_first(cli, True)
    environment = getattr(cli.trainer.strategy, "cluster_environment", None)
    if environment is not None and environment.creates_processes_externally:
        raise ValueError(
            "--seeds and --grid start a process for each training: under torchrun or SLURM, start each training by a "
            "command of its own, with --seed_everything"
        )
    return dict(yaml.safe_load(cli.parser.dump(cli.config, skip_none=False, skip_validation=True)))


def _is_news(record: logging.LogRecord) -> bool:
    return not re.match(r"(💡 Tip|(GPU|TPU|HPU) available)", record.getMessage())


def _run_verb(cli: TrainingCLI) -> None:
    """Train, validate, test or predict, as the command line that was parsed says.

    Raises:
        ValueError: the verb, the data or the learner can't do what is asked.
        FloatingPointError: the training diverged.
    """
    learner, data, trains = cli.model, cli.datamodule, cli.verb in (None, "fit")
    _refuse_first(cli, trains)
    checkpoint, weights = _trained_or_read(cli, trains)
    if cli.verb != "validate" and (not cli.trainer.is_global_zero or cli.config["trainer"]["fast_dev_run"]):
        return
    if checkpoint:
        learner.load_state_dict(checkpoint["state_dict"])
    if cli.verb == "validate":
        cli.trainer.validate(trainable(learner), datamodule=data)
        return
    chosen_on = data.pools["val"].members if "val" in data.pools else frozenset()  # at least thresholds
    seen = set(data.seen) if trains and learner.trains else data.seen_before | chosen_on
    steps = int(checkpoint.get("global_step", cli.trainer.global_step))
    _end(cli, trains, sorted(seen), weights, steps)


def _refuse_first(cli: TrainingCLI, trains: bool) -> None:
    """Tell what the data hold, and refuse, before any work is lost, what can't work.

    Raises:
        ValueError: the verb, the data or the learner can't do what is asked.
    """
    learner, data = cli.model, cli.datamodule
    if not trains and cli.resume_from is None and learner.trains:
        raise ValueError(f"{cli.verb} needs a trained model: add --ckpt_path best, or the path of a .ckpt")
    if cli.config["trainer"]["limit_test_batches"] is not None:
        raise ValueError("trainer.limit_test_batches does not reach the test: set data.test_episodes")
    data.setup("fit" if trains else "test")
    if cli.trainer.is_global_zero:
        Console().print(data.summary())
        note_account((*data.skipped, *data.changes))
    if cli.verb in (None, "test"):
        check_before_training(learner, data, cli.config["alpha"], cli.config["allow_transductive"])
    if trains and cli.resume_from:
        refuse_other_config(cli.run_dir, _resolved(cli))


def _trained_or_read(cli: TrainingCLI, trains: bool) -> tuple[dict[str, Any], str]:
    """Train if the verb trains; return the checkpoint to load, {} for the present weights, and their description."""
    learner = cli.model
    checkpoint = read_checkpoint(cli.resume_from, learner) if cli.resume_from else {}
    weights = ""
    if cli.resume_from:  # <name>/<time>/checkpoints/<file>
        weights = BEST if cli.resume_from.name == "best.ckpt" else "/".join(cli.resume_from.parts[-4:])
    if not learner.trains:
        weights = "as built: nothing is trained"
        _note_untrained(cli)
    elif trains:
        if not cli.config["trainer"]["fast_dev_run"]:
            _save_config(cli)
        start, before = _start(cli) if learner.may_stay else ({}, None)
        _fit(cli)
        best = cli.run_dir / "checkpoints" / "best.ckpt"
        weights = BEST if best.is_file() else "last step"
        if not best.is_file() and _best_validation(cli, saved=True) is not None:
            weights = f"last step, because {best} was removed during the training"
            note(f"the weights are those of the {weights}")
        checkpoint = read_checkpoint(best, learner) if best.is_file() else {}
        after = _best_validation(cli)
        if before is not None and after is not None and after < before:
            checkpoint = {"state_dict": start, "global_step": 0}
            weights = f"as before training: validation AUROC {before:.4f}, at most {after:.4f} in training"
            note(f"the weights stay {weights}")
    return checkpoint, weights


def _fit(cli: TrainingCLI) -> None:
    """Train.

    Raises:
        FloatingPointError: the training diverged; names the checkpoint of good weights, if there is one yet.
    """
    try:
        cli.trainer.fit(trainable(cli.model), datamodule=cli.datamodule, ckpt_path=cli.resume_from, weights_only=True)
    except FloatingPointError as error:
        last = cli.run_dir / "checkpoints" / "last.ckpt"
        if not last.is_file():
            raise
        raise FloatingPointError(f"{error}; {last} holds the last good weights that were saved") from error


def _start(cli: TrainingCLI) -> tuple[dict[str, Tensor], float | None]:
    """Weights before training, and their validation AUROC; None where there is no validation."""
    learner = cli.model
    state = {name: x.detach().clone() for name, x in learner.state_dict().items()}
    figures = cli.trainer.validate(trainable(learner), datamodule=cli.datamodule, verbose=False)
    return state, figures[0].get("val/auroc") if figures else None


def _best_validation(cli: TrainingCLI, saved: bool = False) -> float | None:
    """Validation AUROC of the best weights, or, unless ``saved``, of the last ones; None without validation."""
    for callback in cli.trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ModelCheckpoint) and callback.monitor == "val/auroc":
            return None if callback.best_model_score is None else float(callback.best_model_score)
    last = None if saved else cli.trainer.callback_metrics.get("val/auroc")
    return None if last is None else float(last)


def _end(cli: TrainingCLI, trains: bool, seen: list[str], weights: str, outer_steps: int) -> None:
    """Test, predict, or write the model alone, as the verb says."""
    learner, data = cli.model, cli.datamodule
    trained_by = None if trains or cli.resume_from is None else cli.resume_from.parent.parent / "config.yaml"
    alpha, seed = cli.config["alpha"], int(cli.config["seed_everything"])
    end = Conclusion(cli.run_dir, alpha, seed, seen, weights, trained_by, cli.config["comparisons"], outer_steps)
    if cli.verb == "predict":
        print(f"Scores of all test episodes: {write_predictions(learner, data, cli.run_dir)}")
        return
    with progress_bars(lines=True) as progress:
        if cli.verb in (None, "test"):
            results = conclude(learner, data, end, progress)
        elif "val" in data.pools:
            save_model(learner, data, end, progress)
        else:
            return
    if cli.verb in (None, "test"):
        wide_console(NARROW).print(results_table(results))
        if left_out := results["protocol"].get("left_out"):
            print(f"Not compared, to save time: {', '.join(left_out)} (--comparisons all compares them too)")
        if "camera" in results["protocol"]["data"]:
            print(f"Random camera: {results['protocol']['data']['camera'] or 'none'}")
        print(f"All figures, pictures and the model: {cli.run_dir}")
        if not trains:
            log_hyperparameters(cli.trainer.loggers, _resolved(cli))
        log_test_figures(cli.trainer.loggers, results["methods"], cli.trainer.global_step)
    else:
        print(f"The model: {cli.run_dir}")
    print(f"Next, try:  {_next_command(cli)}")


def _next_command(cli: TrainingCLI) -> str:
    """The command to propose at the end, with the modules of one's own that it needs."""
    line = str(cli.config["next"] or "metaad adapt {run} --support PATH --out my_detector")
    imports = "".join(f" --import {module}" for module in plugins_of(cli.model))
    return line.replace("{run}", shlex.quote(str(cli.run_dir))) + (imports if line.startswith("metaad ") else "")


def _note_untrained(cli: TrainingCLI) -> None:
    """Print that nothing is trained, save the config and move the learner to the trainer's device."""
    cli.model.to(cli.trainer.strategy.root_device)
    if cli.trainer.is_global_zero:
        name = type(cli.model).registered_name
        print(f"{name} has nothing to train: its weights do not change")
        _save_config(cli)


def _save_config(cli: TrainingCLI) -> None:
    """Write the resolved config into the run's folder, and send it to every logger as hyper-parameters."""
    if cli.trainer.is_global_zero:
        cli.run_dir.mkdir(parents=True, exist_ok=True)
        # The config was validated when it was parsed; a second validation would take most of the time of the dump.
        whole = cli.parser.dump(cli.config, skip_none=False, skip_validation=True)
        write_whole(cli.run_dir / "config.yaml", whole)
    log_hyperparameters(cli.trainer.loggers, _resolved(cli))


def _resolved(cli: TrainingCLI) -> dict[str, Any]:
    """The config with all defaults and overrides, as plain values."""
    config: dict[str, Any] = yaml.safe_load(cli.parser.dump(cli.config, skip_validation=True))
    return config
