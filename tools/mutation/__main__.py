"""Mutation testing of what decides about trust and of what keeps it on disk.

    python -m tools.mutation run [--sample N --seed TEXT] [--module GLOB] [--processes N]

Each mutant is the code with one small change (mutmut makes them); a test has to fail for it. What survives is either a
gap in the tests, or listed in `tests/mutation/survivors.toml` with the reason why no test should notice it. Exit status
1: a survivor is not listed, an entry of the list is stale, or fewer than 90 % of the mutants are killed.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import time
from typing import Any, Final

from tools.mutation.mutants import drawn
from tools.mutation.score import SURVIVED, judge, report
from tools.mutation.selection import CONTROL, Coverage, control, jobs
from tools.mutation.survivors import read_list
from tools.mutation.workplace import ROOT, RUNNER, WORKPLACE, assemble

LIST: Final = ROOT / "tests" / "mutation" / "survivors.toml"


def main() -> int:
    """Run, print the report, return the exit code."""
    arguments = _arguments()
    listed = read_list(LIST)
    began = time.monotonic()
    existing = assemble()
    chosen = [mutant for mutant in existing if any(fnmatch.fnmatch(mutant.change.module, g) for g in arguments.module)]
    if arguments.sample is not None:
        chosen = drawn(chosen, arguments.sample, arguments.seed)
        print(f"sample of {len(chosen)} by the seed `{arguments.seed}`")
    print(f"{len(existing)} mutants, {len(chosen)} to run; which tests run which lines?", flush=True)
    coverage = Coverage.parse(_run("lines", {"files": sorted({mutant.path for mutant in existing})}))
    work = [control(coverage), *jobs(chosen, coverage)]
    results = _run("mutants", {"tests": coverage.tests, "jobs": work, "processes": arguments.processes})
    statuses = {result["name"]: result["status"] for result in results}
    if statuses.pop(CONTROL) != SURVIVED:
        sys.exit("tests fail without any mutant when they run in a forked process: nothing can be said")
    score = judge(chosen, existing, statuses, listed)
    print(report(score))
    print(f"took {time.monotonic() - began:.0f} seconds")
    return 0 if score.passed else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.mutation", description="Test the tests of trust and cache.")
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="make mutants, run the tests against them, judge what survives")
    run.add_argument("--sample", type=int, metavar="N", help="only so many mutants, drawn at random")
    run.add_argument("--seed", default="1", metavar="TEXT", help="draws the sample (default: 1)")
    run.add_argument("--module", action="append", metavar="GLOB", help="only such modules, e.g. `akpolicy.trust.*`")
    run.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="at once")
    arguments = parser.parse_args()
    arguments.module = arguments.module or ["*"]
    return arguments


def _run(use: str, given: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Let the runner do its work in the working copy, and return what it found."""
    source, result = WORKPLACE / f"{use}-given.json", WORKPLACE / f"{use}.json"
    source.write_text(json.dumps(given), encoding="utf-8")
    command = [sys.executable, RUNNER, use, source.name, result.name]
    if subprocess.run(command, cwd=WORKPLACE, check=False).returncode != 0:
        sys.exit(f"the tests cannot be run in {WORKPLACE.relative_to(ROOT)}, see above")
    return json.loads(result.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
