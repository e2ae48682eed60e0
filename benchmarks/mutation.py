"""Mutation testing of four rooms: `pip install -e '.[coverage]' && python benchmarks/mutation.py --map FOLDER`.

First the whole test suite runs once under coverage, which says by line which tests execute it, and how long each takes.
`--map FOLDER` keeps that: its `.coverage` is also the line coverage of the package (`benchmarks/line_coverage.py`), and
`--add tests/FILE` runs only test files that are new or changed since, and adds them. It also keeps the outcomes of each
seed, so that a run which `--minutes` ends is continued by the next.

Then a random sample of mutants, the same for the same code and seed, is drawn from episodes/, inner_loop/, evaluation/
and data/read/. A mutant is one change of one expression or statement: a comparison, an operator, a condition, a number,
a default, a call that is left out, or what a function returns. It is run against the tests that execute its line,
those of its own room first, then quickest first, and is killed if one fails or the processor time runs out. Where no
test executes the line it survives. Texts, types, messages of errors and lines that run at import alone are not changed.

Each mutant runs in a fork of a process that has imported the libraries, so that it costs seconds. Python processes that
a test starts run the changed file as well. benchmarks/results/mutation.json lists the survivors; a `reason` written
there by hand is carried over to the next run, and one that begins with "equivalent" says that no test can notice.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.machinery
import json
import marshal
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mutants import REPOSITORY, Mutant, mutated, sample  # beside this script

ROOMS = ("episodes", "inner_loop", "evaluation", "data/read")
TESTS = ("tests", "metaad_zoo")
LIBRARIES = (
    "numpy torch torch.func higher scipy.stats scipy.special sklearn.neighbors sklearn.ensemble sklearn.covariance "
    "sklearn.datasets lightning.pytorch torchmetrics torchvision timm PIL.Image pyarrow.parquet pyarrow.csv pandas "
    "matplotlib.pyplot jinja2 yaml rich pooch requests hypothesis pytest"
)
TIMINGS = """
import json, os, resource
import coverage, pytest
used, failed = {}, set()
def cpu():
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
def switch(name):
    run = coverage.Coverage.current()
    run.switch_context(name)
    run.config.context = name  # of processes that the test starts
    os.environ["COVERAGE_PROCESS_CONFIG"] = run.config.serialize()
class Timings:
    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        self.started = cpu()
        switch(item.nodeid)
    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item):
        used[item.nodeid] = cpu() - self.started
    def pytest_runtest_logfinish(self, nodeid):
        if nodeid in used:
            switch("")
    def pytest_runtest_logreport(self, report):
        if report.failed:
            failed.add(report.nodeid)
def pytest_configure(config):
    config.pluginmanager.register(Timings())
def pytest_sessionfinish(session):
    with open(f"{os.environ['MUTATION_TIMINGS']}/{os.getpid()}.json", "w") as file:
        json.dump({"seconds": used, "failed": sorted(failed)}, file)
"""
CHANGED_FILE = """
import importlib.machinery, marshal, os
path, changed = os.environ["MUTANT"].split(os.pathsep)
own = importlib.machinery.SourceFileLoader.get_code
def get_code(loader, fullname):
    if loader.get_filename(fullname) != path:
        return own(loader, fullname)
    with open(changed, "rb") as file:
        return marshal.load(file)
importlib.machinery.SourceFileLoader.get_code = get_code
"""


def measure(folder: Path, tests: Sequence[str]) -> None:
    """Run tests under coverage in two processes; what they execute and how long they take joins what is in the folder.

    Args:
        folder: gets `.coverage`, whose contexts are the names of tests, and `timings.json`, processor seconds by test.
        tests: files and folders of tests.

    Raises:
        SystemExit: pytest could not run the tests.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data, timings = folder / ".coverage", folder / "timings.json"
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "mutation_timings.py").write_text(TIMINGS)
        environment = {**surroundings(), "MUTATION_TIMINGS": place, "COVERAGE_CORE": "ctrace"}
        environment["PYTHONPATH"] += os.pathsep + place
        line = [sys.executable, "-m", "coverage", "run", f"--data-file={data}", "-m", "pytest", *tests, "-q"]
        line += ["-n", "2", "--dist", "loadfile", "-p", "mutation_timings", "-p", "no:cacheprovider", "--no-header"]
        done = subprocess.run(line, cwd=REPOSITORY, env=environment, check=False)
        if done.returncode > 1:
            raise SystemExit(f"error: pytest ended with {done.returncode} without any mutant")
        parts = [json.loads(path.read_text()) for path in Path(place).glob("*.json")]
    line = [sys.executable, "-m", "coverage", "combine", "-q", "--append", f"--data-file={data}", str(folder)]
    subprocess.run(line, cwd=REPOSITORY, check=True)
    seconds = json.loads(timings.read_text()) if timings.is_file() else {}
    seconds.update({name: used for part in parts for name, used in part["seconds"].items()})
    for name in {name for part in parts for name in part["failed"]}:
        print(f"fails under coverage without any mutant, and is left out: {name}", flush=True)
        seconds.pop(name, None)
    timings.write_text(json.dumps(seconds, indent=0) + "\n")


def test_map(folder: Path, files: Sequence[str]) -> tuple[dict[str, dict[int, list[str]]], dict[str, float]]:
    """What `measure` wrote into a folder, of some files of the package.

    Returns:
        by file and line the tests that execute it, and by test the processor time in seconds.
    """
    from coverage import CoverageData

    timings: dict[str, float] = json.loads((folder / "timings.json").read_text())
    data = CoverageData(str(folder / ".coverage"))
    data.read()
    lines = {}
    for path in files:
        by_line = data.contexts_by_lineno(str(REPOSITORY / path))
        lines[path] = {line: [name for name in names if name in timings] for line, names in by_line.items()}
    return lines, timings


def surroundings() -> dict[str, str]:
    """Environment of the tests: one thread, and this repository's package."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "METAAD_REPO": str(REPOSITORY)}


def chosen_tests(mutant: Mutant, lines: Any, timings: dict[str, float], seconds: float) -> list[str]:
    """Tests that execute the line of a mutant, its room's first, then the quickest, of so many seconds together."""
    used, tests = 0.0, []
    by_line = lines.get(mutant.path, {})
    lines_of_it = mutant.line, mutant.statement  # the later one of a default is in the function's body
    covering = by_line.get(max(lines_of_it)) or by_line.get(min(lines_of_it), [])
    room = mutant.path.split("/")[1]
    for name in sorted(covering, key=lambda name: (not name.startswith(f"tests/{room}/"), timings[name])):
        if tests and used + timings[name] > seconds:
            continue
        used += timings[name]
        tests.append(name)
    return tests


def run_mutant(mutant: Mutant, tests: list[str], seconds: float) -> None:
    """In a fork: import the changed file in place of its own, run the tests, and exit with pytest's status."""
    import pytest

    os.setpgid(0, 0)
    soft = math.ceil(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, soft + 2))
    place = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(place, stream)
    with contextlib.suppress(BaseException):
        folder, path = tempfile.mkdtemp(), str(REPOSITORY / mutant.path)
        code = compile(mutated(mutant.path, mutant.number), path, "exec")
        Path(folder, "code").write_bytes(marshal.dumps(code))
        Path(folder, "sitecustomize.py").write_text(CHANGED_FILE)
        os.environ["MUTANT"] = f"{path}{os.pathsep}{folder}/code"
        os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}"
        exec(CHANGED_FILE, {})
        line = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no"]
        line += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plug-ins are imported already
        status = 0
        for stage in stages(tests):
            status = status or int(pytest.main([*line, *stage]))
        os._exit(status)
    os._exit(1)


def stages(tests: Sequence[str]) -> list[list[str]]:
    """Tests of the file that has most of them, and the rest: pytest imports all files before the first test runs."""
    files = [name.partition("::")[0] for name in tests]
    main = max(files, key=files.count)
    parts = ([n for n, file in zip(tests, files, strict=True) if (file == main) is first] for first in (True, False))
    return [part for part in parts if part]


def outcome(status: int) -> str:
    """Word for how the process of a mutant ended; "not run" where pytest did not get as far as the tests."""
    if os.WIFSIGNALED(status):
        return "out of time" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) else "killed"
    return {0: "survived", 4: "not run", 5: "not run"}.get(os.WEXITSTATUS(status), "killed")


def run_all(work: list[tuple[Mutant, list[str], float]], jobs: int, minutes: float) -> dict[Mutant, str]:
    """Run mutants, so many at a time, and start none after some minutes; by mutant the outcome."""
    end_of_all = time.monotonic() + 60 * minutes
    running: dict[int, tuple[Mutant, float]] = {}
    outcomes: dict[Mutant, str] = {}
    waiting = list(work)
    while waiting or running:
        if time.monotonic() > end_of_all:
            waiting.clear()
        while waiting and len(running) < jobs:
            mutant, tests, seconds = waiting.pop()
            if not tests:
                outcomes[mutant] = "no test"
                continue
            pid = os.fork()
            if not pid:
                run_mutant(mutant, tests, seconds)
            running[pid] = mutant, time.monotonic() + 8 * seconds  # a test that sleeps for ever uses no processor
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            mutant, _ = running.pop(pid)
            outcomes[mutant] = outcome(status)
            print(f"{len(outcomes)}/{len(work)} {outcomes[mutant]}: {mutant.key}", flush=True)
            continue
        for late in [pid for pid, (_, end) in running.items() if time.monotonic() > end]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(late, signal.SIGKILL)
        time.sleep(0.05)
    return outcomes


def pass_unchanged(tests: list[str]) -> bool:
    """Whether tests are there and pass in a fork where nothing is changed."""
    unchanged = Mutant(f"metaad_zoo/{ROOMS[0]}/__init__.py", 1, 1, -1, "nothing", "nothing", "control")
    return run_all([(unchanged, tests, 120.0)], 1, math.inf) == {unchanged: "survived"}


def require_control(timings: dict[str, float]) -> None:
    """Require that tests pass in a fork where nothing is changed; else every mutant would be killed.

    Raises:
        SystemExit: they fail.
    """
    tests = sorted(timings, key=timings.__getitem__)[:20]
    if not pass_unchanged(tests):
        raise SystemExit(f"error: tests fail in a fork without any change: {', '.join(tests)}")


def interval(killed: int, n: int) -> list[float]:
    """Wilson's 95 % interval of a rate."""
    z, rate = 1.96, killed / n
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return [round(middle - half, 4), round(middle + half, 4)]


def rates(outcomes: dict[Mutant, str], reasons: dict[str, str]) -> dict[str, Any]:
    """Counts of the outcomes, the share that was killed with its interval, and the survivors with their reasons."""
    dead = ("killed", "out of time")
    survivors = [
        {"mutant": m.key, "line": m.line, "outcome": outcomes[m], "reason": reasons.get(m.key, "")}
        for m in sorted(outcomes, key=lambda m: (m.path, m.line))
        if outcomes[m] not in dead
    ]
    killed = len(outcomes) - len(survivors)
    others = len(outcomes) - sum(survivor["reason"].startswith("equivalent") for survivor in survivors)
    by_room = {}
    for room in ROOMS:
        of_room = [outcome for m, outcome in outcomes.items() if m.path.startswith(f"metaad_zoo/{room}/")]
        by_room[room] = {"mutants": len(of_room), "killed": sum(outcome in dead for outcome in of_room)}
    return {
        "counts": {word: list(outcomes.values()).count(word) for word in sorted(set(outcomes.values()))},
        "by_room": by_room,
        "killed": round(killed / len(outcomes), 4),
        "ci95": interval(killed, len(outcomes)),
        "killed_without_equivalent": round(killed / others, 4),
        "ci95_without_equivalent": interval(killed, others),
        "survivors": survivors,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--seconds", type=float, default=20, help="processor time of the tests of one mutant")
    parser.add_argument("--rooms", nargs="+", default=list(ROOMS), help="folders of metaad_zoo that are changed")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), help="files and folders of tests")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="start no mutant after so many; the next run with --map goes on"
    )
    parser.add_argument("--map", type=Path, help="folder of the tests by line: read if it exists, else written")
    parser.add_argument("--add", nargs="+", help="files of tests that join the map")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/results/mutation.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = options.map or Path(place) / "map"
        if not (folder / "timings.json").is_file():
            measure(folder.resolve(), options.tests)
        if options.add:
            measure(folder.resolve(), options.add)
        mutants, total = sample(options.mutants, options.seed, options.rooms)
        lines, timings = test_map(folder, sorted({mutant.path for mutant in mutants}))
        os.environ.update(surroundings())
        tempfile.tempdir = os.environ["TMPDIR"] = place  # of forks, which leave without clearing up
        os.chdir(REPOSITORY)
        sys.path.insert(0, str(REPOSITORY))
        for name in LIBRARIES.split():
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        record = folder / f"outcomes-{options.seed}.json"
        before = json.loads(record.read_text()) if record.is_file() else {}
        outcomes = {mutant: before[mutant.place] for mutant in mutants if mutant.place in before}
        work = []
        for mutant in reversed(mutants):
            tests = chosen_tests(mutant, lines, timings, options.seconds)
            if mutant not in outcomes:
                work.append((mutant, tests, 15 + 3 * sum(timings[name] for name in tests)))
        require_control(timings)
        fresh = run_all(work, options.jobs, options.minutes)
        for mutant, tests, _ in work:  # a change that breaks what every test imports is noticed, too
            if tests and fresh.get(mutant) == "not run" and pass_unchanged(tests):
                fresh[mutant] = "killed"
        outcomes |= fresh
        record.write_text(json.dumps({mutant.place: outcome for mutant, outcome in outcomes.items()}, indent=0) + "\n")
    reasons = {}
    if options.out.is_file():
        reasons = {x["mutant"]: x.get("reason", "") for x in json.loads(options.out.read_text())["survivors"]}
    protocol = {
        "rooms": options.rooms,
        "tests": options.tests,
        "seed": options.seed,
        "mutants": len(outcomes),
        "mutants_in_all": total,
        "seconds_of_tests": options.seconds,
    }
    result = {"protocol": protocol, **rates(outcomes, reasons)}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name not in ("protocol", "survivors")}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
