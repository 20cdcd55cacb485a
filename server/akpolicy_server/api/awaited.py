"""What was sent over a stream and may be answered.

Rules:

- Roots and bundles wait for an answer each, at most `MAX_UNANSWERED` of them together. Heartbeats wait for none, but
  each of the last `MAX_HEARTBEATS` may be refused.
- An answer must name one of these, once. A refusal without a nonce is about the host and not about an update.
"""

from __future__ import annotations

import secrets
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from akpolicy.errors import InvalidField, StreamProtocolError
from akpolicy.limits import MAX_JSON_INT
from akpolicy_server.api.greeting import NONCE_BYTES
from akpolicy_server.store.hosts import HostNack

if TYPE_CHECKING:
    from akpolicy.v1 import distribution_pb2
    from akpolicy_server.store.revisions import RevisionRecord
    from akpolicy_server.store.roots import RootRecord

MAX_UNANSWERED: Final = 16
MAX_HEARTBEATS: Final = 16
COUNTER_BYTES: Final = 8
MAX_CODE_CHARS: Final = 64
MAX_DETAIL_CHARS: Final = 1000
MAX_POLICY_ID_CHARS: Final = 128

# Under which name a refusal is kept that is not about a scope.
ROOTS: Final = "root"
HOST_STATE: Final = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """An update that was sent; `content` is the digest of a bundle's content, None for a root or a heartbeat.

    `published_at_us` is 0 where it does not matter.
    """

    scope: str
    epoch: int = 0
    version: int = 0
    content: bytes | None = None
    published_at_us: int = 0


class Awaited:
    """The updates of one stream that may still be answered."""

    __slots__ = ("_count", "_heartbeats", "_prefix", "_unanswered")

    def __init__(self) -> None:
        # A nonce names an update of this stream, and proves nothing: a random beginning tells streams apart, a number
        # goes on. Random bytes for each of thousands of messages are a tenth of what a broadcast costs.
        self._prefix = secrets.token_bytes(NONCE_BYTES - COUNTER_BYTES)
        self._count = 0
        self._unanswered: dict[bytes, Sent] = {}
        # The numbers of their nonces, oldest first. A deque would have room for 64 in each of thousands of streams, and
        # a list of nonces would be a KB.
        self._heartbeats = array("Q")

    @property
    def is_full(self) -> bool:
        """Whether nothing more may be sent before something is answered."""
        return len(self._unanswered) >= MAX_UNANSWERED

    def add_root(self, root: RootRecord) -> bytes:
        """Return the nonce of a root that goes out."""
        return self._add(Sent(ROOTS, version=root.version))

    def add_bundle(self, revision: RevisionRecord) -> bytes:
        """Return the nonce of a bundle that goes out."""
        return self._add(
            Sent(revision.scope, revision.epoch, revision.version, revision.content_digest, revision.published_at_us)
        )

    def add_heartbeat(self) -> bytes:
        """Return the nonce of a heartbeat that goes out."""
        nonce = self._next_nonce()
        self._heartbeats.append(self._count)
        del self._heartbeats[:-MAX_HEARTBEATS]
        return nonce

    def accepted(self, nonce: bytes) -> Sent:
        """Return what an Ack is about; raise `StreamProtocolError`."""
        if nonce not in self._unanswered:
            raise StreamProtocolError("the nonce names no update of this stream that waits for an answer")
        sent = self._unanswered.pop(nonce)
        if not self._unanswered:
            # A dictionary keeps the room that it once took.
            self._unanswered = {}
        return sent

    def refused(self, nonce: bytes) -> Sent:
        """Return what a Nack is about; raise `StreamProtocolError`."""
        if not nonce:
            return Sent(HOST_STATE)
        number = int.from_bytes(nonce[-COUNTER_BYTES:])
        if nonce == self._nonce(number) and number in self._heartbeats:
            self._heartbeats.remove(number)
            return Sent(HOST_STATE)
        return self.accepted(nonce)

    def _next_nonce(self) -> bytes:
        self._count += 1
        return self._nonce(self._count)

    def _nonce(self, number: int) -> bytes:
        return self._prefix + number.to_bytes(COUNTER_BYTES)

    def _add(self, sent: Sent) -> bytes:
        nonce = self._next_nonce()
        self._unanswered[nonce] = sent
        return nonce


def read_refusal(nack: distribution_pb2.Nack | distribution_pb2.RefusedUpdate, sent: Sent) -> HostNack:
    """Return a refusal within its bounds; raise `InvalidField`."""
    if not 0 < len(nack.code) <= MAX_CODE_CHARS or not (nack.code.isascii() and nack.code.isalnum()):
        raise InvalidField(f"code must be 1 to {MAX_CODE_CHARS} ASCII letters and digits")
    if len(nack.policy_id) > MAX_POLICY_ID_CHARS or not nack.policy_id.isprintable():
        raise InvalidField(f"policy_id must be at most {MAX_POLICY_ID_CHARS} printable characters")
    detail = nack.detail[:MAX_DETAIL_CHARS].replace("\0", "")
    return HostNack(sent.scope, sent.epoch, sent.version, nack.code, detail, nack.policy_id)


def read_root_version(version: int, before: int) -> int:
    """Return the newest root that a host says it trusts (0: it does not say, so as before); raise `InvalidField`."""
    if version > MAX_JSON_INT:
        raise InvalidField(f"root_version is above {MAX_JSON_INT}")
    return version or before
