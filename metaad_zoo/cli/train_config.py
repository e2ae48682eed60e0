"""`metaad train`: train by a shipped config or one's own, as `python train.py` does."""

from __future__ import annotations

import argparse
import json

from metaad_zoo.cli.terminal import wide_console
from metaad_zoo.cli.train_arguments import join_values, name_configs
from metaad_zoo.experiment.configs import bases_of, describe_config, list_configs, locate_config

HELP = "train with a shipped config, such as image/omniglot_protonet, or with your own; --list lists the shipped ones"
EPILOG = (
    "Options of a config are overridden by --key value, such as --trainer.max_epochs 3 or --model.inner_loop.lr=0.1. "
    "All of them: metaad train CONFIG --help"
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.usage = "metaad train CONFIG [CONFIG ...] [fit|validate|test|predict] [--key value ...]"
    command.epilog = EPILOG
    command.own_options = frozenset({"--list", "--json"})  # type: ignore[attr-defined]
    command.add_argument(
        "configs",
        nargs="*",
        metavar="CONFIG",
        help="name of a shipped config, or path of a file; later ones overlay earlier ones, such as quickstart "
        "learners/protonet. Without a verb: fit, then test on unseen tasks",
    )
    command.add_argument("--list", action="store_true", help="list the shipped configs")
    command.add_argument("--json", action="store_true", help="with --list: print JSON instead of text")
    command.add_argument("--config", metavar="CONFIG", action="append", help="the same as CONFIG")
    command.add_argument(
        "--seeds",
        metavar="SEED",
        nargs="+",
        help="train once with each seed, then print one table with intervals over trainings and tasks; finished "
        "trainings are not repeated, interrupted ones continue",
    )
    command.add_argument(
        "--grid",
        metavar="KEY=A,B",
        nargs="+",
        help="train with each combination of these values, such as model.inner_loop.lr=0.1,0.3, and with each seed",
    )
    command.add_argument("--jobs", metavar="N", help="number of trainings at the same time (default: 1)")
    command.add_argument("--name", help="the run writes to <runs>/<name>/<time>/ (default: the config's name)")
    command.add_argument("--runs", help="folder of all runs (default: runs)")
    command.add_argument("--ckpt_path", metavar="FILE", help="resume or test: a .ckpt, or last or best of <name>")


def run(options: argparse.Namespace) -> None:
    if options.list:
        _show_configs(options.json)
        return
    names, arguments = name_configs(join_values(options.passed_on), locate_config)
    if not names and "--help" not in arguments and "-h" not in arguments:
        raise ValueError("expected metaad train CONFIG, such as quickstart; all configs: metaad train --list")
    if len(names) == 1 and names[0] in list_configs() and (bases := bases_of(names[0])):
        raise ValueError(
            f"{names[0]} overlays another config: metaad train {' '.join(bases)} {names[0]} "
            f"(or another experiment than {bases[0]})"
        )
    from metaad_zoo.cli.train import run as train

    train(arguments, "metaad train CONFIG")


def _show_configs(as_json: bool) -> None:
    """Print the shipped configs: experiments, then overlays with a config that they can follow."""
    configs = {name: {"description": describe_config(name), "after": bases_of(name)} for name in list_configs()}
    if as_json:
        print(json.dumps(configs))
        return
    from rich.table import Table

    experiments = Table(title="Experiments:  metaad train CONFIG", show_edge=False)
    overlays = Table(title="Overlays:  metaad train EXPERIMENT OVERLAY", show_edge=False)
    for table, name in ((experiments, "CONFIG"), (overlays, "OVERLAY")):
        table.add_column(name, no_wrap=True)
        table.add_column("description")
    overlays.add_column("for example after", no_wrap=True)
    for name, config in configs.items():
        if config["after"]:
            overlays.add_row(name, str(config["description"]), " ".join(config["after"]))
        else:
            experiments.add_row(name, str(config["description"]))
    console = wide_console()
    console.print(experiments, overlays, sep="\n\n")
