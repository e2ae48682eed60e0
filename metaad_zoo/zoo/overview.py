"""The table of all published checkpoints, for `checkpoints/README.md` and the front page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEAD = """# Published checkpoints

One folder a model: `model.safetensors`, `manifest.json` (how to rebuild it, its sha256, what it was trained on),
`config.yaml` (what trained it), `metrics.json` (figures beside the baselines) and its card. This page, the cards and
`index.json` are written by `metaad publish`; `metaad publish --refresh` rewrites them.
"""


def overview(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of all published checkpoints."""
    return f"{_HEAD}\n{zoo_table(entries, '') if entries else 'None is published yet.'}\n"


def zoo_table(entries: Mapping[str, Mapping[str, Any]], base: str = "checkpoints/") -> str:
    """A Markdown table, a row a checkpoint.

    Args:
        entries: index entries by name.
        base: folder that links to the cards start with.
    """
    lines = ["| checkpoint | data | AUROC | best baseline: its AUROC, ours minus it | size |", "|---|---|---|---|---|"]
    for name, entry in entries.items():
        size = sum(file["bytes"] for file in entry["files"].values())
        cells = [
            ", ".join(entry["data"]),
            auroc_cell(entry["figures"]),
            baseline_cell(entry["figures"]),
            format_bytes(size),
        ]
        lines.append(f"| [{name}]({base}{name}/README.md) | {' | '.join(cells)} |")
    return "\n".join(lines)


def auroc_cell(figures: Mapping[str, Any]) -> str:
    """A model's AUROC in per cent.

    Example:
        >>> auroc_cell({"auroc": 0.913, "ci95": [0.9, 0.92]})
        '91.3 [90.0, 92.0]'
    """
    return f"{100 * figures['auroc']:.1f}{_interval(figures['ci95'])}"


def baseline_cell(figures: Mapping[str, Any]) -> str:
    """The best baseline, its AUROC and how much ours is above it, in per cent."""
    best = figures.get("best_baseline")
    if best is None:
        return "none"
    return f"{best['name']}: {100 * best['auroc']:.1f}, {100 * best['behind']:+.1f}{_interval(best['ci95'])}"


def format_bytes(size: int) -> str:
    """A size in bytes for people.

    Example:
        >>> format_bytes(20), format_bytes(2_310_000)
        ('1 kB', '2.3 MB')
    """
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(round(size / 1e3), 1)} kB"


def _interval(interval: Any) -> str:
    return f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else ""
