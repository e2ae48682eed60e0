"""The `metaad` command: list, adapt, update, score, explain, evaluate, recommend, train, publish, export and serve.

Verbs import what they need when they run, so that help and completion take no time.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import shtab

from metaad_zoo.cli import (
    adapt,
    data,
    detect,
    evaluate,
    explain,
    export,
    info,
    publish,
    pull,
    push,
    recommend,
    report,
    score,
    serve,
    train_config,
    update,
)
from metaad_zoo.cli import list as list_
from metaad_zoo.cli.arguments import complete_paths, import_argument
from metaad_zoo.cli.parsing import VerbParser
from metaad_zoo.cli.terminal import ERROR, EXIT_CODES, INTERRUPTED, OK, error_in_words, printable
from metaad_zoo.plugins import import_plugins

VERBS = {
    "list": list_,
    "info": info,
    "detect": detect,
    "adapt": adapt,
    "update": update,
    "score": score,
    "explain": explain,
    "recommend": recommend,
    "evaluate": evaluate,
    "report": report,
    "train": train_config,
    "data": data,
    "export": export,
    "serve": serve,
    "publish": publish,
    "pull": pull,
    "push": push,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code, see :mod:`metaad_zoo.cli.terminal`.

    Raises:
        SystemExit: the command line can't be read (code 2), or asked for help or a completion script (0).
    """
    options = command_parser().parse_args(argv)
    code = OK
    try:
        import_plugins(options.plugins)
        code = options.run(options) or OK
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; Python's own flush at the end must not fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        print(f"error: {printable(error_in_words(error))}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        print("error: interrupted; files that were not finished are not kept", file=sys.stderr)
        return INTERRUPTED
    return code


def command_parser() -> argparse.ArgumentParser:
    """The parser of the command line of `metaad`."""
    parser = VerbParser(prog="metaad", description="Few-shot anomaly detection.", epilog=EXIT_CODES)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    shtab.add_argument_to(parser, "--print-completion", help="print a completion script for this shell")
    commands = parser.add_subparsers(dest="command", required=True)
    for verb, module in VERBS.items():
        command = commands.add_parser(verb, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        import_argument(command)
        complete_paths(command)
        command.set_defaults(run=module.run)
    return parser


class _Version(argparse.Action):
    """Prints the version, which is looked up when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from metaad_zoo.version import __version__

        print(f"metaad_zoo {__version__}")
        parser.exit()
