"""Which tests can notice a mutant, and in which order they try.

A test can notice a mutant only if it runs the statement that the mutant changes. Those that run the fewest lines come
first: they are made for what they test. Slow ones come behind all others, because most mutants need only one test.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tools.mutation.mutants import Mutant


# CPU seconds from which on a test is slow.
SLOW_S: Final = 0.5

# The name of the job without a mutant.
CONTROL: Final = ""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the tests run: their names, of each file and line the numbers of those that run it, CPU seconds of each."""

    tests: Sequence[str]
    lines: Mapping[str, Mapping[int, Sequence[int]]]
    seconds: Sequence[float]

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Self:
        """Read what the runner wrote."""
        lines = {file: {int(line): ran for line, ran in by_line.items()} for file, by_line in value["lines"].items()}
        return cls(value["tests"], lines, value["seconds"])


def jobs(mutants: Sequence[Mutant], coverage: Coverage) -> list[dict[str, Any]]:
    """Return the runner's jobs: of each mutant that a test can notice, its tests in order and their CPU seconds."""
    breadth = Counter(test for by_line in coverage.lines.values() for ran in by_line.values() for test in ran)
    slow = [seconds >= SLOW_S for seconds in coverage.seconds]
    found = []
    for mutant in mutants:
        by_line = coverage.lines.get(mutant.path, {})
        tests = {test for line in mutant.lines for test in by_line.get(line, ())}
        if tests:
            ordered = sorted(tests, key=lambda test: (slow[test], breadth[test], coverage.tests[test]))
            found.append(_job(mutant.name, ordered, coverage))
    return found


def control(coverage: Coverage) -> dict[str, Any]:
    """Return the job that has every test and no mutant: if that fails, no other result means anything."""
    return _job(CONTROL, range(len(coverage.tests)), coverage)


def _job(name: str, tests: Sequence[int], coverage: Coverage) -> dict[str, Any]:
    return {"name": name, "tests": list(tests), "seconds": sum(coverage.seconds[test] for test in tests)}
