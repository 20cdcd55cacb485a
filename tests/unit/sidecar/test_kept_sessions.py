"""Sessions on their way to a successor: what travels, what is checked again, and what does not count twice."""

from __future__ import annotations

import pytest

from akpolicy.engine.decide import check_subjects
from akpolicy.engine.request import Principal, Resource
from akpolicy.engine.schema import load_default_schema
from akpolicy.errors import AkpolicyError, ForeignOrg, SessionClosed, SessionExpired, SessionQuotaExhausted
from akpolicy_sidecar.kept_sessions import KeptSession, session_from_json, session_to_json
from akpolicy_sidecar.sessions import SessionBook, SessionLimits
from tests.simulators.clock import ManualClock

SCHEMA = load_default_schema()
ALICE = Principal("alice", "acme", roles=("developer",), teams=("platform",), attributes={"clearance": 3})
BOX = Resource("box", attributes={"agent_type": "claude", "runtime": "python"})
KEY = bytes(range(32))


def book(clock: ManualClock, **limits: int) -> SessionBook:
    return SessionBook(
        org="acme",
        default_roles=("viewer",),
        clock=clock,
        limits=SessionLimits(**limits),
        check=lambda subjects: check_subjects(subjects, SCHEMA),
    )


def moved(first: SessionBook, second: SessionBook) -> None:
    """Bring every session from one sidecar to the next, as bytes do."""
    for key, kept in first.kept().items():
        second.take(*session_from_json(session_to_json(key, kept)))


def test_a_session_comes_over_with_all_that_was_stated() -> None:
    kept = KeptSession(ALICE, BOX, 100.5, 7.25, 3)

    assert session_from_json(session_to_json(KEY, kept)) == (KEY, kept)


def test_the_token_opens_the_same_sandbox_at_the_successor() -> None:
    clock = ManualClock()
    first, second = book(clock), book(clock)
    token = first.open(Principal("alice", "acme"), BOX).token

    moved(first, second)

    assert second.use(token).subjects.scopes == first.use(token).subjects.scopes
    assert token not in str([session_to_json(key, kept) for key, kept in first.kept().items()])


def test_it_ends_when_it_would_have_ended() -> None:
    clock = ManualClock()
    first, second = book(clock), book(clock)
    token = first.open(Principal("alice", "acme"), BOX, 60).token
    clock.advance(40)

    moved(first, second)
    second.use(token)
    clock.advance(20)

    with pytest.raises(SessionExpired):
        second.use(token)


def test_what_was_used_of_the_hour_stays_used() -> None:
    clock = ManualClock()
    first, second = book(clock, hourly_quota=2), book(clock, hourly_quota=2)
    token = first.open(Principal("alice", "acme"), BOX).token
    first.use(token)
    first.use(token)

    moved(first, second)

    with pytest.raises(SessionQuotaExhausted):
        second.use(token)


def test_one_that_was_closed_does_not_come_back() -> None:
    clock = ManualClock()
    first, second = book(clock), book(clock)
    token = first.open(Principal("alice", "acme"), BOX).token
    moved(first, second)
    second.close(token)

    moved(first, second)

    with pytest.raises(SessionClosed):
        second.use(token)


def test_one_that_breaks_a_rule_of_the_successor_is_refused() -> None:
    successor = book(ManualClock())

    with pytest.raises(ForeignOrg):
        successor.take(KEY, KeptSession(Principal("alice", "other"), BOX, 100.0, 0.0, 0))
    with pytest.raises(AkpolicyError):
        successor.take(KEY, KeptSession(Principal("", "acme"), BOX, 100.0, 0.0, 0))
    assert len(successor) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"key": "00"},
        {"key": None},
        {"key": "zz"},
        {"stated": "%"},
        {"stated": "AAAA"},
        {"ends_at": "soon"},
        {"in_hour": []},
    ],
)
def test_a_line_that_is_no_session_is_an_error(change: dict[str, object]) -> None:
    line = session_to_json(KEY, KeptSession(ALICE, BOX, 1.0, 1.0, 1))

    with pytest.raises(ValueError, match=r"."):
        session_from_json({**line, **change})
