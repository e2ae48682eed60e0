"""Rows of docs/reliability.md from result files: what was tried, how often, and what was lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from result_tables import RESULTS, head, read_json

Result = Mapping[str, Any]


def files_and_requests() -> list[str]:
    """Rows of mutated files, awkward supports, concurrency, parity and the server."""
    rows = {
        "fuzz_readers": _mutated_files,
        "awkward_supports": _awkward_supports,
        "concurrency": _concurrency,
        "parity": _parity,
        "server_load": _server,
    }
    return [*_head(), *(_row(name, cells) for name, make in rows.items() for cells in make(_result(name)))]


def trainings() -> list[str]:
    """Rows of killed and broken trainings, and of an hour of work."""
    rows = {"kill_trainings": _kills, "break_trainings": _breaks, "soak": _soak}
    return [*_head(), *(_row(name, make(_result(name))) for name, make in rows.items())]


def mutants() -> list[str]:
    """Rows of mutation testing, line coverage and the wheel."""
    rows = {"mutation": _mutants, "line_coverage": _coverage, "wheel_quickstart": _wheel}
    return [*_head("result"), *(_row(name, make(_result(name))) for name, make in rows.items())]


def versions() -> list[str]:
    """A row for each environment in which the whole suite ran."""
    lines = head("Python", "packages", "warnings", "tests passed, failed, skipped", "command")
    for name, result in _result("python_versions").items():
        if result["tests"] != "all":
            raise ValueError(f"python_versions.json: {name} ran {result['tests']}, expected the whole suite")
        shown = ", ".join(f"{package} {result['packages'][package]}" for package in ("torch", "lightning", "numpy"))
        kind = "lowest allowed" if result["resolution"] == "lowest-direct" else "newest"
        counts = [f"{result['counts'].get(word, 0):,}" for word in ("passed", "failed", "skipped")]
        warnings = "errors" if result["warnings"] == "error" else "allowed"
        cells = [result["python"], f"{kind}: {shown}", warnings, ", ".join(counts)]
        lines.append(f"| {' | '.join(cells)} | `python benchmarks/python_versions.py {name}` |")
    return lines


def _head(outcome: str = "lost") -> list[str]:
    return head("what", "tried", outcome, "command")


def _result(name: str) -> Result:
    result: Result = read_json(RESULTS / f"{name}.json")
    return result


def _row(name: str, cells: tuple[str, str, str]) -> str:
    return f"| {' | '.join(cells)} | `python benchmarks/{name}.py` |"


def _mutated_files(result: Result) -> list[tuple[str, str, str]]:
    readers = result["readers"].values()
    total = {key: sum(reader[key] for reader in readers) for key in ("cases", "compared")}
    kinds = ("crash", "hang", "unnamed", "executed", "wrong", "memory")
    lost = {key: sum(reader[key] for reader in readers) for key in kinds}
    most = max(reader["most_mib"] for reader in readers)
    return [
        (
            "Mutated files",
            f"{total['cases']:,} files of {len(readers)} readers (images, CSV, Parquet, npz, WAV, manifests, configs, "
            "checkpoints): bits, cuts, splices, huge numbers, forged headers",
            f"{lost['crash']} crashes, {lost['hang']} hangs, {lost['unnamed']} errors that do not name the file, "
            f"{lost['executed']} that run code; {lost['wrong']} of {total['compared']:,} readings differ from those "
            f"of a reference library without a note; {lost['memory']} over the limit of memory ({most:,.0f} MiB, a "
            "Parquet page that states a wrong size)",
        )
    ]


def _awkward_supports(result: Result) -> list[tuple[str, str, str]]:
    slowest = max(kind.get("slowest_seconds", 0) for kind in result["kinds"].values())
    return [
        (
            "Awkward supports",
            f"{len(result['kinds'])} kinds (one sample, identical, all anomalous, huge, NaN, wrong shape, ...) for "
            f"{sum(result['detectors'].values())} detectors: {result['tried']:,} fits; {result['tried_again']} that "
            "failed at first were tried again after their causes were fixed",
            f"{result['failed']} without a finite score or an error of this package; the slowest took {slowest:.0f} s",
        )
    ]


def _concurrency(result: Result) -> list[tuple[str, str, str]]:
    return [
        (
            "Concurrency",
            f"{len(result['detectors'])} detectors in {', '.join(result['scores'])}: "
            f"{sum(result['scores'].values()):,} scores beside {sum(result['fits'].values()):,} fits of others",
            f"largest difference to the detector alone {max(result['largest'].values()):.1g}",
        )
    ]


def _parity(result: Result) -> list[tuple[str, str, str]]:
    pairs = [pair for detector in result["detectors"] for pair in detector["differences"].items()]
    exports = max(value for name, value in pairs if name.startswith("export"))
    others = max(value for name, value in pairs if not name.startswith("export"))
    return [
        (
            "Parity",
            f"{len(result['detectors'])} published and default detectors: batches, order, save and load, threads, "
            "engines, exports",
            f"largest difference {others:.1e} of the largest score, of exports {exports:.1e}",
        )
    ]


def _server(result: Result) -> list[tuple[str, str, str]]:
    load, stop = result["load"], result["sigterm"]
    bad = load["requests"] - load["good"]
    before = stop["sent_before"]
    return [
        (
            "Server under load",
            f"{load['requests']:,} requests of {load['clients']} clients, {bad} of them malformed, oversized or slow",
            f"{len(load['troubles'])} wrong answers; resident memory +{result['memory_mib']['growth_percent']:.1f} %",
        ),
        (
            "Server stopped while busy",
            f"SIGTERM, {sum(before.values())} requests sent before it",
            f"{sum(before.values()) - before['right']} of them; {stop['processes_left']} processes left; most later "
            "connections are reset",
        ),
    ]


def _kills(result: Result) -> tuple[str, str, str]:
    by_signal = result["summary"]
    two = sum(summary["with_two_processes"] for summary in by_signal.values())
    inside = sum(n for s in by_signal.values() for moment, n in s["moments"].items() if moment != "step")
    return (
        "Killed trainings",
        ", ".join(f"{s['trainings']} trainings by {s['signals']} {name}" for name, s in by_signal.items())
        + f"; {max(s['learners_and_engines'] for s in by_signal.values())} learners and engines, {two} trainings in "
        f"two processes, {inside} signals while a checkpoint was written, temporary folder on another file system",
        f"{sum(s['other_end'] for s in by_signal.values())} resumed trainings end other than undisturbed ones, bit for "
        f"bit; {sum(s['faults'] for s in by_signal.values())} half-written files taken for whole ones or hangs",
    )


def _breaks(result: Result) -> tuple[str, str, str]:
    faults = result["faults"]
    unlike = [name for name, fault in faults.items() if not fault["as_wanted"] or fault.get("differences")]
    return (
        "Broken trainings",
        "; ".join(faults),
        f"{len(unlike)} of {len(faults)} neither end with the weights of an undisturbed training nor with an error "
        "that names the cause",
    )


def _soak(result: Result) -> tuple[str, str, str]:
    work = {name: program["work"] for name, program in result["programs"].items()}
    rise = {m: max(p["judged"][m]["rise"] for p in result["programs"].values()) for m in ("resident", "anonymous")}
    fall = -min(p["judged"]["resident"]["growth"] for p in result["programs"].values())
    serving = work["serving"]
    return (
        "Soak",
        f"{result['protocol']['minutes']:.0f} minutes of training ({work['training']['steps']} outer steps), scoring "
        f"({work['scoring']['rounds']} rounds) and serving ({serving['answered']:,} requests answered, "
        f"{serving['refused']:,} malformed ones refused), side by side",
        f"nothing; after the first {result['protocol']['warm_up_minutes']} minutes resident memory rose by at most "
        f"{100 * rise['resident']:.1f} %, anonymous memory by {100 * rise['anonymous']:.1f} %; resident memory fell "
        f"by up to {100 * fall:.1f} %",
    )


def _mutants(result: Result) -> tuple[str, str, str]:
    low, high = result["ci95"]
    protocol, untested = result["protocol"], result["counts"].get("no test", 0)
    return (
        "Mutation testing",
        f"{protocol['mutants']} random mutants of {protocol['mutants_in_all']:,} in {', '.join(protocol['rooms'])}, "
        f"against the tests that execute their lines, for {protocol['seconds_of_tests']:g} s each",
        f"{100 * result['killed']:.0f} % [{100 * low:.0f}, {100 * high:.0f}] killed, "
        f"{100 * result['killed_without_equivalent']:.0f} % without equivalent ones; {untested} are on lines that no "
        "test executes",
    )


def _coverage(result: Result) -> tuple[str, str, str]:
    low_files = ", ".join(f"`{name}`" for name in result["low_files"])
    return (
        "Line coverage",
        f"{result['lines']:,} lines of {result['files']} files, by the whole test suite",
        f"{result['percent']:.1f} % executed; files below 90 %: {low_files}",
    )


def _wheel(result: Result) -> tuple[str, str, str]:
    return (
        "Wheel",
        f"built from a clean clone, its {result['files_in_wheel']} files compared with those of the repository, "
        "installed into a new environment and used in an empty folder",
        f"no file missing or too many; {', '.join(f'`{command}`' for command in result['commands'])} work, "
        f"{result['scores_written']} scores written",
    )
