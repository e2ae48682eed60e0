"""`metaad info`: the card of a checkpoint, or what a baseline is."""

from __future__ import annotations

import argparse
import json

from metaad_zoo.cli.arguments import json_argument
from metaad_zoo.cli.terminal import printable, tell, wide_console

HELP = "show the card of a checkpoint (data, figures, limits, command), or describe a baseline"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "name",
        help="name, folder or address of a checkpoint, name of a baseline, or modality (image, series, table, audio)",
    )
    json_argument(command)


def run(options: argparse.Namespace) -> None:
    from metaad_zoo.zoo import is_known, locate
    from metaad_zoo.zoo.manifest import read_manifest, support_in_words, verify_weights
    from metaad_zoo.zoo.published import CARD, METRICS
    from metaad_zoo.zoo.reading import TEXT_LIMIT, parse_json, read_bytes

    if not is_known(options.name) and (
        _about_default(options.name, options.json) or _about_baseline(options.name, options.json)
    ):
        return
    folder = locate(options.name, papers=True)
    manifest = read_manifest(folder)
    verify_weights(folder, manifest)
    if options.json:
        path = folder / METRICS
        metrics = parse_json(read_bytes(path, TEXT_LIMIT), str(path)) if path.exists() else None
        print(json.dumps({"folder": str(folder), "manifest": manifest, "metrics": metrics}))
    elif (folder / CARD).exists():
        from rich.markdown import Markdown

        text = printable(read_bytes(folder / CARD, TEXT_LIMIT).decode("utf-8", "replace"))
        wide_console().print(Markdown(text.split("---\n", 2)[-1] if text.startswith("---\n") else text))
    else:
        seen = manifest["trained_on"]
        learner = printable(manifest["learner"])
        print(f"{folder}: {learner}, {manifest['arguments']}; trained on {len(seen)} classes or domains.")
        if "support" in manifest:
            print(f"It is adapted to {support_in_words(manifest['support'])}.")
        else:
            print("It has no card; `metaad publish` writes one.")


def _about_default(name: str, as_json: bool) -> bool:
    """Print the default detector of a modality and its reason; False where no modality is called so."""
    from dataclasses import asdict

    from metaad_zoo.zoo.defaults import default_of

    default = default_of(name)
    if default is None:
        return False
    results = f" Results: {', '.join(default.results)}." if default.results else ""
    tell(as_json, asdict(default), f"{name}: the default is {default.detector}. Reason: {default.reason}.{results}")
    return True


def _about_baseline(name: str, as_json: bool) -> bool:
    """Print what a baseline is and its settings, as its docstring has them; False where no baseline has this name."""
    import inspect

    from metaad_zoo.evaluation.baselines import about_baseline, list_baselines, modalities_of

    if name not in list_baselines():
        return False
    text = inspect.cleandoc(about_baseline(name)).replace(":class:", "").replace("``", "`")
    tell(as_json, {"name": name, "modalities": modalities_of(name), "text": text}, f"{name}, a baseline. {text}")
    return True
