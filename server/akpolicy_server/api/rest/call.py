"""What surrounds every REST call of a host: who calls, how the call ends, metrics and one log line.

Rules:

- Who may call is who may subscribe: a host by its API key or its client certificate, as the listener has it
  (`callers`), for its own org alone. A call counts among the streams of its host while it is answered, so one host
  cannot make the server hold more than over gRPC.
- A call ends when its key is revoked, its certificate expires, its host is refused or the server stops: before the
  answer with a refusal, in the middle of it with the connection. So it does when a client does not take what is sent
  within `SEND_PATIENCE_S`.
- Answers that went well are logged at debug level: hosts poll.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
from grpc import StatusCode

from akpolicy.errors import AkpolicyError, PermissionDenied
from akpolicy.strict_json import shown
from akpolicy_server.access import require_host
from akpolicy_server.api.call import Ended
from akpolicy_server.api.ends import end_of, until_one_ends
from akpolicy_server.api.rest.problems import Problem, ending, problem_response, refusal, unforeseen
from akpolicy_server.store.hosts import HostKey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Message, Receive, Scope, Send

    from akpolicy_server.access import Caller
    from akpolicy_server.api.subscription import Services
    from akpolicy_server.fanout import Fanout
    from akpolicy_server.legacy import LegacyPolicies

SEND_PATIENCE_S: Final = 30.0

log = structlog.get_logger(__name__)


class Answer(Protocol):
    """What a handler returns: an ASGI response."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send, /) -> None:
        """Send it."""


@dataclass(frozen=True, slots=True)
class RestCalls:
    """Answers the calls of hosts.

    `caller`: who makes a call; raises what gRPC refuses with. `legacy`: None where agentkernel's own hosts do not ask.
    """

    caller: Callable[[Request], Awaitable[Caller]]
    fanout: Fanout
    services: Services
    legacy: LegacyPolicies | None

    def endpoint(
        self, name: str, handler: Callable[[Request, HostKey], Awaitable[Answer]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return what the router calls: `handler` for a host of the org that the path names, if it names one."""

        async def answer(request: Request) -> Any:  # noqa: ANN401 - an ASGI response, which is all the router needs
            return _Answering(self, name, handler, request)

        return answer


class _Answering:
    """One call being answered."""

    def __init__(
        self,
        calls: RestCalls,
        name: str,
        handler: Callable[[Request, HostKey], Awaitable[Answer]],
        request: Request,
    ) -> None:
        self._calls = calls
        self._name = name
        self._handler = handler
        self._request = request
        self._begun = False
        self._notes: dict[str, object] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, whatever happens."""
        status = StatusCode.INTERNAL
        instead: Response | None = None
        try:
            await self._serve(scope, receive, self._patient(send))
            status = StatusCode.OK
        except asyncio.CancelledError:
            status = StatusCode.CANCELLED
            raise
        except TimeoutError:
            status = StatusCode.DEADLINE_EXCEEDED
        except Ended as end:
            status, instead = end.status, ending(end)
        except Problem as problem:
            status, instead = problem.status, problem_response(problem.http_status, problem.code, problem.message)
            self._notes["reason"] = problem.message
        except AkpolicyError as error:
            status, instead = self._refused(error)
        except Exception as error:  # noqa: BLE001 - told to the log with its traceback, and to the caller as a failure
            instead = self._unforeseen(error)
        finally:
            self._calls.services.metrics.rpcs.labels(method=self._name, status=status.name).inc()
            write = log.debug if status in (StatusCode.OK, StatusCode.UNAUTHENTICATED) else log.info
            write("call", method=self._name, status=status.name, **self._notes)
        if instead is not None and not self._begun:
            await instead(scope, receive, self._patient(send))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        calls = self._calls
        caller = await calls.caller(self._request)
        self._notes["key_id"] = caller.key_id
        org, host_id = require_host(caller)
        self._notes |= {"org": org, "host_id": host_id}
        wanted = self._request.path_params.get("org", org)
        if wanted != org:
            raise PermissionDenied(f"this host is of the org `{org}`, not of `{shown(wanted)}`; correct the path")
        host = HostKey(org, host_id)
        with calls.fanout.joined(host, caller.key_id, caller.expires_at) as subscriber:
            # Again, now that a revocation would reach this call: none falls in between.
            await calls.caller(self._request)

            async def work() -> None:
                answer = await self._handler(self._request, host)
                await answer(scope, receive, send)

            await until_one_ends(end_of(calls.fanout, subscriber, calls.services.metrics), work())

    def _patient(self, send: Send) -> Send:
        async def patient(message: Message) -> None:
            self._begun = True
            async with asyncio.timeout(SEND_PATIENCE_S):
                await send(message)

        return patient

    def _refused(self, error: AkpolicyError) -> tuple[StatusCode, Response]:
        self._notes |= {"code": error.code, "reason": error.message}
        found = refusal(error)
        return found if found is not None else (StatusCode.INTERNAL, self._unforeseen(error))

    def _unforeseen(self, error: Exception) -> Response:
        incident, answer = unforeseen()
        self._notes["incident"] = incident
        log.error("call failed unexpectedly", incident=incident, exc_info=error)
        return answer
