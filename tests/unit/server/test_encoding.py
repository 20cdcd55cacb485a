"""What goes out as bytes is what the messages say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from akpolicy.envelope import EnvelopeSignature, SignedEnvelope
from akpolicy.v1 import distribution_pb2 as pb
from akpolicy.wire import envelope_to_proto
from akpolicy_server.api import encoding
from akpolicy_server.api.encoding import Bundles, batch, chunk, size_of
from akpolicy_server.api.messages import revision_message
from akpolicy_server.store.revisions import RevisionKind, RevisionRecord

if TYPE_CHECKING:
    import pytest

NONCE = bytes(range(16))
# On both sides of where a length takes another byte.
SIZES = st.one_of(
    st.integers(0, 300), st.integers(16_000, 17_000), st.sampled_from([127, 128, 16_383, 16_384, 262_144])
)


def envelope(size: int = 100) -> SignedEnvelope:
    return SignedEnvelope("application/x", bytes(size), (EnvelopeSignature("k" * 64, b"s" * 64),))


def revision(digest: bytes = b"d" * 32, *, signed: SignedEnvelope | None = None, **fields: object) -> RevisionRecord:
    made = RevisionRecord(
        scope="org/acme",
        epoch=1,
        version=7,
        kind=RevisionKind.PUBLISH,
        digest=digest,
        envelope=signed or envelope(),
        min_version=0,
        published_at_us=1,
        issued_at=1,
        expires_at=2,
        lifetime_s=1,
        published_by=None,
        message="",
        policy_count=1,
        content_digest=b"c" * 32,
        content_size=3,
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def read(pieces: encoding.Pieces) -> pb.SubscribeResponse:
    data = b"".join(pieces)
    assert len(data) == size_of(pieces)
    return pb.SubscribeResponse.FromString(data)


def expected(record: RevisionRecord, nonce: bytes, content_size: int) -> pb.SubscribeResponse:
    update = pb.BundleUpdate(
        nonce=nonce,
        revision=revision_message(record),
        envelope=envelope_to_proto(record.envelope),
        content_size=content_size,
        original=None if record.original is None else envelope_to_proto(record.original),
    )
    return pb.SubscribeResponse(bundle=update)


@given(size=SIZES, content_size=SIZES, is_rollback=st.booleans())
def test_a_bundle_says_what_its_message_says(size: int, content_size: int, *, is_rollback: bool) -> None:
    record = revision(signed=envelope(size), original=envelope(9) if is_rollback else None)
    made = Bundles().update(record, nonce=NONCE, content_size=content_size)
    assert read(made) == expected(record, NONCE, content_size)


def test_each_stream_gets_its_own_nonce_and_what_is_said_of_the_content() -> None:
    bundles, record = Bundles(), revision()
    for nonce, content_size in ((NONCE, 5), (NONCE[::-1], 0), (b"", 300)):
        made = bundles.update(record, nonce=nonce, content_size=content_size)
        assert read(made) == expected(record, nonce, content_size)


def test_a_revision_that_was_signed_again_goes_out_as_it_is_signed_now() -> None:
    bundles, before = Bundles(), revision()
    bundles.update(before, nonce=NONCE, content_size=0)
    after = replace(before, envelope=envelope(50))
    assert read(bundles.update(after, nonce=NONCE, content_size=0)) == expected(after, NONCE, 0)


def test_what_several_orgs_get_is_encoded_once() -> None:
    bundles, record = Bundles(), revision()
    first, again = (bundles.update(each, nonce=NONCE, content_size=0)[-1] for each in (record, replace(record)))
    assert again is first


def test_no_more_is_kept_than_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MAX_KEPT", 3)
    bundles, records = Bundles(), [revision(bytes([number]) * 32) for number in range(5)]
    for record in records:
        bundles.update(records[0], nonce=NONCE, content_size=0)
        bundles.update(record, nonce=NONCE, content_size=0)
    assert list(bundles._kept) == [records[number].digest for number in (3, 0, 4)]


@given(offset=SIZES, size=SIZES)
def test_a_piece_of_content_says_what_its_message_says(offset: int, size: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    made = chunk(b"c" * 32, offset, memoryview(data))
    assert read(made) == pb.SubscribeResponse(chunk=pb.BlobChunk(digest=b"c" * 32, offset=offset, data=data))


@given(sizes=st.lists(SIZES, min_size=1, max_size=5))
def test_a_batch_has_its_messages_in_their_order(sizes: list[int]) -> None:
    parts = [chunk(b"c" * 32, number, memoryview(bytes(size))) for number, size in enumerate(sizes)]
    assert list(pb.SubscribeResponse.FromString(batch(parts)).batch.messages) == [read(part) for part in parts]
