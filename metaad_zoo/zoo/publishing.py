"""A finished run becomes a folder of published checkpoints, with nothing of this machine in it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

from metaad_zoo.data.known.images import DATA_VARIABLE
from metaad_zoo.modality import form_of
from metaad_zoo.zoo.cards import card
from metaad_zoo.zoo.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from metaad_zoo.zoo.index import FORMAT, index_entry
from metaad_zoo.zoo.manifest import CONFIG, WEIGHTS, is_checkpoint
from metaad_zoo.zoo.overview import overview
from metaad_zoo.zoo.published import CARD, INDEX, METRICS, NAME, NOTES, datasets_of, read_published
from metaad_zoo.zoo.reading import TEXT_LIMIT, parse_json, parse_yaml, read_bytes
from metaad_zoo.zoo.terms import TERMS, terms_of

TOTAL_LIMIT = 60_000_000
"""Bytes of all published checkpoints together."""
RESULTS = "results.json"
_PATH = re.compile(r"(/|~|[A-Za-z]:[\\/]|\\\\|file:|\.\.(/|\\|$))")


def publish(
    run: Path,
    name: str,
    zoo: Path,
    notes: str | None = None,
    data_licence: str | None = None,
    replace: bool = False,
    tell: Callable[[str], object] = lambda _: None,
) -> Path:
    """Make ``zoo/name`` from a finished run, and rewrite the index.

    Args:
        run: what ``python train.py`` wrote: ``model``, ``results.json``.
        name: ``<modality>-<backbone>-<learner>-<data>``.
        zoo: folder of published checkpoints.
        notes: limits in the words of a person, for the card.
        data_licence: licence of the publisher's own data.
        replace: overwrite an existing checkpoint of this name.
        tell: called with a sentence on each path of this machine that is published as a name alone.

    Raises:
        CheckpointError: the run's model is damaged.
        ValueError: the run is not finished; its files do not belong together; the data may not be published; a path of
            this machine is in its files; the name does not say what it is or is taken; or all would be too large.
    """
    if not is_checkpoint(run / "model") or not (run / RESULTS).is_file():
        raise ValueError(f"{run} is no finished run: expected model and {RESULTS}, as `python train.py` writes them")
    checkpoint = load_checkpoint(run / "model")
    results = parse_json(read_bytes(run / RESULTS, TEXT_LIMIT), str(run / RESULTS))
    _check_name(name, checkpoint)
    _check_together(run, checkpoint, results)
    config = portable_config(parse_yaml((checkpoint.config or "").encode(), f"{run}/model/{CONFIG}"), name, tell)
    for dataset in datasets_of(config):
        terms_of(dataset, data_licence)
    metrics = _metrics(name, checkpoint, results, data_licence)
    names = [n for members in (checkpoint.splits or {}).values() for n in members]
    _refuse_paths({CONFIG: config, METRICS: metrics, "trained_on": checkpoint.trained_on, "splits": names})
    target, beside = zoo / name, zoo / f".{name}.part"
    if target.exists() and not replace:
        raise ValueError(f"{target} is there already: take another --name, or --replace it")
    if notes is None and (target / NOTES).is_file():
        notes = (target / NOTES).read_text(encoding="utf-8")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        checkpoint.config = _text(config)
        save_checkpoint(beside, checkpoint)
        (beside / METRICS).write_text(_json(metrics), encoding="utf-8")
        if notes:
            (beside / NOTES).write_text(notes.strip() + "\n", encoding="utf-8")
        _refuse_places_in(beside)
        _check_total(zoo, name, beside)
        shutil.rmtree(target, ignore_errors=True)
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    refresh(zoo)
    return target


def refresh(zoo: Path) -> list[Path]:
    """Rewrite all cards, the index and the overview; returns the files that changed."""
    changed = [path for path, text in generated(zoo) if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path, text in generated(zoo):  # again, for the index holds the cards' hashes
        path.write_text(text, encoding="utf-8")
    return changed


def generated(zoo: Path) -> Iterator[tuple[Path, str]]:
    """Every generated file of a folder of published checkpoints with the text it should have, cards first.

    Raises:
        CheckpointError: a published folder is damaged.
    """
    folders = sorted(p for p in zoo.iterdir() if NAME.fullmatch(p.name) and p.is_dir())
    published = {folder: read_published(folder) for folder in folders}
    for folder, content in published.items():
        yield folder / CARD, card(content)
    entries = {folder.name: index_entry(content, folder) for folder, content in published.items()}
    yield zoo / INDEX, _json({"format": FORMAT, "checkpoints": entries})
    yield zoo / CARD, overview(entries)


def portable_config(config: Any, name: str, tell: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    """A training config without what is of one machine or one run: it trains the same again, anywhere.

    Args:
        config: training config as the run resolved it.
        name: name of a training by this config.
        tell: called with a sentence on each path of the user's own data, of which the name alone is kept.

    Example:
        >>> portable_config({"runs": "/tmp/x", "ckpt_path": "last", "next": None, "model": {}}, "mine")
        {'model': {}, 'name': 'mine'}
    """
    if not isinstance(config, dict):
        raise ValueError("the run's model holds no config: train it by `python train.py`")
    portable = {k: v for k, v in config.items() if k not in ("runs", "ckpt_path", "next", "name")}
    options = dict((portable.get("data") or {}).get("init_args") or {})
    root = options.get("root")
    if root is not None:
        has_terms = all(n in TERMS for n in datasets_of(portable))  # these are found by METAAD_DATA
        place = None if has_terms else [_named(r, tell) for r in root] if isinstance(root, list) else _named(root, tell)
        portable["data"] = {**portable["data"], "init_args": {**options, "root": place}}
    return {**portable, "name": name}


def _named(root: Any, tell: Callable[[str], object]) -> Any:
    """The last part of a path to a user's own data; other values unchanged."""
    last = PureWindowsPath(root).name if isinstance(root, str) and _PATH.match(root) else ""
    if last in ("", "~", ".."):
        return root
    tell(f"data.root is published as {last!r} instead of {root!r}, which exists only on this machine")
    return last


def _text(config: Mapping[str, Any]) -> str:
    head = f"# python train.py --config checkpoints/{config['name']}/{CONFIG}\n"
    return head + str(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


def _check_name(name: str, checkpoint: Checkpoint) -> None:
    arguments = checkpoint.learner.arguments()
    backbone = str(arguments.get("backbone", checkpoint.learner.registered_name)).removeprefix("timm/")
    learner = checkpoint.learner.registered_name
    wanted = [form_of(arguments["input_shapes"]).name, re.sub(r"[^a-z0-9_]", "_", backbone.lower()), learner]
    if not NAME.fullmatch(name) or name.split("-")[:3] != wanted:
        raise ValueError(
            f"--name {name}: expected <modality>-<backbone>-<learner>-<data>, here {'-'.join(wanted)}-<data>, where "
            "<data> is of small letters, digits and underscores"
        )


def _check_together(run: Path, checkpoint: Checkpoint, results: Any) -> None:
    """Refuse results of another model than the checkpoint's."""
    learner = checkpoint.learner
    try:
        measured = results["protocol"]["learner"]
        same = json.loads(json.dumps({"name": learner.registered_name, **learner.arguments()})) == measured
        same &= results["protocol"]["trained_or_chosen_on"] == checkpoint.trained_on
        same &= next(iter(results["methods"])) == learner.registered_name
    except (KeyError, TypeError, StopIteration) as error:
        raise ValueError(f"{run / RESULTS} is no result of a training ({error})") from error
    if not same:
        raise ValueError(f"{run / RESULTS} describes another model than {run / 'model'}: train and test in one run")


def _metrics(name: str, checkpoint: Checkpoint, results: Mapping[str, Any], licence: str | None) -> dict[str, Any]:
    """Published part of the results: all except the figures of each task, of which only our AUROC is published."""
    methods, protocol = results["methods"], dict(results["protocol"])
    protocol.pop("trained_or_chosen_on")  # in the manifest
    ours = next(iter(methods.values()))
    return {
        "name": name,
        "parameters": sum(p.numel() for p in checkpoint.learner.parameters()),
        **({"data_licence": licence} if licence else {}),
        "protocol": protocol,
        "methods": {m: {k: v for k, v in figures.items() if k != "tasks"} for m, figures in methods.items()},
        "auroc_by_task": {row["task"]: round(row["auroc"], 4) for row in ours["tasks"]},
        "environment": results["environment"],
    }


def _refuse_paths(value: Any, key: str = "") -> None:
    """Refuse nested settings that contain a path of this machine."""
    if isinstance(value, dict):
        for inner, x in value.items():
            _refuse_paths(x, f"{key}.{inner}" if key else str(inner))
    elif isinstance(value, list):
        for x in value:
            _refuse_paths(x, key)
    elif isinstance(value, str) and _PATH.match(value):
        raise ValueError(
            f"{key} is {value!r}, which exists only on this machine: train with a config without it (METAAD_DATA "
            "locates known data sets), or with a path relative to the working directory"
        )


def _refuse_places_in(folder: Path) -> None:
    """Refuse files, such as notes, whose text contains a folder of this machine."""
    places = {str(Path.home()), str(Path.cwd()), os.environ.get(DATA_VARIABLE, "")} - {"", "/"}
    for path in folder.iterdir():
        if path.name != WEIGHTS and (place := next((p for p in places if p in path.read_text("utf-8")), None)):
            raise ValueError(f"{path.name} names {place}, a place on this machine: publish without it")


def _check_total(zoo: Path, name: str, beside: Path) -> None:
    unchanged = [p for p in zoo.rglob("*") if p.is_file() and not {name, beside.name} & set(p.relative_to(zoo).parts)]
    new = [p for p in beside.rglob("*") if p.is_file()]
    total = sum(p.stat().st_size for p in [*unchanged, *new])
    if total > TOTAL_LIMIT:
        size = sum(p.stat().st_size for p in new)
        raise ValueError(
            f"all published checkpoints would have {total / 1e6:.1f} MB, {size / 1e6:.1f} MB of them {name}; expected "
            f"at most {TOTAL_LIMIT / 1e6:.0f} MB: publish a smaller model, or push this one to a repository of its own"
        )


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
