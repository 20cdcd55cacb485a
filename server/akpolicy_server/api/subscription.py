"""One host's stream: what it is sent, and what it answers.

Rules:

- Each round sends one view of the org, whole: the roots that the host lacks, then each scope whose revision is another
  than the host's, with its content unless the host holds that, then the heartbeat that names all of it. KeepAlive goes
  out only when nothing was left to send. Whenever something may be new, the next round begins.
- The first heartbeat answers the nonce of Hello. Further ones go out with each change and at a third of their lives,
  and only later ones than the last. The index comes along unless the host has it (`sent_indexes`). If a signature takes
  its time, the stream goes on without.
- What belongs to a round goes out as few messages (`outbox`).
- What a round looks at is what changed since the view of the last one, not all that there is.
- What was sent is not sent again on this stream, whatever becomes of it: a refusal would only be repeated. After a
  refused root no further one is sent.
- A host that answers nothing gets `MAX_UNANSWERED` updates and then no more, and no KeepAlive either (`awaited`).
- After the first round a host is taken to hold only the content that it acknowledged last for the scope: it may have
  swept the rest.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from akpolicy.errors import InvalidField, StreamProtocolError
from akpolicy.limits import MAX_CHUNK_BYTES
from akpolicy.persistent import PersistentMap
from akpolicy.v1 import distribution_pb2
from akpolicy.wire import envelope_to_proto
from akpolicy_server.api.awaited import HOST_STATE, ROOTS, Awaited, Sent, read_refusal, read_root_version
from akpolicy_server.api.encoding import Bundles, chunk
from akpolicy_server.api.first_view import first_view
from akpolicy_server.api.greeting import MAX_ENFORCED, Greeting, read_changes
from akpolicy_server.api.outbox import Outbox
from akpolicy_server.api.sent_indexes import SentIndexes
from akpolicy_server.store.hosts import HostNack, HostRecord
from akpolicy_server.times import MICROSECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from akpolicy_server.api.outbox import Write
    from akpolicy_server.catalog import Catalog
    from akpolicy_server.fanout import Subscriber
    from akpolicy_server.metrics import ServerMetrics
    from akpolicy_server.pulse import Moment, Pulse, SignedHeartbeat
    from akpolicy_server.reports import HostReports
    from akpolicy_server.store.hosts import HostRevision
    from akpolicy_server.store.revisions import RevisionRecord
    from akpolicy_server.views import OrgView

MILLISECONDS: Final = 1000
# Heartbeats have whole seconds: sooner than that there is no later one.
HEARTBEAT_PAUSE_S: Final = 1.0
# How long a KeepAlive waits for a signature, and how long the bundles do that could go out together with it.
SIGNING_PATIENCE_S: Final = 1.0
BATCH_PATIENCE_S: Final = 0.05

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """What every subscription of a server shares. `keep_alive_s` is in seconds.

    `spread_s` returns over how many seconds hosts are to spread their return if this server is gone.
    """

    catalog: Catalog
    pulse: Pulse
    reports: HostReports
    metrics: ServerMetrics
    keep_alive_s: float
    spread_s: Callable[[], float]
    bundles: Bundles = field(default_factory=Bundles)


class Subscription:
    """A stream after its Hello. `talk` sends what there is; `hear` takes each answer; both on the event loop.

    There are thousands of these, idle nearly always. So there are slots, and nothing is kept that is not used again.
    """

    __slots__ = (
        "_acknowledged",
        "_awaited",
        "_beat",
        "_beat_due",
        "_begins",
        "_connected_at_us",
        "_enforced",
        "_greeting",
        "_held",
        "_indexes",
        "_left",
        "_looked_at",
        "_org",
        "_outbox",
        "_sent",
        "_sent_root",
        "_services",
        "_signing",
        "_signing_seq",
        "_software_version",
        "_subscriber",
        "_takes_roots",
        "_trusted_root",
    )

    def __init__(self, services: Services, subscriber: Subscriber, greeting: Greeting, write: Write) -> None:
        self._services = services
        self._subscriber = subscriber
        self._org = subscriber.host.org
        # Hosts of a fleet have few versions.
        self._software_version = sys.intern(greeting.software_version)
        # Until the first heartbeat answered it.
        self._greeting: Greeting | None = greeting
        self._outbox = Outbox(write, takes_batches=greeting.takes_batches)
        self._begins = True
        self._awaited = Awaited()
        self._sent = {revision.scope: revision for revision in greeting.enforced}
        self._enforced = set(self._sent)
        # The names in the view that was looked at last, and the scopes of which it is left to send.
        self._looked_at: PersistentMap[HostRevision, None] = PersistentMap()
        self._left: list[str] = []
        self._sent_root = self._trusted_root = greeting.root_version
        self._takes_roots = True
        # What Hello says that the host holds; None once it is what `_acknowledged` says.
        self._held: frozenset[bytes] | None = greeting.held_blobs
        self._acknowledged: dict[str, bytes] = {}
        self._beat: Moment | None = None
        self._beat_due = 0.0
        self._signing: asyncio.Future[SignedHeartbeat | None] | None = None
        self._signing_seq = 0
        self._indexes = SentIndexes(greeting)
        self._connected_at_us = services.reports.now_us()
        # Whatever was wrong with this host before, it would say it again.
        self.note(self._sent, is_all=True, accepted=(HOST_STATE,))

    def note(
        self,
        changes: Mapping[str, HostRevision | None],
        *,
        is_all: bool = False,
        accepted: tuple[str, ...] = (),
        refused: HostNack | None = None,
        left: bool = False,
    ) -> None:
        """Report that the host is there (or `left`), and what is different of what it enforces, or all of it."""
        now_us = self._services.reports.now_us()
        record = HostRecord(
            host=self._subscriber.host,
            software_version=self._software_version,
            root_version=self._trusted_root,
            connected_at_us=self._connected_at_us,
            last_seen_at_us=now_us,
            disconnected_at_us=now_us if left else None,
        )
        self._services.reports.note(record, changes, is_all=is_all, accepted=accepted, refused=refused)

    # --- sending ------------------------------------------------------------------------------------------------------

    async def talk(self) -> float:
        """Send what the host lacks; return after how many seconds there is more to send, if no news come before."""
        while True:
            self._subscriber.take_news()
            view = await self._view()
            nothing_left = await self._send_roots(view) and await self._send_changes(view)
            if nothing_left:
                await self._send_heartbeat(view)
            if self._subscriber.take_news():
                self._subscriber.wake()
            elif nothing_left:
                self._held = None
                await self._send_keep_alive()
            await self._outbox.flush()
            if not self._subscriber.has_news:
                return self._pause()

    def end(self, *, left: bool) -> None:
        """Note that nothing more is sent or heard; `left`: the host is not expected back at once."""
        self._stop_signing()
        self.note({}, left=left)

    async def _view(self) -> OrgView:
        if self._begins and self._greeting is not None:
            self._begins = False
            return await first_view(self._services.catalog, self._org, self._greeting)
        return await self._services.catalog.view(self._org)

    async def _send_roots(self, view: OrgView) -> bool:
        """Send the roots up to the view's; return whether nothing is held back."""
        if not self._takes_roots:
            return True
        newest = view.root.document.version
        for root in await self._services.catalog.roots_between(self._org, self._sent_root, newest):
            if self._awaited.is_full:
                return False
            update = distribution_pb2.RootUpdate(
                version=root.version, envelope=envelope_to_proto(root.envelope), nonce=self._awaited.add_root(root)
            )
            self._sent_root = root.version
            await self._outbox.add(distribution_pb2.SubscribeResponse(root=update).SerializeToString())
        return True

    async def _send_changes(self, view: OrgView) -> bool:
        """Send every scope that changed; return whether nothing is held back."""
        if view.names is not self._looked_at:
            self._left = self._unsent(view.names)
            self._looked_at = view.names
        if not self._left:
            return True
        held = self._held if self._held is not None else frozenset(self._acknowledged.values())
        while self._left:
            if self._awaited.is_full:
                return False
            scope = self._left.pop()
            await self._send_bundle(view.revisions[scope], view.names[scope], held)
        return True

    def _unsent(self, names: PersistentMap[HostRevision, None]) -> list[str]:
        """Return the scopes whose revision was not sent, in their order, the first one last."""
        scopes = {*self._left, *names.differences(self._looked_at)}
        return sorted(
            (scope for scope in scopes if (name := names.get(scope)) is not None and name != self._sent.get(scope)),
            reverse=True,
        )

    async def _send_bundle(self, revision: RevisionRecord, name: HostRevision, held: frozenset[bytes]) -> None:
        is_held = revision.content_digest in held
        blob = b"" if is_held else await self._services.catalog.blob(revision.content_digest)
        self._sent[revision.scope] = name
        self._subscriber.lacking.setdefault(revision.scope, asyncio.get_running_loop().time())
        nonce = self._awaited.add_bundle(revision)
        await self._outbox.add(*self._services.bundles.update(revision, nonce=nonce, content_size=len(blob)))
        for offset in range(0, len(blob), MAX_CHUNK_BYTES):
            data = memoryview(blob)[offset : offset + MAX_CHUNK_BYTES]
            await self._outbox.add(*chunk(revision.content_digest, offset, data))
        self._services.metrics.updates_sent.inc()

    async def _send_heartbeat(self, view: OrgView) -> None:
        """Send a heartbeat for a view that was sent, if it is time for one."""
        now = asyncio.get_running_loop().time()
        if self._beat is not None and self._beat.seq == view.seq and now < self._beat_due:
            return
        beat = await self._signed(view)
        if beat is None:
            return
        if not beat.is_later(self._beat):
            self._beat_due = now + min(HEARTBEAT_PAUSE_S, self._services.pulse.interval_s)
            return
        self._beat, self._beat_due = beat.moment, now + self._services.pulse.interval_s
        self._greeting = None
        update = distribution_pb2.HeartbeatUpdate(
            nonce=self._awaited.add_heartbeat(), envelope=envelope_to_proto(beat.envelope)
        )
        self._indexes.add_to(update, view.index)
        await self._outbox.add(distribution_pb2.SubscribeResponse(heartbeat=update).SerializeToString())

    async def _signed(self, view: OrgView) -> SignedHeartbeat | None:
        """Return the next heartbeat for a view; None if there is none, or none yet: then its end is news."""
        patience_s = 0.0
        if self._signing is None or self._signing_seq != view.seq:
            self._stop_signing()
            pulse = self._services.pulse
            hello = self._greeting
            self._signing = pulse.shared(view) if hello is None else pulse.fresh(view, hello.nonce)
            self._signing_seq = view.seq
            patience_s = min(self._services.keep_alive_s, SIGNING_PATIENCE_S)
        signing = self._signing
        if patience_s and await self._is_late(signing, patience_s):
            signing.add_done_callback(lambda _: self._subscriber.wake())
        if not signing.done():
            return None
        self._signing = None
        return signing.result()

    async def _is_late(self, signing: asyncio.Future[SignedHeartbeat | None], patience_s: float) -> bool:
        """Wait for a signature, and let what is to go before it not wait for long; return whether it does not come."""
        for wait_s in (min(patience_s, BATCH_PATIENCE_S), patience_s):
            if signing.done():
                return False
            await asyncio.wait([signing], timeout=wait_s)
            if not signing.done():
                await self._outbox.flush()
        return not signing.done()

    def _stop_signing(self) -> None:
        if self._signing is not None:
            self._signing.cancel()

    async def _send_keep_alive(self) -> None:
        interval_ms = int(self._services.keep_alive_s * MILLISECONDS)
        spread_ms = int(self._services.spread_s() * MILLISECONDS)
        keep_alive = distribution_pb2.KeepAlive(interval_ms=interval_ms, spread_ms=spread_ms)
        await self._outbox.add(distribution_pb2.SubscribeResponse(keep_alive=keep_alive).SerializeToString())

    def _pause(self) -> float:
        """Return how long to wait for news: until the next keep-alive, or the next heartbeat."""
        until_due = self._beat_due - asyncio.get_running_loop().time()
        keep_alive_s = self._services.keep_alive_s
        return min(keep_alive_s, until_due) if until_due > 0 else keep_alive_s

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
        was_full = self._awaited.is_full
        sent = self._awaited.accepted(ack.nonce)
        changes = self._take_state(ack)
        if sent.content is not None:
            self._acknowledged[sent.scope] = sent.content
            self._took_effect(sent)
        self._services.metrics.acks.inc()
        self.note(changes, accepted=(sent.scope, HOST_STATE))
        self._make_room(was_full)

    def _took_effect(self, sent: Sent) -> None:
        """Note how long it took, if the host was there when it was published, and that it lacks this no more."""
        newest = self._sent.get(sent.scope)
        if newest is not None and (newest.epoch, newest.version) == (sent.epoch, sent.version):
            self._subscriber.enforces(sent.scope)
        if sent.published_at_us >= self._connected_at_us:
            took_us = self._services.reports.now_us() - sent.published_at_us
            self._services.metrics.propagation.observe(max(0, took_us) / MICROSECONDS)

    def _hear_nack(self, nack: distribution_pb2.Nack) -> None:
        was_full = self._awaited.is_full
        sent = self._awaited.refused(nack.nonce)
        refusal = read_refusal(nack, sent)
        changes = self._take_state(nack)
        if sent.scope == ROOTS:
            self._takes_roots = False
        if sent.scope == HOST_STATE:
            # It may have been the index that it could not take.
            self._indexes.forget()
        self._services.metrics.count_nack(nack.code)
        log.warning(
            "host refuses an update" if nack.nonce else "host reports a problem",
            host_id=self._subscriber.host.host_id,
            org=self._org,
            scope=refusal.scope,
            version=refusal.version,
            code=refusal.code,
            detail=refusal.detail,
            policy_id=refusal.policy_id,
        )
        self.note(changes, refused=refusal)
        self._make_room(was_full)

    def _take_state(self, answer: distribution_pb2.Ack | distribution_pb2.Nack) -> dict[str, HostRevision | None]:
        """Take what an answer says of what is enforced; return what is different by now, None for what ended."""
        changes = read_changes(answer, self._org)
        for scope, revision in changes.items():
            if revision is None:
                self._enforced.discard(scope)
            else:
                self._enforced.add(scope)
        if len(self._enforced) > MAX_ENFORCED:
            raise InvalidField(f"more than {MAX_ENFORCED} scopes are said to be enforced")
        self._trusted_root = read_root_version(answer.root_version, self._trusted_root)
        return changes

    def _make_room(self, was_full: bool) -> None:
        if was_full and not self._awaited.is_full:
            # An update may have been held back.
            self._subscriber.wake()
