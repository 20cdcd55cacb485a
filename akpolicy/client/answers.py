"""What both clients share: questions into messages, answers and failures into decisions and errors.

Rules:

- Everything but a clear decision is a `ClientError`, and a `ClientError` means denied.
- Nothing is asked twice behind the caller's back: a repeat is the caller's decision.
- An outage is logged when it begins and when it ends, not with every call.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import grpc

from akpolicy.client.channel import ServerEndpoint, connect_failure
from akpolicy.errors import (
    BadAnswer,
    ClientError,
    DeadlineExceeded,
    InvalidRequest,
    RequestInvalid,
    SessionError,
    SessionRefused,
    SidecarUnreachable,
    TooManyQuestionStreams,
)
from akpolicy.limits import MAX_BATCH
from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.wire_authorization import decision_from_proto, request_to_proto

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.client.sockets import SidecarAddress
    from akpolicy.decision import Decision
    from akpolicy.engine.request import AuthorizationRequest

DEFAULT_TIMEOUT_S: Final = 1.0

# grpc/health/v1/health.proto: the request names a service (none: the whole program), field 1 of the answer is the
# status, and 1 is SERVING. Two constants save a dependency.
HEALTH_METHOD: Final = "/grpc.health.v1.Health/Check"
HEALTH_REQUEST: Final = b""
HEALTH_SERVING: Final = b"\x08\x01"

# Trailing metadata of a failed call: the sidecar's name for the error.
ERROR_METADATA: Final = "akpolicy-error"
SESSION_ERRORS: Final = frozenset(
    kind.__name__ for kind in (*SessionError.__subclasses__(), SessionError) if kind is not TooManyQuestionStreams
)

_log = logging.getLogger("akpolicy.client")


def to_message(request: AuthorizationRequest) -> pb.AuthorizeRequest:
    """Return the message form; raise `InvalidRequest` for a request that has none."""
    try:
        return request_to_proto(request)
    except RequestInvalid as error:
        raise InvalidRequest(error.message) from error


def decision_of(answer: pb.AuthorizeResponse) -> Decision:
    """Return the decision in an answer; raise `BadAnswer` if there is none."""
    if not answer.HasField("decision"):
        raise BadAnswer("the sidecar's answer has no decision; treat it as denied")
    return decision_from_proto(answer.decision)


def failure(error: grpc.RpcError, at: SidecarAddress, timeout: float) -> ClientError:
    """Return what a failed call means for the caller."""
    code, details = _status(error)
    if reason := _session_error(error):
        return SessionRefused(details, reason=reason)
    place = at.target if isinstance(at, ServerEndpoint) else at
    if code is grpc.StatusCode.UNAVAILABLE:
        return SidecarUnreachable(f"no sidecar answers on `{place}`: {connect_failure(details)}; is it running?")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"the sidecar on `{place}` gave no answer within {timeout:g} s")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidRequest(details)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return BadAnswer(f"what listens on `{place}` is no akpolicy sidecar, or an older one; check the path")
    return BadAnswer(f"the sidecar on `{place}` failed with {code.name}: {details}")


def _session_error(error: grpc.RpcError) -> str:
    """Return the sidecar's name for what is wrong with a session, "" if something else is wrong."""
    metadata = error.trailing_metadata() if isinstance(error, (grpc.Call, grpc.aio.AioRpcError)) else ()
    return next((str(value) for key, value in metadata or () if key == ERROR_METADATA and _is_session(str(value))), "")


def _is_session(code: str) -> bool:
    return code in SESSION_ERRORS


def _status(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    # A failed call is always a `grpc.Call` too; only the base class does not say so.
    code = error.code() if isinstance(error, (grpc.Call, grpc.aio.AioRpcError)) else grpc.StatusCode.UNKNOWN
    details = error.details() if isinstance(error, (grpc.Call, grpc.aio.AioRpcError)) else str(error)
    return code, details or "no details"


@dataclass(slots=True)
class Batch:
    """Several questions as one message, with a place for every answer.

    A question that cannot be translated gets its error at once and is not sent.
    """

    message: pb.BatchAuthorizeRequest = field(default_factory=pb.BatchAuthorizeRequest)
    results: list[Decision | ClientError | None] = field(default_factory=list)

    @classmethod
    def of(cls, requests: Sequence[AuthorizationRequest]) -> Batch:
        """Translate up to `MAX_BATCH` questions; raise `InvalidRequest` for more."""
        if len(requests) > MAX_BATCH:
            raise InvalidRequest(f"{len(requests)} requests in one call; the limit is {MAX_BATCH}: ask in several")
        batch = cls()
        for request in requests:
            try:
                batch.message.requests.append(to_message(request))
                batch.results.append(None)
            except InvalidRequest as error:
                batch.results.append(error)
        return batch

    def answered(self, answer: pb.BatchAuthorizeResponse) -> list[Decision | ClientError]:
        """Put every result in its place; raise `BadAnswer` if their number is wrong."""
        if len(answer.results) != len(self.message.requests):
            asked = len(self.message.requests)
            raise BadAnswer(f"the sidecar gave {len(answer.results)} results for {asked} requests; treat all as denied")
        outcomes = iter(answer.results)
        return [_outcome(next(outcomes)) if result is None else result for result in self.results]


def _outcome(result: pb.BatchAuthorizeResult) -> Decision | ClientError:
    kind = result.WhichOneof("outcome")
    if kind == "decision":
        try:
            return decision_from_proto(result.decision)
        except BadAnswer as error:
            return error
    if kind == "error":
        return error_of(result.error)
    return BadAnswer("the sidecar's answer has no outcome; treat it as denied")


def error_of(error: pb.RequestError) -> ClientError:
    """Return what an error in place of a decision means."""
    if _is_session(error.code):
        return SessionRefused(error.message, reason=error.code)
    if error.status == grpc.StatusCode.INVALID_ARGUMENT.name:
        return InvalidRequest(error.message)
    return BadAnswer(f"the sidecar failed with {error.status}: {error.message}")


@dataclass(slots=True)
class DenialLog:
    """Logs why `is_allowed` said no without a decision: an outage once, a wrong request each time."""

    _outage: str = ""

    def failed(self, error: ClientError) -> None:
        """Log a failure, unless it is the outage that is known already."""
        if isinstance(error, (SidecarUnreachable, DeadlineExceeded)):
            if self._outage == error.code:
                return
            self._outage = error.code
        _log.warning("denied without a decision: %s: %s", error.code, error.message)

    def answered(self) -> None:
        """Log the end of an outage."""
        if self._outage:
            self._outage = ""
            _log.warning("the sidecar answers again")
