"""The calls of DistributionService that polling hosts make. The contract is in `distribution.proto`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from akpolicy.errors import InvalidField
from akpolicy.v1 import distribution_pb2, distribution_pb2_grpc
from akpolicy_server.access import require_host
from akpolicy_server.api.awaited import HOST_STATE
from akpolicy_server.api.ends import end_of, until_one_ends
from akpolicy_server.api.fetching import Holding, documents, read_poll, read_report, take_report
from akpolicy_server.api.greeting import read_greeting
from akpolicy_server.polling import note_poll
from akpolicy_server.recent import RecentViews
from akpolicy_server.store.hosts import HostKey

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from akpolicy_server.api.call import Calls
    from akpolicy_server.api.greeting import Greeting
    from akpolicy_server.api.subscription import Services
    from akpolicy_server.fanout import Fanout

    FetchContext = ServicerContext[distribution_pb2.FetchRequest, distribution_pb2.FetchResponse]


class PollingPart(distribution_pb2_grpc.DistributionServiceServicer):
    """Fetch and Report. A poll counts among the streams of its host while it is answered."""

    def __init__(self, calls: Calls, fanout: Fanout, services: Services) -> None:
        self._calls = calls
        self._fanout = fanout
        self._services = services
        self._recent = RecentViews()

    async def Fetch(  # type: ignore[override]  # noqa: N802 - it writes, and yields nothing
        self, request: distribution_pb2.FetchRequest, context: FetchContext
    ) -> None:
        """Send what a host lacks."""
        async with self._calls.answer("Fetch", context, stream=True, routine=True) as call:
            org, host_id = require_host(caller := await call.authenticate())
            call.note(org=org, host_id=host_id)
            if not request.HasField("hello"):
                raise InvalidField("hello is missing; say what the host has")
            host, greeting = HostKey(org, host_id), read_greeting(request.hello, org)
            report = read_poll(request, host, greeting)
            with self._fanout.joined(host, caller.key_id, caller.expires_at) as subscriber:
                # Again, now that a revocation would reach this call: none falls in between.
                await call.authenticate()
                await context.send_initial_metadata(())
                note_poll(self._services.reports, report, cleared=(HOST_STATE,))
                sending = self._send(org, greeting, context, by_index=request.enforces_index)
                await until_one_ends(end_of(self._fanout, subscriber, self._services.metrics), sending)

    async def _send(self, org: str, greeting: Greeting, context: FetchContext, *, by_index: bool) -> None:
        base = self._recent.find(org, greeting.index_digest.hex()) if by_index else None
        if by_index and base is None:
            await context.write(distribution_pb2.FetchResponse(index_unknown=True))
            return
        view = await self._services.catalog.view(org)
        async for message in documents(self._services, view, Holding.of(greeting, base)):
            await context.write(distribution_pb2.FetchResponse(update=message))
        self._recent.note(view)

    async def Report(  # noqa: N802
        self, request: distribution_pb2.ReportRequest, context: ServicerContext[Any, Any]
    ) -> distribution_pb2.ReportResponse:
        """Take what a host made of what it fetched."""
        async with self._calls.answer("Report", context, routine=True) as call:
            org, host_id = require_host(await call.authenticate())
            call.note(org=org, host_id=host_id)
            report = read_report(request, HostKey(org, host_id))
            take_report(self._services, report)
            return distribution_pb2.ReportResponse()
