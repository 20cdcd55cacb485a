"""DistributionService: how policy reaches hosts. The contract is in `distribution.proto`."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
from grpc.aio import EOF, InternalError

from akpolicy.errors import StreamProtocolError
from akpolicy.v1 import distribution_pb2, distribution_pb2_grpc
from akpolicy_server.access import require_host
from akpolicy_server.api.ends import counted_end
from akpolicy_server.api.greeting import Greeting, read_greeting
from akpolicy_server.api.interruption import HostGone, Interruption
from akpolicy_server.api.polling_calls import PollingPart
from akpolicy_server.api.rounds import Rounds
from akpolicy_server.api.subscription import Subscription
from akpolicy_server.fanout import End
from akpolicy_server.store.hosts import HostKey

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import grpc
    from grpc.aio import ServicerContext

    from akpolicy_server.api.call import Call
    from akpolicy_server.fanout import Subscriber

    Context = ServicerContext[distribution_pb2.SubscribeRequest, bytes]

HELLO_TIMEOUT_S: Final = 10

log = structlog.get_logger(__name__)


class DistributionServicer(PollingPart):
    """Opens and ends streams; `Subscription` says what goes over them."""

    async def Subscribe(  # type: ignore[override]  # noqa: N802 - it reads and writes, and yields nothing
        self,
        request_iterator: object,  # noqa: ARG002 - reading through it costs a stream two generators more
        context: Context,
    ) -> None:
        """Stream an org's documents to one host."""
        async with self._calls.answer("Subscribe", context, stream=True) as call:
            with await self._joined(call) as subscriber:
                # Again, now that a revocation would reach this stream: none falls in between.
                await call.authenticate()
                subscription = await self._greeted(call, subscriber, context)
                # By themselves, and now: grpc.aio sends them with the first message, and when that write is cancelled
                # half way (the stream ends), it sends them again with the status and the call hangs.
                await context.send_initial_metadata(())
                await self._serve(subscriber, subscription, context)

    async def _joined(self, call: Call) -> AbstractContextManager[Subscriber]:
        """Return a place for the host that calls."""
        caller = await call.authenticate()
        org, host_id = require_host(caller)
        call.note(org=org, host_id=host_id)
        return self._fanout.joined(HostKey(sys.intern(org), host_id), caller.key_id, caller.expires_at)

    async def _greeted(self, call: Call, subscriber: Subscriber, context: Context) -> Subscription:
        """Read Hello."""
        greeting = await _read_hello(context, subscriber.host.org)
        call.note(software_version=greeting.software_version)
        log.info("stream opened", **call.notes)
        return Subscription(self._services, subscriber, greeting, partial(_write, context))

    async def _serve(self, subscriber: Subscriber, subscription: Subscription, context: Context) -> None:
        """Serve the stream until the host closes it or something is wrong."""
        interruption = Interruption()
        rounds = Rounds(subscription.talk, interruption.because)
        subscriber.on_news = rounds.begin
        subscriber.on_end = partial(self._end, subscriber, interruption)
        self._services.metrics.subscribers.inc()
        try:
            if subscriber.end is not None:
                subscriber.on_end()
            with interruption:
                rounds.begin()
                # No message is kept while the next one is waited for.
                while _is_heard(await context.read(), subscription):
                    pass
        finally:
            subscriber.forget()
            try:
                await rounds.stop()
            finally:
                # gRPC often cancels the call in the very moment in which it is stopped here.
                self._services.metrics.subscribers.dec()
                # A host that is asked to come back at once has not left: if it does not come, it is missed soon enough.
                subscription.end(left=subscriber.end is not End.OLD)

    def _end(self, subscriber: Subscriber, interruption: Interruption) -> None:
        """Have the server's end of a stream end it."""
        if subscriber.end is not None:
            interruption.because(counted_end(self._fanout, subscriber.end, self._services.metrics))


def _is_heard(message: object, subscription: Subscription) -> bool:
    """Have a stream take what its host says; return whether that was not the end."""
    if message is EOF:
        return False
    subscription.hear(cast("distribution_pb2.SubscribeRequest", message))
    return True


async def _write(context: Context, message: bytes) -> None:
    """Send a message; raise `HostGone` if nobody is there any more."""
    try:
        await context.write(message)
    except InternalError as error:
        raise HostGone from error


async def _read_hello(context: Context, org: str) -> Greeting:
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            first: object = await context.read()
    except TimeoutError:
        raise StreamProtocolError(f"no Hello within {HELLO_TIMEOUT_S} seconds") from None
    if not isinstance(first, distribution_pb2.SubscribeRequest) or first.WhichOneof("message") != "hello":
        raise StreamProtocolError("the first message must be Hello")
    return read_greeting(first.hello, org)


def add_to(server: grpc.aio.Server, servicer: DistributionServicer) -> None:
    """Have a server answer the service's calls: as generated, but that `Subscribe` writes bytes (`encoding`)."""
    distribution_pb2_grpc.add_DistributionServiceServicer_to_server(
        servicer, cast("grpc.aio.Server", _WithBytes(server))
    )


class _WithBytes:
    """Stands before a server while methods are added to it."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, _handlers: object) -> None:
        """Leave them out: what is registered by name is found first."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Add the methods."""
        handlers["Subscribe"] = handlers["Subscribe"]._replace(response_serializer=bytes)
        self._server.add_registered_method_handlers(service, handlers)
