"""The stream of the policy server simulator: what the protocol says, plus the faults that its state asks for."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from akpolicy.limits import MAX_CHUNK_BYTES
from akpolicy.v1 import bundle_pb2, distribution_pb2, distribution_pb2_grpc
from akpolicy.wire import envelope_to_proto

if TYPE_CHECKING:
    from akpolicy.envelope import SignedEnvelope

Request = distribution_pb2.SubscribeRequest
Response = distribution_pb2.SubscribeResponse
Tamper = Callable[[Response], Sequence[Response]]


@dataclass(frozen=True)
class Offer:
    """A document as it is served; `generation` rises with each change."""

    scope: str
    envelope: SignedEnvelope
    blob: bytes | None
    generation: int


@dataclass(frozen=True)
class Received:
    """One message of a host, with the bearer token of its stream."""

    stream: int
    token: str
    message: Request


@dataclass
class ServerState:
    """What the streams share; every access holds `changed`."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    roots: dict[int, SignedEnvelope] = field(default_factory=dict)
    offers: dict[str, Offer] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    open_streams: set[int] = field(default_factory=set)
    streams_begun: int = 0
    dropped_up_to: int = 0
    generation: int = 0
    interval_s: float = 1.0
    api_key: str | None = None
    refusal: tuple[grpc.StatusCode, str] | None = None
    silent: bool = False
    tamper: Tamper | None = None


class Distribution(distribution_pb2_grpc.DistributionServiceServicer):
    """`DistributionService` over a `ServerState`."""

    def __init__(self, state: ServerState) -> None:
        """Serve what `state` holds."""
        self._state = state

    def Subscribe(  # noqa: N802 - the service names it
        self,
        request_iterator: Any,
        context: Any,
    ) -> Iterator[Response]:
        """Serve one host."""
        token = str(dict(context.invocation_metadata()).get("authorization", "")).removeprefix("Bearer ")
        with self._state.changed:
            if self._state.refusal is None and self._state.api_key not in (None, token):
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "no such key")
        self._abort_if_refusing(context)
        first = next(request_iterator, None)
        if not isinstance(first, Request) or first.WhichOneof("message") != "hello":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message must be Hello")
            return
        stream = _Stream(self._state, token, first)
        if not context.add_callback(stream.end):
            stream.end()
        threading.Thread(target=stream.listen, args=(request_iterator,), daemon=True).start()
        yield from stream.responses()
        self._abort_if_refusing(context)
        context.abort(grpc.StatusCode.UNAVAILABLE, "the stream was dropped")

    def _abort_if_refusing(self, context: grpc.ServicerContext) -> None:
        with self._state.changed:
            refusal = self._state.refusal
        if refusal is not None:
            context.abort(*refusal)


class _Stream:
    """One host's stream: what it is sent, and what it says."""

    def __init__(self, state: ServerState, token: str, hello: Request) -> None:
        self._state = state
        self._token = token
        self._hello = hello.hello
        self._seen = 0
        with state.changed:
            state.streams_begun += 1
            self._number = state.streams_begun
            state.open_streams.add(self._number)
        self._record(hello)

    def end(self) -> None:
        """Note that the host is gone."""
        with self._state.changed:
            self._state.open_streams.discard(self._number)
            self._state.changed.notify_all()

    def listen(self, requests: Iterator[Request]) -> None:
        """Record all that the host says, until the stream ends. The host may half-close and go on reading."""
        try:
            for request in requests:
                self._record(request)
        except grpc.RpcError:
            self.end()

    def responses(self) -> Iterator[Response]:
        """Yield what is sent, until the stream ends."""
        yield from self._tampered(self._first_answer())
        while (batch := self._next_batch()) is not None:
            yield from self._tampered(batch)

    def _record(self, message: Request) -> None:
        with self._state.changed:
            self._state.received.append(Received(self._number, self._token, message))
            self._state.changed.notify_all()

    def _ended(self) -> bool:
        return self._number <= self._state.dropped_up_to or self._number not in self._state.open_streams

    def _first_answer(self) -> list[Response]:
        enforced = {r.scope: r.digest for r in self._hello.enforced}
        with self._state.changed:
            self._state.changed.wait_for(lambda: self._ended() or not self._state.silent)
            if self._ended():
                return []
            roots = {v: e for v, e in self._state.roots.items() if v > self._hello.root_version}
            offers = [o for o in self._state.offers.values() if o.envelope.digest() != enforced.get(o.scope)]
            self._seen = self._state.generation
        return [*(_root_update(v, roots[v]) for v in sorted(roots)), *self._updates(offers), self._keep_alive()]

    def _next_batch(self) -> list[Response] | None:
        """Wait for news, or for the next KeepAlive to be due; None ends the stream."""
        with self._state.changed:
            self._state.changed.wait_for(
                lambda: self._ended() or (not self._state.silent and self._state.generation > self._seen),
                timeout=self._state.interval_s,
            )
            if self._ended():
                return None
            if self._state.silent:
                return []
            offers = [o for o in self._state.offers.values() if o.generation > self._seen]
            self._seen = self._state.generation
        return [*self._updates(offers), self._keep_alive()]

    def _updates(self, offers: list[Offer]) -> Iterator[Response]:
        held = set(self._hello.held_blobs)
        for offer in sorted(offers, key=lambda o: o.generation):
            yield from _bundle_messages(offer, held)

    def _keep_alive(self) -> Response:
        return Response(keep_alive=distribution_pb2.KeepAlive(interval_ms=int(self._state.interval_s * 1000)))

    def _tampered(self, responses: list[Response]) -> Iterator[Response]:
        for response in responses:
            with self._state.changed:
                change = self._state.tamper
            yield from [response] if change is None else change(response)


def _root_update(version: int, envelope: SignedEnvelope) -> Response:
    return Response(root=distribution_pb2.RootUpdate(version=version, envelope=envelope_to_proto(envelope)))


def _bundle_messages(offer: Offer, held: set[bytes]) -> Iterator[Response]:
    manifest = _claims(offer.envelope)
    blob = offer.blob or b""
    # As a server that lies would: chunks carry the digest that the manifest names, whatever the bytes are.
    named = manifest.get("content", {}).get("digest", "")
    digest = bytes.fromhex(named) if named else hashlib.sha256(blob).digest()
    sent = b"" if digest in held else blob
    revision = bundle_pb2.Revision(
        scope=offer.scope,
        epoch=manifest.get("epoch", 0),
        version=manifest.get("version", 0),
        digest=offer.envelope.digest(),
    )
    yield Response(
        bundle=distribution_pb2.BundleUpdate(
            nonce=secrets.token_bytes(16),
            revision=revision,
            envelope=envelope_to_proto(offer.envelope),
            content_size=len(sent),
        )
    )
    for offset in range(0, len(sent), MAX_CHUNK_BYTES):
        data = sent[offset : offset + MAX_CHUNK_BYTES]
        yield Response(chunk=distribution_pb2.BlobChunk(digest=digest, offset=offset, data=data))


def _claims(envelope: SignedEnvelope) -> dict[str, Any]:
    """Return what a payload says of itself; nothing if it is broken, as a test may want it."""
    try:
        value = json.loads(envelope.payload)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
