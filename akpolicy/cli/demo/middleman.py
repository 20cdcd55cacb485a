"""Somebody between a host and the policy server, who has the server's address and reads and alters what passes.

Rules:

- It speaks the public protocol, as anybody with the server's TLS key could: it needs no key of akpolicy.
- Every message of the server passes `tamper` (those of a batch one by one), which returns what goes on in its place.
  The host's own messages pass unaltered, its API key included.
"""

from __future__ import annotations

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Self

import grpc

from akpolicy.v1 import distribution_pb2 as pb
from akpolicy.v1 import distribution_pb2_grpc
from akpolicy.wire_distribution import unpacked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Tamper = Callable[[pb.SubscribeResponse], Sequence[pb.SubscribeResponse]]

MAX_STREAMS: Final = 8


class Middleman(distribution_pb2_grpc.DistributionServiceServicer):
    """`DistributionService` that has every answer from another server; a context manager.

    `changed` counts the messages that did not go on as they came.
    """

    def __init__(self, server: str, tamper: Tamper | None = None) -> None:
        """Stand before `server` (`host:port`)."""
        self._channel = grpc.insecure_channel(server, options=[("grpc.use_local_subchannel_pool", 1)])
        self._stub = distribution_pb2_grpc.DistributionServiceStub(self._channel)
        self._own = grpc.server(ThreadPoolExecutor(MAX_STREAMS), options=[("grpc.so_reuseport", 0)])
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
        request_iterator: Iterator[pb.SubscribeRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[pb.SubscribeResponse]:
        """Pass one host's stream on, in both directions."""
        ended = threading.Event()
        call: Any = self._stub.Subscribe(_until(request_iterator, ended), metadata=_authorization(context))
        context.add_callback(call.cancel)
        try:
            for response in unpacked(call):
                yield from self._passed_on(response)
        except grpc.RpcError:
            context.abort(call.code(), call.details())
        finally:
            ended.set()

    def Fetch(  # noqa: N802 - the service names it
        self, request: pb.FetchRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.FetchResponse]:
        """Pass on what a polling host fetches."""
        call: Any = self._stub.Fetch(request, metadata=_authorization(context))
        context.add_callback(call.cancel)
        try:
            for response in call:
                for update in self._passed_on(response.update):
                    yield pb.FetchResponse(update=update)
        except grpc.RpcError:
            context.abort(call.code(), call.details())

    def Report(  # noqa: N802 - the service names it
        self, request: pb.ReportRequest, context: grpc.ServicerContext
    ) -> pb.ReportResponse:
        """Pass on what a polling host reports."""
        return self._stub.Report(request, metadata=_authorization(context))

    def _passed_on(self, response: pb.SubscribeResponse) -> list[pb.SubscribeResponse]:
        if self.tamper is None:
            return [response]
        received = response.SerializeToString()
        sent = list(self.tamper(response))
        self.changed += [message.SerializeToString() for message in sent] != [received]
        return sent


class ContentSwap:
    """A `tamper` that replaces text in policies, and makes size and digests of the manifest fit what it did."""

    def __init__(self, old: bytes, new: bytes) -> None:
        self._old, self._new = old, new
        self._bundle: pb.SubscribeResponse | None = None
        self._content = b""

    def __call__(self, response: pb.SubscribeResponse) -> list[pb.SubscribeResponse]:
        """Hold a bundle back until its content is whole, then pass both on, altered."""
        kind = response.WhichOneof("message")
        if kind == "bundle" and response.bundle.content_size:
            self._bundle, self._content = response, b""
            return []
        if kind != "chunk" or self._bundle is None:
            return [response]
        self._content += response.chunk.data
        if len(self._content) < self._bundle.bundle.content_size:
            return []
        bundle, self._bundle = self._bundle, None
        return self._altered(bundle)

    def _altered(self, response: pb.SubscribeResponse) -> list[pb.SubscribeResponse]:
        content = self._content.replace(self._old, self._new)
        digest = hashlib.sha256(content)
        manifest = json.loads(response.bundle.envelope.payload)
        manifest["content"] |= {"digest": digest.hexdigest(), "size": len(content)}
        payload = json.dumps(manifest, separators=(",", ":")).encode()
        response.bundle.envelope.payload = payload
        response.bundle.revision.digest = hashlib.sha256(payload).digest()
        response.bundle.content_size = len(content)
        chunk = pb.BlobChunk(digest=digest.digest(), offset=0, data=content)
        return [response, pb.SubscribeResponse(chunk=chunk)]


def _authorization(context: grpc.ServicerContext) -> tuple[Any, ...]:
    return tuple(pair for pair in context.invocation_metadata() if pair[0] == "authorization")


def _until(requests: Iterator[pb.SubscribeRequest], ended: threading.Event) -> Iterator[pb.SubscribeRequest]:
    try:
        for request in requests:
            if ended.is_set():
                return
            yield request
    except grpc.RpcError:
        # The host is gone.
        return
