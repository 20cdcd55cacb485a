"""The operators' client: what an org's hosts enforce."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc

from akpolicy.client.fleet_types import FleetStatus, HostStatus
from akpolicy.client.publishing_call import ServerCalls
from akpolicy.v1 import fleet_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HOSTS_A_PAGE: Final = 200


class FleetCalls(ServerCalls):
    """Calls about an org's hosts."""

    def fleet_status(self, org: str, scopes: Sequence[str] = ()) -> FleetStatus:
        """Return how many hosts enforce what; without scopes of `global` and the org's own."""
        request = fleet_pb2.GetFleetStatusRequest(org=org, scopes=scopes)
        with self._call():
            return FleetStatus.from_proto(self._stub.GetFleetStatus(request, **self._terms).status)

    def watch_fleet(self, org: str, scopes: Sequence[str] = (), *, timeout: float) -> Iterator[FleetStatus]:
        """Yield the status, and again whenever it has changed; end after `timeout` seconds."""
        request = fleet_pb2.WatchFleetRequest(org=org, scopes=scopes)
        with self._call():
            try:
                for answer in self._stub.WatchFleet(request, metadata=self._metadata, timeout=timeout):
                    yield FleetStatus.from_proto(answer.status)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise

    def hosts(self, org: str) -> Iterator[HostStatus]:
        """Yield an org's hosts by id."""
        token = ""
        while True:
            request = fleet_pb2.ListHostsRequest(org=org, page_size=HOSTS_A_PAGE, page_token=token)
            with self._call():
                page = self._stub.ListHosts(request, **self._terms)
            yield from map(HostStatus.from_proto, page.hosts)
            token = page.next_page_token
            if not token:
                return
