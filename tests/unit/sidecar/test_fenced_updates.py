"""What Cedar has never seen goes to the fence first, and what it has parsed does not go again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import PolicyParseError
from tests.simulators.host import HostSimulator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.source import PolicyText

PERMIT = {"p": '@id("p") permit (principal, action, resource);'}
FORBID = {"f": '@id("f") forbid (principal, action, resource);'}


class Gate:
    """A fence that notes what it was asked, and refuses where a test says so."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.refuses = False

    def prove(self, policies: Sequence[PolicyText], schema: CedarSchema) -> None:
        self.asked.append([policy.id for policy in policies])
        if self.refuses:
            msg = "it killed what parsed it"
            raise PolicyParseError(msg, policy_id=policies[0].id)

    def prove_schema(self, text: str) -> None:
        pytest.fail("no bundle brought a schema")


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def fenced(tmp_path: Path, gate: Gate) -> HostSimulator:
    return HostSimulator(tmp_path / "fenced", fence=gate).connect()


def test_content_that_was_never_parsed_goes_to_the_fence_first(fenced: HostSimulator, gate: Gate) -> None:
    fenced.update(PERMIT).update(FORBID, scope="org/acme")

    assert gate.asked == [["p"], ["f"]]
    fenced.close()


def test_what_the_fence_refuses_is_not_parsed_here(fenced: HostSimulator, gate: Gate) -> None:
    fenced.update(PERMIT)
    gate.refuses = True
    before = fenced.facts()

    with pytest.raises(PolicyParseError, match="killed"):
        fenced.take(fenced.office.publish({"f": "this is no Cedar at all"}))

    assert fenced.facts() == before
    fenced.close()


def test_what_an_earlier_run_has_parsed_is_not_fenced_again(fenced: HostSimulator, gate: Gate) -> None:
    fenced.update(PERMIT)

    again = fenced.restart()

    assert again.versions == {"global": 1}
    assert gate.asked == [["p"]]
    fenced.close()


def test_what_another_version_of_cedar_has_parsed_is_fenced_once(fenced: HostSimulator, gate: Gate) -> None:
    fenced.update(PERMIT)
    scopes = {
        scope: kept.model_copy(update={"engine": "cedarpy 0.0.1"})
        for scope, kept in fenced.directory.state.scopes.items()
    }
    fenced.directory.commit(fenced.directory.state.model_copy(update={"scopes": scopes}))

    again = fenced.restart()
    assert gate.asked == [["p"], ["p"]]

    assert again.restart().versions == {"global": 1}
    assert gate.asked == [["p"], ["p"]]
    fenced.close()
