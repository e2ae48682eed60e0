"""Known vulnerabilities of the pinned packages: `pip install pip-audit && python benchmarks/audit.py [--json FILE]`.

Asks an advisory service for every version in .ci/constraints.txt, for the running Python and system. Needs the network,
so no test and no step of the continuous integration depends on it. Exit status: 0 none is known, 1 some are, 2 the
service could not be asked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / ".ci" / "constraints.txt"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", type=Path, default=LOCK, help="file of pinned requirements")
    parser.add_argument("--service", choices=("pypi", "osv"), default="osv", help="advisory service")
    parser.add_argument("--json", type=Path, help="write the answer to this file")
    options = parser.parse_args()
    if find_spec("pip_audit") is None:
        print("error: pip-audit is missing: pip install pip-audit", file=sys.stderr)
        return 2
    line = ["-m", "pip_audit", "-r", str(options.lock), "--no-deps", "--disable-pip", "--progress-spinner=off"]
    line += ["--vulnerability-service", options.service, "--format=json"]
    done = subprocess.run([sys.executable, *line], capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        print(
            f"error: the advisory service {options.service} gave no answer, so nothing is known about the pinned "
            f"packages ({reason}): run this where it can be reached, or try another --service",
            file=sys.stderr,
        )
        return 2
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        print(
            f"error: the advisory service {options.service} has none of the {len(packages)} packages: it may be a "
            "mirror without advisories; try another --service",
            file=sys.stderr,
        )
        return 2
    vulnerable = [package for package in packages if package.get("vulns")]
    for package in vulnerable:
        for advisory in package["vulns"]:
            fixed = ", ".join(advisory["fix_versions"]) or "no version"
            print(f"{package['name']} {package['version']}: {advisory['id']}, mended in {fixed}")
    print(f"{len(packages) - len(unknown)} packages asked about, {len(vulnerable)} with known vulnerabilities")
    if unknown:
        print(f"the service does not have {len(unknown)}: {', '.join(unknown)}")
    if options.json:
        options.json.write_text(json.dumps(packages, indent=1) + "\n")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    raise SystemExit(main())
