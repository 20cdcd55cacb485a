"""The part of PublishingService that says what hosts enforce: what a test puts there, on a real connection."""

# ruff: noqa: N802 - the names of the protocol
from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from akpolicy.v1 import fleet_pb2, publishing_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

PAGE: Final = 2


@dataclass
class FleetSimulator(publishing_pb2_grpc.PublishingServiceServicer):
    """Tells the statuses one after the other, and the hosts at most two a page."""

    statuses: list[fleet_pb2.FleetStatus] = field(default_factory=list)
    hosts: list[fleet_pb2.HostStatus] = field(default_factory=list)
    asked: list[fleet_pb2.WatchFleetRequest] = field(default_factory=list)

    def GetFleetStatus(
        self, request: fleet_pb2.GetFleetStatusRequest, context: grpc.ServicerContext
    ) -> fleet_pb2.GetFleetStatusResponse:
        """Tell the first status."""
        return fleet_pb2.GetFleetStatusResponse(status=self.statuses[0])

    def WatchFleet(
        self, request: fleet_pb2.WatchFleetRequest, context: grpc.ServicerContext
    ) -> Iterator[fleet_pb2.WatchFleetResponse]:
        """Tell every status."""
        self.asked.append(request)
        for status in self.statuses:
            yield fleet_pb2.WatchFleetResponse(status=status)

    def ListHosts(
        self, request: fleet_pb2.ListHostsRequest, context: grpc.ServicerContext
    ) -> fleet_pb2.ListHostsResponse:
        """List the hosts."""
        start = int(request.page_token or 0)
        end = start + PAGE
        token = str(end) if end < len(self.hosts) else ""
        return fleet_pb2.ListHostsResponse(hosts=self.hosts[start:end], next_page_token=token)
