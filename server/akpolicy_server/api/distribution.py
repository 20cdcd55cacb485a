"""DistributionService: how policy reaches hosts. The contract is in `distribution.proto`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from akpolicy.errors import StreamProtocolError
from akpolicy_server.access import require_host
from akpolicy_server.api.ends import end_of, until_one_ends
from akpolicy_server.api.greeting import Greeting, read_greeting
from akpolicy_server.api.polling_calls import PollingPart
from akpolicy_server.api.subscription import Subscription
from akpolicy_server.fanout import End
from akpolicy_server.store.hosts import HostKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from grpc.aio import ServicerContext

    from akpolicy.v1 import distribution_pb2
    from akpolicy_server.fanout import Subscriber

    Requests = AsyncIterator[distribution_pb2.SubscribeRequest]
    Context = ServicerContext[distribution_pb2.SubscribeRequest, distribution_pb2.SubscribeResponse]

HELLO_TIMEOUT_S: Final = 10

log = structlog.get_logger(__name__)


class DistributionServicer(PollingPart):
    """Opens and ends streams; `Subscription` says what goes over them."""

    async def Subscribe(  # type: ignore[override]  # noqa: N802 - it writes, and yields nothing
        self, request_iterator: Requests, context: Context
    ) -> None:
        """Stream an org's documents to one host."""
        async with self._calls.answer("Subscribe", context, stream=True) as call:
            org, host_id = require_host(caller := await call.authenticate())
            call.note(org=org, host_id=host_id)
            with self._fanout.joined(HostKey(org, host_id), caller.key_id, caller.expires_at) as subscriber:
                # Again, now that a revocation would reach this stream: none falls in between.
                await call.authenticate()
                greeting = await _read_hello(request_iterator, org)
                call.note(software_version=greeting.software_version)
                log.info("stream opened", **call.notes)
                # By themselves, and now: grpc.aio sends them with the first message, and when that write is cancelled
                # half way (the stream ends), it sends them again with the status and the call hangs.
                await context.send_initial_metadata(())
                await self._serve(subscriber, greeting, request_iterator, context)

    async def _serve(self, subscriber: Subscriber, greeting: Greeting, requests: Requests, context: Context) -> None:
        """Serve the stream until the host closes it or something is wrong."""
        subscription = Subscription(self._services, subscriber, greeting, context.write)
        self._services.metrics.subscribers.inc()
        parts = (
            end_of(self._fanout, subscriber, self._services.metrics),
            _hear(subscription, requests),
            subscription.talk(),
        )
        try:
            await until_one_ends(*parts)
        finally:
            self._services.metrics.subscribers.dec()
            # A host that is asked to come back at once has not left: if it does not come, it is missed soon enough.
            subscription.note({}, left=subscriber.end is not End.OLD)


async def _read_hello(requests: Requests, org: str) -> Greeting:
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            first = await anext(requests, None)
    except TimeoutError:
        raise StreamProtocolError(f"no Hello within {HELLO_TIMEOUT_S} seconds") from None
    if first is None or first.WhichOneof("message") != "hello":
        raise StreamProtocolError("the first message must be Hello")
    return read_greeting(first.hello, org)


async def _hear(subscription: Subscription, requests: Requests) -> None:
    async for message in requests:
        subscription.hear(message)
