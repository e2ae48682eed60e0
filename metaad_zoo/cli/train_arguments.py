"""The command line of a training before it is parsed: verb, configs and `--import`, wherever they stand."""

from __future__ import annotations

import re
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


def take_option(argv: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """Take an option with one value out of a command line.

    Args:
        argv: command line without the program's name.
        name: such as ``"--jobs"``.

    Returns:
        The last value, None if the option is not given, and the other arguments.

    Raises:
        ValueError: the option has no value.

    Example:
        >>> take_option(["--jobs", "2", "--config", "a.yaml"], "--jobs")
        ('2', ['--config', 'a.yaml'])
    """
    values, rest = _take(argv, name, r"[^-].*", 1)
    if values is not None and len(values) == 0:
        raise ValueError(f"{name} has no value")
    return (values[-1] if values else None), rest


def take_seeds(argv: Sequence[str]) -> tuple[list[int] | None, list[str]]:
    """Take ``--seeds 0 1 2`` out of a command line; None if it is not given.

    Raises:
        ValueError: there is no number, one is no seed, or one is given twice.

    Example:
        >>> take_seeds(["--seeds", "0", "1", "--config", "a.yaml"])
        ([0, 1], ['--config', 'a.yaml'])
    """
    values, rest = _take(argv, "--seeds", r"[\d.,]+")
    if values is None:
        return None, rest
    numbers = [number for value in values for number in value.split(",")]
    wrong = [number for number in numbers if not number.isdigit() or int(number) >= 2**32]
    if wrong or not numbers:
        raise ValueError(f"{' '.join(['--seeds', *values])}: expected whole numbers below 2^32, such as --seeds 0 1 2")
    seeds = [int(number) for number in numbers]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds {' '.join(values)}: expected each seed once")
    return seeds, rest


def take_grid(argv: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Take ``--grid KEY=VALUE,VALUE ...`` out of a command line.

    Returns:
        The values of each key, {} if it is not given, and the other arguments.

    Raises:
        ValueError: there is no key, a key or a value is given twice, or a value is empty.

    Example:
        >>> take_grid(["--grid", "model.inner_loop.lr=0.1,0.3", "model.backbone_options={width: 4},{width: 8}"])
        ({'model.inner_loop.lr': ['0.1', '0.3'], 'model.backbone_options': ['{width: 4}', '{width: 8}']}, [])
    """
    axes, rest = _take(argv, "--grid", r"[A-Za-z_][\w.]*=.*")
    grid: dict[str, list[str]] = {}
    if axes is not None and not axes:
        raise ValueError("--grid: expected KEY=VALUE,VALUE, such as --grid model.inner_loop.lr=0.1,0.3")
    for axis in axes or ():
        key, _, text = axis.partition("=")
        values = _split_values(text)
        if key in grid:
            raise ValueError(f"--grid names {key} twice: give all of its values at once, {key}=VALUE,VALUE")
        if not all(values) or len(set(values)) < len(values):
            raise ValueError(f"--grid {axis}: expected values that differ, separated by commas, none of them empty")
        grid[key] = values
    return grid, rest


def join_values(argv: Sequence[str]) -> list[str]:
    """A command line in which ``--seeds`` and ``--grid`` are one token each, so that no value stands alone.

    Raises:
        ValueError: as :func:`take_seeds` and :func:`take_grid`.

    Example:
        >>> join_values(["--seeds", "0", "1", "quickstart", "--grid", "alpha=0.1,0.2"])
        ['quickstart', '--seeds=0,1', '--grid=alpha=0.1,0.2']
    """
    seeds, rest = take_seeds(argv)
    grid, rest = take_grid(rest)
    joined = [] if seeds is None else [f"--seeds={','.join(map(str, seeds))}"]
    return [*rest, *joined, *(f"--grid={key}={','.join(values)}" for key, values in grid.items())]


def _take(argv: Sequence[str], name: str, pattern: str, most: int | None = None) -> tuple[list[str] | None, list[str]]:
    """Values after each ``name``, as far as they match a pattern, None where it is not given; the other arguments."""
    values: list[str] | None = None
    rest: list[str] = []
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        option, equals, value = token.partition("=")
        if option != name:
            rest.append(token)
            continue
        taken = [value] if equals else []
        while tokens and (most is None or len(taken) < most) and re.fullmatch(pattern, tokens[0]):
            taken.append(tokens.pop(0))
        values = [*(values or []), *taken]
    return values, rest


def _split_values(text: str) -> list[str]:
    """Values between the commas that are in no brackets and no quotes."""
    values, depth, quote = [""], 0, ""
    for letter in text:
        if quote or letter in "\"'":
            quote = "" if letter == quote else quote or letter
        depth += 0 if quote else (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0 and not quote:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]


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
