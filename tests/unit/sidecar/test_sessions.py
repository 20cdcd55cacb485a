"""Sessions end when they should, keep to their rate, and tell how they ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.engine.decide import check_subjects
from akpolicy.engine.request import Principal, Resource
from akpolicy.engine.schema import load_default_schema
from akpolicy.errors import (
    ForeignOrg,
    RequestInvalid,
    SessionClosed,
    SessionExpired,
    SessionQuotaExhausted,
    SessionRateLimited,
    SessionUnknown,
    TooManySessions,
)
from akpolicy_sidecar import sessions
from akpolicy_sidecar.sessions import SessionBook, SessionLimits
from tests.simulators.clock import ManualClock

if TYPE_CHECKING:
    from akpolicy.engine.values import CedarValue
    from akpolicy.errors import AkpolicyError

SCHEMA = load_default_schema()
ALICE = Principal("alice", "acme")
SANDBOX: dict[str, CedarValue] = {"agent_type": "claude", "runtime": "python"}
BOX = Resource("box", attributes=SANDBOX)


class Scene:
    def __init__(self, limits: SessionLimits) -> None:
        self.clock = ManualClock()
        self.overdrawn: list[str] = []
        self.book = SessionBook(
            org="acme",
            default_roles=("viewer",),
            clock=self.clock,
            limits=limits,
            check=lambda subjects: check_subjects(subjects, SCHEMA),
            overdrawn=self.overdrawn.append,
        )

    def open(self, lifetime_s: int = 0, *, identity_ends_in: float | None = None) -> str:
        ends_at = None if identity_ends_in is None else self.clock.now() + identity_ends_in
        return self.book.open(ALICE, BOX, lifetime_s, ends_at).token


def scene(**limits: float) -> Scene:
    return Scene(SessionLimits(**limits))  # type: ignore[arg-type] # tests write whole numbers where they belong


def refused(book: SessionBook, token: str, error: type[AkpolicyError]) -> None:
    with pytest.raises(error):
        book.use(token)


def test_a_session_is_about_what_it_was_opened_with() -> None:
    here = scene()

    session = here.book.use(here.open())

    assert session.subjects.principal == {"type": "AgentKernel::User", "id": "acme/local/alice"}
    assert session.sandbox == "box"
    assert '"viewer"' in session.subjects.entities.text


def test_tokens_are_256_random_bits_and_are_not_kept() -> None:
    here = scene()
    tokens = {here.open() for _ in range(20)}

    assert len(tokens) == 20
    assert {len(token) for token in tokens} == {43}
    assert not tokens & {repr(key) for key in here.book._open}


@pytest.mark.parametrize("token", ["", "x", "a" * 43, "é" * 43, "a" * 1_000_000, "a" * 42 + "\n", "Yk3_" * 10 + "Yk3"])
def test_a_token_that_was_never_given_is_unknown(token: str) -> None:
    here = scene()
    here.open()

    refused(here.book, token, SessionUnknown)


def test_a_token_of_another_sidecar_is_unknown() -> None:
    refused(scene().book, scene().open(), SessionUnknown)


def test_a_closed_session_says_so_and_may_be_closed_again() -> None:
    here = scene()
    token = here.open()

    assert here.book.close(token)
    assert not here.book.close(token)
    refused(here.book, token, SessionClosed)


@pytest.mark.parametrize("token", ["", "short", "a" * 44])
def test_what_cannot_be_a_token_cannot_be_closed(token: str) -> None:
    with pytest.raises(RequestInvalid, match="session_token"):
        scene().book.close(token)


def test_a_session_ends_after_its_lifetime() -> None:
    here = scene(default_lifetime_s=100)
    usual, short = here.open(), here.open(10)

    here.clock.advance(9.9)
    here.book.use(short)
    here.clock.advance(0.1)
    refused(here.book, short, SessionExpired)
    here.book.use(usual)
    here.clock.advance(90)
    refused(here.book, usual, SessionExpired)
    assert len(here.book) == 0


def test_a_session_ends_with_its_identity() -> None:
    here = scene()
    token = here.open(identity_ends_in=5)

    here.clock.advance(5)

    refused(here.book, token, SessionExpired)
    with pytest.raises(SessionExpired):
        here.open(identity_ends_in=0)


def test_a_wall_clock_that_is_set_back_lengthens_no_session() -> None:
    here = scene()
    token = here.open(10)

    here.clock.advance(10)
    here.clock.set_wall(here.clock.now() - 3600)

    refused(here.book, token, SessionExpired)


def test_how_long_a_session_may_last_is_bounded() -> None:
    with pytest.raises(RequestInvalid, match="lifetime_s"):
        scene(max_lifetime_s=60).open(61)


@pytest.mark.parametrize(
    ("principal", "resource", "error"),
    [
        (Principal("alice", "other"), BOX, ForeignOrg),
        (ALICE, Resource("box", org_id="other", attributes=SANDBOX), ForeignOrg),
        (ALICE, Resource("box", attributes={"agent_type": 1, "runtime": "x"}), RequestInvalid),
        (ALICE, Resource("box"), RequestInvalid),
        (Principal("", "acme"), BOX, RequestInvalid),
    ],
)
def test_what_could_not_be_judged_opens_no_session(
    principal: Principal, resource: Resource, error: type[AkpolicyError]
) -> None:
    here = scene()
    with pytest.raises(error):
        here.book.open(principal, resource)

    assert len(here.book) == 0


def test_only_so_many_sessions_are_open_and_expired_ones_make_room() -> None:
    here = scene(max_sessions=3)
    for _ in range(3):
        here.open(10)

    with pytest.raises(TooManySessions):
        here.open()
    here.clock.advance(10)
    here.open()
    assert len(here.book) == 1


def test_a_session_that_asks_too_often_is_refused_and_the_others_are_not() -> None:
    here = scene(rate=2, burst=3)
    looping, other = here.open(), here.open()
    for _ in range(3):
        here.book.use(looping)

    refused(here.book, looping, SessionRateLimited)
    here.book.use(other)
    here.clock.advance(0.5)
    here.book.use(looping)
    refused(here.book, looping, SessionRateLimited)


def test_a_session_has_a_quota_an_hour_that_is_told_once() -> None:
    here = scene(hourly_quota=5)
    token = here.open()
    for _ in range(5):
        here.book.use(token)

    for _ in range(3):
        refused(here.book, token, SessionQuotaExhausted)
    assert here.overdrawn == ["box"]
    here.clock.advance(3600)
    here.book.use(token)


def test_how_sessions_ended_is_remembered_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_REMEMBERED", 2)
    here = scene()
    tokens = [here.open() for _ in range(3)]
    for token in tokens:
        here.book.close(token)

    refused(here.book, tokens[0], SessionUnknown)
    refused(here.book, tokens[2], SessionClosed)


def test_entities_stay_parsed_for_the_sessions_that_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_WARM", 10)
    here = scene()
    busy = here.open()
    for _ in range(50):
        other = here.open()
        for token in (busy, other):
            here.book.use(token).subjects.entities.parsed(SCHEMA)

    warm = [session for session in here.book._open.values() if session.subjects.entities.is_parsed]
    assert len(warm) <= 11
    assert here.book.use(busy) in warm
