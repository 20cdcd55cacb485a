"""Messages to hosts as the bytes that go out, of parts that all streams share.

Rules:

- What goes to thousands of hosts is the same but for a nonce. It is encoded once, and each stream puts its nonce beside
  it: protobuf takes the fields of a message in any order.
- Content is not copied until a message goes out: a piece may be a view of it.
- The bytes are those of the messages in `distribution.proto`, whose descriptors say the numbers of fields.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from akpolicy.v1 import distribution_pb2
from akpolicy.wire import envelope_to_proto
from akpolicy_server.api.messages import revision_message

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

    from akpolicy_server.store.revisions import RevisionRecord

    # Of one message, in order.
    Pieces = tuple[bytes | memoryview, ...]

# An envelope has about 5 KiB at the most: some MiB in all.
MAX_KEPT: Final = 1024

_LENGTH_DELIMITED: Final = 2
_WIRE_TYPE_BITS: Final = 3
_VARINT_BITS: Final = 7
_VARINT_MORE: Final = 0x80


def _number(message: Descriptor, field: str) -> int:
    return int(message.fields_by_name[field].number)


_BATCH: Final = _number(distribution_pb2.SubscribeResponse.DESCRIPTOR, "batch")
_BATCHED: Final = _number(distribution_pb2.Batch.DESCRIPTOR, "messages")
_BUNDLE: Final = _number(distribution_pb2.SubscribeResponse.DESCRIPTOR, "bundle")
_CHUNK: Final = _number(distribution_pb2.SubscribeResponse.DESCRIPTOR, "chunk")
_CHUNK_DATA: Final = _number(distribution_pb2.BlobChunk.DESCRIPTOR, "data")


def size_of(pieces: Pieces) -> int:
    """Return how many bytes a message has."""
    return sum(map(len, pieces))


def batch(messages: list[Pieces]) -> bytes:
    """Return a message that has several in it."""
    parts: list[bytes | memoryview] = []
    for message in messages:
        parts.append(_head(_BATCHED, size_of(message)))
        parts.extend(message)
    return b"".join((_head(_BATCH, sum(map(len, parts))), *parts))


def chunk(digest: bytes, offset: int, data: memoryview) -> Pieces:
    """Return a piece of content."""
    fields = distribution_pb2.BlobChunk(digest=digest, offset=offset).SerializeToString() + _head(
        _CHUNK_DATA, len(data)
    )
    return _head(_CHUNK, len(fields) + len(data)), fields, data


class Bundles:
    """The messages of revisions; shared by all streams."""

    def __init__(self) -> None:
        # By what a revision is named by, with the record itself: it may have been signed again.
        self._kept: OrderedDict[bytes, tuple[RevisionRecord, bytes]] = OrderedDict()

    def update(self, revision: RevisionRecord, *, nonce: bytes, content_size: int) -> Pieces:
        """Return the message that a host gets of a revision."""
        shared = self._shared(revision)
        own = distribution_pb2.BundleUpdate(nonce=nonce, content_size=content_size).SerializeToString()
        return _head(_BUNDLE, len(own) + len(shared)), own, shared

    def _shared(self, revision: RevisionRecord) -> bytes:
        kept = self._kept.get(revision.digest)
        # Each org's view has a record of its own for what is `global`.
        if kept is not None and (kept[0] is revision or kept[0] == revision):
            self._kept.move_to_end(revision.digest)
            return kept[1]
        shared = distribution_pb2.BundleUpdate(
            revision=revision_message(revision),
            envelope=envelope_to_proto(revision.envelope),
            original=None if revision.original is None else envelope_to_proto(revision.original),
        ).SerializeToString()
        self._kept[revision.digest] = (revision, shared)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return shared


def _head(number: int, size: int) -> bytes:
    """Return what is before a field of so many bytes."""
    return _varint(number << _WIRE_TYPE_BITS | _LENGTH_DELIMITED) + _varint(size)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= _VARINT_MORE:
        found.append(value & (_VARINT_MORE - 1) | _VARINT_MORE)
        value >>= _VARINT_BITS
    found.append(value)
    return bytes(found)
