"""Support sets of every awkward kind, for every learner and baseline and every form of samples that it reads:
`python benchmarks/awkward_supports.py --json benchmarks/results/awkward_supports.json`.

Each detector of `detectors.py` is fitted to each support and scores the same query: samples of the domain and samples
ever farther from it. The outcome must be finite scores that are not all equal, or an error of this package: a
`ValueError`, `TypeError`, `RuntimeError` or `FloatingPointError` that this package raises itself, so that no error of
torch, numpy or scikit-learn reaches the user. Scores may be equal where the support does not vary, and so gives no
units, if the detector's account says so. Anything else is a failure, and so is a fit that takes over a minute.
"""

from __future__ import annotations

import argparse
import collections
import json
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from awkward_kinds import KINDS, Task
from detectors import SHAPES, detector, names
from rich.console import Console
from rich.progress import track
from rich.table import Table

import metaad_zoo
from metaad_zoo.detector import Detector
from metaad_zoo.evaluation.protocol import environment

LONGEST = 60.0
FLOORS = ("baseline/flag_everything", "baseline/random")
"""Detectors that learn nothing, whose scores may be equal."""


@dataclass(frozen=True)
class Outcome:
    """What came of one support set with one detector.

    Attributes:
        kind: kind of support.
        form: form of samples.
        detector: name in `detectors.py`.
        outcome: ``"scores"``, ``"error"`` (of this package), or what is wrong.
        message: the error's.
        seconds: of fitting and scoring.
    """

    kind: str
    form: str
    detector: str
    outcome: str
    message: str
    seconds: float


def attempt(model: Detector, task: Task) -> tuple[str, str]:
    """Outcome and message of one detector with one support set, see :class:`Outcome`."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            scores = model.fit(task.support, task.labels).score(task.query)
        except Exception as error:  # what any library raises is the subject
            return _judged(error), f"{type(error).__name__}: {str(error)[:300]}"
    if not np.isfinite(scores).all():
        return "scores that are not finite", str(scores)
    if not task.may_tie and len(np.unique(scores)) == 1:
        noted = any("do not vary" in sentence for sentence in model.account)
        return "equal scores, noted" if noted else "equal scores", str(scores[0])
    return "scores", ""


def _judged(error: Exception) -> str:
    """``"error"`` if this package raised it, of one of the classes that it names; else where it comes from."""
    if isinstance(error, Warning):
        return "a warning"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    path = Path(frame.filename)
    raised = Path(metaad_zoo.__file__).parent in path.parents and "raise" in (frame.line or "")
    if raised and isinstance(error, (ValueError, TypeError, RuntimeError, FloatingPointError)) and str(error):
        return "error"
    return f"an error of {path.parent.name}/{path.name}"


def accepted(outcome: Outcome) -> bool:
    """Whether an outcome is as it should be."""
    if outcome.outcome == "equal scores":
        return outcome.detector in FLOORS or (outcome.detector == "baseline/iforest" and outcome.kind == "two samples")
    return outcome.outcome in ("scores", "equal scores, noted", "error") and outcome.seconds <= LONGEST


def outcomes(chosen: Mapping[str, list[str]], kinds: list[str]) -> Iterator[Outcome]:
    """Outcomes of all kinds with some detectors.

    Args:
        chosen: names of detectors by form of samples.
        kinds: kinds of support.
    """
    for form, detectors in chosen.items():
        tasks = {name: KINDS[name](form) for name in kinds}
        for name in detectors:
            model = detector(name, form)
            for kind_name, task in tasks.items():
                start = time.monotonic()
                outcome, message = attempt(model, task)
                yield Outcome(kind_name, form, name, outcome, message, time.monotonic() - start)


def summary(rows: list[Outcome]) -> dict[str, dict[str, Any]]:
    """Counts of each kind: how often it was tried, and what came of it."""
    by_kind: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(row.kind for row in rows):
        of_kind = [row for row in rows if row.kind == name]
        counts = collections.Counter(row.outcome for row in of_kind)
        messages = collections.Counter(row.message for row in of_kind if row.outcome == "error")
        by_kind[name] = {
            "tried": len(of_kind),
            **dict(counts),
            "failed": sum(not accepted(row) for row in of_kind),
            "slowest_seconds": round(max(row.seconds for row in of_kind), 1),
            "errors": [message for message, _ in messages.most_common(5)],
        }
    return by_kind


def joined(earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """Earlier results as one, with what failed in them tried again: its new outcomes replace the old ones."""
    kinds: dict[str, dict[str, Any]] = {name: collections.Counter() for result in earlier for name in result["kinds"]}
    failures = [row for result in earlier for row in result["failures"]]
    for name, row in kinds.items():
        parts = [result["kinds"][name] for result in earlier if name in result["kinds"]]
        for part in parts:
            row.update({key: value for key, value in part.items() if key not in ("errors", "slowest_seconds")})
        row["slowest_seconds"] = max(part["slowest_seconds"] for part in parts)
        row["errors"] = list(dict.fromkeys(error for part in parts for error in part["errors"]))
        row["failed"] = 0
    still: list[dict[str, Any]] = []
    for row in track(failures, "failures again"):
        (now,) = outcomes({row["form"]: [row["detector"]]}, [row["kind"]])
        counts = kinds[row["kind"]]
        counts[row["outcome"]] -= 1
        counts[now.outcome] += 1
        counts["failed"] += not accepted(now)
        still += [] if accepted(now) else [asdict(now)]
    return {
        "detectors": {form: n for result in earlier for form, n in result["detectors"].items()},
        "tried": sum(result["tried"] for result in earlier),
        "tried_again": len(failures),
        "failed": len(still),
        "kinds": {name: {key: value for key, value in row.items() if value != 0} for name, row in kinds.items()},
        "failures": still,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="*", default=list(SHAPES))
    parser.add_argument("--detectors", nargs="*", help="only these, such as maml/conv4")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--again", nargs="*", type=Path, help="earlier results to join, whose failures are tried again")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.again:
        content = joined([json.loads(path.read_text(encoding="utf-8")) for path in options.again])
        print(f"{content['tried']} supports, {content['tried_again']} again, {content['failed']} failures")
        options.json.write_text(json.dumps(content | {"environment": environment("cpu")}, indent=1) + "\n")
        return
    chosen = {
        form: [n for n in names(form) if not options.detectors or n in options.detectors] for form in options.forms
    }
    total = sum(map(len, chosen.values())) * len(options.kinds)
    rows = list(track(outcomes(chosen, options.kinds), "supports", total=total))
    by_kind = summary(rows)
    failures = [asdict(row) for row in rows if not accepted(row)]
    table = Table("support", "tried", "scores", "error of this package", "failed", "slowest, s")
    for name, row in by_kind.items():
        cells = (row["tried"], row.get("scores", 0), row.get("error", 0), row["failed"], row["slowest_seconds"])
        table.add_row(name, *map(str, cells))
    Console(width=120).print(table)
    print(f"{len(rows)} supports, {len(failures)} failures")
    if options.json:
        content = {
            "detectors": {form: len(detectors) for form, detectors in chosen.items()},
            "tried": len(rows),
            "failed": len(failures),
            "kinds": by_kind,
            "failures": failures,
            "environment": environment("cpu"),
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
