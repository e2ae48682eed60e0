"""Shipped configs: experiments and overlays by name, such as ``image/omniglot_protonet``."""

from __future__ import annotations

import re
import shlex
from fnmatch import fnmatchcase
from pathlib import Path

from metaad_zoo.registry import unknown_name

_PACKAGE = Path(__file__).resolve().parent.parent


def configs_folder() -> Path:
    """Folder of the shipped configs: part of the installed package, or ``configs`` in a copy of the repository."""
    installed = _PACKAGE / "_configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def list_configs(pattern: str = "*") -> list[str]:
    """Names of the shipped configs: paths below ``configs/`` without ``.yaml``.

    Args:
        pattern: fnmatch pattern, such as ``"image/*"``.
    """
    folder = configs_folder()
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")]
    return sorted((name for name in names if fnmatchcase(name, pattern)), key=lambda name: ("/" in name, name))


def locate_config(name: str) -> Path:
    """The file of a config.

    Args:
        name: path of a file, or name of a shipped config. A file takes precedence.

    Raises:
        ValueError: there is neither (the nearest names are given).
    """
    if Path(name).is_file():
        return Path(name)
    if name.endswith((".yaml", ".yml")):
        raise ValueError(f"there is no config file {name}; for shipped configs: metaad train --list")
    names = list_configs()
    if name not in names:
        ends = [shipped for shipped in names if shipped.rpartition("/")[2] == name]
        raise ValueError(f"unknown config {name!r}; did you mean {ends[0]!r}?") if ends else _unknown(name, names)
    return configs_folder() / f"{name}.yaml"


def _unknown(name: str, names: list[str]) -> ValueError:
    error = unknown_name("config", name, names)
    return ValueError(f"{str(error).partition(' Known: ')[0]} All configs: metaad train --list")


def describe_config(name: str) -> str:
    """The first sentence of a shipped config's description, which stands below the command in its first comment."""
    comment = _comment(name)[1:]
    sentence = re.match(r".+?\.(?= [A-Z]|$)", " ".join(comment))
    return sentence[0] if sentence else " ".join(comment)


def bases_of(name: str) -> list[str]:
    """Names of the configs that a shipped overlay is laid over, by the command in its first comment; [] of others."""
    words = shlex.split(_comment(name)[0])
    paths = [words[i + 1] for i, word in enumerate(words) if word == "--config"]
    names = [path.removeprefix("configs/").removesuffix(".yaml") for path in paths]
    return names[: names.index(name)] if name in names else []


def _comment(name: str) -> list[str]:
    """Lines of the first comment of a shipped config: the command that runs it, then its description."""
    lines = (configs_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line.removeprefix("#").strip() for line in lines[:first]]
