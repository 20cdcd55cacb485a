"""`akpolicy.v1.AuthorizationService`: what runtimes ask.

Rules:

- A request that cannot be judged is INVALID_ARGUMENT with the reason. Anything unexpected is INTERNAL with an id under
  which the log has the traceback; the caller learns nothing else.
- At most `worker_threads` calls are judged at once; more threads would only compete for the interpreter.
- In a batch each request is judged alone, all by one view; what cannot be judged gets its error in its place.
"""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Final

import grpc
import structlog

from akpolicy.errors import RequestInvalid
from akpolicy.limits import MAX_BATCH
from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.v1 import authorization_pb2_grpc
from akpolicy.wire_authorization import decision_to_proto, request_from_proto

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy_sidecar.authorizer import Authorizer
    from akpolicy_sidecar.view import View

# A status travels in trailers, which peers limit to 8 KiB; one character can take 12 bytes there.
MAX_DETAIL_CHARS: Final = 500

log = structlog.get_logger(__name__)


class AuthorizationServicer(authorization_pb2_grpc.AuthorizationServiceServicer):
    """Translates between messages and the authorizer."""

    def __init__(self, authorizer: Authorizer, *, worker_threads: int, failed: Callable[[str], None]) -> None:
        """`failed` counts requests without a decision, by status name."""
        self._authorizer = authorizer
        self._judging = threading.BoundedSemaphore(worker_threads)
        self._failed = failed

    def Authorize(  # noqa: N802 - the service names it
        self, request: pb.AuthorizeRequest, context: grpc.ServicerContext
    ) -> pb.AuthorizeResponse:
        """Judge one request."""
        with self._judging:
            outcome = self._judge(request, None)
        if isinstance(outcome, pb.RequestError):
            context.abort(grpc.StatusCode[outcome.status], outcome.message)
        return pb.AuthorizeResponse(decision=outcome)

    def BatchAuthorize(  # noqa: N802 - the service names it
        self, request: pb.BatchAuthorizeRequest, context: grpc.ServicerContext
    ) -> pb.BatchAuthorizeResponse:
        """Judge each of up to 1,000 requests."""
        count = len(request.requests)
        if not 1 <= count <= MAX_BATCH:
            self._failed(grpc.StatusCode.INVALID_ARGUMENT.name)
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"a batch has {count} requests; 1 to {MAX_BATCH} are allowed"
            )
        with self._judging:
            view = self._authorizer.view()
            return pb.BatchAuthorizeResponse(results=[self._result(one, view) for one in request.requests])

    def _result(self, request: pb.AuthorizeRequest, view: View) -> pb.BatchAuthorizeResult:
        outcome = self._judge(request, view)
        if isinstance(outcome, pb.RequestError):
            return pb.BatchAuthorizeResult(error=outcome)
        return pb.BatchAuthorizeResult(decision=outcome)

    def _judge(self, request: pb.AuthorizeRequest, view: View | None) -> pb.Decision | pb.RequestError:
        try:
            return decision_to_proto(self._authorizer.authorize(request_from_proto(request), view))
        except RequestInvalid as error:
            return self._error(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        except Exception:
            fault = str(uuid.uuid4())
            log.exception("request failed", fault=fault)
            return self._error(grpc.StatusCode.INTERNAL, f"the sidecar failed; its log has the cause under {fault}")

    def _error(self, status: grpc.StatusCode, message: str) -> pb.RequestError:
        self._failed(status.name)
        return pb.RequestError(status=status.name, message=message[:MAX_DETAIL_CHARS])
