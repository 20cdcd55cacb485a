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
from contextlib import asynccontextmanager
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
    from collections.abc import AsyncIterator

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

    @asynccontextmanager
    async def answer(
        self, method: str, context: ServicerContext[Any, Any], *, stream: bool = False, routine: bool = False
    ) -> AsyncIterator[Call]:
        """Run the block as the answer to a call; whatever it raises becomes the call's status.

        `routine`: hosts make it all day; it is logged at debug level if it goes well.
        """
        call = Call(self, context)
        context.set_trailing_metadata(call.metadata)
        with structlog.contextvars.bound_contextvars(request_id=call.request_id):
            async with self._ended(method, context, call, stream=stream, routine=routine):
                yield call

    @asynccontextmanager
    async def _ended(
        self, method: str, context: ServicerContext[Any, Any], call: Call, *, stream: bool, routine: bool
    ) -> AsyncIterator[None]:
        started = self._clock.elapsed()
        status = StatusCode.INTERNAL
        try:
            yield
            status = StatusCode.OK
        except asyncio.CancelledError:
            status = StatusCode.CANCELLED
            raise
        except Ended as end:
            status = end.status
            call.note(reason=end.message)
            await context.abort(status, end.message, (*call.metadata, *end.metadata))
        except AkpolicyError as error:
            expected = status_of(error)
            if expected is None:
                await self._abort_internal(call, context, error)
                raise
            status = expected
            await self._abort(call, context, status, error)
        except DecodeError:
            # Only what a stream receives is decoded here without being caught where it is.
            broken = StreamProtocolError("a message is no protobuf of its kind; does the caller speak this API?")
            status = StatusCode.INVALID_ARGUMENT
            await self._abort(call, context, status, broken)
        except Exception as error:
            await self._abort_internal(call, context, error)
            raise
        finally:
            self._metrics.rpcs.labels(method=method, status=status.name).inc()
            if not stream:
                self._metrics.rpc_duration.labels(method=method).observe(self._clock.elapsed() - started)
            is_known = call.is_authenticated or status not in _STRANGERS_ENDS
            write = log.info if is_known and not (routine and status is StatusCode.OK) else log.debug
            write("call", method=method, status=status.name, **call.notes)

    async def _abort(
        self, call: Call, context: ServicerContext[Any, Any], status: StatusCode, error: AkpolicyError
    ) -> None:
        metadata: tuple[tuple[str, str | bytes], ...] = (*call.metadata, (CODE_METADATA, error.code))
        call.note(code=error.code)
        if isinstance(error, PolicyError):
            metadata += failure_metadata(error.problems)
            call.note(problems=len(error.problems))
        else:
            call.note(reason=error.message)
        await context.abort(status, _cut(str(error)), metadata)

    async def _abort_internal(self, call: Call, context: ServicerContext[Any, Any], error: Exception) -> None:
        incident = secrets.token_hex(INCIDENT_BYTES)
        call.note(incident=incident)
        # With the traceback: it is nowhere else, because the abort below takes the exception's place.
        log.error("call failed unexpectedly", incident=incident, exc_info=error)
        message = f"internal error; the server's log has it as incident {incident}"
        await context.abort(StatusCode.INTERNAL, message, call.metadata)


def _cut(text: str) -> str:
    """Keep a status message within the metadata that peers take; it is percent-encoded on the wire."""
    encoded = text.encode("utf-8")
    return text if len(encoded) <= MAX_STATUS_BYTES else encoded[:MAX_STATUS_BYTES].decode("utf-8", "ignore") + "…"
