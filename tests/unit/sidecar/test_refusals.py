"""What was refused or never came: the stream does not count meanwhile, and it is asked for again in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.decision import Reason
from akpolicy.errors import StreamProtocolError
from akpolicy_sidecar.outstanding import CLOCK_PAUSE_S, LASTING_PAUSE_S, PASSING_PAUSE_S, WITHHELD_PAUSE_S
from tests.simulators.office import keep_alive
from tests.simulators.org import DAY
from tests.unit.sidecar.conversation import (
    LONG,
    PERMIT,
    altered,
    foreign_chunk,
    is_asked_for_again,
    is_live,
    messages_of,
    signed_wrong,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from akpolicy.v1 import distribution_pb2 as pb
    from tests.simulators.host import HostSimulator

    Message = pb.SubscribeResponse


def test_the_stream_does_not_count_while_a_refused_scope_has_no_policy(new_host: HostSimulator) -> None:
    new_host.office.publish(PERMIT, scope="org/acme")
    signed_wrong(new_host)

    new_host.connect()

    assert new_host.session.proven
    assert not is_live(new_host)
    assert new_host.standing().denial is Reason.NO_POLICY


def test_the_stream_counts_once_the_refused_scope_is_delivered(host: HostSimulator) -> None:
    host.hear(*messages_of(signed_wrong(host)))
    assert not is_live(host)

    host.update(PERMIT)

    assert is_live(host)


def test_a_refused_update_lets_the_enforced_policy_age_although_heartbeats_come(host: HostSimulator) -> None:
    host.update(PERMIT)
    host.hear(*messages_of(signed_wrong(host)))

    for passed in (100, 199, 1):
        host.clock.advance(passed)
        host.beat()

    standing = host.standing()
    assert (standing.fresh, standing.age_ms) == (False, 300_000)
    assert not is_live(host)
    assert host.versions == {"global": 1}


def test_reconnecting_does_not_make_policy_young_while_its_update_is_refused_each_time(host: HostSimulator) -> None:
    host.update(PERMIT)
    signed_wrong(host)

    for _ in range(5):
        host.clock.advance(100)
        host.connect()

    assert host.standing().age_ms == 500_000
    assert not is_live(host)


def test_what_was_refused_is_made_good_by_a_signed_scope_and_not_by_the_name_in_the_message(
    host: HostSimulator,
) -> None:
    bad = messages_of(signed_wrong(host))
    other = messages_of(host.office.publish(PERMIT, scope="org/acme"), scope="global")

    host.hear(*bad, *other).beat()

    assert host.versions == {"org/acme": 1}
    assert not is_live(host)


def test_a_scope_that_this_host_does_not_enforce_is_refused_and_keeps_the_stream_from_counting(
    host: HostSimulator,
) -> None:
    host.update(PERMIT).update(PERMIT, scope="org/other/team/t")

    assert host.nacks == ["ScopeMismatch"]
    assert not is_live(host)


@pytest.mark.parametrize(
    ("spoil", "code", "pause"),
    [
        (lambda pieces: pieces[:1], "StreamProtocolError", PASSING_PAUSE_S),
        (lambda pieces: [*pieces[:2], foreign_chunk()], "StreamProtocolError", PASSING_PAUSE_S),
        (lambda pieces: [*pieces[:2], altered(pieces[2])], "ContentDigestMismatch", LASTING_PAUSE_S),
    ],
    ids=["cut short", "foreign content", "altered content"],
)
def test_what_was_refused_is_asked_for_again_by_a_new_connection_after_a_pause(
    host: HostSimulator, spoil: Callable[[list[Message]], list[Message]], code: str, pause: float
) -> None:
    update, *pieces = messages_of(host.office.publish(LONG))

    def messages() -> Iterator[Message]:
        yield from [update, *spoil(pieces)]
        host.clock.advance(pause / 2)
        yield keep_alive()
        assert host.nacks == [code], "the Nack must be out before the connection ends"
        # A transfer that stops short is refused only when the next message comes.
        host.clock.advance(pause)
        yield keep_alive()

    with pytest.raises(StreamProtocolError, match=r"global.*asked for again"):
        host.session.run(messages())
    host.connect()
    assert is_live(host)
    assert host.versions == {"global": 1}


def test_a_refused_heartbeat_is_asked_for_again_by_a_new_nonce(host: HostSimulator) -> None:
    host.clock.advance(1)
    host.hear(host.office.heartbeat(seq=1, about=[host.org.bundle_envelope()[0]]))
    assert host.nacks == ["Equivocation"]

    assert not is_asked_for_again(host, CLOCK_PAUSE_S - 1)
    assert is_asked_for_again(host, 1)


def test_what_a_wrong_clock_refuses_is_asked_for_again_before_long(host: HostSimulator) -> None:
    host.clock.set_wall(host.clock.now() - DAY)
    host.hear(*messages_of(host.office.publish(PERMIT)))
    assert host.nacks == ["ClockRollback"]

    assert not is_asked_for_again(host, CLOCK_PAUSE_S - 1)
    assert is_asked_for_again(host, 1)


def test_nothing_is_asked_for_again_once_it_was_made_good(host: HostSimulator) -> None:
    host.hear(*messages_of(signed_wrong(host))).update(PERMIT)

    assert not is_asked_for_again(host, 10 * LASTING_PAUSE_S)


def test_what_is_refused_later_waits_as_long_as_what_was_refused_first(host: HostSimulator) -> None:
    host.hear(*messages_of(signed_wrong(host))).update(PERMIT)
    host.clock.advance(10 * LASTING_PAUSE_S)

    host.hear(*messages_of(signed_wrong(host)))

    assert not is_asked_for_again(host, LASTING_PAUSE_S - 1)
    assert is_asked_for_again(host, 1)


def test_a_pause_that_is_over_for_one_does_not_count_for_another(host: HostSimulator) -> None:
    host.hear(*messages_of(signed_wrong(host, "org/acme")), *messages_of(signed_wrong(host)))
    host.update(PERMIT)

    assert not is_asked_for_again(host, LASTING_PAUSE_S - 1)
    assert is_asked_for_again(host, 1)


def test_what_a_heartbeat_names_and_nobody_sent_is_asked_for_again(host: HostSimulator) -> None:
    host.update(PERMIT)
    host.office.publish(PERMIT)
    host.clock.advance(1)

    host.beat()

    assert host.nacks == []
    assert not is_asked_for_again(host, WITHHELD_PAUSE_S - 1)
    assert is_live(host), "how old policy may become is not for the stream to say"
    assert is_asked_for_again(host, 1)
    assert host.connect().versions == {"global": 2}
    assert not is_asked_for_again(host, 10 * LASTING_PAUSE_S)


def test_what_a_heartbeat_names_and_comes_late_is_not_asked_for_again(host: HostSimulator) -> None:
    host.office.publish(PERMIT)
    host.beat().hear(*host.office.bundle())
    host.clock.advance(1)

    assert is_live(host.beat())
    assert not is_asked_for_again(host, 10 * LASTING_PAUSE_S)
