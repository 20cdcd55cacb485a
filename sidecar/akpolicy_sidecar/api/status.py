"""From the errors of the sidecar to gRPC statuses: here and nowhere else.

Rules:

- A call that fails with one of these carries the error's name in the trailing metadata `akpolicy-error`.
- A message is cut to `MAX_DETAIL_CHARS`: it travels in trailers, which peers limit to 8 KiB, and one character can take
  12 bytes there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import grpc

from akpolicy.errors import (
    AkpolicyError,
    ForeignOrg,
    RequestInvalid,
    SessionClosed,
    SessionExpired,
    SessionQuotaExhausted,
    SessionRateLimited,
    SessionRequired,
    SessionUnknown,
    TooManyQuestionStreams,
    TooManySessions,
)
from akpolicy.v1 import authorization_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

ERROR_METADATA: Final = "akpolicy-error"
MAX_DETAIL_CHARS: Final = 500

STATUS: Final[Mapping[type[AkpolicyError], grpc.StatusCode]] = {
    RequestInvalid: grpc.StatusCode.INVALID_ARGUMENT,
    SessionUnknown: grpc.StatusCode.UNAUTHENTICATED,
    SessionClosed: grpc.StatusCode.UNAUTHENTICATED,
    SessionExpired: grpc.StatusCode.UNAUTHENTICATED,
    SessionRequired: grpc.StatusCode.PERMISSION_DENIED,
    ForeignOrg: grpc.StatusCode.PERMISSION_DENIED,
    SessionRateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
    SessionQuotaExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TooManySessions: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TooManyQuestionStreams: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def request_error(error: AkpolicyError) -> pb.RequestError:
    """Return the message form of an error of `STATUS`."""
    return pb.RequestError(status=STATUS[type(error)].name, message=error.message[:MAX_DETAIL_CHARS], code=error.code)


def abort(context: grpc.ServicerContext, error: pb.RequestError) -> NoReturn:
    """End a call with an error."""
    if error.code:
        context.set_trailing_metadata(((ERROR_METADATA, error.code),))
    context.abort(grpc.StatusCode[error.status], error.message)
