"""The golden cases: decisions that must not change unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from akpolicy.simulation.cases import read_cases
from akpolicy.simulation.runner import run_cases

GOLDEN = sorted((Path(__file__).parents[2] / "testdata" / "decisions").glob("*.yaml"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_cases_come_out_as_they_say(path: Path) -> None:
    found = run_cases(read_cases(path))

    assert [f"{result.case.name}: {problem}" for result in found.results for problem in result.problems] == []


def test_every_layer_and_policy_is_tried() -> None:
    found = run_cases(read_cases(next(path for path in GOLDEN if path.stem == "layers")))

    # One is replaced for all, and a forbid that cannot be evaluated determines nothing: it is told as an error.
    assert found.uncovered == ("global/shared-run", "org/acme/port-arithmetic")
