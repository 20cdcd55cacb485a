"""What every call has in common: questions into answers, errors into statuses, and how many at once.

Rules:

- A request that cannot be judged has the status of its error. Anything unexpected is INTERNAL with an id under which
  the log has the traceback; the caller learns nothing else.
- At most `worker_threads` questions are judged at once; more threads would only compete for the interpreter.
- A question names a session or states who asks and about what, never both.
"""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Final, TypeVar

import grpc
import structlog

from akpolicy.engine.values import invalid
from akpolicy.errors import AkpolicyError
from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.wire_authorization import context_from_proto, decision_to_proto, request_from_proto
from akpolicy.wire_explanation import explanation_to_proto
from akpolicy_sidecar.api.status import STATUS, request_error
from akpolicy_sidecar.authorizer import SOURCE_RUNTIME

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy_sidecar.authorizer import Authorizer, Question
    from akpolicy_sidecar.sessions import SessionBook
    from akpolicy_sidecar.view import View

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Answering:
    """Answers questions. Safe to use from several threads."""

    def __init__(
        self, authorizer: Authorizer, sessions: SessionBook, *, worker_threads: int, failed: Callable[[str], None]
    ) -> None:
        """`failed` counts requests without a decision, by status name."""
        self.authorizer = authorizer
        self.sessions = sessions
        self.judging: Final = threading.BoundedSemaphore(worker_threads)
        self._failed = failed

    def one(
        self, request: pb.AuthorizeRequest, *, source: str = SOURCE_RUNTIME, view: View | None = None
    ) -> pb.AuthorizeResponse | pb.RequestError:
        """Answer one question, by `view` if it is one of several."""
        return self.guard(lambda: self._answer(request, source, view))

    def guard(self, work: Callable[[], T]) -> T | pb.RequestError:
        """Return what `work` returns, or the error that it ends with, which is counted."""
        try:
            return work()
        except Exception as error:
            if isinstance(error, AkpolicyError) and type(error) in STATUS:
                return self.refused(error)
            fault = str(uuid.uuid4())
            log.exception("request failed", fault=fault)
        status = grpc.StatusCode.INTERNAL.name
        self._failed(status)
        return pb.RequestError(status=status, message=f"the sidecar failed; its log has the cause under {fault}")

    def refused(self, error: AkpolicyError) -> pb.RequestError:
        """Count an error and return its message form."""
        answer = request_error(error)
        self._failed(answer.status)
        return answer

    def _answer(self, request: pb.AuthorizeRequest, source: str, view: View | None) -> pb.AuthorizeResponse:
        question = self._question(request, source)
        if not request.explain:
            return pb.AuthorizeResponse(decision=decision_to_proto(self.authorizer.judge(question, view)))
        # Both by one view: what explains a decision must be what made it.
        view = view or self.authorizer.view()
        decision = self.authorizer.judge(question, view)
        explanation = self.authorizer.explain(question, view)
        return pb.AuthorizeResponse(decision=decision_to_proto(decision), explanation=explanation_to_proto(explanation))

    def _question(self, request: pb.AuthorizeRequest, source: str) -> Question:
        if not request.session_token:
            return self.authorizer.stated(request_from_proto(request))
        if request.HasField("principal") or request.HasField("resource"):
            invalid("stands beside `principal` or `resource`; a session says who asks and about what", "session_token")
        session = self.sessions.use(request.session_token)
        return self.authorizer.of_session(session, request.action, context_from_proto(request), source)
