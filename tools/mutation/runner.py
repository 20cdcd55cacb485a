"""Runs tests in the working copy: all of them once, or for each mutant those that can notice it.

    python runner.py lines <output>              every test, as they pass without a mutant
    python runner.py mutants <jobs> <output>     the jobs' tests, each job with its mutant switched on

Rules:

- It imports nothing of the tree but the working copy that it lies in, and makes sure of that.
- The tests are collected once. For each mutant the process forks before any test has run; the child runs the mutant's
  tests in the given order up to the first that fails, and exits. mutmut's own runner collects anew for each mutant,
  which costs several seconds here.
- A mutant may run forever: a child is ended by its CPU time, and much later by the clock. It may ask for ever more
  memory: that has a bound too. It may leave processes and files behind: a child has a process group and a directory for
  temporary files of its own, and both are removed.
- Hypothesis draws few examples, always the same.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import coverage
import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

HERE = Path(__file__).resolve().parent
TESTS = ("tests/unit/trust", "tests/unit/test_trusted_time.py", "tests/unit/sidecar", "tests/attacks")
# Random bytes prove nothing about one mutant, and the catalogue tests tests.
LEFT_OUT = ("tests/attacks/test_mutations.py", "tests/attacks/test_catalogue.py")
EXAMPLES = 20

# CPU seconds, whatever the tests need; and how much longer by the clock, on a busy machine.
LEAST_CPU_S = 10
CPU_MARGIN = 5
CLOCK_MARGIN = 20
# How much more address space than the process has when it forks.
MEMORY_BYTES = 2 << 30

SURVIVED, KILLED = 0, 1
PROGRESS_S = 10.0


class Base:
    """What both uses share: where the code comes from, and hypothesis."""

    def __init__(self) -> None:
        self.failed = False

    def pytest_configure(self) -> None:
        """Look where the code under test is, and settle hypothesis, which must not be imported before pytest runs."""
        from hypothesis import settings  # noqa: PLC0415

        for name in ("akpolicy", "akpolicy_sidecar"):
            found = importlib.util.find_spec(name)
            if found is None or HERE not in Path(str(found.origin)).parents:
                sys.exit(f"{name} comes from {found and found.origin}, not from the working copy")
        settings.register_profile(
            "mutation", derandomize=True, database=None, max_examples=EXAMPLES, deadline=None, suppress_health_check=()
        )
        settings.load_profile("mutation")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a failure, of a fixture too."""
        self.failed = self.failed or report.failed


class Lines(Base):
    """Finds out which lines each test runs, and how long it takes."""

    def __init__(self, files: list[str]) -> None:
        super().__init__()
        self.files = [str(HERE / file) for file in files]
        self.seconds: dict[str, float] = {}
        self.coverage = coverage.Coverage(data_file=None, include=self.files, config_file=False)

    def pytest_sessionstart(self) -> None:
        """Begin before the first import of a mutated file."""
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run one test under its name."""
        self.coverage.switch_context(item.nodeid)
        before = time.process_time()
        result = yield
        self.seconds[item.nodeid] = time.process_time() - before
        return result

    def result(self) -> dict[str, Any]:
        """Return the tests of each line, by file, and the CPU seconds of each test."""
        self.coverage.stop()
        data = self.coverage.get_data()
        tests = list(self.seconds)
        number = {test: number for number, test in enumerate(tests)}
        lines = {
            str(Path(file).relative_to(HERE)): {
                line: [number[test] for test in ran if test] for line, ran in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        return {"tests": tests, "lines": lines, "seconds": list(self.seconds.values())}


class Mutants(Base):
    """Forks for each mutant."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__()
        self.jobs: list[dict[str, Any]] = given["jobs"]
        self.tests: list[str] = given["tests"]
        self.processes: int = given["processes"]
        self.items: dict[str, pytest.Item] = {}
        self.running: dict[int, dict[str, Any]] = {}
        self.results: list[dict[str, Any]] = []
        self.scratch = Path()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run every job."""
        self.items = {item.nodeid: item for item in session.items}
        # Not below the tree: the path of a socket must be short.
        self.scratch = Path(tempfile.mkdtemp(prefix="akm-"))
        gc.freeze()
        told = time.monotonic()
        for job in self.jobs:
            while len(self.running) >= self.processes:
                self._wait()
            self._start(job)
            if time.monotonic() - told > PROGRESS_S:
                told = time.monotonic()
                self._tell()
        while self.running:
            self._wait()
        self._tell()
        shutil.rmtree(self.scratch, ignore_errors=True)
        return True

    def _tell(self) -> None:
        survived = sum(result["status"] == "survived" for result in self.results)
        print(f"  {len(self.results)} of {len(self.jobs)} mutants, {survived} survived", flush=True)

    def _start(self, job: dict[str, Any]) -> None:
        pid = os.fork()
        if pid == 0:
            self._be_child(job)
        self.running[pid] = {"name": job["name"], "since": time.monotonic()}

    def _be_child(self, job: dict[str, Any]) -> None:
        code = KILLED
        try:
            os.setpgid(0, 0)
            self._limit(job)
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(nothing, stream)
            place = self.scratch / str(os.getpid())
            place.mkdir(mode=0o700)
            os.environ["PYTEST_DEBUG_TEMPROOT"] = str(place)
            os.environ["MUTANT_UNDER_TEST"] = job["name"]
            items = [self.items[self.tests[number]] for number in job["tests"]]
            code = self._run(items, place)
        finally:
            os._exit(code)

    def _limit(self, job: dict[str, Any]) -> None:
        cpu = LEAST_CPU_S + CPU_MARGIN * job["seconds"]
        used = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + cpu), int(used + cpu) + 5))
        memory = _address_space() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, cpu * CLOCK_MARGIN)

    def _run(self, items: list[pytest.Item], place: Path) -> int:
        for item, following in pairwise([*items, None]):
            if item is None:
                break
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                (place / "killed-by").write_text(item.nodeid, encoding="utf-8")
                return KILLED
        return SURVIVED

    def _wait(self) -> None:
        pid, status = os.wait()
        job = self.running.pop(pid, None)
        if job is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        place = self.scratch / str(pid)
        note = place / "killed-by"
        self.results.append(
            {
                "name": job["name"],
                "status": _status(os.waitstatus_to_exitcode(status)),
                "by": note.read_text(encoding="utf-8") if note.exists() else "",
                "seconds": round(time.monotonic() - job["since"], 2),
            }
        )
        shutil.rmtree(place, ignore_errors=True)


def _address_space() -> int:
    """Return how many bytes of address space this process has."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def _status(code: int) -> str:
    if code == SURVIVED:
        return "survived"
    if -code in (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL):
        return "timeout"
    return "killed" if code == KILLED else "crashed"


def main() -> int:
    """Run what the arguments say."""
    os.environ |= {"COVERAGE_CORE": "ctrace", "PYTHONPATH": str(HERE)}
    use, given, output = sys.argv[1:4]
    what = json.loads(Path(given).read_text(encoding="utf-8"))
    plugin: Lines | Mutants
    arguments = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:timeout"]
    arguments += [*TESTS, *(f"--ignore={path}" for path in LEFT_OUT)]
    if use == "lines":
        plugin = Lines(what["files"])
        code = pytest.main(["-x", "-q", *arguments], plugins=[plugin])
        Path(output).write_text(json.dumps(plugin.result()), encoding="utf-8")
        return int(code)
    plugin = Mutants(what)
    code = pytest.main(["--capture=no", "-p", "no:terminal", *arguments], plugins=[plugin])
    Path(output).write_text(json.dumps(plugin.results), encoding="utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
