"""The parser of `metaad`, which names the nearest option for an unknown one."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import Any


class VerbParser(argparse.ArgumentParser):
    """Parser of `metaad` and of each verb: an unknown option is reported before the options that are then missing.

    Attributes:
        own_options: None, or the only options that the parser itself takes: it then passes the other arguments on as
            ``passed_on``, to a parser that knows them. With other arguments, ``--help`` is passed on too.
    """

    own_options: frozenset[str] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        tokens = sys.argv[1:] if args is None else list(args)
        if self.own_options is not None:
            return self._parse_own(tokens, namespace, self.own_options)
        if self._subparsers is None:
            self._refuse_unknown(tokens)
        return super().parse_known_args(args, namespace)

    def _parse_own(self, tokens: list[str], namespace: Any, own_options: frozenset[str]) -> tuple[Any, list[str]]:
        passed_on = [token for token in tokens if token not in own_options]
        own = own_options if set(passed_on) - {"-h", "--help"} else own_options | {"-h", "--help"}
        namespace, _ = super().parse_known_args([token for token in tokens if token in own], namespace)
        namespace.passed_on = passed_on
        return namespace, []

    def _refuse_unknown(self, tokens: Sequence[str]) -> None:
        options = [option for option in self._option_string_actions if option.startswith("--")]
        for token in tokens[: tokens.index("--")] if "--" in tokens else tokens:
            name = token.partition("=")[0]
            if name.startswith("--") and " " not in name and not any(option.startswith(name) for option in options):
                near = nearest_keys(name, set(options))
                self.error(f"unknown option {name}" + (f"; did you mean {' or '.join(near)}?" if near else ""))


def nearest_keys(key: str, names: set[str]) -> list[str]:
    """Up to two known keys that are like this one as a whole, or else in their last part.

    Example:
        >>> nearest_keys("trainer.max_step", {"trainer.max_steps", "data.root"})
        ['trainer.max_steps']
    """
    whole = difflib.get_close_matches(key, sorted(names), n=2, cutoff=0.8)
    if whole:
        return whole
    ends = {k.rpartition(".")[2]: k for k in sorted(names)}
    return [ends[end] for end in difflib.get_close_matches(key.rpartition(".")[2], sorted(ends), n=2, cutoff=0.7)]
