"""A middleman between sidecars and a real policy server: passes the stream on, and changes what a test wants."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import grpc

from akpolicy.v1 import distribution_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulators.distribution import Request, Response, Tamper


class Middleman(distribution_pb2_grpc.DistributionServiceServicer):
    """`DistributionService` that has every answer from another server; a context manager.

    `tamper` sees every message of the server before the sidecar does, and returns what is passed on in its place.
    """

    def __init__(self, server: str, tamper: Tamper | None = None) -> None:
        """Stand before `server` (`host:port`)."""
        self._channel = grpc.insecure_channel(server, options=[("grpc.use_local_subchannel_pool", 1)])
        self._stub = distribution_pb2_grpc.DistributionServiceStub(self._channel)
        self._own = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        self.tamper = tamper
        self.changed = 0
        self.port = 0

    def __enter__(self) -> Self:
        distribution_pb2_grpc.add_DistributionServiceServicer_to_server(self, self._own)
        self.port = self._own.add_insecure_port("127.0.0.1:0")
        self._own.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._own.stop(grace=None).wait()

    def Subscribe(  # noqa: N802 - the service names it
        self,
        request_iterator: Any,
        context: Any,
    ) -> Iterator[Response]:
        """Pass one host's stream on, in both directions."""
        authorization = tuple(pair for pair in context.invocation_metadata() if pair[0] == "authorization")
        ended = threading.Event()
        call: Any = self._stub.Subscribe(_until(request_iterator, ended), metadata=authorization)
        context.add_callback(call.cancel)
        try:
            for response in call:
                yield from self._passed_on(response)
        except grpc.RpcError:
            context.abort(call.code(), call.details())
        finally:
            ended.set()

    def _passed_on(self, response: Response) -> list[Response]:
        if self.tamper is None:
            return [response]
        received = response.SerializeToString()
        sent = list(self.tamper(response))
        self.changed += [message.SerializeToString() for message in sent] != [received]
        return sent


def _until(requests: Iterator[Request], ended: threading.Event) -> Iterator[Request]:
    try:
        for request in requests:
            if ended.is_set():
                return
            yield request
    except grpc.RpcError:
        # The sidecar is gone.
        return
