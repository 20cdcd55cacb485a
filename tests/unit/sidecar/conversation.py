"""What is said on a stream: the messages of documents, right and wrong, and what a host makes of them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from akpolicy.errors import StreamProtocolError
from akpolicy.v1 import distribution_pb2 as pb
from tests.simulators.office import bundle_messages, keep_alive

if TYPE_CHECKING:
    from tests.simulators.host import HostSimulator
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


def foreign_chunk() -> Message:
    return pb.SubscribeResponse(chunk=pb.BlobChunk(digest=b"o" * 32, offset=524288, data=b"x"))


def altered(piece: Message) -> Message:
    """Return a chunk with its last byte changed."""
    result = pb.SubscribeResponse()
    result.CopyFrom(piece)
    result.chunk.data = piece.chunk.data[:-1] + bytes([piece.chunk.data[-1] ^ 1])
    return result


def is_asked_for_again(host: HostSimulator, after: float) -> bool:
    """Let time pass and a sign of life come; return whether a new connection is wanted."""
    host.clock.advance(after)
    try:
        host.hear(keep_alive())
    except StreamProtocolError:
        return True
    return False
