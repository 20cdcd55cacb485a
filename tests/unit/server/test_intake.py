"""Policies that somebody sent are parsed by a child process first, and what it dies of is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from grpc import StatusCode

from akpolicy.engine.files import PolicyFile, cut
from akpolicy.engine.schema import load_default_schema
from akpolicy.engine.source import PolicyText
from akpolicy.errors import EngineUnavailable, PolicyCrashesEngine, PolicySetInvalid
from akpolicy.fence.fence import Fence
from akpolicy.limits import MIB
from akpolicy_server.api.status import status_of
from akpolicy_server.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Iterator

    from akpolicy.engine.files import Findings

# Within every limit, and yet Cedar needs more memory for them than a child of this size may have.
CHILD_BYTES = 192 * MIB
NUMBERS = f"forbid (principal, action, resource) when {{ [{'1,' * 7000}1].isEmpty() }};"
GLUTTONS = 20


@pytest.fixture(scope="module")
def fence() -> Iterator[Fence]:
    with Fence(memory_bytes=CHILD_BYTES) as made:
        yield made


@pytest.fixture(scope="module")
def intake(fence: Fence) -> Intake:
    return Intake(load_default_schema(), fence.check)


def cedar(*policies: str) -> Findings:
    text = "\n".join(f'@id("p{number}") {policy}' for number, policy in enumerate(policies))
    return cut([PolicyFile("p.cedar", text.encode())])


def test_files_that_the_parser_dies_of_are_refused_and_the_next_are_read(intake: Intake, fence: Fence) -> None:
    crashes = fence.crashes
    with pytest.raises(PolicyCrashesEngine):
        intake.read(cedar(*[NUMBERS] * GLUTTONS))
    with pytest.raises(PolicyCrashesEngine):
        intake.examine(cedar(*[NUMBERS] * GLUTTONS))
    assert fence.crashes == crashes + 1, "a child was asked twice"
    assert [policy.id for policy in intake.read(cedar(NUMBERS))] == ["p0"]


def test_policies_that_were_cut_elsewhere_go_the_same_way(intake: Intake) -> None:
    with pytest.raises(PolicyCrashesEngine):
        intake.check([PolicyText(f"q{number}", NUMBERS) for number in range(GLUTTONS)])
    with pytest.raises(PolicySetInvalid) as refused:
        intake.check([PolicyText("p", "permit nothing;")])
    assert refused.value.code == "PolicyParseError"
    intake.check([PolicyText("p", NUMBERS)])


def test_without_a_child_nothing_is_accepted_and_the_caller_is_told_to_try_again() -> None:
    intake = Intake(load_default_schema(), Fence(command=["/nonexistent"], pause_s=lambda _: 0.0).check)
    with pytest.raises(EngineUnavailable) as refused:
        intake.read(cedar(NUMBERS))
    assert status_of(refused.value) is StatusCode.UNAVAILABLE
