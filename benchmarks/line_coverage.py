"""Line coverage of the package, after a run of the tests under coverage: `python benchmarks/line_coverage.py`.

`coverage run -m pytest -n 2 --dist loadfile; coverage combine -q; python benchmarks/line_coverage.py`

Writes benchmarks/results/line_coverage.json: the share of lines that tests execute, in all and by folder, and the lines
that none executes in files below 90 %. Lines that Python processes execute which a test starts count, too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
LOW = 90
"""Percent below which a file is listed with its missing lines."""


def report(data: Path) -> dict[str, Any]:
    """Coverage's own report by file, in its JSON form."""
    from coverage import Coverage

    coverage = Coverage(data_file=str(data), config_file=str(REPOSITORY / "pyproject.toml"))
    coverage.load()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "coverage.json"
        coverage.json_report(outfile=str(path))
        content: dict[str, Any] = json.loads(path.read_text())
    return content


def ranges(lines: Iterable[int]) -> str:
    """Ascending line numbers as text.

    Example:
        >>> ranges([3, 4, 5, 9])
        '3-5, 9'
    """
    runs = [[n for _, n in run] for _, run in groupby(enumerate(lines), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def summary(content: dict[str, Any]) -> dict[str, Any]:
    """What the result file holds, from coverage's report."""
    files, total = content["files"], content["totals"]
    folders: dict[str, list[int]] = {}
    for path, file in files.items():
        counts = folders.setdefault("/".join(Path(path).parts[:2]), [0, 0])
        counts[0] += file["summary"]["covered_lines"]
        counts[1] += file["summary"]["num_statements"]
    low = {path: file for path, file in sorted(files.items()) if file["summary"]["percent_covered"] < LOW}
    return {
        "percent": round(total["percent_covered"], 2),
        "lines": total["num_statements"],
        "missing": total["missing_lines"],
        "excluded": total["excluded_lines"],
        "files": len(files),
        "percent_by_folder": {name: round(100 * a / b, 2) for name, (a, b) in sorted(folders.items()) if b},
        "low_files": {
            path: {"percent": round(file["summary"]["percent_covered"], 1), "missing": ranges(file["missing_lines"])}
            for path, file in low.items()
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REPOSITORY / ".coverage", help="coverage's combined data file")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/results/line_coverage.json")
    options = parser.parse_args()
    if not options.data.is_file():
        parser.error(f"no coverage data in {options.data}: run the two commands above first")
    result = summary(report(options.data))
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['percent']} % of {result['lines']:,} lines in {result['files']} files")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
