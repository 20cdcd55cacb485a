"""`akpolicy.v1.AuthorizationService`: what runtimes ask.

Rules:

- In a batch each request is judged alone, all by one view; what cannot be judged gets its error in its place.
- In a stream each request is judged when it is read, by what is enforced then, and answered before the next is read:
  the caller's own flow control bounds what is kept. A stream holds a thread as long as it is open, so there are at most
  `MAX_QUESTION_STREAMS`, and single calls always have threads left.
- `stop` ends the streams: nobody can wait for the end of one whose caller is silent.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from akpolicy.errors import RequestInvalid, TooManyQuestionStreams
from akpolicy.limits import MAX_BATCH
from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.v1 import authorization_pb2_grpc
from akpolicy.wire_authorization import principal_from_proto, resource_from_proto
from akpolicy.wire_permissions import effective_to_proto, requested_from_proto
from akpolicy_sidecar.api.status import abort

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

    from akpolicy_sidecar.api.answering import Answering
    from akpolicy_sidecar.permissions import PermissionAdvisor
    from akpolicy_sidecar.view import View

MAX_QUESTION_STREAMS: Final = 32


class AuthorizationServicer(authorization_pb2_grpc.AuthorizationServiceServicer):
    """Translates between messages and the authorizer."""

    def __init__(self, answering: Answering, advisor: PermissionAdvisor) -> None:
        """Answer with `answering`; `advisor` knows about permissions."""
        self._answering = answering
        self._advisor = advisor
        self._streams: set[grpc.ServicerContext] = set()
        self._changing = threading.Lock()

    def stop(self) -> None:
        """End the streams of questions."""
        with self._changing:
            streams = list(self._streams)
        for context in streams:
            context.cancel()

    def Authorize(  # noqa: N802 - the service names it
        self, request: pb.AuthorizeRequest, context: grpc.ServicerContext
    ) -> pb.AuthorizeResponse:
        """Judge one request."""
        with self._answering.judging:
            outcome = self._answering.one(request)
        if isinstance(outcome, pb.RequestError):
            abort(context, outcome)
        return outcome

    def BatchAuthorize(  # noqa: N802 - the service names it
        self, request: pb.BatchAuthorizeRequest, context: grpc.ServicerContext
    ) -> pb.BatchAuthorizeResponse:
        """Judge each of up to 1,000 requests."""
        count = len(request.requests)
        if not 1 <= count <= MAX_BATCH:
            wrong = RequestInvalid(f"a batch has {count} requests; 1 to {MAX_BATCH} are allowed")
            abort(context, self._answering.refused(wrong))
        with self._answering.judging:
            view = self._answering.authorizer.view()
            return pb.BatchAuthorizeResponse(results=[self._result(one, view) for one in request.requests])

    def StreamAuthorize(  # noqa: N802 - the service names it
        self, request_iterator: Iterator[pb.StreamAuthorizeRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamAuthorizeResponse]:
        """Judge requests as they come."""
        if not self._enter(context):
            many = TooManyQuestionStreams(f"{MAX_QUESTION_STREAMS} streams of questions are open, which is the limit")
            abort(context, self._answering.refused(many))
        try:
            for message in request_iterator:
                with self._answering.judging:
                    outcome = self._answering.one(message.request)
                if isinstance(outcome, pb.RequestError):
                    yield pb.StreamAuthorizeResponse(id=message.id, error=outcome)
                else:
                    yield pb.StreamAuthorizeResponse(id=message.id, response=outcome)
        finally:
            with self._changing:
                self._streams.discard(context)

    def GetPermissions(  # noqa: N802 - the service names it
        self, request: pb.GetPermissionsRequest, context: grpc.ServicerContext
    ) -> pb.GetPermissionsResponse:
        """Compute what a sandbox may have of what is asked for."""
        with self._answering.judging:
            answer = self._answering.guard(lambda: self._permissions(request))
        if isinstance(answer, pb.RequestError):
            abort(context, answer)
        return answer

    def OpenSession(  # noqa: N802 - the service names it
        self, request: pb.OpenSessionRequest, context: grpc.ServicerContext
    ) -> pb.OpenSessionResponse:
        """Register a sandbox."""
        opened = self._answering.guard(lambda: self._open(request))
        if isinstance(opened, pb.RequestError):
            abort(context, opened)
        return opened

    def CloseSession(  # noqa: N802 - the service names it
        self, request: pb.CloseSessionRequest, context: grpc.ServicerContext
    ) -> pb.CloseSessionResponse:
        """End a session."""
        closed = self._answering.guard(lambda: self._answering.sessions.close(request.session_token))
        if isinstance(closed, pb.RequestError):
            abort(context, closed)
        return pb.CloseSessionResponse(closed=closed)

    def _permissions(self, request: pb.GetPermissionsRequest) -> pb.GetPermissionsResponse:
        effective, decisions = self._advisor.advise(
            principal_from_proto(request.principal),
            resource_from_proto(request.resource),
            requested_from_proto(request),
            cwd=request.paths.cwd,
            home=request.paths.home,
        )
        return effective_to_proto(effective, decisions)

    def _open(self, request: pb.OpenSessionRequest) -> pb.OpenSessionResponse:
        principal, resource = principal_from_proto(request.principal), resource_from_proto(request.resource)
        opened = self._answering.sessions.open(principal, resource, request.lifetime_s)
        return pb.OpenSessionResponse(session_token=opened.token, expires_at_ms=int(opened.expires_at * 1000))

    def _enter(self, context: grpc.ServicerContext) -> bool:
        with self._changing:
            if len(self._streams) >= MAX_QUESTION_STREAMS:
                return False
            self._streams.add(context)
            return True

    def _result(self, request: pb.AuthorizeRequest, view: View) -> pb.BatchAuthorizeResult:
        if request.explain:
            wrong = RequestInvalid("`explain`: a batch gives no explanations; ask with Authorize", field="explain")
            return pb.BatchAuthorizeResult(error=self._answering.refused(wrong))
        outcome = self._answering.one(request, view=view)
        if isinstance(outcome, pb.RequestError):
            return pb.BatchAuthorizeResult(error=outcome)
        return pb.BatchAuthorizeResult(decision=outcome.decision)
