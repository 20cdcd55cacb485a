"""PublishingService: what hosts enforce.

Rules:

- A watcher is told at once, and then whenever the status has changed, looked at every `WATCH_INTERVAL_S`: also what
  hosts report to other servers of the same database is seen so.
- There are at most `MAX_WATCHERS` at once. One whose API key is revoked, or that is there when the server stops, is
  told within an interval.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from grpc import StatusCode

from akpolicy.v1 import bundle_pb2, fleet_pb2
from akpolicy_server.api.call import Ended
from akpolicy_server.api.messages import revision_message, timestamp
from akpolicy_server.api.part import ServicerPart
from akpolicy_server.store.hosts import UpdateMode

if TYPE_CHECKING:
    from akpolicy_server.api.part import Context
    from akpolicy_server.fleet import HostView, ScopeReach, Status
    from akpolicy_server.store.fleet import Lag
    from akpolicy_server.store.hosts import HostNack, HostRevision

WATCH_INTERVAL_S: Final = 0.5
MAX_WATCHERS: Final = 100
MAX_LISTED: Final = 20

_MODES: Final = {
    UpdateMode.STREAM: fleet_pb2.UPDATE_MODE_STREAM,
    UpdateMode.POLL: fleet_pb2.UPDATE_MODE_POLL,
}


class FleetCalls(ServicerPart):
    """Translates between messages and the domain."""

    _watchers = 0

    async def GetFleetStatus(  # noqa: N802 - the protocol's name
        self, request: fleet_pb2.GetFleetStatusRequest, context: Context
    ) -> fleet_pb2.GetFleetStatusResponse:
        """Say how many hosts enforce what."""
        async with self._calls.answer("GetFleetStatus", context) as call:
            caller = await call.authenticate()
            status = await self._threads.database(self._domain.fleet.status, caller, request.org, tuple(request.scopes))
            call.note(org=request.org)
            return fleet_pb2.GetFleetStatusResponse(status=_status_message(status))

    async def WatchFleet(  # type: ignore[override]  # noqa: N802 - it writes, and yields nothing
        self, request: fleet_pb2.WatchFleetRequest, context: Context
    ) -> None:
        """Say the same whenever it has changed."""
        async with self._calls.answer("WatchFleet", context, stream=True) as call:
            caller = await call.authenticate()
            call.note(org=request.org)
            if self._watchers >= MAX_WATCHERS:
                raise Ended(StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHERS} watch already; come back later")
            self._watchers += 1
            try:
                told: Status | None = None
                while not self._domain.is_stopping():
                    status = await self._threads.database(
                        self._domain.fleet.status, caller, request.org, tuple(request.scopes)
                    )
                    if not status.says_the_same_as(told):
                        await context.write(fleet_pb2.WatchFleetResponse(status=_status_message(status)))
                        told = status
                    await asyncio.sleep(WATCH_INTERVAL_S)
                    await call.authenticate()
            finally:
                self._watchers -= 1
            raise Ended(StatusCode.UNAVAILABLE, "the server is shutting down; come back later")

    async def ListHosts(  # noqa: N802 - the protocol's name
        self, request: fleet_pb2.ListHostsRequest, context: Context
    ) -> fleet_pb2.ListHostsResponse:
        """List hosts."""
        async with self._calls.answer("ListHosts", context) as call:
            caller = await call.authenticate()
            page = await self._threads.database(
                self._domain.fleet.hosts,
                caller,
                request.org,
                page_size=request.page_size,
                token=request.page_token,
            )
            call.note(org=request.org, hosts=len(page.hosts))
            return fleet_pb2.ListHostsResponse(
                hosts=[_host_message(host) for host in page.hosts], next_page_token=page.next_token
            )


def _status_message(status: Status) -> fleet_pb2.FleetStatus:
    return fleet_pb2.FleetStatus(
        org=status.org,
        at=timestamp(status.at_us),
        hosts_connected=sum(status.software.values()),
        hosts_gone=status.gone,
        scopes=[_scope_message(scope) for scope in status.scopes],
        software=[
            fleet_pb2.SoftwareCount(software_version=version, hosts=count) for version, count in status.software.items()
        ],
    )


def _scope_message(found: ScopeReach) -> fleet_pb2.ScopeStatus:
    if found.revision is None or found.reach is None:
        return fleet_pb2.ScopeStatus(scope=found.scope)
    return fleet_pb2.ScopeStatus(
        scope=found.scope,
        current=revision_message(found.revision),
        published_at=timestamp(found.revision.published_at_us),
        hosts_current=found.reach.current,
        hosts_behind=found.reach.behind,
        hosts_refusing=found.reach.refusing,
        oldest_version=found.reach.oldest_version,
    )


def _host_message(host: HostView) -> fleet_pb2.HostStatus:
    record = host.record
    return fleet_pb2.HostStatus(
        host_id=record.host.host_id,
        connected=host.connected,
        connected_at=timestamp(record.connected_at_us),
        last_seen_at=timestamp(record.last_seen_at_us),
        update_mode=_MODES[record.update_mode],
        software_version=record.software_version,
        root_version=record.root_version,
        scopes=host.scopes,
        scopes_behind=len(host.lags),
        lag_s=host.lag_s,
        behind=[_lag_message(lag) for lag in host.lags[:MAX_LISTED]],
        refusals=[_refusal_message(nack, at_us) for nack, at_us in host.refusals[:MAX_LISTED]],
    )


def _lag_message(lag: Lag) -> fleet_pb2.ScopeLag:
    return fleet_pb2.ScopeLag(
        wanted=_name_message(lag.wanted),
        published_at=timestamp(lag.published_at_us),
        enforced=None if lag.enforced is None else _name_message(lag.enforced),
        acked_at=None if lag.acked_at_us is None else timestamp(lag.acked_at_us),
    )


def _refusal_message(nack: HostNack, at_us: int) -> fleet_pb2.Refusal:
    return fleet_pb2.Refusal(
        scope=nack.scope,
        epoch=nack.epoch,
        version=nack.version,
        code=nack.code,
        detail=nack.detail,
        policy_id=nack.policy_id,
        reported_at=timestamp(at_us),
    )


def _name_message(revision: HostRevision) -> bundle_pb2.Revision:
    return bundle_pb2.Revision(
        scope=revision.scope, epoch=revision.epoch, version=revision.version, digest=revision.digest
    )
