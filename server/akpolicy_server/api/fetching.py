"""What a polling host fetches and reports, between messages and the domain.

Rules:

- What is fetched is one view of the org, whole: the roots that the host lacks, each scope whose revision is another
  than the host's, with its content unless the host holds that, then a heartbeat that answers the nonce and names all
  of it.
- A host names what it enforces, or the index that names just that. Nothing more is remembered of a poll, and any server
  of the org can answer the next one: one that does not know the index asks for the names. The nonces of updates are
  only there because hosts take the same messages from streams.
- One piece of content is in memory at a time, and goes out in chunks.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from akpolicy.errors import InvalidField, PermissionDenied
from akpolicy.limits import MAX_CHUNK_BYTES, MAX_JSON_INT
from akpolicy.v1 import distribution_pb2
from akpolicy.wire import envelope_to_proto
from akpolicy_server.api.awaited import HOST_STATE, ROOTS, Sent, read_refusal
from akpolicy_server.api.greeting import (
    NONCE_BYTES,
    read_changes,
    read_scope,
    read_software_version,
)
from akpolicy_server.api.messages import revision_message
from akpolicy_server.api.sent_indexes import index_changes
from akpolicy_server.polling import Poller, PollReport, note_poll, read_interval_ms

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from akpolicy_server.api.greeting import Greeting
    from akpolicy_server.api.subscription import Services
    from akpolicy_server.pulse import SignedHeartbeat
    from akpolicy_server.store.hosts import HostKey, HostNack, HostRevision
    from akpolicy_server.store.revisions import RevisionRecord
    from akpolicy_server.views import OrgView

    Responses = AsyncIterator[distribution_pb2.SubscribeResponse]

# How long a poll waits for the signature of its heartbeat.
SIGNING_PATIENCE_S: Final = 10.0
MAX_REFUSED: Final = 1024

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Holding:
    """What a polling host has. `base`: a view that it enforces exactly; then `names` and `blobs` are that view's."""

    root_version: int
    nonce: bytes
    index_digest: str
    names: Mapping[str, HostRevision]
    blobs: frozenset[bytes]
    base: OrgView | None = None

    @classmethod
    def of(cls, greeting: Greeting, base: OrgView | None) -> Holding:
        """Return what a host said, or meant by the index of `base`."""
        names = {revision.scope: revision for revision in greeting.enforced} if base is None else base.names
        index_digest = greeting.index_digest.hex()
        return cls(greeting.root_version, greeting.nonce, index_digest, names, greeting.held_blobs, base)

    def lacks(self, view: OrgView) -> list[str]:
        """Return the scopes of which the host has another revision than the view, in order."""
        if self.base is not None:
            return sorted(scope for scope in view.names.differences(self.base.names) if scope in view.names)
        return sorted(scope for scope, name in view.names.items() if self.names.get(scope) != name)

    def holds(self, revision: RevisionRecord) -> bool:
        """Whether the host has the content of a revision."""
        before = self.base.revisions.get(revision.scope) if self.base is not None else None
        if before is not None and before.content_digest == revision.content_digest:
            return True
        return revision.content_digest in self.blobs


async def documents(services: Services, view: OrgView, holding: Holding) -> Responses:
    """Yield what a host lacks of a view, then a heartbeat; raise `StoreUnavailable`."""
    newest = view.root.document.version
    for root in await services.catalog.roots_between(view.org, holding.root_version, newest):
        update = distribution_pb2.RootUpdate(
            version=root.version, envelope=envelope_to_proto(root.envelope), nonce=secrets.token_bytes(NONCE_BYTES)
        )
        yield distribution_pb2.SubscribeResponse(root=update)
    for scope in holding.lacks(view):
        revision = view.revisions[scope]
        async for message in _bundle(services, revision, is_held=holding.holds(revision)):
            yield message
    beat = await answered(services, view, holding.nonce)
    if beat is not None:
        heartbeat = distribution_pb2.HeartbeatUpdate(
            nonce=secrets.token_bytes(NONCE_BYTES), envelope=envelope_to_proto(beat.envelope)
        )
        _add_index(heartbeat, view, holding)
        yield distribution_pb2.SubscribeResponse(heartbeat=heartbeat)


async def answered(services: Services, view: OrgView, nonce: bytes) -> SignedHeartbeat | None:
    """Return a heartbeat that answers a nonce; None if none can be signed now, or not soon enough."""
    try:
        async with asyncio.timeout(SIGNING_PATIENCE_S):
            return await services.pulse.fresh(view, nonce)
    except TimeoutError:
        return None


def _add_index(heartbeat: distribution_pb2.HeartbeatUpdate, view: OrgView, holding: Holding) -> None:
    """Let a heartbeat carry what the host needs of its index."""
    if view.index.digest == holding.index_digest:
        return
    changes = index_changes(holding.base.index, view.index) if holding.base is not None else None
    if changes is not None:
        heartbeat.index_changes.CopyFrom(changes)
    else:
        heartbeat.index = view.index.text


async def _bundle(services: Services, revision: RevisionRecord, *, is_held: bool) -> Responses:
    blob = b"" if is_held else await services.catalog.blob(revision.content_digest)
    update = distribution_pb2.BundleUpdate(
        nonce=secrets.token_bytes(NONCE_BYTES),
        revision=revision_message(revision),
        envelope=envelope_to_proto(revision.envelope),
        content_size=len(blob),
        original=None if revision.original is None else envelope_to_proto(revision.original),
    )
    yield distribution_pb2.SubscribeResponse(bundle=update)
    for offset in range(0, len(blob), MAX_CHUNK_BYTES):
        data = blob[offset : offset + MAX_CHUNK_BYTES]
        chunk = distribution_pb2.BlobChunk(digest=revision.content_digest, offset=offset, data=data)
        yield distribution_pb2.SubscribeResponse(chunk=chunk)
    services.metrics.updates_sent.inc()


# --- reports ----------------------------------------------------------------------------------------------------------


def read_poll(request: distribution_pb2.FetchRequest, host: HostKey, greeting: Greeting) -> PollReport:
    """Return what a poll says of its host; raise `InvalidField`."""
    interval_ms = read_interval_ms(request.poll_interval_ms)
    poller = Poller(host, greeting.software_version, greeting.root_version, interval_ms)
    if request.enforces_index:
        if greeting.enforced or greeting.held_blobs or not greeting.index_digest or not greeting.takes_index_changes:
            raise InvalidField(
                "enforces_index goes with index_digest and takes_index_changes, and with nothing enforced"
            )
        # What it enforces was reported.
        return PollReport(poller, {})
    return PollReport(poller, {revision.scope: revision for revision in greeting.enforced}, complete=True)


def read_report(report: distribution_pb2.ReportRequest, host: HostKey) -> PollReport:
    """Return what a host reports; raise `PermissionDenied` or `InvalidField`."""
    if report.org != host.org:
        raise PermissionDenied(f"this API key is of the org `{host.org}`, not of `{report.org[:64]}`; correct `org`")
    if report.root_version > MAX_JSON_INT:
        raise InvalidField(f"root_version is above {MAX_JSON_INT}")
    if len(report.refused) > MAX_REFUSED:
        raise InvalidField(f"refused must have at most {MAX_REFUSED} entries")
    poller = Poller(
        host,
        read_software_version(report.software_version),
        report.root_version,
        read_interval_ms(report.poll_interval_ms),
    )
    refused = tuple(_refusal(entry, host.org) for entry in report.refused)
    return PollReport(poller, read_changes(report, host.org), refused, report.complete)


def take_report(services: Services, report: PollReport) -> None:
    """Note, count and log what a polling host reports. Of roots and the host's state it says all that is wrong."""
    host = report.poller.host
    for refusal in report.refused:
        services.metrics.count_nack(refusal.code)
        log.warning(
            "host refuses an update",
            host_id=host.host_id,
            org=host.org,
            scope=refusal.scope,
            version=refusal.version,
            code=refusal.code,
            detail=refusal.detail,
            policy_id=refusal.policy_id,
        )
    if not report.complete:
        services.metrics.acks.inc(sum(revision is not None for revision in report.changes.values()))
    refused = {refusal.scope for refusal in report.refused}
    cleared = tuple(subject for subject in (ROOTS, HOST_STATE) if subject not in refused)
    note_poll(services.reports, report, cleared=cleared)


def _refusal(entry: distribution_pb2.RefusedUpdate, org: str) -> HostNack:
    scope = entry.scope if entry.scope in (ROOTS, HOST_STATE) else read_scope(entry.scope, org, "refused")
    if max(entry.epoch, entry.version) > MAX_JSON_INT:
        raise InvalidField(f"refused names no revision of `{scope}`")
    return read_refusal(entry, Sent(scope, entry.epoch, entry.version))
