"""Build the learner that a manifest describes, within limits that a forged manifest can't exceed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor
from torch.nn.modules import module as torch_modules

from metaad_zoo.backbones import WeightsError, replace_pretrained
from metaad_zoo.backbones.registry import BACKBONES
from metaad_zoo.backbones.weights import Pretrained
from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners import Learner, learner_class
from metaad_zoo.modality import get_form
from metaad_zoo.plugins import is_own
from metaad_zoo.registry import unknown_name
from metaad_zoo.zoo.kept_apart import Record, explain_missing, is_apart, require_backbones, verify_sources
from metaad_zoo.zoo.reading import WEIGHTS_LIMIT, CheckpointError

NUMBER_LIMIT = 2_000_000
"""Largest whole number in a learner's arguments, such as a width, a length or a count."""
SAMPLE_LIMIT = 2**26
"""Largest number of values in one sample."""
STEPS_LIMIT = 10_000
"""Largest number of inner steps."""
SPARE_PARAMETERS = 1000
"""Parameters and layers that building a learner may register beyond twice the number of its weights."""
APART_TENSORS = 5000
"""Largest number of weights of pretrained backbones that a checkpoint does not store."""
APART_LIMIT = WEIGHTS_LIMIT
"""Largest size of these weights in bytes."""


def build_learner(
    where: str, manifest: Mapping[str, Any], tensors: Mapping[str, Tensor], weights: str | Path | None = None
) -> Learner:
    """The learner that a manifest describes, with its weights.

    It is built without memory first and compared with the weights, so that no forged size can ask for more than the
    weights' own file, or than :data:`APART_LIMIT` of pretrained weights that are kept apart. Only these are fetched.

    Args:
        where: the manifest's name, for errors.
        manifest: manifest with ``learner`` and ``arguments``.
        tensors: its weights, ``learner/<name>``.
        weights: local file of the pretrained weights that are kept apart; None: their source.

    Raises:
        CheckpointError: it can't be built, has other weights, or its pretrained weights are not available.
    """
    stored = {key.removeprefix("learner/"): x for key, x in tensors.items() if key.startswith("learner/")}
    record: Record = manifest.get("pretrained", {})
    apart = [name for name, fields in record.items() if not fields["stored"]]
    file = None if weights is None else str(weights)
    if weights is not None and not apart:
        raise CheckpointError(f"{where} stores the weights of its backbone: leave out weights (--weights) {weights}")
    try:
        kind = learner_class(manifest["learner"])
        arguments = {**kind.former_arguments, **_checked_arguments(manifest)}
        expected = len(stored) + (APART_TENSORS if apart else 0)
        with torch.device("meta"), _few_parameters(expected):
            skeleton = _built(kind, arguments, False)
        for argument in arguments:
            if argument not in skeleton.arguments():
                raise unknown_name(f"argument of learner {manifest['learner']!r}:", argument, skeleton.arguments())
        _check_kinds(arguments, _hints(kind))
        require_backbones(skeleton, record)
        state = skeleton.state_dict()
        wanted = {name: _kind(x) for name, x in state.items() if not is_apart(name, record)}
        actual = {name: _kind(x) for name, x in stored.items()}
        differing = sorted(n for n in wanted.keys() | actual.keys() if wanted.get(n) != actual.get(n))
        if not differing:
            _check_apart(sum(x.nbytes for name, x in state.items() if is_apart(name, record)))
            learner = _built(kind, arguments, file if apart else False)
    except WeightsError as error:
        raise explain_missing(record, where, error) from error
    except Exception as error:  # a forged manifest can make anything fail, which is all the same to the user
        raise CheckpointError(
            f"{where} describes a learner that can't be built ({type(error).__name__}: {error})"
        ) from error
    if differing:
        raise CheckpointError(f"the weights next to {where} do not fit the learner that it describes: {differing[:5]}")
    verify_sources(learner, record, where, weights)
    learner.load_state_dict(stored, strict=not apart)
    return learner


def _checked_arguments(manifest: Mapping[str, Any]) -> dict[str, Any]:
    arguments = dict(manifest["arguments"])
    _check_sizes(arguments)
    if "inner_loop" in arguments:
        arguments["inner_loop"] = _inner_loop(arguments["inner_loop"])
    return arguments


def _built(kind: type[Learner], arguments: Mapping[str, Any], pretrained: Pretrained | None) -> Learner:
    """A learner built with pretrained weights as :func:`replace_pretrained` takes them; the random state stays."""
    with torch.random.fork_rng(devices=[]), replace_pretrained(pretrained):
        return kind(**arguments)


def _check_apart(size: int) -> None:
    if size > APART_LIMIT:
        raise ValueError(f"its pretrained weights have {size:,} bytes, expected at most {APART_LIMIT:,}")


def plugins_of(learner: Learner) -> list[str]:
    """Modules outside this package that define the learner, its backbones or the modalities that it reads, sorted."""
    arguments = learner.arguments()
    names = set(_texts(arguments))
    modules = {type(learner).__module__} | {BACKBONES[name].__module__ for name in names if name in BACKBONES}
    modules |= {type(get_form(name)).__module__ for name in arguments.get("input_shapes", {})}
    return sorted(module for module in modules if not is_own(module))


def _texts(value: Any) -> Iterator[str]:
    """All texts in nested settings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def _kind(x: Tensor) -> tuple[torch.Size, bool, bool]:
    """Shape and kind of numbers, which must agree for one tensor to be copied into another unchanged."""
    return x.shape, x.is_floating_point(), x.is_complex()


def _inner_loop(settings: Any) -> InnerLoopConfig:
    if not isinstance(settings, dict):
        raise ValueError(f"inner_loop is {settings!r}; expected its settings by name")
    names = [f.name for f in fields(InnerLoopConfig)]
    for name in settings:
        if name not in names:
            raise unknown_name("setting of inner_loop:", name, names)
    _check_kinds(settings, get_type_hints(InnerLoopConfig))
    config = InnerLoopConfig(**settings)
    if max(config.steps, config.cg_steps) > STEPS_LIMIT:
        raise ValueError(f"expected at most {STEPS_LIMIT} steps, saw {max(config.steps, config.cg_steps)}")
    return config


def _hints(learner: type[Learner]) -> dict[str, Any]:
    """Types of a learner's arguments, including those that it passes to its base classes."""
    hints: dict[str, Any] = {}
    for kind in reversed(learner.__mro__):
        if "__init__" in vars(kind) and issubclass(kind, Learner):
            hints |= get_type_hints(kind.__init__)
    return hints


def _check_kinds(arguments: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    for name, value in arguments.items():
        if not _is_of(value, hints.get(name, Any)):
            hint = hints[name]
            kind = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
            raise TypeError(f"{name} is {value!r}; expected {kind}")


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value out of JSON is of a type; a truth value is no number.

    Example:
        >>> _is_of([1, 2], list[int] | None), _is_of(True, int), _is_of(1, float)
        (True, False, True)
    """
    kind, inside = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return any(_is_of(value, option) for option in inside)
    if kind is Literal:  # which of them is for the class to tell, which names the nearest
        return type(value) in {type(option) for option in inside}
    if kind in (list, tuple, Sequence):
        return isinstance(value, (list, tuple)) and all(_is_of(x, inside[0]) for x in value)
    if kind is dict:
        return isinstance(value, dict) and all(_is_of(x, inside[1]) for x in value.values())
    if hint is float:
        return type(value) in (int, float)
    return hint is Any or type(value) is hint


def _check_sizes(arguments: Mapping[str, Any]) -> None:
    shapes = arguments.get("input_shapes", {})
    if not isinstance(shapes, dict) or not all(isinstance(s, list) and s for s in shapes.values()):
        raise ValueError(f"expected input_shapes as lists by modality, saw {shapes!r}")
    for name, shape in shapes.items():
        if not all(type(n) is int and (n > 0 or n == -1) for n in shape) or math.prod(map(abs, shape)) > SAMPLE_LIMIT:
            raise ValueError(f"expected a sample of at most {SAMPLE_LIMIT:,} numbers, saw {name} of shape {shape}")
    _check_numbers(arguments)


def _check_numbers(value: Any) -> None:
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_numbers(inner)
    elif isinstance(value, int) and abs(value) > NUMBER_LIMIT:
        raise ValueError(f"expected whole numbers of at most {NUMBER_LIMIT:,}, saw {value}")


@contextmanager
def _few_parameters(expected: int) -> Iterator[None]:
    """Limit the parameters and layers that are registered while the context is open.

    Args:
        expected: number of weights in the file.

    Raises:
        ValueError: more than twice as many, plus :data:`SPARE_PARAMETERS`, are registered.
    """
    registered, limit = 0, 2 * expected + SPARE_PARAMETERS

    def count(*_: Any) -> None:
        nonlocal registered
        registered += 1
        if registered > limit:
            raise ValueError(f"it asks for more than {limit} parameters and layers, where there are {expected} weights")

    handles = [
        torch_modules.register_module_parameter_registration_hook(count),
        torch_modules.register_module_module_registration_hook(count),
        torch_modules.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
