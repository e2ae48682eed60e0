"""Rows of the README's tables on calibration, recommendation, explanations, contamination and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from metaad_zoo.evaluation.protocol import interval


def cell(mean: float, interval: Sequence[float] | None) -> str:
    """In per cent; few tasks have no interval."""
    around = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    return f"{100 * mean:.1f}{around}"


def head(*names: str) -> list[str]:
    """The first two lines of a table."""
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def calibration(measured: dict[str, Any]) -> list[str]:
    """Realised false alarms and power, for the number of shots trained with and, as shipped, for others."""
    alphas = [str(a) for a in measured["alphas"]]
    lines = head(
        "run", "method", "shots", "calibrated", *(f"alpha {100 * float(a):.0f} %: false alarms (power)" for a in alphas)
    )
    for row in measured["rows"]:
        if row["calibration"] == "as shipped" or (row["shots"] == 5 and row["calibration"] == "across"):
            rates = (row["rates"][a] for a in alphas)
            cells = (f"{cell(r['fpr'], r['ci95'])} ({100 * r['power']:.0f})" for r in rates)
            of = "as shipped" if row["calibration"] == "as shipped" else f"on {row['calibration_tasks']} tasks"
            lines.append(f"| {row['run']} | {row['method']} | {row['shots']} | {of} | {' | '.join(cells)} |")
    return lines


def recommendation(measured: dict[str, Any]) -> list[str]:
    """Points of AUROC behind the best, by who chooses."""
    who = {"recommend": "recommend", "knn": "always knn", "mahalanobis": "always mahalanobis"}
    who["cross_validation_alone"] = "cross-validation alone"
    lines = head("normal samples", *who.values(), "recommend within a point of the best")
    for modality, cases in measured["cases"].items():
        for case in cases:
            labels = "" if case["by"] == "synthetic" else ", 5 labelled anomalies"
            behind = (f"{100 * case['choices'][name]['mean_behind_best']:.1f}" for name in who)
            within = f"{100 * case['choices']['recommend']['within_one_point']:.0f} %"
            name = f"{modality}, {case['n']}{labels} ({case['datasets']} data sets)"
            lines.append(f"| {name} | {' | '.join(behind)} | {within} |")
    overall = (f"{100 * measured['overall_without_labels'][name]:.1f}" for name in who)
    return [*lines, f"| all, without labels | {' | '.join(overall)} | |"]


def explanations(measured: dict[str, Any]) -> list[str]:
    """How much more a score changes when what is named most important is deleted than at random."""
    lines = head("model", "method", "named most important", "at random", "gain")
    for run in measured["runs"]:
        for method, figures in run["methods"].items():
            named, random, gain = (figures[key] for key in ("by_attribution", "at_random", "gain"))
            cells = [f"{', '.join(run['input_shapes'])}: {run['model']}", method]
            cells += [f"{named['mean']:.2f}", f"{random['mean']:.2f}"]
            lines.append(
                f"| {' | '.join(cells)} | {gain['mean']:.2f} [{', '.join(f'{x:.2f}' for x in gain['ci95'])}] |"
            )
    return lines


def contamination(measured: dict[str, Any]) -> list[str]:
    """AUROC of batches without labels, by what is in them."""
    methods = list(measured["rows"][0]["methods"])
    lines = head("unlabelled batch", *methods)
    for row in measured["rows"]:
        share = f"{100 * row['contamination']:.0f} % anomalous, others scored" if row["kind"] == "held out" else ""
        name = share or f"{row['normal']} normal and {row['anomalous']} anomalous, scored themselves"
        lines.append(f"| {name} | {' | '.join(cell(m['mean'], m['ci95']) for m in row['methods'].values())} |")
    return lines


def table_size(measured: dict[str, Any]) -> list[str]:
    """Episodes a second and resident memory by the number of rows."""
    lines = head("rows", "episodes/s", "memory added, MiB", "of it anonymous")
    for row in measured["tables"]:
        added = {kind: row["after"][kind] - row["before"][kind] for kind in ("total", "anonymous")}
        lines.append(
            f"| {row['rows']:,} | {row['episodes_per_second']:.0f} | {added['total']:.0f} | {added['anonymous']:.0f} |"
        )
    return lines


def default_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the patch memory's default settings, which rotate supports of one or two."""
    return [row for row in rows if row["method"] == f"subspace 0.95{', turns' * (row['shots'] <= 2)}"]


def image_bank(measured: dict[str, Any]) -> list[str]:
    """AUROC of the patch memory on families of images, by its settings and the number of good images."""
    shots = sorted({row["shots"] for row in measured["rows"]})
    by_method = {(row["method"], row["shots"]): row for row in measured["rows"]}
    lines = head("setting", *(f"{k} good" for k in shots))
    for name in dict.fromkeys(row["method"] for row in measured["rows"]):
        rows = [by_method[name, k] for k in shots]
        lines.append(f"| {name} | {' | '.join(cell(row['auroc'], row['ci95']) for row in rows)} |")
    usual = default_rows(measured["rows"])
    for other in ("plain memory", "1-NN on the embedding"):
        ahead = [row[f"ahead of {other}"] for row in usual]
        lines.append(f"| **default, ahead of {other}** | {' | '.join(cell(x['mean'], x['ci95']) for x in ahead)} |")
    return lines


def patch_change(measured: dict[str, Any]) -> list[str]:
    """AUROC on unseen families of images by the number of good images, and the paired difference to the memory."""
    names = {
        "memory": "plain patch memory",
        "synthetic": "change head, synthetic defects",
        "synthetic + memory": "the same, added to the memory",
        "synthetic and real": "change head, real anomalies of other families too",
        "synthetic and real + memory": "the same, added to the memory",
        "bound": "logistic regression on labels of the family itself",
    }
    shots = sorted({row["shots"] for row in measured["rows"]})
    lines = head("method", *(f"{k} good, minus memory" if i else f"{k} good" for k in shots for i in (0, 1)))
    for method, name in names.items():
        by_shots = {row["shots"]: row for row in measured["rows"] if row["method"] == method}
        cells = []
        for k in shots:
            row = by_shots[k]
            minus = "" if method == "memory" else cell(row["minus_memory"], row["minus_memory_ci95"])
            cells += [f"{100 * row['auroc']:.1f}", minus]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


PATCH_SERIES = {
    "nearest statistics": "ten statistics of each channel, no CNN",
    "nearest statistics, by channel": "the same, each channel alone",
    "raw": "none, raw values",
    "random": "random CNN",
    "contrast, any length": "CNN, contrastive loss, meta-trained",
    "contrast, any length, by channel": "the same, each channel alone",
    "contrast": "the same, embeddings of length 1",
    "contrast, adapted": "CNN, contrastive loss, meta-trained and adapted to the history",
    "contrast, head adapted": "the same, only its last layer adapted",
    "from scratch": "CNN, contrastive loss, trained on the history alone",
    "PaAno": "PaAno, reduced, trained on the history alone",
    "statistics": "statistics and CNN, ranking loss, meta-trained",
    "series_experts": "`series_experts`",
    "series_experts and nearest statistics": "`series_experts` and the memory of statistics",
    "series_experts and contrast, any length": "`series_experts` and the contrastive memory",
    "series_experts and statistics": "`series_experts` and the ranking memory",
}


def patch_series(rows: list[dict[str, Any]]) -> list[str]:
    """AUROC by points of memories of windows, by family left out, and the paired difference to its control."""
    by_method = {row["method"]: row for row in rows}
    lines = head("encoder of the memory", *rows[0]["families"], "mean", "minus control, over series", "CPU s a series")
    for method, name in PATCH_SERIES.items():
        if method in by_method:
            row = by_method[method]
            figures = " | ".join(f"{100 * x:.1f}" for x in (*row["families"].values(), row["auroc"]))
            minus = row["minus_control"]
            difference = "" if method == row["control"] else cell(minus["mean"], minus["ci95"])
            lines.append(f"| {name} | {figures} | {difference} | {row['seconds']:.2f} |")
    return lines


def adbench_shots(measured: dict[str, Any]) -> list[str]:
    """AUROC on unseen tables by the number of normal rows, and what the first is behind the strongest classical one."""
    rows = measured["rows"]
    lines = head("method", *(str(row["support"]) for row in rows))
    for name in rows[0]["methods"]:
        figures = (row["methods"][name] for row in rows)
        lines.append(f"| {name} | {' | '.join(cell(m['mean'], m['ci95']) for m in figures)} |")
    first = next(iter(rows[0]["methods"]))
    ahead = (row["methods"][row["strongest"]]["behind_first"] for row in rows)
    lines.append(f"| {first} minus the best classical one | {' | '.join(cell(d['mean'], d['ci95']) for d in ahead)} |")
    chances = (row["methods"][row["strongest"]]["behind_first"]["wilcoxon_p"] for row in rows)
    return [*lines, f"| Wilcoxon p of that | {' | '.join(f'{p:.2f}' for p in chances)} |"]


def few_labels(measured: dict[str, Any]) -> list[str]:
    """AUROC on unseen digits by the number of labelled anomalies."""
    rows = measured["rows"]
    titles = (f"{row['labelled']}{', of another class' if row['of_another_class'] else ''}" for row in rows)
    lines = head("method", *titles)
    for name in rows[0]["methods"]:
        figures = (row["methods"][name] for row in rows)
        lines.append(f"| {name} | {' | '.join(cell(m['mean'], m['ci95']) for m in figures)} |")
    return lines


def finetuning(measured: dict[str, Any]) -> list[str]:
    """AUROC in % by number of normal samples, and the mean change over all numbers with its standard error."""
    lines = ["| to | way | 1 | 2 | 5 | 10 | 20 | most | change |", "|---" * 9 + "|"]
    for field, figures in measured.items():
        shots = list(figures["shots"].values())
        for way in shots[-1]:
            means = [f"{np.mean(list(by[way].values())):.1f}" if way in by else "" for by in shots]
            before = "single, before" if way == "single" else "adapt"
            both = [by for by in shots if way in by and before in by]
            changes = [np.mean([by[way][task] - by[before][task] for by in both]) for task in figures["tested_on"]]
            error = np.std(changes, ddof=1) / len(changes) ** 0.5
            change = "" if way in ("adapt", "single, before") else f"{np.mean(changes):+.1f} ± {error:.1f}"
            lines.append(f"| {field}, {len(changes)} domains | {way} | {' | '.join(means)} | {change} |")
    return lines


def finetune_inspection(measured: dict[str, Any]) -> list[str]:
    """AUROC of a product left out by the memory and by the metric learned on its siblings, by number of good images."""
    shots = list(next(iter(measured["families"].values()))["summary"])
    lines = head("left out", *(f"{k} good image{'s' if k != '1' else ''}" for k in shots))
    for family, figures in measured["families"].items():
        for row in figures["products"]:
            lines.append(f"| {row['product']} | {' | '.join(_pair(row['shots'][k]) for k in shots)} |")
        changes = (figures["summary"][k] for k in shots)
        lines.append(f"| **mean change, {family}** | {' | '.join(_change(c) for c in changes)} |")
        if "pixel_before" in figures["summary"][shots[0]]:
            pixels = (_pair(figures["summary"][k], "pixel_") for k in shots)
            lines.append(f"| pixel AUROC, {family} | {' | '.join(pixels)} |")
    return lines


def _pair(figures: dict[str, float], kind: str = "") -> str:
    """Before and after, in per cent."""
    return f"{100 * figures[f'{kind}before']:.1f} → {100 * figures[f'{kind}after']:.1f}"


def _change(figures: dict[str, Any]) -> str:
    """Mean change in points, with its interval if it has one."""
    around = "" if figures["ci95"] is None else " [{:+.1f}, {:+.1f}]".format(*(100 * x for x in figures["ci95"]))
    return f"{100 * figures['change']:+.1f}{around}"


def inspection_thresholds(measured: dict[str, Any]) -> list[str]:
    """Realised false alarms of the patch memory on unseen domains, by the number of good images."""
    lines = head("good images", "scores", "domains held", "supports held", "false alarms", "lowest, highest", "power")
    for row in measured["summary"]:
        held = (f"{100 * row[share]:.0f} %" for share in ("domains_held", "supports_held"))
        spread = f"{100 * row['fpr_lowest']:.1f}, {100 * row['fpr_highest']:.1f}"
        power = f"{100 * row['power']:.0f} of {100 * row['power_at_exactly_alpha']:.0f}"
        cells = [str(row["shots"]), row["way"], *held, cell(row["fpr"], row["fpr_ci95"]), spread, power]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def strange_supports(measured: dict[str, Any]) -> list[str]:
    """Supports that models of characters call novel, on unseen alphabets and on the images that look most alike."""
    rows, sizes = measured["rows"], sorted({row["shots"] for row in measured["rows"]})
    unseen, *seen = dict.fromkeys(row["pictures"] for row in rows)
    lowest = {name: min(row["warned"] for row in rows if row["pictures"] == name) for name in seen}
    fewest = min(lowest, key=lambda name: lowest[name])
    lines = head("supports called novel, %", *(f"of {k}" for k in sizes))
    names = dict.fromkeys(row["checkpoint"] for row in rows)
    groups = {f"{name}, {unseen}": ([unseen], [name]) for name in names}
    groups |= {
        f"all, {len(seen)} other kinds of images": (seen, names),
        f"all, {fewest} of these": ([fewest], names),
    }
    for label, (pictures, checkpoints) in groups.items():
        chosen = [row for row in rows if row["pictures"] in pictures and row["checkpoint"] in checkpoints]
        means = (100 * np.mean([row["warned"] for row in chosen if row["shots"] == k]) for k in sizes)
        lines.append(f"| {label} | {' | '.join(f'{mean:.1f}' for mean in means)} |")
    return lines


def unlabelled(measured: dict[str, Any], tables: str, shots: int = 10, of: str = "") -> list[str]:
    """AUROC by the contamination of the unlabelled rows, and the paired difference to the nearest normal row.

    Args:
        measured: the result file.
        tables: first part of the names of the tables to include.
        shots: number of normal rows.
        of: part of the names of the methods to include beside the first; all by default.
    """
    rows = [row for row in measured["rows"] if row["shots"] == shots]
    lines = head("method", *(f"{row['contamination']:.0%}" for row in rows), "together")
    first = next(iter(rows[0]["methods"]))

    def by_table(row: dict[str, Any], name: str) -> np.ndarray:
        figures = row["methods"][name]["tables"]
        return np.array([figures[table] for table in sorted(figures) if table.startswith(f"{tables}/")])

    for name in (x for x in rows[0]["methods"] if x == first or of in x):
        values = [by_table(row, name) for row in rows]
        differences = [x - by_table(row, first) for x, row in zip(values, rows, strict=True)]
        means = [f"{100 * x.mean():.1f}" for x in (*values, np.stack(values))]
        over = [f" ({100 * x.mean():+.1f})" for x in differences]
        together = np.mean(differences, 0)
        around = interval(together)
        ends = "" if around is None else " [{:+.1f}, {:+.1f}]".format(*(100 * x for x in around))
        over.append(f" ({100 * together.mean():+.1f}{ends})")
        cells = means if name == first else [mean + difference for mean, difference in zip(means, over, strict=True)]
        lines.append(f"| {_short(name)} | {' | '.join(cells)} |")
    return lines


def unlabelled_alarms(measured: dict[str, Any], shots: int = 10) -> list[str]:
    """Realised false alarms where 10 % are aimed at, by the contamination of the unlabelled rows."""
    rows = [row for row in measured["rows"] if row["shots"] == shots]
    lines = head("method", *(f"{row['contamination']:.0%}" for row in rows))
    for name in rows[0]["methods"]:
        decided = [row["methods"][name].get("alarms") for row in rows]
        if all(decided):
            cells = (
                f"{100 * a['false_alarms']:.1f} ({100 * a['within_5_to_15']:.0f} / {100 * a['above_30']:.0f})"
                for a in decided
            )
            lines.append(f"| {_short(name)} | {' | '.join(cells)} |")
    return lines


def series_families(measured: dict[str, Any]) -> list[str]:
    """AUROC and VUS-PR on families of series left out; in each cell both, and the difference over all series."""
    area, volume = (measured["summary"][key] for key in ("auroc", "vus_pr"))
    families = measured["protocol"]["series"]
    lines = head("method", *(f"{name} ({n})" for name, n in families.items()), "mean of the families")
    for name in sorted(area["mean"], key=area["mean"].__getitem__, reverse=True):
        pairs = [(area["by_family"][name][f], volume["by_family"][name][f]) for f in families]
        pairs.append((area["mean"][name], volume["mean"][name]))
        lines.append(f"| {name} | {' | '.join(f'{100 * a:.1f} / {100 * v:.1f}' for a, v in pairs)} |")
    return lines


def series_leads(measured: dict[str, Any]) -> list[str]:
    """Leads over the best simple method, and of trained over equal weights."""
    lines = head("comparison", "AUROC", "p", "VUS-PR", "p")
    parts = [measured["summary"][key] for key in ("auroc", "vus_pr")]
    for name in parts[0]["ahead"]:
        best = " and ".join(dict.fromkeys(part["best_simple"] for part in parts))
        leads = [part["ahead"][name] for part in parts]
        lines.append(f"| {name} minus {best} | {_tested(leads)} |")
    leads = [part["trained_over_equal"] for part in parts]
    return [*lines, f"| trained minus equal weights | {_tested(leads)} |"]


def series_windows(measured: Sequence[dict[str, Any]]) -> list[str]:
    """Means over families by length of the window, each in its own run."""
    lines = head("support", "series", "series_experts", "best simple method")
    for content in measured:
        area, volume = (content["summary"][key] for key in ("auroc", "vus_pr"))
        ours, best = "series_experts", area["best_simple"]
        pairs = (f"{100 * area['mean'][n]:.1f} / {100 * volume['mean'][n]:.1f}" for n in (ours, best))
        lines.append(
            f"| {content['protocol']['support'].partition(' out of')[0]} | {len(content['rows'])} | "
            f"{' | '.join(pairs)} ({best}) |"
        )
    return lines


def _tested(leads: Sequence[dict[str, Any]]) -> str:
    """Points with their interval and the p-value of each lead."""
    return " | ".join(f"{cell(lead['mean'], lead['ci95'])} | {lead['p']:.2g}" for lead in leads)


def series_alarms(measured: dict[str, Any]) -> list[str]:
    """Share of series whose realised rate is within a factor of 2 of the aim, by way to decide."""
    ways = list(dict.fromkeys(row["way"] for row in measured["rows"]))
    lines = head("alpha", "method", "series", *ways)
    for (alpha, method), row in _by_way(measured["rows"]).items():
        cells = (cell(row[way]["within_factor_2"], row[way]["within_factor_2_ci95"]) for way in ways)
        lines.append(f"| {alpha} | {method} | {row[ways[0]]['series']} | {' | '.join(cells)} |")
    return lines


def series_incidents(measured: dict[str, Any]) -> list[str]:
    """Rates of flagged normal points, and shares of incidents with a flagged point, by way to decide."""
    ways = [way for way in dict.fromkeys(row["way"] for row in measured["rows"]) if way != "oracle"]
    lines = head("alpha", "method", *ways)
    for (alpha, method), row in _by_way(measured["rows"]).items():
        cells = (
            f"{100 * one['mean_rate']:.1f}, {100 * one['detected']:.0f} ({100 * one['chance']:.0f}) / "
            f"{100 * one['detected_around']:.0f} ({100 * one['chance_around']:.0f})"
            for one in (row[way] for way in ways)
        )
        lines.append(f"| {alpha} | {method} | {' | '.join(cells)} |")
    return lines


def _by_way(rows: Sequence[dict[str, Any]]) -> dict[tuple[float, str], dict[str, dict[str, Any]]]:
    grouped: dict[tuple[float, str], dict[str, dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["alpha"]):
        grouped.setdefault((row["alpha"], row["method"]), {})[row["way"]] = row
    return grouped


def _short(name: str) -> str:
    """The name of a method without the folder of a run."""
    return name.rpartition("/")[2] if not name.startswith("pile_knn") else name


def missing_modalities(measured: dict[str, Any]) -> list[str]:
    """AUROC and false alarms of a fusion that lacks a modality, and its points above the models of one modality."""
    lines: list[str] = []
    for split, rows in measured["rows"].items():
        singles = list(rows[0]["singles"])
        of = {"test": "test", "val": "validation", "all": "test and validation"}[split]
        lines = lines or head(
            "tasks", "missing", "where", "AUROC", "false alarms", *(f"minus {m} alone" for m in singles)
        )
        for row in rows:
            cells = [f"{row['tasks']} {of}", row["missing"] or "nothing", row["side"]]
            cells += [cell(row["mean"][m], row["ci95"][m]) for m in ("auroc", "fpr")]
            differences = (row["minus_single"].get(m) for m in singles)
            cells += [cell(d["mean"], d["ci95"]) if d else "" for d in differences]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


TABLES = {
    "inspection thresholds": inspection_thresholds,
    "strange supports": strange_supports,
    "finetune inspection": finetune_inspection,
    "adbench shots": adbench_shots,
    "few labels": few_labels,
    "finetuning": finetuning,
    "patch change": patch_change,
    "image bank": image_bank,
    "calibration": calibration,
    "recommendation": recommendation,
    "explanations": explanations,
    "contamination": contamination,
    "table size": table_size,
    "missing modalities omniglot": missing_modalities,
    "missing modalities digits": missing_modalities,
    "series families": series_families,
    "series alarms": series_alarms,
}
"""By marker; the result file has the same name, with an underscore."""
