"""The stream of the policy server simulator: what the protocol says, plus the faults that its state asks for.

What is sent comes from `Office`. A stream begins with what the host lacks, a heartbeat that answers the nonce of its
Hello, and KeepAlive. Then each change is sent as it comes, with a heartbeat and KeepAlive behind it; further heartbeats
and KeepAlives come at their intervals.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from akpolicy.client.channel import RETRY_AFTER_METADATA
from akpolicy.v1 import distribution_pb2, distribution_pb2_grpc
from tests.simulators.office import NONCE_BYTES, keep_alive

if TYPE_CHECKING:
    from tests.simulators.office import Office

Request = distribution_pb2.SubscribeRequest
Response = distribution_pb2.SubscribeResponse
Tamper = Callable[[Response], Sequence[Response]]


@dataclass(frozen=True)
class Received:
    """One message of a host, with the bearer token of its stream."""

    stream: int
    token: str
    message: Request


@dataclass
class ServerState:
    """What the streams share; every access holds `changed`. Intervals are in seconds."""

    office: Office
    interval_s: float = 1.0
    heartbeat_s: float = 1.0
    api_key: str | None = None
    refusal: tuple[grpc.StatusCode, str] | None = None
    silent: bool = False
    heartbeats_withheld: bool = False
    tamper: Tamper | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)
    received: list[Received] = field(default_factory=list)
    open_streams: set[int] = field(default_factory=set)
    streams_begun: int = 0
    dropped_up_to: int = 0
    retry_after: str | None = None
    # How streams and polls end alone, if they do, and what polling hosts asked and reported.
    stream_refusal: grpc.StatusCode | None = None
    fetch_refusal: grpc.StatusCode | None = None
    report_refusal: grpc.StatusCode | None = None
    refused_streams: int = 0
    indexes: dict[bytes, dict[str, bytes]] = field(default_factory=dict)
    polls: list[distribution_pb2.FetchRequest] = field(default_factory=list)
    reports: list[distribution_pb2.ReportRequest] = field(default_factory=list)


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
        if self._state.stream_refusal is not None:
            self._state.refused_streams += 1
            context.abort(self._state.stream_refusal, "no streams here")
        first = next(request_iterator, None)
        if not isinstance(first, Request) or first.WhichOneof("message") != "hello":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message must be Hello")
            return
        if len(first.hello.nonce) != NONCE_BYTES:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"a nonce has {NONCE_BYTES} bytes")
        stream = _Stream(self._state, token, first)
        if not context.add_callback(stream.end):
            stream.end()
        threading.Thread(target=stream.listen, args=(request_iterator,), daemon=True).start()
        yield from stream.responses()
        self._abort_if_refusing(context)
        if self._state.retry_after is not None:
            context.set_trailing_metadata(((RETRY_AFTER_METADATA, self._state.retry_after),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "the stream was dropped")

    def Fetch(self, request: Any, context: Any) -> Iterator[distribution_pb2.FetchResponse]:  # noqa: N802
        """Serve one poll."""
        self._abort_if_refusing(context)
        state = self._state
        with state.changed:
            state.polls.append(request)
            refusal, responses = state.fetch_refusal, _answered(state, request)
            state.changed.notify_all()
        if refusal is not None:
            context.abort(refusal, "no polls here")
        yield from responses

    def Report(self, request: Any, context: Any) -> distribution_pb2.ReportResponse:  # noqa: N802
        """Record one report."""
        self._abort_if_refusing(context)
        if self._state.report_refusal is not None:
            context.abort(self._state.report_refusal, "no reports here")
        with self._state.changed:
            self._state.reports.append(request)
            self._state.changed.notify_all()
        return distribution_pb2.ReportResponse()

    def _abort_if_refusing(self, context: grpc.ServicerContext) -> None:
        with self._state.changed:
            refusal = self._state.refusal
        if refusal is not None:
            context.abort(*refusal)


def _answered(state: ServerState, request: distribution_pb2.FetchRequest) -> list[distribution_pb2.FetchResponse]:
    """Return what a poll gets; an index that a heartbeat named stands for what it names."""
    hello = distribution_pb2.Hello()
    hello.CopyFrom(request.hello)
    if request.enforces_index:
        if hello.index_digest not in state.indexes:
            return [distribution_pb2.FetchResponse(index_unknown=True)]
        for scope, digest in state.indexes[hello.index_digest].items():
            hello.enforced.add(scope=scope, digest=digest)
    messages = state.office.missing(hello)
    if not state.heartbeats_withheld:
        beat = state.office.heartbeat(known_index=hello.index_digest, nonce=hello.nonce.hex())
        named = json.loads(beat.heartbeat.envelope.payload)["index"]["digest"]
        state.indexes[bytes.fromhex(named)] = {s: held.envelope.digest() for s, held in state.office.current.items()}
        messages.append(beat)
    if state.tamper is not None:
        messages = [changed for message in messages for changed in state.tamper(message)]
    return [distribution_pb2.FetchResponse(update=message) for message in messages]


class _Stream:
    """One host's stream: what it is sent, and what it says."""

    def __init__(self, state: ServerState, token: str, hello: Request) -> None:
        self._state = state
        self._token = token
        self._hello = hello.hello
        # What was sent: roots and documents up to here, the index, the last heartbeat, and when the next is due.
        self._roots = 0
        self._seq = 0
        self._index = self._hello.index_digest
        self._beaten: tuple[int, int] | None = None
        self._heartbeat_due = self._keep_alive_due = time.monotonic()
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
        while (batch := self._next_batch()) is not None:
            yield from self._tampered(batch)

    def _record(self, message: Request) -> None:
        with self._state.changed:
            self._state.received.append(Received(self._number, self._token, message))
            self._state.changed.notify_all()

    def _ended(self) -> bool:
        return self._number <= self._state.dropped_up_to or self._number not in self._state.open_streams

    def _next_batch(self) -> list[Response] | None:
        """Wait for news, or until something is due; None ends the stream."""
        with self._state.changed:
            self._state.changed.wait_for(lambda: self._ended() or self._has_something(), timeout=self._patience())
            if self._ended():
                return None
            if self._state.silent:
                return []
            messages = [*self._documents(), *self._heartbeats()]
            now = time.monotonic()
            if messages or now >= self._keep_alive_due:
                messages.append(keep_alive(self._state.interval_s))
                self._keep_alive_due = now + self._state.interval_s
            return messages

    def _patience(self) -> float | None:
        """Return for how many seconds nothing is due; None where only a change of the state can bring something."""
        return None if self._state.silent else max(0.0, self._due() - time.monotonic())

    def _due(self) -> float:
        if self._state.heartbeats_withheld:
            return self._keep_alive_due
        return min(self._keep_alive_due, self._heartbeat_due)

    def _has_something(self) -> bool:
        return not self._state.silent and (self._state.office.seq > self._seq or self._due() <= time.monotonic())

    def _documents(self) -> list[Response]:
        """Return roots and bundles that this host was not sent yet."""
        office = self._state.office
        messages = office.since(self._seq, self._roots) if self._seq else office.missing(self._hello)
        self._roots, self._seq = len(office.roots), office.seq
        return messages

    def _heartbeats(self) -> list[Response]:
        """Return the heartbeat that is due, if any: a host takes none that is not later than the last."""
        office, now = self._state.office, time.monotonic()
        current = (office.seq, int(office.org.clock.now()))
        has_changed = self._beaten is None or office.seq > self._beaten[0]
        if self._state.heartbeats_withheld or not (has_changed or now >= self._heartbeat_due):
            return []
        self._heartbeat_due = now + self._state.heartbeat_s
        if self._beaten is not None and current <= self._beaten:
            return []
        nonce = {"nonce": self._hello.nonce.hex()} if self._beaten is None else {}
        message = office.heartbeat(known_index=self._index, **nonce)
        self._beaten = current
        if message.heartbeat.index:
            self._index = hashlib.sha256(message.heartbeat.index).digest()
        return [message]

    def _tampered(self, responses: list[Response]) -> Iterator[Response]:
        for response in responses:
            with self._state.changed:
                change = self._state.tamper
            yield from [response] if change is None else change(response)
