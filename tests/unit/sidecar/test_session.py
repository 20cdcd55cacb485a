"""The conversation with the server: what is claimed, answered, put together, and survived."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from akpolicy.decision import PolicySource, Reason
from akpolicy.errors import ClockJump, HeartbeatStale, PolicyStale, StreamProtocolError
from akpolicy.limits import MAX_ROTATIONS
from akpolicy.v1 import distribution_pb2 as pb
from akpolicy_sidecar.link import MAX_KEEP_ALIVE_S
from akpolicy_sidecar.outstanding import CLOCK_PAUSE_S, LASTING_PAUSE_S, PASSING_PAUSE_S, WITHHELD_PAUSE_S
from akpolicy_sidecar.session import FIRST_INTERVAL_S, MAX_DETAIL_CHARS
from tests.simulators.host import HostSimulator, OpenGate
from tests.simulators.office import bundle_messages, keep_alive, root_message
from tests.simulators.org import DAY, OrgSimulator, delegation, role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.source import PolicyText
    from tests.simulators.office import Held

    Message = pb.SubscribeResponse

PERMIT = {"p": '@id("p") permit (principal, action, resource);'}
# Three chunks of content.
LONG = {
    f"p{n}": f'@id("p{n}") forbid (principal, action, resource) when {{ "{"x" * 10_000}" == "y" }};' for n in range(60)
}


def messages_of(held: Held, *, scope: str | None = None, is_held: bool = False) -> list[Message]:
    """Return a document as the server sends it; `scope` is what the message says, `is_held` leaves the content out."""
    blob = held.blob or b""
    held_blobs = [hashlib.sha256(blob).digest()] if is_held else []
    return bundle_messages(held.envelope, held.blob, original=held.original, held_blobs=held_blobs, scope=scope)


def signed_wrong(host: HostSimulator, scope: str = "global", **overrides: object) -> Held:
    """Return a bundle that is refused as `KeyNotAuthorised`, as the office's current one."""
    return host.office.publish(PERMIT, scope=scope, signed_by=[host.org.rollback_signer], **overrides)


def update_nonce(messages: list[Message]) -> bytes:
    return messages[0].bundle.nonce


def is_live(host: HostSimulator) -> bool:
    return host.links.current.is_live(host.moment())


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


def test_an_acknowledgement_says_what_is_enforced_now(host: HostSimulator) -> None:
    host.update(PERMIT).update(PERMIT, scope="org/acme")

    ack = next(m.ack for m in reversed(host.sent) if m.HasField("ack"))

    assert [(r.scope, r.version) for r in ack.enforced] == [("global", 1), ("org/acme", 1)]
    assert ack.root_version == 1


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
    host.update(PERMIT)
    messages = messages_of(host.office.publish({"broken": '@id("broken") permit (principal;'}))

    host.hear(*messages)

    nack = host.sent[-1].nack
    assert (nack.nonce, nack.code, nack.policy_id) == (update_nonce(messages), "PolicyParseError", "broken")
    assert [(r.scope, r.version) for r in nack.enforced] == [("global", 1)]
    assert nack.root_version == 1


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


def foreign_chunk() -> Message:
    return pb.SubscribeResponse(chunk=pb.BlobChunk(digest=b"o" * 32, offset=524288, data=b"x"))


def altered(piece: Message) -> Message:
    """Return a chunk with its last byte changed."""
    result = pb.SubscribeResponse()
    result.CopyFrom(piece)
    result.chunk.data = piece.chunk.data[:-1] + bytes([piece.chunk.data[-1] ^ 1])
    return result


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


# --- refusals ---------------------------------------------------------------------------------------------------------


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
    host.update(PERMIT).update(PERMIT, scope="org/acme/team/t")

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


def is_asked_for_again(host: HostSimulator, after: float) -> bool:
    """Let time pass and a sign of life come; return whether a new connection is wanted."""
    host.clock.advance(after)
    try:
        host.hear(keep_alive())
    except StreamProtocolError:
        return True
    return False


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


# --- roots ------------------------------------------------------------------------------------------------------------


def answers(host: HostSimulator) -> list[tuple[bytes, str]]:
    """Return each answer that names an update: its nonce, and the code of a refusal or nothing."""
    found = []
    for message in host.sent:
        if message.HasField("ack"):
            found.append((message.ack.nonce, ""))
        elif message.nack.nonce:
            found.append((message.nack.nonce, message.nack.code))
    return found


def test_a_root_is_followed_and_acknowledged_with_its_version(host: HostSimulator) -> None:
    update = root_message(host.office.rotate())

    host.hear(update)

    ack = host.sent[-1].ack
    assert (ack.nonce, ack.root_version) == (update.root.nonce, 2)


def test_a_refused_root_is_told_and_bundles_wait_for_a_good_one(new_host: HostSimulator) -> None:
    foreign = OrgSimulator(clock=new_host.clock).root_envelope()
    held = new_host.office.publish(PERMIT)

    new_host.hear(root_message(foreign), *messages_of(held), root_message(new_host.office.root), *messages_of(held))

    assert new_host.nacks == ["RootUnanchored", "RootMissing"]
    assert new_host.versions == {"global": 1}


def test_every_root_is_answered_once(new_host: HostSimulator) -> None:
    # The server ends a stream on which an update is answered twice.
    foreign = OrgSimulator(clock=new_host.clock)
    roots = [root_message(foreign.root_envelope(version=version)) for version in (1, 2)]

    new_host.hear(*roots, keep_alive())

    assert answers(new_host) == [(roots[0].root.nonce, ""), (roots[1].root.nonce, "RootUnanchored")]


def test_a_root_that_is_passed_over_is_acknowledged_once_a_later_one_is_believed(new_host: HostSimulator) -> None:
    foreign = root_message(OrgSimulator(clock=new_host.clock).root_envelope())
    good = root_message(new_host.office.root)

    new_host.hear(foreign, good, keep_alive())

    assert answers(new_host) == [(foreign.root.nonce, ""), (good.root.nonce, "")]
    assert new_host.nacks == []


def test_a_refused_root_is_not_refused_again_for_leaving_the_host_without_one(new_host: HostSimulator) -> None:
    other_org = new_host.org.root_envelope(org="globex", roles=globex_roles(new_host.org))
    update = root_message(other_org)

    new_host.hear(update, keep_alive())

    assert answers(new_host) == [(update.root.nonce, "OrgMismatch")]
    assert new_host.nacks == ["OrgMismatch"]


def globex_roles(org: OrgSimulator) -> dict[str, object]:
    return {"root": role(org.root_signer), "bundle": [delegation("global", org.platform_signer)]}


def test_a_newest_root_that_has_expired_is_acknowledged_and_the_state_of_the_host_is_told(host: HostSimulator) -> None:
    update = root_message(host.office.rotate(expires_at=int(host.clock.now()) + 10))
    host.clock.advance(10)

    host.hear(update, keep_alive())

    assert answers(host)[-1] == (update.root.nonce, "")
    assert (host.sent[-1].nack.code, host.sent[-1].nack.nonce) == ("RootExpired", b"")
    assert not is_live(host)


def drop_and_restore(host: HostSimulator) -> list[Message]:
    """Return two roots: the first stands behind `global` only, the second behind all again."""
    org = host.org
    roles = {**org.root_document()["roles"], "bundle": [delegation("global", org.platform_signer)]}
    return [root_message(host.office.rotate(roles=roles)), root_message(host.office.rotate())]


def test_what_a_root_drops_is_told(host: HostSimulator) -> None:
    host.update(PERMIT).update(PERMIT, scope="org/acme")
    dropping, _ = drop_and_restore(host)

    host.hear(dropping)

    nack, ack = host.sent[-2].nack, host.sent[-1].ack
    assert (nack.nonce, nack.code) == (b"", "KeyNotAuthorised")
    assert [r.scope for r in nack.enforced] == ["global"]
    assert ack.nonce == dropping.root.nonce
    assert host.counted("KeyNotAuthorised") == 1


def test_what_a_root_dropped_is_asked_for_again_where_nothing_newer_comes(host: HostSimulator) -> None:
    # The Hello of this connection claimed it, so that the server does not send it by itself.
    host.update(PERMIT).update(PERMIT, scope="org/acme")
    host.hear(*drop_and_restore(host)).beat()
    assert host.standing().denial is Reason.NO_POLICY

    assert is_asked_for_again(host, PASSING_PAUSE_S)

    assert host.connect().versions == {"global": 1, "org/acme": 1}
    assert host.standing().source is PolicySource.LIVE


def test_what_a_root_dropped_and_a_newer_bundle_replaced_is_not_asked_for_again(host: HostSimulator) -> None:
    host.update(PERMIT).update(PERMIT, scope="org/acme")
    host.hear(*drop_and_restore(host)).update(PERMIT, scope="org/acme")

    assert is_live(host)
    assert not is_asked_for_again(host, 10 * LASTING_PAUSE_S)


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


def test_a_root_that_cannot_be_kept_is_refused_and_asked_for_again(host: HostSimulator) -> None:
    (host.place / "roots").rename(host.place / "gone")
    update = root_message(host.office.rotate())

    host.hear(update)

    assert answers(host)[-1] == (update.root.nonce, "CacheWriteFailed")
    assert host.updater.root is not None
    assert host.updater.root.version == 2
    (host.place / "gone").rename(host.place / "roots")
    assert is_asked_for_again(host, PASSING_PAUSE_S)
    assert host.connect().updater.root_version == 2
    assert is_live(host)


def test_too_long_a_chain_is_followed_further_by_a_connection_that_comes_soon(new_host: HostSimulator) -> None:
    for _ in range(MAX_ROTATIONS + 1):
        new_host.office.rotate()
    new_host.connect()
    assert new_host.nacks[:1] == ["RootChainTooLong"]
    assert new_host.updater.root_version == MAX_ROTATIONS + 1

    assert is_asked_for_again(new_host, PASSING_PAUSE_S)

    assert new_host.connect().updater.root_version == MAX_ROTATIONS + 2


# --- what is wrong with the host --------------------------------------------------------------------------------------


def told(host: HostSimulator) -> list[str]:
    """Return the codes of what was told that is not about an update."""
    return [m.nack.code for m in host.sent if m.HasField("nack") and not m.nack.nonce]


def test_what_is_wrong_with_the_host_is_told_once_for_each_change(host: HostSimulator) -> None:
    stale, jump = HeartbeatStale("old"), ClockJump("ahead")
    for error in (None, stale, HeartbeatStale("older"), None, None, stale, jump, jump, PolicyStale("x"), None):
        host.session.tell(error)

    assert told(host) == ["HeartbeatStale", "HeartbeatStale", "ClockJump", "PolicyStale"]
    assert host.sent[-1].nack.detail == str(PolicyStale("x"))


def test_what_is_wrong_is_told_again_on_a_new_connection(host: HostSimulator) -> None:
    for _ in range(2):
        host.session.tell(HeartbeatStale("old"))
        host.new_session()

    assert told(host) == ["HeartbeatStale"] * 2


def test_what_is_told_says_what_is_enforced(host: HostSimulator) -> None:
    host.update(PERMIT).session.tell(HeartbeatStale("old"))

    nack = host.sent[-1].nack
    assert [(r.scope, r.version) for r in nack.enforced] == [("global", 1)]
    assert nack.root_version == 1


def test_a_host_that_goes_stale_tells_so_and_recovers(host: HostSimulator) -> None:
    host.update(PERMIT)
    host.standing()
    host.clock.advance(300)
    assert host.standing().source is PolicySource.CACHE
    host.standing()
    assert told(host) == ["HeartbeatStale"]

    host.beat()

    assert host.standing().source is PolicySource.LIVE
    assert told(host) == ["HeartbeatStale"]


def test_a_jump_of_the_clock_is_ended_by_a_new_connection(host: HostSimulator) -> None:
    host.update(PERMIT)
    host.clock.set_wall(host.clock.now() + DAY)
    assert host.standing().denial is Reason.CLOCK_UNTRUSTED
    assert told(host) == ["ClockJump"]

    host.connect()

    assert host.standing().source is PolicySource.LIVE


def test_two_sidecars_of_one_org_do_not_share_anything(host: HostSimulator, tmp_path: Path) -> None:
    other = HostSimulator(tmp_path / "other", org=host.org, clock=host.clock, office=host.office)
    host.update(PERMIT)

    other.connect()

    assert other.versions == host.versions
    assert other.session.hello().hello.nonce != host.session.hello().hello.nonce
    other.close()
