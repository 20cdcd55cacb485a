"""What surrounds every call: authentication, its outcome as status, metrics and one log line.

Rules:

- A call ends in exactly one of: an answer, the status of a domain error, a status that the servicer chose (`Ended`),
  the caller's cancellation, or INTERNAL with an incident id for what nobody foresaw.
- The log line names the method, the status and the API key's id, and why a call was refused. Policies are refused with
  messages that quote them, so only their error code is logged.
- Every call has a request id (`request_ids`), in its log lines and in the trailing metadata of its answer.
- A refusal carries the code of the error as trailing metadata, by which it is told from failures of the connection.
- A call whose caller never showed a valid key is counted, and logged at debug level only.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Final

import structlog
from google.protobuf.message import DecodeError
from grpc import StatusCode

from akpolicy.client.channel import REOPEN_METADATA, RETRY_AFTER_METADATA
from akpolicy.client.server_errors import CODE_METADATA, REQUEST_ID_METADATA
from akpolicy.errors import AkpolicyError, PolicyError, StreamProtocolError
from akpolicy_server.api.problems import failure_metadata
from akpolicy_server.api.request_ids import request_id_in
from akpolicy_server.api.status import status_of

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from grpc.aio import ServicerContext

    from akpolicy.clock import Clock
    from akpolicy_server.access import Caller
    from akpolicy_server.api.authentication import KeyAuthentication
    from akpolicy_server.metrics import ServerMetrics

MAX_STATUS_BYTES: Final = 500
INCIDENT_BYTES: Final = 4
MILLISECONDS: Final = 1000

# How a call ends before its caller is known. Anybody can make such calls: they are counted, and must not fill the log.
_STRANGERS_ENDS: Final = frozenset({StatusCode.UNAUTHENTICATED, StatusCode.CANCELLED})

log = structlog.get_logger(__name__)


class Ended(Exception):
    """A call that the server ends with a status, without anybody's mistake.

    `retry_after_s`: after how many seconds the caller is to come back. `reopen`: it is to go on as if it had not gone.
    """

    def __init__(
        self, status: StatusCode, message: str, *, retry_after_s: float | None = None, reopen: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s
        self.reopen = reopen

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What the caller is told beside the status."""
        reopen = ((REOPEN_METADATA, "1"),) if self.reopen else ()
        if self.retry_after_s is None:
            return reopen
        return (*reopen, (RETRY_AFTER_METADATA, str(int(self.retry_after_s * MILLISECONDS))))


class Call:
    """One call being answered."""

    __slots__ = ("_calls", "_context", "is_authenticated", "notes", "request_id")

    def __init__(self, calls: Calls, context: ServicerContext[Any, Any]) -> None:
        self._calls = calls
        self._context = context
        self.request_id = request_id_in(context.invocation_metadata() or ())
        self.is_authenticated = False
        self.notes: dict[str, object] = {}

    async def authenticate(self) -> Caller:
        """Return who calls; raise `Unauthenticated`."""
        caller = await self._calls.authenticate(self._context)
        self.is_authenticated = True
        self.notes["key_id"] = caller.key_id
        return caller

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every answer has beside its message or status."""
        return ((REQUEST_ID_METADATA, self.request_id),)

    def note(self, **fields: object) -> None:
        """Add fields to the call's log line."""
        self.notes.update(fields)


class Calls:
    """Answers calls; shared by all servicers."""

    def __init__(self, keys: KeyAuthentication, metrics: ServerMetrics, clock: Clock) -> None:
        self._keys = keys
        self._metrics = metrics
        self._clock = clock

    async def authenticate(self, context: ServicerContext[Any, Any]) -> Caller:
        """Return who calls; raise and count `Unauthenticated`."""
        return await self._keys.caller(context.invocation_metadata() or ())

    def answer(
        self, method: str, context: ServicerContext[Any, Any], *, stream: bool = False, routine: bool = False
    ) -> AbstractAsyncContextManager[Call]:
        """Run the block as the answer to a call; whatever it raises becomes the call's status.

        `routine`: hosts make it all day; it is logged at debug level if it goes well.
        """
        return _Answer(Call(self, context), method, context, self._metrics, self._clock, stream, routine)


class _Answer:
    """The block that answers a call. A class, because thousands of streams stay in such blocks: see ADR 0035."""

    __slots__ = ("_call", "_clock", "_context", "_method", "_metrics", "_routine", "_started", "_status", "_stream")

    def __init__(
        self,
        call: Call,
        method: str,
        context: ServicerContext[Any, Any],
        metrics: ServerMetrics,
        clock: Clock,
        stream: bool,
        routine: bool,
    ) -> None:
        self._call = call
        self._method = method
        self._context = context
        self._metrics = metrics
        self._clock = clock
        self._stream = stream
        self._routine = routine
        self._started = clock.elapsed()
        self._status = StatusCode.INTERNAL

    async def __aenter__(self) -> Call:
        self._context.set_trailing_metadata(self._call.metadata)
        # gRPC runs each call in a task, and so in a context, of its own.
        structlog.contextvars.bind_contextvars(request_id=self._call.request_id)
        return self._call

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            await self._end(error)
        finally:
            self._tell()
            structlog.contextvars.unbind_contextvars("request_id")

    async def _end(self, error: BaseException | None) -> None:
        """Tell the caller how the call ended; what nobody foresaw goes on to be raised."""
        match error:
            case None:
                self._status = StatusCode.OK
            case asyncio.CancelledError():
                self._status = StatusCode.CANCELLED
            case Ended():
                self._status = error.status
                self._call.note(reason=error.message)
                await self._context.abort(error.status, error.message, (*self._call.metadata, *error.metadata))
            case AkpolicyError() if (expected := status_of(error)) is not None:
                self._status = expected
                await self._abort(error)
            case DecodeError():
                # Only what a stream receives is decoded here without being caught where it is.
                self._status = StatusCode.INVALID_ARGUMENT
                await self._abort(
                    StreamProtocolError("a message is no protobuf of its kind; does the caller speak this API?")
                )
            case Exception():
                await self._abort_internal(error)

    def _tell(self) -> None:
        """Count the call, and write its line into the log."""
        method, status, call = self._method, self._status, self._call
        self._metrics.rpcs.labels(method=method, status=status.name).inc()
        if not self._stream:
            self._metrics.rpc_duration.labels(method=method).observe(self._clock.elapsed() - self._started)
        is_known = call.is_authenticated or status not in _STRANGERS_ENDS
        write = log.info if is_known and not (self._routine and status is StatusCode.OK) else log.debug
        write("call", method=method, status=status.name, **call.notes)

    async def _abort(self, error: AkpolicyError) -> None:
        call = self._call
        metadata: tuple[tuple[str, str | bytes], ...] = (*call.metadata, (CODE_METADATA, error.code))
        call.note(code=error.code)
        if isinstance(error, PolicyError):
            metadata += failure_metadata(error.problems)
            call.note(problems=len(error.problems))
        else:
            call.note(reason=error.message)
        await self._context.abort(self._status, _cut(str(error)), metadata)

    async def _abort_internal(self, error: Exception) -> None:
        incident = secrets.token_hex(INCIDENT_BYTES)
        self._call.note(incident=incident)
        # With the traceback: it is nowhere else, because the abort below takes the exception's place.
        log.error("call failed unexpectedly", incident=incident, exc_info=error)
        message = f"internal error; the server's log has it as incident {incident}"
        await self._context.abort(StatusCode.INTERNAL, message, self._call.metadata)


def _cut(text: str) -> str:
    """Keep a status message within the metadata that peers take; it is percent-encoded on the wire."""
    encoded = text.encode("utf-8")
    return text if len(encoded) <= MAX_STATUS_BYTES else encoded[:MAX_STATUS_BYTES].decode("utf-8", "ignore") + "…"
