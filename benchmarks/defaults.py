"""The default detector of each modality, chosen by rule from result files.

    python benchmarks/defaults.py            # writes metaad_zoo/zoo/defaults.json
    python benchmarks/defaults.py --check    # fails if the file is not what the results give

Images: the patch memory, if the interval of its lead over 1-NN on the same network's embedding excludes 0 at every
size of the support (`image_bank.json`). Series: `series_experts`, if its lead over the best simple method excludes 0
in AUROC and VUS-PR (`series_families.json`). Tables: the baseline whose largest loss to the best baseline, over the
measured sizes of the support, is smallest (`recommendation.json`); a published model takes its place if the interval of
its lead over the best baseline on unseen tables excludes 0. Both then have normal samples alone. Modalities that no
result file judges get the nearest neighbour.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from metaad_zoo.evaluation.protocol import interval
from metaad_zoo.zoo.defaults import TABLE

EMBEDDING, CHOSEN = "1-NN on the embedding", "chosen on the other families"
RESULTS = Path(__file__).parent / "results"
LEARNED = "unlabelled", "tabular-raw_columns-weighted_experts-unlabelled"
"""Result file in which a published model is judged on unseen tables, and the model."""


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def file_of(name: str) -> str:
    return f"benchmarks/results/{name}.json"


def for_images() -> dict[str, Any]:
    rows = read("image_bank")["rows"]
    leads = {row["shots"]: row[f"ahead of {EMBEDDING}"] for row in rows if row["method"] == CHOSEN}
    if min(lead["ci95"][0] for lead in leads.values()) <= 0:
        raise ValueError(f"the patch memory is not clearly ahead: {leads}; choose a rule for this case")
    figures = ", ".join(f"{n}: {points(lead['mean'], lead['ci95'])}" for n, lead in leads.items())
    reason = (
        "ahead of 1-NN on the same network's embedding, each family of images with the settings that are best on the "
        f"others; points of AUROC by number of good images, with 95 % intervals over families: {figures}"
    )
    return entry("image", "patch_memory", reason, "image_bank")


def for_tables() -> dict[str, Any]:
    prior = read("recommendation")["prior"]["tabular"]
    losses = {
        name: {int(n): 100 * (max(by_method.values()) - by_method[name]) for n, by_method in prior["advantage"].items()}
        for name in next(iter(prior["advantage"].values()))
    }
    best = min(losses, key=lambda name: max(losses[name].values()))
    file, model = LEARNED
    lead = lead_without_unlabelled_rows(read(file))
    if lead["ci95"][0] > 0:
        reason = f"ahead of the best baseline by {points(lead['mean'], lead['ci95'])} points"
        return entry("tabular", model, reason, file)
    behind = " and ".join(f"{loss:.1f} points behind the best at {n}" for n, loss in sorted(losses[best].items()))
    reason = (
        f"of {len(losses)} baselines on {prior['datasets']} data sets the one whose largest loss is smallest: {behind} "
        f"normal samples (AUROC); the published model {model} is not clearly ahead of the best baseline on "
        f"unseen domains: {points(lead['mean'], lead['ci95'])} points of AUROC"
    )
    return entry("tabular", best, reason, "recommendation", file)


def for_series() -> dict[str, Any]:
    summaries = read("series_families")["summary"]
    leads = {key: part["ahead"]["series_experts"] for key, part in summaries.items()}
    if min(lead["ci95"][0] for lead in leads.values()) <= 0:
        raise ValueError(f"series_experts is not clearly ahead: {leads}; choose a rule for this case")
    figures = "; ".join(
        f"{title}: {points(leads[key]['mean'], leads[key]['ci95'])} over {summaries[key]['best_simple']}, p = "
        f"{leads[key]['p']:.1g}"
        for key, title in (("auroc", "AUROC"), ("vus_pr", "VUS-PR"))
    )
    reason = (
        f"ahead of the best simple method on {leads['auroc']['series']} series, without any training; its experts were "
        f"chosen on these series, which makes the figures somewhat too good; points with 95 % intervals over "
        f"series and Wilcoxon's p: {figures}"
    )
    return entry("sequence", "series_experts", reason, "series_families")


def lead_without_unlabelled_rows(results: dict[str, Any]) -> dict[str, Any]:
    """Lead of the published model over the best baseline, both on normal rows alone, on tables of ADBench."""
    methods, (row, *_) = results["protocol"]["methods"], results["rows"]
    names = [name for name, fields in methods.items() if fields["adapted_to"] == "normal"]
    (ours,) = (name for name in names if name.startswith(LEARNED[1]))
    tables = sorted(table for table in row["methods"][ours]["tables"] if table.startswith("adbench/"))
    areas = {name: np.array([row["methods"][name]["tables"][table] for table in tables]) for name in names}
    best = max(areas.keys() - {ours}, key=lambda name: float(areas[name].mean()))
    lead = areas[ours] - areas[best]
    return {"mean": float(lead.mean()), "ci95": interval(lead)}


def points(mean: float, interval: list[float]) -> str:
    low, high = (f"{100 * x:.1f}" for x in interval)
    return f"{100 * mean:+.1f} [{low}, {high}]"


def entry(modality: str, detector: str, reason: str, *files: str) -> dict[str, Any]:
    results = [file_of(file) for file in files]
    return {"modality": modality, "detector": detector, "reason": reason, "results": results}


def choose() -> dict[str, Any]:
    """The table of defaults."""
    not_judged = "no result file judges detectors on unseen {}: the simplest method"
    return {
        "image": for_images(),
        "table": for_tables(),
        "series": for_series(),
        "audio": entry("audio", "knn", not_judged.format("recordings")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if the table is not up to date")
    text = json.dumps(choose(), indent=1) + "\n"
    if parser.parse_args().check:
        if TABLE.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{TABLE} is not what the result files give: run benchmarks/defaults.py")
    else:
        TABLE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
