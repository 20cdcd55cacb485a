"""What a failed call to the policy server means, and what to do about it.

Rules:

- `ServerUnreachable`: no connection, or no answer in time. Whether the server acted is then unknown. So it is where the
  server says itself that it cannot serve now; that it did is told by the trailing metadata `akpolicy-code`.
- `ServerRefused`: the server answered with another status. Its message comes first, then advice where there is one.
- An answer names the request (`x-request-id`): whoever looks after the server finds it in its log.
- Refused policies come with their mistakes in the trailing metadata `akpolicy-problems-bin`; metadata that does not
  parse costs the list, never the error.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf.message import DecodeError

from akpolicy.client.channel import connect_failure
from akpolicy.client.publishing_types import problems_of
from akpolicy.errors import ClientError, Problem, ServerRefused, ServerUnreachable
from akpolicy.v1 import publishing_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from akpolicy.client.channel import ServerEndpoint

PROBLEMS_METADATA: Final = "akpolicy-problems-bin"
CODE_METADATA: Final = "akpolicy-code"
REQUEST_ID_METADATA: Final = "x-request-id"

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ADVICE: Final[Mapping[grpc.StatusCode, str]] = {
    grpc.StatusCode.UNAUTHENTICATED: "give a valid key in AKPOLICY_API_KEY or with --api-key-file",
    grpc.StatusCode.PERMISSION_DENIED: "use a key whose role and org allow this",
    grpc.StatusCode.UNIMPLEMENTED: "is this an akpolicy server of this version?",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "try again later, or send less",
}


def server_failure(error: Exception, endpoint: ServerEndpoint) -> ClientError:
    """Return what a failed call means for the caller."""
    # What a call raises is a `grpc.RpcError` and a `grpc.Call`; only the second tells the status.
    if not isinstance(error, grpc.Call):
        return ServerUnreachable(f"cannot reach the policy server at `{endpoint.target}`: {error}")
    code, details = error.code(), error.details() or "no details"
    if code is grpc.StatusCode.UNAVAILABLE:
        if any(key == CODE_METADATA for key, _ in error.trailing_metadata() or ()):
            what = f"the policy server at `{endpoint.target}` cannot serve this now: {details}"
            return ServerUnreachable(f"{what}{_request(error)}")
        advice = "check the address, the CA file and whether the server runs"
        cause = connect_failure(details)
        return ServerUnreachable(f"cannot reach the policy server at `{endpoint.target}`: {cause}; {advice}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServerUnreachable(f"the policy server at `{endpoint.target}` gave no answer in time")
    advice = f"; {_ADVICE[code]}" if code in _ADVICE else ""
    return ServerRefused(
        f"the server refused ({code.name}): {details}{advice}{_request(error)}",
        status=code.name,
        problems=_attached(error),
    )


def _request(call: grpc.Call) -> str:
    given = next((value for key, value in call.trailing_metadata() or () if key == REQUEST_ID_METADATA), "")
    # From the network: what is no id is not shown.
    return f" (request {given})" if isinstance(given, str) and _REQUEST_ID.fullmatch(given) else ""


def _attached(call: grpc.Call) -> tuple[Problem, ...]:
    for key, value in call.trailing_metadata() or ():
        if key == PROBLEMS_METADATA and isinstance(value, bytes):
            try:
                return problems_of(pb.PublishFailure.FromString(value).problems)
            except DecodeError:
                return ()
    return ()
