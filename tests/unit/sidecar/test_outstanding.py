"""What is to be made good, and when it is asked for."""

from __future__ import annotations

import math

import pytest

from akpolicy.errors import (
    AkpolicyError,
    CacheWriteFailed,
    ClockJump,
    ClockRollback,
    EngineUnavailable,
    HeartbeatStale,
    RootChainTooLong,
    SignatureInvalid,
    StreamProtocolError,
)
from akpolicy_sidecar import outstanding as module
from akpolicy_sidecar.outstanding import (
    CLOCK_PAUSE_S,
    DISK_PAUSE_S,
    LASTING_PAUSE_S,
    MAX_NAMED,
    PASSING_PAUSE_S,
    WITHHELD_PAUSE_S,
    Outstanding,
)
from akpolicy_sidecar.updates import HEARTBEAT

START = 100.0


@pytest.fixture
def outstanding() -> Outstanding:
    return Outstanding()


@pytest.mark.parametrize(
    ("subject", "error", "pause"),
    [
        ("global", CacheWriteFailed("x"), DISK_PAUSE_S),
        ("global", StreamProtocolError("x"), PASSING_PAUSE_S),
        ("global", EngineUnavailable("x"), PASSING_PAUSE_S),
        ("root", RootChainTooLong("x"), PASSING_PAUSE_S),
        ("global", ClockRollback("x"), CLOCK_PAUSE_S),
        ("root", ClockJump("x"), CLOCK_PAUSE_S),
        (HEARTBEAT, HeartbeatStale("x"), CLOCK_PAUSE_S),
        ("global", SignatureInvalid("x"), LASTING_PAUSE_S),
    ],
)
def test_what_was_refused_is_asked_for_after_a_pause_that_fits_the_cause(
    outstanding: Outstanding, subject: str, error: AkpolicyError, pause: float
) -> None:
    outstanding.refuse(subject, error, START)

    assert outstanding.is_refused
    assert outstanding.due(START + pause - 0.001) == ""
    assert outstanding.due(START + pause) == subject


def test_a_second_refusal_does_not_put_off_what_is_due_and_may_bring_it_forward(outstanding: Outstanding) -> None:
    outstanding.refuse("global", SignatureInvalid("x"), START)
    outstanding.refuse("global", SignatureInvalid("x"), START + 10)
    assert outstanding.due(START + LASTING_PAUSE_S) == "global"

    outstanding.refuse("global", StreamProtocolError("x"), START)

    assert outstanding.due(START + PASSING_PAUSE_S) == "global"


def test_a_pause_that_is_given_is_kept_whatever_the_error(outstanding: Outstanding) -> None:
    outstanding.refuse(HEARTBEAT, HeartbeatStale("x"), START, pause_s=0.5)
    outstanding.refuse(HEARTBEAT, HeartbeatStale("x"), START, pause_s=math.inf)

    assert outstanding.due_at(HEARTBEAT) == START + 0.5
    assert (outstanding.due(START + 0.499), outstanding.due(START + 0.5)) == ("", HEARTBEAT)


def test_only_what_stands_refused_is_hastened_and_never_put_off(outstanding: Outstanding) -> None:
    outstanding.hasten(HEARTBEAT, START)
    assert (outstanding.due_at(HEARTBEAT), outstanding.is_refused) == (math.inf, False)
    outstanding.refuse(HEARTBEAT, HeartbeatStale("x"), START)

    outstanding.hasten(HEARTBEAT, START + 2)
    outstanding.hasten(HEARTBEAT, START + 3)

    assert outstanding.due_at(HEARTBEAT) == START + 2


def test_what_was_dropped_is_asked_for_soon(outstanding: Outstanding) -> None:
    outstanding.drop("global", START)

    assert outstanding.is_refused
    assert (outstanding.due(START), outstanding.due(START + PASSING_PAUSE_S)) == ("", "global")


def test_what_a_heartbeat_names_and_never_came_is_news_once(outstanding: Outstanding) -> None:
    outstanding.refuse("org/b", SignatureInvalid("x"), START)

    assert outstanding.withhold(["org/a", "org/b"], START) == ["org/a"]
    assert outstanding.withhold(["org/a", "org/b", "org/c"], START + 1) == ["org/c"]
    assert outstanding.due(START + WITHHELD_PAUSE_S) == "org/a, org/b, org/c"


def test_what_is_only_withheld_keeps_the_stream_counting(outstanding: Outstanding) -> None:
    outstanding.withhold(["org/a"], START)

    assert not outstanding.is_refused
    assert (outstanding.due(START), outstanding.due(START + WITHHELD_PAUSE_S)) == ("", "org/a")


def test_what_a_heartbeat_no_longer_names_is_not_asked_for(outstanding: Outstanding) -> None:
    outstanding.withhold(["org/a"], START)
    outstanding.withhold([], START + 1)

    assert outstanding.due(START + WITHHELD_PAUSE_S) == ""


def test_what_was_made_good_is_neither_refused_nor_withheld(outstanding: Outstanding) -> None:
    outstanding.make_good("org/a")
    outstanding.withhold(["org/a"], START)
    outstanding.refuse("org/a", SignatureInvalid("x"), START)
    outstanding.refuse("org/b", SignatureInvalid("x"), START)

    outstanding.make_good("org/a")

    assert (outstanding.is_refused, outstanding.due(START + LASTING_PAUSE_S)) == (True, "org/b")
    outstanding.make_good("org/b")
    assert (outstanding.is_refused, outstanding.due(START + LASTING_PAUSE_S)) == (False, "")


def test_teams_and_users_have_room_up_to_a_number_and_the_org_always(
    outstanding: Outstanding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SUBJECTS", 1)
    assert outstanding.has_room("org/acme/team/a")
    outstanding.refuse("org/acme/team/a", SignatureInvalid("x"), START)

    assert outstanding.has_room("org/acme/team/a")
    assert not outstanding.has_room("org/acme/team/b")
    assert outstanding.has_room("org/acme")
    assert outstanding.has_room("global")


@pytest.mark.parametrize("more", [0, 1, 2])
def test_what_is_due_is_named_and_the_rest_counted(outstanding: Outstanding, more: int) -> None:
    scopes = [f"org/acme/team/t{number}" for number in range(MAX_NAMED + more)]
    outstanding.withhold(scopes, START)

    named = ", ".join(scopes[:MAX_NAMED])
    assert outstanding.due(START + WITHHELD_PAUSE_S) == (f"{named} and {more} more" if more else named)
