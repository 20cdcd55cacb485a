"""The conversation with the server: what is claimed, answered, put together, and survived."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from akpolicy.decision import PolicySource, Reason
from akpolicy.errors import StreamProtocolError
from akpolicy.v1 import distribution_pb2 as pb
from akpolicy_sidecar.link import MAX_KEEP_ALIVE_S
from akpolicy_sidecar.session import FIRST_INTERVAL_S, MAX_DETAIL_CHARS
from tests.simulators.host import HostSimulator, OpenGate
from tests.simulators.office import keep_alive
from tests.unit.sidecar.conversation import (
    LONG,
    PERMIT,
    foreign_chunk,
    is_live,
    messages_of,
    signed_wrong,
    update_nonce,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.source import PolicyText

    Message = pb.SubscribeResponse

# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_means_what_its_parts_mean(host: HostSimulator) -> None:
    held = host.office.publish(LONG)

    host.hear(pb.SubscribeResponse(batch=pb.Batch(messages=[*messages_of(held), host.office.heartbeat()])))

    assert [r.digest for r in host.new_session().hello().hello.enforced] == [held.envelope.digest()]
    assert host.updater.lacking == ()


def test_a_batch_within_a_batch_ends_the_connection(host: HostSimulator) -> None:
    inner = pb.SubscribeResponse(batch=pb.Batch(messages=[keep_alive()]))
    with pytest.raises(StreamProtocolError, match="batch within a batch"):
        host.hear(pb.SubscribeResponse(batch=pb.Batch(messages=[keep_alive(), inner])))


# --- Hello ------------------------------------------------------------------------------------------------------------


def test_a_new_host_claims_nothing(new_host: HostSimulator) -> None:
    hello = new_host.new_session().hello().hello

    assert (hello.org, hello.root_version, len(hello.nonce)) == ("acme", 0, 16)
    assert (list(hello.enforced), list(hello.held_blobs), hello.index_digest) == ([], [], b"")
    assert hello.software_version


def test_a_new_connection_claims_what_is_enforced_and_held(host: HostSimulator) -> None:
    host.update(PERMIT)
    held = host.office.current["global"]
    beat = host.office.heartbeat().heartbeat

    hello = host.new_session().hello().hello

    assert hello.root_version == 1
    assert [(r.scope, r.epoch, r.version, r.digest) for r in hello.enforced] == [
        ("global", 1, 1, held.envelope.digest())
    ]
    assert list(hello.held_blobs) == [hashlib.sha256(held.blob or b"").digest()]
    assert hello.index_digest == hashlib.sha256(beat.index).digest()


def test_every_connection_has_a_nonce_of_its_own(host: HostSimulator) -> None:
    assert len({host.new_session().hello().hello.nonce for _ in range(100)}) == 100


# --- updates ----------------------------------------------------------------------------------------------------------


def test_an_update_in_chunks_is_put_together_enforced_and_acknowledged(host: HostSimulator) -> None:
    held = host.office.publish(LONG)
    messages = messages_of(held)
    assert [m.WhichOneof("message") for m in messages] == ["bundle", *["chunk"] * 3]

    host.hear(*messages)

    assert host.versions == {"global": 1}
    assert host.acks[-1] == update_nonce(messages)


def test_an_acknowledgement_says_what_is_enforced_now_and_was_not_said_before(host: HostSimulator) -> None:
    host.update(PERMIT).update(PERMIT, scope="org/acme").hear(*host.office.bundle("org/acme"))

    acks = [m.ack for m in host.sent if m.HasField("ack")]

    said = [[(r.scope, r.version) for r in ack.enforced] for ack in acks[-3:]]
    assert said == [[("global", 1)], [("org/acme", 1)], []]
    assert acks[-1].root_version == 1


def test_what_was_said_on_an_earlier_connection_is_said_anew(host: HostSimulator) -> None:
    hello = host.update(PERMIT).new_session().hello().hello

    assert [(r.scope, r.version) for r in hello.enforced] == [("global", 1)]


def test_an_update_that_is_in_force_already_is_acknowledged_and_its_content_dropped(host: HostSimulator) -> None:
    host.update(PERMIT)
    messages = messages_of(host.office.current["global"])

    host.hear(*messages)

    assert host.acks[-1] == update_nonce(messages)
    assert host.nacks == []
    assert host.counted("StreamProtocolError") == 0


def test_content_that_is_held_is_not_needed_again(host: HostSimulator) -> None:
    host.update(LONG)
    same_content = host.office.publish(LONG)

    host.hear(*messages_of(same_content, is_held=True))

    assert host.versions == {"global": 2}


def test_a_rollback_comes_with_its_original(host: HostSimulator) -> None:
    host.update(PERMIT)
    earlier = host.office.current["global"]
    host.update(LONG)

    host.hear(*messages_of(host.office.roll_back(earlier)))

    assert (host.versions, host.nacks) == ({"global": 3}, [])


def test_a_deletion_has_no_content(host: HostSimulator) -> None:
    host.update(PERMIT).update(PERMIT, scope="org/acme")

    host.hear(*messages_of(host.office.delete("org/acme")))

    assert (host.versions, host.nacks) == ({"global": 1}, [])


def test_one_bad_update_does_not_end_the_conversation(host: HostSimulator) -> None:
    bad, good = messages_of(signed_wrong(host)), messages_of(host.office.publish(LONG, version=7))

    host.hear(*bad, *good)

    assert host.nacks == ["KeyNotAuthorised"]
    assert host.acks[-1] == update_nonce(good)
    assert host.versions == {"global": 7}
    # The chunks of the refused update were expected.
    assert host.counted("StreamProtocolError") == 0


def test_a_refusal_says_which_policy_is_at_fault_and_what_stays_enforced(host: HostSimulator) -> None:
    host.hear(*messages_of(host.office.publish(PERMIT)))
    messages = messages_of(host.office.publish({"broken": '@id("broken") permit (principal;'}))

    host.hear(*messages)

    nack = host.sent[-1].nack
    assert (nack.nonce, nack.code, nack.policy_id) == (update_nonce(messages), "PolicyParseError", "broken")
    assert (list(nack.enforced), list(nack.ended), nack.root_version) == ([], [], 1)


def test_what_a_refusal_quotes_is_bounded(host: HostSimulator) -> None:
    long_id = "p" * 128
    host.hear(*messages_of(host.office.publish({long_id: f'@id("{long_id}") permit (principal, {"x" * 9000});'})))

    assert len(host.sent[-1].nack.detail) <= MAX_DETAIL_CHARS


def test_a_message_of_a_newer_server_is_passed_over(host: HostSimulator) -> None:
    host.hear(pb.SubscribeResponse()).update(PERMIT)

    assert host.versions == {"global": 1}


# --- content ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["removed", "damaged"])
def test_content_that_the_server_takes_for_held_and_is_not_needs_a_new_connection_that_does_not_claim_it(
    host: HostSimulator, lost: str
) -> None:
    host.update(PERMIT)
    blob = host.place / "blobs" / str(host.directory.state.scopes["global"].blob)
    blob.unlink() if lost == "removed" else blob.write_bytes(b"damaged")
    renewal = host.office.publish(PERMIT)

    with pytest.raises(StreamProtocolError, match="not here"):
        host.hear(*messages_of(renewal, is_held=True))

    assert host.nacks == ["CacheMissing" if lost == "removed" else "CacheCorrupt"]
    assert list(host.new_session().hello().hello.held_blobs) == []
    assert host.connect().versions == {"global": 2}


def test_a_disk_that_is_full_is_not_taken_for_content_that_is_not_here(host: HostSimulator) -> None:
    host.update(PERMIT).update(PERMIT, scope="org/acme")
    (host.place / "envelopes").rename(host.place / "gone")

    host.hear(*messages_of(host.office.delete("org/acme")), keep_alive())

    assert host.nacks == ["CacheWriteFailed"]
    (host.place / "gone").rename(host.place / "envelopes")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pieces: pieces[1:],
        lambda pieces: [pieces[0], pieces[2]],
        lambda pieces: [pieces[0], pieces[0], *pieces[1:]],
        lambda pieces: [pieces[1], pieces[0], pieces[2]],
        lambda pieces: pieces[:2],
        lambda pieces: [*pieces[:2], foreign_chunk()],
        lambda pieces: [],
    ],
    ids=["first missing", "gap", "twice", "out of order", "last missing", "foreign", "none"],
)
def test_content_with_gaps_or_foreign_pieces_is_refused_and_the_next_update_works(
    host: HostSimulator, spoil: Callable[[list[Message]], list[Message]]
) -> None:
    update, *pieces = messages_of(host.office.publish(LONG))
    good = messages_of(host.office.publish(PERMIT))

    host.hear(update, *spoil(pieces), *good)

    assert host.nacks == ["StreamProtocolError"]
    assert host.acks[-1] == update_nonce(good)
    assert host.versions == {"global": 2}


def test_content_that_trickles_in_is_given_up(host: HostSimulator) -> None:
    def trickle() -> Iterator[Message]:
        for message in messages_of(host.office.publish(LONG)):
            yield message
            host.clock.advance(200)

    host.session.run(trickle())

    assert host.nacks == ["UpdateTooSlow"]


def test_a_chunk_that_nobody_asked_for_is_counted(host: HostSimulator) -> None:
    host.hear(foreign_chunk())

    assert host.counted("StreamProtocolError") == 1
    assert host.nacks == []


# --- heartbeats -------------------------------------------------------------------------------------------------------


def test_a_stream_counts_from_the_heartbeat_on_that_answers_the_nonce(new_host: HostSimulator) -> None:
    new_host.office.publish(PERMIT)
    hello = new_host.new_session().hello().hello
    *updates, beat, alive = new_host.office.greeting(hello)

    new_host.hear(*updates, alive)
    assert (new_host.session.proven, is_live(new_host)) == (False, False)
    assert new_host.standing().denial is Reason.NO_POLICY

    new_host.hear(beat)
    assert (new_host.session.proven, is_live(new_host)) == (True, True)
    assert new_host.standing().source is PolicySource.LIVE


def test_a_heartbeat_that_answers_another_connection_does_not_count(host: HostSimulator) -> None:
    recorded = host.office.greeting(host.new_session().hello().hello)
    host.new_session().hello()

    host.hear(*recorded)

    assert host.nacks == ["HeartbeatNonceMismatch"]
    assert not host.session.proven
    assert not is_live(host)


def test_what_comes_before_the_answer_keeps_nothing_alive(host: HostSimulator) -> None:
    heard = host.links.current.heard
    host.new_session().hello()
    host.clock.advance(5)

    host.hear(keep_alive())

    assert host.links.current.heard == heard


def test_what_comes_before_the_answer_does_not_lengthen_the_silence_of_what_was_proven(host: HostSimulator) -> None:
    # As when a connection with new credentials takes the place of one that counts.
    proven = host.links.current
    host.new_session().hello()
    host.links.current = proven

    host.hear(keep_alive(300))

    assert host.links.current == proven
    assert host.session.interval_s == 300


def test_a_refused_heartbeat_takes_nothing_away(host: HostSimulator) -> None:
    host.update(PERMIT)
    until = host.snapshots.current.freshness.fresh_until

    host.hear(host.office.heartbeat())

    assert host.nacks == ["HeartbeatReplay"]
    assert is_live(host)
    assert host.snapshots.current.freshness.fresh_until == until


def test_a_heartbeat_is_not_acknowledged(host: HostSimulator) -> None:
    sent = len(host.sent)
    host.clock.advance(1)

    host.beat()

    assert len(host.sent) == sent


def test_an_announced_interval_counts_within_bounds(host: HostSimulator) -> None:
    assert host.session.interval_s == 10
    host.hear(keep_alive(2))
    assert (host.session.interval_s, host.links.current.interval_s) == (2, 2)
    for silly in (0, 1e6):
        host.hear(keep_alive(silly))
        assert host.session.interval_s == host.links.current.interval_s == MAX_KEEP_ALIVE_S
    assert host.new_session().interval_s == FIRST_INTERVAL_S


class Witness(OpenGate):
    """A fence that notes since when the session was waiting while it is asked."""

    def __init__(self) -> None:
        self.host: HostSimulator | None = None
        self.seen: list[object] = []

    def prove(self, policies: Sequence[PolicyText], schema: CedarSchema) -> None:
        assert self.host is not None
        self.seen.append(self.host.session.waiting_since)


def test_the_stream_is_not_silent_while_an_update_is_worked_on(tmp_path: Path) -> None:
    witness = Witness()
    witness.host = host = HostSimulator(tmp_path / "state", fence=witness).connect()
    waiting = []

    def messages() -> Iterator[Message]:
        for message in messages_of(host.office.publish(LONG)):
            waiting.append(host.session.waiting_since)
            yield message
        waiting.append(host.session.waiting_since)

    host.session.run(messages())

    assert witness.seen == [None]
    assert None not in waiting
    host.close()
