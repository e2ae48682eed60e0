"""The parser of `train.py`: errors name the nearest key for an unknown one."""

from __future__ import annotations

import inspect
import os
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from metaad_zoo.cli.parsing import nearest_keys
from metaad_zoo.cli.train_arguments import VERBS
from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.learners import Learner
from metaad_zoo.zoo.reading import YAML_LIMIT, parse_yaml, read_bytes

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "dict": "a mapping such as {name: value}",
    "list": "a list such as [a, b]",
    "NoneType": "null",
}


class HintingParser(LightningArgumentParser):
    """A parser whose errors about an unknown key name the nearest known ones; a key is never completed by a guess."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._configs: list[str] = []
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        self._configs.clear()
        return super().parse_args(*args, **kwargs)

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As jsonargparse's, for configs that are plain YAML of a usual size; others are refused by name."""
        config = parse_yaml(read_bytes(Path(cfg_path), YAML_LIMIT), str(cfg_path), "mend the config")
        for key in ("data", "model", "trainer"):
            value = config.get(key) if isinstance(config, dict) else None
            if isinstance(value, str) and os.path.exists(value):
                raise ValueError(
                    f"{cfg_path}: {key} is {value!r}, a file: expected its settings; name several configs by --config"
                )
        self._configs.append(str(cfg_path))
        return super().parse_path(cfg_path, *args, **kwargs)

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        """As jsonargparse's, but a config can't have other files read and shown in errors as parts of itself."""
        names: list[str] = super().add_class_arguments(*args, **{**kwargs, "sub_configs": False})
        return names

    def add_lightning_class_args(self, lightning_class: Any, nested_key: str, *args: Any, **kwargs: Any) -> list[str]:
        """As Lightning's, and for learners, which become LightningModules when they are trained."""
        if lightning_class is not Learner:
            return super().add_lightning_class_args(lightning_class, nested_key, *args, **kwargs)
        return self.add_subclass_arguments(Learner, nested_key, fail_untyped=False, required=True)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser inside this one, which will tell the whole story
            super().error(message, ex)
        near = [hint for key in _unknown_keys(message) for hint in nearest_keys(key, self._known_keys())]
        package_error = own_error(ex)
        if package_error is not None:
            message = str(package_error)
        elif "required: data, model" in message:
            message += f"\nName an experiment: {self.prog.replace('CONFIG', 'quickstart')}"
            message += " --config configs/quickstart.yaml" if "CONFIG" not in str(self.prog) else ""
        elif near:
            message += f"\nDid you mean {' or '.join(dict.fromkeys(near))}?"
        elif not _unknown_keys(message):
            message = wrong_value(message) or message
        if self._configs and not any(config in message for config in self._configs):
            message += f"\nConfigs: {', '.join(self._configs)}"
        self.exit(2, f"error: {message}\nFor all options: {self.prog} --help\n")
        raise AssertionError("exit does not return")

    def _known_keys(self) -> set[str]:
        keys = {str(action.dest) for action in self._actions} | {*VERBS, "seeds", "grid", "jobs"}
        bases: dict[str, type] = {"model": Learner, "data": EpisodeDataModule}
        for prefix, base in bases.items():
            for kind in _with_subclasses(base):
                keys |= {f"{prefix}.{name}" for name in _settings(kind)}
        return keys


def _with_subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    yield kind
    children: list[type[Any]] = kind.__subclasses__()
    for child in children:
        yield from _with_subclasses(child)


def _settings(kind: type) -> Iterator[str]:
    """Names of a class's constructor arguments and of those of the dataclasses among them."""
    for name, parameter in inspect.signature(kind).parameters.items():
        yield name
        fields: dict[str, Any] = getattr(type(parameter.default), "__dataclass_fields__", {})
        yield from (f"{name}.{field}" for field in fields)


def _unknown_keys(message: str) -> list[str]:
    """Keys that one of jsonargparse's or argparse's messages complains of."""
    pattern = r"[Kk]ey '([\w.]+)' is not expected|arguments: (?:--)?([\w.]+)|Option '([\w.]+)' is not accepted"
    return [next(filter(None, groups)).replace("init_args.", "") for groups in re.findall(pattern, message)]


def wrong_value(message: str) -> str | None:
    """Which key has which value, and what was expected; None where the message is of something else.

    Args:
        message: nested lines, of which the innermost tell the key's last part and what it takes.

    Example:
        >>> wrong_value('Parser key "trainer.max_epochs":\\n  Expected a <class \\'int\\'>. Got value: many')
        "--trainer.max_epochs is 'many': expected a whole number"
    """
    keys = re.findall(r'Parser key "([\w.]+)":', message)
    if not keys:
        return None
    inner = message[message.rindex(f'Parser key "{keys[-1]}":') :]
    plain = re.search(r"Expected an? (.+?)\. Got value: (.*)", inner)
    union = re.search(r"Subtypes: \[(.+)\]", inner)
    if plain:
        kinds, value = [plain[1]], plain[2]
    elif union and (match := re.search(r"Given value: (.*)", inner)):
        kinds, value = _split_outside_brackets(union[1]), match[1]
    else:
        return None
    nested = re.fullmatch(r"NestedArg\(key='.*', val=(.*)\)", value)
    value = nested[1].strip("'") if nested else value.split(". Got value:")[0]
    expected = [text for kind in kinds if (text := _type_in_words(kind)) is not None]
    return f"--{'.'.join(keys)} is {value!r}: expected {' or '.join(dict.fromkeys(expected))}" if expected else None


def _split_outside_brackets(kinds: str) -> list[str]:
    """Parts between the commas that are in no brackets."""
    parts, depth = [""], 0
    for letter in kinds:
        depth += (letter in "[<") - (letter in "]>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [p.strip() for p in parts]


def _type_in_words(kind: str) -> str | None:
    """A type in plain words; None for a class that a command line can't write."""
    name = re.sub(r"<class '([\w.]+)'>", r"\1", kind)
    choices = re.fullmatch(r"(?:typing\.)?Literal\[(.*)\]", name)
    if choices:
        return " or ".join(choices[1].split(", "))
    return KINDS.get(name.partition("[")[0])


def own_error(error: BaseException | None) -> BaseException | None:
    """The error of this package that a parser has wrapped in its own words, if there is one."""
    while error is not None:
        frames = list(traceback.walk_tb(error.__traceback__))
        package = frames and frames[-1][0].f_globals.get("__name__", "").split(".")[0]
        if package == "metaad_zoo" and isinstance(error, ValueError):
            return error
        error = error.__cause__ or error.__context__
    return None
