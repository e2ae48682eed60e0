"""The command line of a training before it is parsed: verb, configs and `--import`, wherever they stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

VERBS = ("fit", "validate", "test", "predict")
_VALUELESS = ("-h", "--help", "--print_config")
_CONFIG = ("-c", "--config")


def arrange(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Find the verb wherever it stands, and put configs first, so that an override wins wherever it stands.

    Args:
        argv: command line without the program's name.

    Returns:
        The verb, None if there is none, and the other arguments.

    Example:
        >>> arrange(["--trainer.max_steps", "5", "fit", "--config", "a.yaml"])
        ('fit', ['--config', 'a.yaml', '--trainer.max_steps', '5'])
    """
    verb: str | None = None
    configs: list[str] = []
    overrides: list[str] = []
    for option in _options(argv):
        if option[0] in VERBS and verb is None:
            verb = option[0]
        else:
            (configs if _name(option) in _CONFIG else overrides).extend(option)
    return verb, configs + overrides


def take_imports(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take ``--import MODULE`` out of a command line, because these modules are imported before the rest is parsed.

    Args:
        argv: command line without the program's name.

    Returns:
        The modules, and the other arguments.

    Raises:
        ValueError: the last ``--import`` names no module.

    Example:
        >>> take_imports(["fit", "--import", "mine", "--config", "a.yaml", "--import=nets"])
        (['mine', 'nets'], ['fit', '--config', 'a.yaml'])
    """
    modules: list[str] = []
    rest: list[str] = []
    tokens = iter(argv)
    for token in tokens:
        name, equals, value = token.partition("=")
        if name != "--import":
            rest.append(token)
            continue
        module = value if equals else next(tokens, "")
        if not module:
            raise ValueError("--import names no module: write --import my_module")
        modules.append(module)
    return modules, rest


def name_configs(argv: Sequence[str], locate: Callable[[str], Path]) -> tuple[list[str], list[str]]:
    """Replace the names of configs, given as words or by ``--config``, by ``--config`` and their files.

    Args:
        argv: arguments of `metaad train`.
        locate: gives the file of a config.

    Returns:
        The configs as they were named, and the arguments with their files.

    Example:
        >>> name_configs(["quickstart", "fit", "--alpha", "0.2"], lambda name: Path(f"{name}.yaml"))
        (['quickstart'], ['--config', 'quickstart.yaml', 'fit', '--alpha', '0.2'])
    """
    names: list[str] = []
    arguments: list[str] = []
    for option in _options(argv):
        is_config = _name(option) in _CONFIG
        if not is_config and (option[0].startswith("-") or option[0] in VERBS):
            arguments += option
            continue
        name = (option[1] if len(option) > 1 else option[0].partition("=")[2]) if is_config else option[0]
        names.append(name)
        arguments += ["--config", str(locate(name))]
    return names, arguments


def _options(argv: Sequence[str]) -> list[list[str]]:
    """The tokens of a command line, each option together with its value."""
    options: list[list[str]] = []
    tokens = iter(argv)
    for token in tokens:
        option = [token]
        if token.startswith("-") and "=" not in token and token not in _VALUELESS:
            option += [value for value in [next(tokens, None)] if value is not None]
        options.append(option)
    return options


def _name(option: Sequence[str]) -> str:
    return option[0].partition("=")[0]
