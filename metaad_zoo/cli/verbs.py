"""What `python train.py` does once its command line is read: refuse, train or read weights, and end by the verb."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from metaad_zoo.cli.conclude import (
    Conclusion,
    check_before_training,
    conclude,
    save_model,
    write_predictions,
)
from metaad_zoo.cli.fine_tune import refuse_parents_classes, seen_by_parent
from metaad_zoo.cli.honesty import refuse_seen
from metaad_zoo.cli.resume import read_checkpoint, refuse_other_config
from metaad_zoo.data import EpisodeDataModule

if TYPE_CHECKING:
    from metaad_zoo.cli.train import TrainingCLI

BEST = "best validation AUROC"
"""How the protocol calls the weights of `best.ckpt`."""


def run_verb(cli: TrainingCLI) -> None:
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
        cli.trainer.validate(learner, datamodule=data)
        return
    if not learner.trains:  # the val tasks choose its threshold
        seen = sorted(data.pools["val"].members) if "val" in data.pools else []
    else:
        seen = data.seen if trains else _seen_by(checkpoint, data)
    if not trains:
        refuse_seen(data, seen)
    _end(cli, trains, sorted({*seen, *seen_by_parent(learner)}), weights)


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
    refuse_parents_classes(learner, data)
    if cli.verb in (None, "test"):
        check_before_training(learner, data, cli.config["alpha"], cli.config["allow_transductive"])
    if trains and cli.resume_from:
        refuse_other_config(cli.run_dir, yaml.safe_load(cli.parser.dump(cli.config)))


def _trained_or_read(cli: TrainingCLI, trains: bool) -> tuple[dict[str, Any], str]:
    """Train where the verb trains; the checkpoint whose weights count, empty for those at hand, and what they are."""
    learner = cli.model
    checkpoint = read_checkpoint(cli.resume_from, learner) if cli.resume_from else {}
    weights = ""
    if cli.resume_from:  # <name>/<time>/checkpoints/<file>
        weights = BEST if cli.resume_from.name == "best.ckpt" else "/".join(cli.resume_from.parts[-4:])
    if not learner.trains:
        weights = "as built: nothing is trained"
        _note_untrained(cli)
    elif trains:
        cli.trainer.fit(learner, datamodule=cli.datamodule, ckpt_path=cli.resume_from, weights_only=True)
        best = cli.run_dir / "checkpoints" / "best.ckpt"
        weights = BEST if best.is_file() else "last step"
        checkpoint = read_checkpoint(best, learner) if best.is_file() else {}
    return checkpoint, weights


def _end(cli: TrainingCLI, trains: bool, seen: list[str], weights: str) -> None:
    """Test, predict, or write the model alone, as the verb says."""
    learner, data = cli.model, cli.datamodule
    trained_by = None if trains or cli.resume_from is None else cli.resume_from.parent.parent / "config.yaml"
    end = Conclusion(
        cli.run_dir,
        cli.config["alpha"],
        int(cli.config["seed_everything"]),
        seen,
        weights,
        cli.config["next"],
        trained_by,
    )
    if cli.verb in (None, "test"):
        conclude(learner, data, end)
    elif cli.verb == "predict":
        write_predictions(learner, data, cli.run_dir)
    elif "val" in data.pools:
        save_model(learner, data, end, Console())
        print(f"The model: {cli.run_dir}")
        if end.next_command:
            print(f"Next, try:  {end.next_command.replace('{run}', str(cli.run_dir))}")


def _note_untrained(cli: TrainingCLI) -> None:
    """Do what a training would do besides: say what happens, keep the config, go to the trainer's device."""
    cli.model.to(cli.trainer.strategy.root_device)
    if cli.trainer.is_global_zero:
        name = type(cli.model).registered_name
        print(f"{name} has nothing to train: no step is taken, its weights stay as they are built")
        cli.run_dir.mkdir(parents=True, exist_ok=True)
        cli.parser.save(cli.config, cli.run_dir / "config.yaml", skip_none=False, overwrite=True)


def _seen_by(checkpoint: dict[str, Any], data: EpisodeDataModule) -> list[str]:
    """What a checkpoint was trained and chosen on, as its DataModule noted."""
    try:
        seen: list[str] = checkpoint[type(data).__qualname__]["seen"]
    except KeyError as error:
        raise ValueError(
            f"the checkpoint does not say which classes it has seen in a {type(data).__name__}: no honest test; "
            "take one that train.py wrote, with the same kind of data"
        ) from error
    return seen
