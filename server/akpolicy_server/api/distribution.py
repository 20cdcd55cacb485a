"""DistributionService: how policy reaches hosts. The contract is in `distribution.proto`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog
from grpc import StatusCode

from akpolicy.errors import StreamProtocolError
from akpolicy.v1 import distribution_pb2, distribution_pb2_grpc
from akpolicy_server.access import require_host
from akpolicy_server.api.call import Ended
from akpolicy_server.api.greeting import Greeting, read_greeting
from akpolicy_server.api.subscription import Services, Subscription
from akpolicy_server.fanout import End
from akpolicy_server.store.hosts import HostKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from grpc.aio import ServicerContext

    from akpolicy_server.api.call import Calls
    from akpolicy_server.fanout import Fanout, Subscriber

    Requests = AsyncIterator[distribution_pb2.SubscribeRequest]
    Context = ServicerContext[distribution_pb2.SubscribeRequest, distribution_pb2.SubscribeResponse]

HELLO_TIMEOUT_S: Final = 10

log = structlog.get_logger(__name__)

_ENDINGS: Final = {
    End.KEY_REVOKED: (StatusCode.UNAUTHENTICATED, "the API key was revoked"),
    End.CERTIFICATE_EXPIRED: (StatusCode.UNAUTHENTICATED, "the client certificate has expired"),
    End.HOST_DENIED: (StatusCode.PERMISSION_DENIED, "this host is refused by this server's operator"),
    End.SUPERSEDED: (
        StatusCode.RESOURCE_EXHAUSTED,
        "a newer stream of this host took this one's place; does another machine use its API key or certificate?",
    ),
    End.OLD: (StatusCode.UNAVAILABLE, "the stream is old; open another one"),
    End.STOPPING: (StatusCode.UNAVAILABLE, "the server is shutting down; come back later"),
}


class DistributionServicer(distribution_pb2_grpc.DistributionServiceServicer):
    """Opens and ends streams; `Subscription` says what goes over them."""

    def __init__(self, calls: Calls, fanout: Fanout, services: Services) -> None:
        self._calls = calls
        self._fanout = fanout
        self._services = services

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
        parts = (self._end(subscriber), _hear(subscription, requests), subscription.talk())
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._services.metrics.subscribers.dec()
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            # A host that is asked to come back at once has not left: if it does not come, it is missed soon enough.
            subscription.note({}, left=subscriber.end is not End.OLD)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _end(self, subscriber: Subscriber) -> None:
        why = await subscriber.ended()
        self._services.metrics.streams_ended.labels(reason=why.name.lower()).inc()
        status, message = _ENDINGS[why]
        raise Ended(status, message, retry_after_s=self._fanout.pause_after(why), reopen=why is End.OLD)


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
