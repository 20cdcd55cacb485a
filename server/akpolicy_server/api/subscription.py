"""One host's stream: what it is sent, and what it answers.

Rules:

- The host lacks what its Hello does not name. First the roots, then each scope whose current revision is another than
  the host's, with its content unless the host holds that; then KeepAlive. Whenever something may be new, the scopes are
  looked at again; KeepAlive goes out only when nothing was left to send.
- What was sent is not sent again on this stream, whatever becomes of it: a refusal would only be repeated.
- At most `MAX_UNANSWERED` updates wait for an answer; a host that never answers gets no more, and no KeepAlive either.
- After the first round a host is taken to hold only the content that it acknowledged last for the scope: it may have
  swept the rest.
- An answer must name an update of this stream that was not answered yet.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from akpolicy.errors import InvalidField, StreamProtocolError
from akpolicy.limits import MAX_CHUNK_BYTES
from akpolicy.scope import GLOBAL, org_scope
from akpolicy.v1 import distribution_pb2
from akpolicy.wire import envelope_to_proto
from akpolicy_server.api.greeting import NONCE_BYTES, Greeting, read_enforced
from akpolicy_server.api.messages import revision_message
from akpolicy_server.store.hosts import HostNack, HostRecord, HostRevision

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from akpolicy.v1 import bundle_pb2
    from akpolicy_server.catalog import Catalog
    from akpolicy_server.fanout import Subscriber
    from akpolicy_server.metrics import ServerMetrics
    from akpolicy_server.reports import HostReports
    from akpolicy_server.store.revisions import RevisionRecord

    Write = Callable[[distribution_pb2.SubscribeResponse], Awaitable[None]]

MAX_UNANSWERED: Final = 16
MAX_CODE_CHARS: Final = 64
MAX_DETAIL_CHARS: Final = 1000
MAX_POLICY_ID_CHARS: Final = 128
MILLISECONDS: Final = 1000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """What every subscription of a server shares. `keep_alive_s` is in seconds."""

    catalog: Catalog
    reports: HostReports
    metrics: ServerMetrics
    keep_alive_s: float


class Subscription:
    """A stream after its Hello. `talk` sends until cancelled; `hear` takes each answer; both on the event loop."""

    def __init__(self, services: Services, subscriber: Subscriber, greeting: Greeting, write: Write) -> None:
        self._services = services
        self._subscriber = subscriber
        self._greeting = greeting
        self._write = write
        self._scopes = (GLOBAL, org_scope(subscriber.host.org))
        self._sent = {revision.scope: revision for revision in greeting.enforced}
        self._unanswered: dict[bytes, RevisionRecord] = {}
        self._held: frozenset[bytes] | set[bytes] = greeting.held_blobs
        self._acknowledged: dict[str, bytes] = {}
        self._connected_at_us = services.reports.now_us()
        self._enforced = greeting.enforced
        self.note()

    def note(self, *, accepted: str | None = None, refused: HostNack | None = None) -> None:
        """Report that the host is there, and what it enforces."""
        record = HostRecord(
            host=self._subscriber.host,
            software_version=self._greeting.software_version,
            root_version=self._greeting.root_version,
            connected_at_us=self._connected_at_us,
            last_seen_at_us=self._services.reports.now_us(),
        )
        self._services.reports.note(record, self._enforced, accepted=accepted, refused=refused)

    # --- sending ------------------------------------------------------------------------------------------------------

    async def talk(self) -> None:
        """Send what the host lacks, and whatever comes, until cancelled."""
        await self._send_roots()
        while True:
            self._subscriber.take_news()
            nothing_left = await self._send_changes()
            if self._subscriber.take_news():
                self._subscriber.wake()
                continue
            if nothing_left:
                self._held = set(self._acknowledged.values())
                await self._send_keep_alive()
            await self._subscriber.wait_for_news(self._services.keep_alive_s)

    async def _send_roots(self) -> None:
        for root in await self._services.catalog.roots_after(self._subscriber.host.org, self._greeting.root_version):
            update = distribution_pb2.RootUpdate(version=root.version, envelope=envelope_to_proto(root.envelope))
            await self._write(distribution_pb2.SubscribeResponse(root=update))

    async def _send_changes(self) -> bool:
        """Send every scope that changed; return whether nothing is held back."""
        for scope in self._scopes:
            revision = await self._services.catalog.current(scope)
            if revision is None or _name_of(revision) == self._sent.get(scope):
                continue
            if len(self._unanswered) >= MAX_UNANSWERED:
                return False
            await self._send_bundle(revision)
        return True

    async def _send_bundle(self, revision: RevisionRecord) -> None:
        is_held = revision.content_digest in self._held
        blob = b"" if is_held else await self._services.catalog.blob(revision.content_digest)
        nonce = secrets.token_bytes(NONCE_BYTES)
        self._unanswered[nonce] = revision
        self._sent[revision.scope] = _name_of(revision)
        update = distribution_pb2.BundleUpdate(
            nonce=nonce,
            revision=revision_message(revision),
            envelope=envelope_to_proto(revision.envelope),
            content_size=len(blob),
        )
        await self._write(distribution_pb2.SubscribeResponse(bundle=update))
        for offset in range(0, len(blob), MAX_CHUNK_BYTES):
            data = blob[offset : offset + MAX_CHUNK_BYTES]
            chunk = distribution_pb2.BlobChunk(digest=revision.content_digest, offset=offset, data=data)
            await self._write(distribution_pb2.SubscribeResponse(chunk=chunk))
        self._services.metrics.updates_sent.inc()

    async def _send_keep_alive(self) -> None:
        interval_ms = int(self._services.keep_alive_s * MILLISECONDS)
        keep_alive = distribution_pb2.KeepAlive(interval_ms=interval_ms)
        await self._write(distribution_pb2.SubscribeResponse(keep_alive=keep_alive))

    # --- hearing ------------------------------------------------------------------------------------------------------

    def hear(self, message: distribution_pb2.SubscribeRequest) -> None:
        """Take an answer; raise `StreamProtocolError` or `InvalidField`."""
        kind = message.WhichOneof("message")
        if kind == "ack":
            self._hear_ack(message.ack)
        elif kind == "nack":
            self._hear_nack(message.nack)
        else:
            raise StreamProtocolError("after Hello only Ack and Nack may come")

    def _hear_ack(self, ack: distribution_pb2.Ack) -> None:
        revision = self._answered(ack.nonce, ack.enforced)
        self._acknowledged[revision.scope] = revision.content_digest
        self._services.metrics.acks.inc()
        self.note(accepted=revision.scope)

    def _hear_nack(self, nack: distribution_pb2.Nack) -> None:
        if not 0 < len(nack.code) <= MAX_CODE_CHARS or not (nack.code.isascii() and nack.code.isalnum()):
            raise InvalidField(f"code must be 1 to {MAX_CODE_CHARS} ASCII letters and digits")
        if len(nack.policy_id) > MAX_POLICY_ID_CHARS or not nack.policy_id.isprintable():
            raise InvalidField(f"policy_id must be at most {MAX_POLICY_ID_CHARS} printable characters")
        revision = self._answered(nack.nonce, nack.enforced)
        self._services.metrics.count_nack(nack.code)
        detail = nack.detail[:MAX_DETAIL_CHARS].replace("\0", "")
        host = self._subscriber.host
        log.warning(
            "host refuses an update",
            host_id=host.host_id,
            org=host.org,
            scope=revision.scope,
            version=revision.version,
            code=nack.code,
            detail=detail,
            policy_id=nack.policy_id,
        )
        self.note(refused=HostNack(revision.scope, revision.epoch, revision.version, nack.code, detail, nack.policy_id))

    def _answered(self, nonce: bytes, enforced: Iterable[bundle_pb2.Revision]) -> RevisionRecord:
        if nonce not in self._unanswered:
            raise StreamProtocolError("the nonce names no update of this stream that waits for an answer")
        self._enforced = read_enforced(enforced, self._subscriber.host.org)
        if len(self._unanswered) == MAX_UNANSWERED:
            # An update may have been held back.
            self._subscriber.wake()
        return self._unanswered.pop(nonce)


def _name_of(revision: RevisionRecord) -> HostRevision:
    return HostRevision(revision.scope, revision.epoch, revision.version, revision.digest)
