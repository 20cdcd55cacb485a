"""The conversation with the server: what is claimed, answered, put together, and survived."""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.bundle import OfflineMode, describe_content
from akpolicy.engine.schema import load_default_schema
from akpolicy.errors import ContentTooLarge, StreamProtocolError
from akpolicy.limits import MAX_CHUNK_BYTES
from akpolicy.v1 import bundle_pb2
from akpolicy.v1 import distribution_pb2 as pb
from akpolicy.wire import envelope_to_proto
from akpolicy_sidecar.cache import StateDirectory
from akpolicy_sidecar.chunks import ChunkAssembler
from akpolicy_sidecar.metrics import SidecarMetrics
from akpolicy_sidecar.offline import OfflineRule
from akpolicy_sidecar.report import Reporter
from akpolicy_sidecar.session import LASTING_PAUSE_S, PASSING_PAUSE_S, Session
from akpolicy_sidecar.snapshot import Snapshot, SnapshotHolder
from akpolicy_sidecar.status import LinkHolder, Moment
from akpolicy_sidecar.updater import Updater
from tests.simulators.clock import ManualClock
from tests.simulators.org import OrgSimulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from akpolicy.envelope import SignedEnvelope

SCHEMA = load_default_schema()
LOCAL = OfflineRule(OfflineMode.CACHED_INDEFINITE, 1.0)
# Three chunks of content.
LONG = {
    f"p{n}": f'@id("p{n}") forbid (principal, action, resource) when {{ "{"x" * 10_000}" == "y" }};' for n in range(60)
}


class Scene:
    """A session, and what it sent."""

    def __init__(self, place: Path) -> None:
        self.clock = ManualClock()
        self.org = OrgSimulator(clock=self.clock)
        self.snapshots = SnapshotHolder(Snapshot.build((), local=LOCAL))
        self.updater = Updater(
            org="acme",
            anchors=self.org.anchors,
            directory=StateDirectory.open(place, "acme"),
            schema=SCHEMA,
            clock=self.clock,
            snapshots=self.snapshots,
            local=LOCAL,
        )
        self.updater.load_from_cache()
        self.links = LinkHolder(self.updater.kept_link())
        self.metrics = SidecarMetrics()
        self.report = Reporter(self.metrics)
        self.sent: list[pb.SubscribeRequest] = []

    def session(self) -> Session:
        return Session(
            org="acme",
            updater=self.updater,
            links=self.links,
            clock=self.clock,
            report=self.report,
            send=self.sent.append,
        )

    def hear(self, *messages: pb.SubscribeResponse) -> Session:
        """Hold a whole conversation."""
        session = self.session()
        session.run(iter(messages))
        return session

    def root(self) -> pb.SubscribeResponse:
        return pb.SubscribeResponse(root=pb.RootUpdate(version=1, envelope=envelope_to_proto(self.org.root_envelope())))

    def versions(self) -> dict[str, int]:
        return {bundle.scope: bundle.version for bundle in self.snapshots.current.bundles}

    def nacks(self) -> list[str]:
        return [m.nack.code for m in self.sent if m.HasField("nack")]

    def acks(self) -> list[bytes]:
        return [m.ack.nonce for m in self.sent if m.HasField("ack")]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "state")


def update(envelope: SignedEnvelope, size: int, *, scope: str = "global", nonce: bytes = b"n") -> pb.SubscribeResponse:
    return pb.SubscribeResponse(
        bundle=pb.BundleUpdate(
            nonce=nonce,
            revision=bundle_pb2.Revision(scope=scope),
            envelope=envelope_to_proto(envelope),
            content_size=size,
        )
    )


def chunks(blob: bytes, *, size: int = MAX_CHUNK_BYTES) -> list[pb.SubscribeResponse]:
    digest = hashlib.sha256(blob).digest()
    return [
        pb.SubscribeResponse(chunk=pb.BlobChunk(digest=digest, offset=at, data=blob[at : at + size]))
        for at in range(0, len(blob), size)
    ]


def keep_alive(interval_ms: int = 1000) -> pb.SubscribeResponse:
    return pb.SubscribeResponse(keep_alive=pb.KeepAlive(interval_ms=interval_ms))


def test_an_update_in_chunks_is_put_together_enforced_and_acknowledged(scene: Scene) -> None:
    envelope, blob = scene.org.bundle_envelope("global", LONG)
    assert len(chunks(blob)) == 3

    session = scene.hear(scene.root(), update(envelope, len(blob)), *chunks(blob), keep_alive(2000))

    assert scene.versions() == {"global": 1}
    assert scene.acks() == [b"n"]
    assert session.caught_up
    assert session.interval_s == 2
    assert scene.links.current.complete


def test_a_new_connection_claims_what_is_enforced_and_held(scene: Scene) -> None:
    envelope, blob = scene.org.bundle_envelope()
    scene.hear(scene.root(), update(envelope, len(blob)), *chunks(blob))

    hello = scene.session().hello().hello

    assert (hello.org, hello.root_version, len(hello.nonce)) == ("acme", 1, 16)
    assert [(r.scope, r.epoch, r.version, r.digest) for r in hello.enforced] == [("global", 1, 1, envelope.digest())]
    assert list(hello.held_blobs) == [hashlib.sha256(blob).digest()]


def test_content_that_is_held_is_not_needed_again(scene: Scene) -> None:
    first, blob = scene.org.bundle_envelope("global", LONG)
    second, _ = scene.org.bundle_envelope("org/acme", LONG)

    scene.hear(scene.root(), update(first, len(blob)), *chunks(blob), update(second, 0, scope="org/acme"))

    assert scene.versions() == {"global": 1, "org/acme": 1}


def test_content_that_the_server_takes_for_held_and_is_not_needs_a_new_connection(scene: Scene) -> None:
    envelope, _ = scene.org.bundle_envelope()

    with pytest.raises(StreamProtocolError, match="not here"):
        scene.hear(scene.root(), update(envelope, 0))

    assert scene.nacks() == ["CacheMissing"]


def test_one_bad_update_does_not_end_the_conversation(scene: Scene) -> None:
    bad, bad_blob = scene.org.bundle_envelope("global", LONG, signed_by=[scene.org.bundle_signer])
    good, blob = scene.org.bundle_envelope("global", version=7)

    scene.hear(
        scene.root(),
        update(bad, len(bad_blob), nonce=b"bad"),
        *chunks(bad_blob),
        update(good, len(blob), nonce=b"good"),
        *chunks(blob),
        keep_alive(),
    )

    assert scene.nacks() == ["KeyNotAuthorised"]
    assert scene.acks() == [b"good"]
    assert scene.versions() == {"global": 7}
    refusals = scene.metrics.update_refusals.labels(code="StreamProtocolError")
    assert refusals._value.get() == 0  # the chunks of the refused update were expected


def test_a_refusal_says_which_policy_is_at_fault_and_what_stays_enforced(scene: Scene) -> None:
    good, blob = scene.org.bundle_envelope()
    bad, bad_blob = scene.org.bundle_envelope("global", {"broken": '@id("broken") permit (principal;'})

    scene.hear(
        scene.root(), update(good, len(blob)), *chunks(blob), update(bad, len(bad_blob), nonce=b"2"), *chunks(bad_blob)
    )

    nack = scene.sent[-1].nack
    assert (nack.nonce, nack.code, nack.policy_id) == (b"2", "PolicyParseError", "broken")
    assert [(r.scope, r.version) for r in nack.enforced] == [("global", 1)]


def test_keep_alive_does_not_count_while_a_refused_scope_has_no_policy(scene: Scene) -> None:
    good, blob = scene.org.bundle_envelope("org/acme")
    bad, _ = scene.org.bundle_envelope("global", signed_by=[scene.org.bundle_signer])

    session = scene.hear(
        scene.root(), update(good, len(blob), scope="org/acme"), *chunks(blob), update(bad, 0), keep_alive()
    )

    assert not session.caught_up
    assert not scene.links.current.complete
    assert scene.updater.kept_link().heard is None


def test_keep_alive_counts_once_the_refused_scope_is_delivered(scene: Scene) -> None:
    bad, _ = scene.org.bundle_envelope("global", signed_by=[scene.org.bundle_signer])
    good, blob = scene.org.bundle_envelope("global")

    session = scene.hear(
        scene.root(), update(bad, 0), keep_alive(), update(good, len(blob)), *chunks(blob), keep_alive()
    )

    assert session.caught_up


def test_a_refused_update_lets_the_enforced_policy_age_although_keep_alives_come(scene: Scene) -> None:
    good, blob = scene.org.bundle_envelope()
    bad, _ = scene.org.bundle_envelope("global", signed_by=[scene.org.bundle_signer])
    scene.hear(scene.root(), update(good, len(blob)), *chunks(blob), keep_alive())
    assert scene.links.current.is_live(Moment.read(scene.clock))

    def messages() -> Iterator[pb.SubscribeResponse]:
        yield update(bad, 0)
        scene.clock.advance(50)
        yield keep_alive()

    session = scene.session()
    session.run(messages())

    moment = Moment.read(scene.clock)
    assert not session.caught_up
    assert not scene.links.current.is_live(moment)
    assert scene.links.current.heard is not None
    assert moment.since(scene.links.current.heard) == 50
    kept = scene.updater.kept_link().heard
    assert kept is not None
    assert moment.since(kept) == 50
    assert scene.versions() == {"global": 1}


def test_reconnecting_does_not_make_policy_young_while_its_update_is_refused_each_time(scene: Scene) -> None:
    good, blob = scene.org.bundle_envelope()
    bad, _ = scene.org.bundle_envelope("global", signed_by=[scene.org.bundle_signer])
    scene.hear(scene.root(), update(good, len(blob)), *chunks(blob), keep_alive())

    for _ in range(5):
        scene.clock.advance(100)
        scene.hear(update(bad, 0), keep_alive())

    heard = scene.links.current.heard
    assert heard is not None
    assert Moment.read(scene.clock).since(heard) == 500


def test_what_was_refused_is_made_good_by_a_signed_scope_and_not_by_the_name_in_the_message(scene: Scene) -> None:
    bad, _ = scene.org.bundle_envelope("global", signed_by=[scene.org.bundle_signer])
    other, blob = scene.org.bundle_envelope("org/acme")

    session = scene.hear(
        scene.root(), update(bad, 0), update(other, len(blob), scope="global"), *chunks(blob), keep_alive()
    )

    assert scene.versions() == {"org/acme": 1}
    assert not session.caught_up
    assert not scene.links.current.complete


@pytest.mark.parametrize(
    ("spoil", "code", "pause"),
    [
        (lambda pieces: pieces[:1], "StreamProtocolError", PASSING_PAUSE_S),
        (lambda pieces: [*pieces[:2], *chunks(b"x")], "StreamProtocolError", PASSING_PAUSE_S),
        (lambda pieces: [*pieces[:2], altered(pieces[2])], "ContentDigestMismatch", LASTING_PAUSE_S),
    ],
    ids=["cut short", "foreign content", "altered content"],
)
def test_what_was_refused_is_asked_for_again_by_a_new_connection_after_a_pause(
    scene: Scene, spoil: Callable[[list[pb.SubscribeResponse]], list[pb.SubscribeResponse]], code: str, pause: float
) -> None:
    envelope, blob = scene.org.bundle_envelope("global", LONG)

    def messages() -> Iterator[pb.SubscribeResponse]:
        yield from [scene.root(), update(envelope, len(blob)), *spoil(chunks(blob))]
        scene.clock.advance(pause / 2)
        yield keep_alive()
        assert scene.nacks() == [code], "the Nack must be out before the connection ends"
        # A transfer that stops short is refused only when the next message comes.
        scene.clock.advance(pause)
        yield keep_alive()

    with pytest.raises(StreamProtocolError, match=r"global.*asked for again"):
        scene.session().run(messages())
    session = scene.hear(update(envelope, len(blob)), *chunks(blob), keep_alive())
    assert session.caught_up
    assert scene.versions() == {"global": 1}


def altered(piece: pb.SubscribeResponse) -> pb.SubscribeResponse:
    """Return a chunk with its last byte changed."""
    result = pb.SubscribeResponse()
    result.CopyFrom(piece)
    result.chunk.data = piece.chunk.data[:-1] + bytes([piece.chunk.data[-1] ^ 1])
    return result


def test_a_refused_root_is_counted_and_bundles_wait_for_a_good_one(scene: Scene) -> None:
    foreign = OrgSimulator(clock=scene.clock).root_envelope()
    envelope, blob = scene.org.bundle_envelope()

    scene.hear(
        pb.SubscribeResponse(root=pb.RootUpdate(version=1, envelope=envelope_to_proto(foreign))),
        update(envelope, len(blob), nonce=b"1"),
        *chunks(blob),
        scene.root(),
        update(envelope, len(blob), nonce=b"2"),
        *chunks(blob),
    )

    assert scene.metrics.update_refusals.labels(code="RootUnanchored")._value.get() == 1
    assert scene.nacks() == ["RootMissing"]
    assert scene.acks() == [b"2"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pieces: pieces[1:],
        lambda pieces: [pieces[0], pieces[2]],
        lambda pieces: [pieces[0], pieces[0], *pieces[1:]],
        lambda pieces: [pieces[1], pieces[0], pieces[2]],
        lambda pieces: pieces[:2],
        lambda pieces: [
            *pieces[:2],
            pb.SubscribeResponse(chunk=pb.BlobChunk(digest=b"other", offset=524288, data=b"x")),
        ],
        lambda pieces: [],
    ],
    ids=["first missing", "gap", "twice", "out of order", "last missing", "foreign", "none"],
)
def test_content_with_gaps_or_foreign_pieces_is_refused_and_the_next_update_works(scene: Scene, spoil: object) -> None:
    assert callable(spoil)
    first, long_blob = scene.org.bundle_envelope("global", LONG)
    second, blob = scene.org.bundle_envelope("global")

    scene.hear(
        scene.root(),
        update(first, len(long_blob), nonce=b"1"),
        *spoil(chunks(long_blob)),
        update(second, len(blob), nonce=b"2"),
        *chunks(blob),
    )

    assert scene.nacks() == ["StreamProtocolError"]
    assert scene.acks() == [b"2"]
    assert scene.versions() == {"global": 2}


def test_content_that_trickles_in_is_given_up(scene: Scene) -> None:
    envelope, blob = scene.org.bundle_envelope("global", LONG)
    session = scene.session()

    def trickle() -> object:
        yield scene.root()
        yield update(envelope, len(blob))
        for piece in chunks(blob):
            scene.clock.advance(200)
            yield piece

    session.run(trickle())  # type: ignore[arg-type]  # a generator of messages

    assert scene.nacks() == ["UpdateTooSlow"]


def test_a_chunk_that_nobody_asked_for_is_counted(scene: Scene) -> None:
    scene.hear(*chunks(b"surprise"))

    assert scene.metrics.update_refusals.labels(code="StreamProtocolError")._value.get() == 1


def test_the_stream_is_not_silent_while_an_update_is_worked_on(scene: Scene) -> None:
    session = scene.session()
    seen = []

    def messages() -> object:
        seen.append(session.waiting_since)
        yield keep_alive()
        seen.append(session.waiting_since)

    session.run(messages())  # type: ignore[arg-type]  # a generator of messages

    assert None not in seen
    assert scene.links.current.heard is not None


# --- chunks -----------------------------------------------------------------------------------------------------------


@given(blob=st.binary(min_size=1, max_size=600), cuts=st.lists(st.integers(1, 599), max_size=5))
def test_any_cut_of_the_content_comes_out_whole(blob: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(blob), *(cut for cut in cuts if cut < len(blob))})
    assembler = ChunkAssembler(describe_content(blob, 1), len(blob))

    for start, end in itertools.pairwise(edges):
        assert not assembler.is_complete
        assembler.add(hashlib.sha256(blob).digest(), start, blob[start:end])

    assert assembler.is_complete
    assert assembler.content() == blob


def test_more_than_the_manifest_says_is_refused_before_the_first_byte() -> None:
    with pytest.raises(ContentTooLarge):
        ChunkAssembler(describe_content(b"four", 1), 5)


@pytest.mark.parametrize(("offset", "data"), [(0, b""), (1, b"o"), (0, b"fours")], ids=["empty", "gap", "too long"])
def test_a_chunk_that_does_not_fit_is_refused(offset: int, data: bytes) -> None:
    assembler = ChunkAssembler(describe_content(b"four", 1), 4)

    with pytest.raises(StreamProtocolError):
        assembler.add(hashlib.sha256(b"four").digest(), offset, data)
