"""A refused first heartbeat is asked for again soon, and ever later the more often it is refused in a row."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import StreamProtocolError
from akpolicy_sidecar.heartbeat_pauses import (
    FIRST_HEARTBEAT_PAUSE_S,
    LEAST_PART,
    MAX_HEARTBEAT_PAUSE_S,
    HeartbeatPauses,
)
from akpolicy_sidecar.outstanding import CLOCK_PAUSE_S
from tests.simulators.office import keep_alive
from tests.unit.sidecar.conversation import PERMIT, is_asked_for_again, is_live, messages_of, signed_wrong

if TYPE_CHECKING:
    from akpolicy_sidecar.session import Session
    from tests.simulators.host import HostSimulator

LEAST_PAUSE_S = FIRST_HEARTBEAT_PAUSE_S * LEAST_PART
# As many as lead to the longest pause, and more.
MANY = 40
# A nonce that no connection has asked with.
OTHER = "00" * 16


class Longest(random.Random):
    """Draws the longest of all waits."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.fixture
def pauses(host: HostSimulator) -> HeartbeatPauses:
    """The longest pauses, which all connections of the host share."""
    host.pauses = HeartbeatPauses(Longest())
    return host.pauses


def refused_first(host: HostSimulator) -> Session:
    """Return the session of a new connection, whose first heartbeat answers another nonce."""
    recorded = host.office.heartbeat(nonce=OTHER)
    session = host.new_session()
    session.hello()
    host.hear(recorded, keep_alive())
    assert host.nacks[-1] == "HeartbeatNonceMismatch"
    assert not session.proven
    return session


def pause_of(host: HostSimulator, session: Session) -> float:
    """Return for how many eighths of a second, in seconds, the session waits on."""
    waited = 0.0
    while not session.wants_another():
        host.clock.advance(0.125)
        waited += 0.125
    return waited


# --- the row ----------------------------------------------------------------------------------------------------------


def test_pauses_grow_to_a_bound_and_each_is_drawn_from_its_upper_half() -> None:
    longest, drawn = HeartbeatPauses(Longest()), [HeartbeatPauses(random.Random(seed)) for seed in range(200)]

    for number in range(MANY):
        bound = min(MAX_HEARTBEAT_PAUSE_S, FIRST_HEARTBEAT_PAUSE_S * 2**number)
        assert longest.next_s() == bound
        found = [pauses.next_s() for pauses in drawn]
        assert LEAST_PART * bound <= min(found) < 0.6 * bound < 0.9 * bound < max(found) <= bound


def test_no_row_is_too_long_to_go_on() -> None:
    pauses = HeartbeatPauses(Longest())

    assert {pauses.next_s() for _ in range(3000)} == {1.0, 2.0, 4.0, 8.0, 16.0, MAX_HEARTBEAT_PAUSE_S}


# --- on streams -------------------------------------------------------------------------------------------------------


def test_a_refused_first_heartbeat_is_asked_for_soon_and_while_nothing_comes(
    host: HostSimulator, pauses: HeartbeatPauses
) -> None:
    session = refused_first(host)

    host.clock.advance(FIRST_HEARTBEAT_PAUSE_S - 0.01)
    assert not session.wants_another()
    host.clock.advance(0.01)

    assert session.wants_another()
    assert session.has_paused


def test_the_nack_is_out_before_the_connection_ends(host: HostSimulator) -> None:
    session = refused_first(host)

    host.clock.advance(LEAST_PAUSE_S - 0.01)

    assert not session.wants_another()


def test_a_sign_of_life_after_the_pause_ends_the_connection_too(host: HostSimulator, pauses: HeartbeatPauses) -> None:
    session = refused_first(host)
    host.clock.advance(FIRST_HEARTBEAT_PAUSE_S)

    with pytest.raises(StreamProtocolError, match=r"heartbeat.*asked for again"):
        host.hear(keep_alive())
    assert session.has_paused


def test_what_is_on_its_way_is_not_interrupted(host: HostSimulator, pauses: HeartbeatPauses) -> None:
    session = refused_first(host)
    update, *pieces = messages_of(signed_wrong(host))

    host.hear(update)
    host.clock.advance(10 * MAX_HEARTBEAT_PAUSE_S)
    assert not session.wants_another()

    with pytest.raises(StreamProtocolError):
        host.hear(*pieces, keep_alive())


def test_heartbeats_that_follow_a_refused_one_neither_put_off_nor_hasten_the_next_connection(
    host: HostSimulator, pauses: HeartbeatPauses
) -> None:
    session = refused_first(host)
    for _ in range(MANY):
        host.hear(host.office.heartbeat(), keep_alive())

    assert pause_of(host, session) == FIRST_HEARTBEAT_PAUSE_S
    assert pauses.next_s() == 2 * FIRST_HEARTBEAT_PAUSE_S


def test_a_server_that_sends_wrong_heartbeats_is_asked_ever_more_rarely(
    host: HostSimulator, pauses: HeartbeatPauses
) -> None:
    found = [pause_of(host, refused_first(host)) for _ in range(7)]

    assert found == [1, 2, 4, 8, 16, 30, 30]


def test_a_heartbeat_that_is_believed_begins_the_row_anew(host: HostSimulator, pauses: HeartbeatPauses) -> None:
    for _ in range(4):
        refused_first(host)
    host.clock.advance(1)

    assert is_live(host.connect())

    assert pause_of(host, refused_first(host)) == FIRST_HEARTBEAT_PAUSE_S


@pytest.mark.parametrize("before", [True, False], ids=["before the heartbeat", "after it"])
def test_something_new_and_signed_hastens_the_next_connection(
    host: HostSimulator, pauses: HeartbeatPauses, before: bool
) -> None:
    for _ in range(4):
        refused_first(host)
    news = messages_of(host.office.publish(PERMIT))
    if before:
        host.new_session().hello()
        host.hear(*news, host.office.heartbeat(nonce=OTHER), keep_alive())
    else:
        refused_first(host)
        host.hear(*news, host.office.heartbeat(), keep_alive())
    assert (host.versions, host.session.proven) == ({"global": 1}, False)

    assert pause_of(host, host.session) == FIRST_HEARTBEAT_PAUSE_S


def test_what_is_known_or_refused_hastens_nothing(host: HostSimulator, pauses: HeartbeatPauses) -> None:
    host.update(PERMIT)
    known = messages_of(host.office.current["global"])
    for _ in range(4):
        refused_first(host)
    session = refused_first(host)

    host.hear(*known, *messages_of(signed_wrong(host)), keep_alive())

    assert pause_of(host, session) == 16


def test_a_refused_heartbeat_on_a_stream_that_had_one_ends_it_only_after_long(host: HostSimulator) -> None:
    host.hear(host.office.heartbeat(), keep_alive())
    assert host.nacks == ["HeartbeatReplay"]

    host.clock.advance(CLOCK_PAUSE_S - 1)
    assert not host.session.wants_another()

    assert is_asked_for_again(host, 1)
    assert not host.session.has_paused


def test_a_session_without_a_refusal_never_wants_another(host: HostSimulator) -> None:
    host.new_session().hello()
    host.hear(keep_alive())

    host.clock.advance(1e6)

    assert not host.session.wants_another()
    assert host.session._ends_at == math.inf
