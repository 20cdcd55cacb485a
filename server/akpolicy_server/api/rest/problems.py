"""How a REST call is refused: one JSON body, with the same stable codes as over gRPC.

Rules:

- `{"error": {"code", "message"}}`: the code is the name of the domain error, the message its own. Statuses follow from
  those of gRPC (`status`), by one table.
- Who is not known keeps no connection: one that a certificate opened is not good again once that has expired.
- What nobody foresaw becomes 500 with an incident id, and nothing else leaves the server.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Final

from grpc import StatusCode
from starlette.responses import Response

from akpolicy_server.api.call import INCIDENT_BYTES
from akpolicy_server.api.status import status_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from akpolicy.errors import AkpolicyError
    from akpolicy_server.api.call import Ended

JSON: Final = "application/json"
RETRY_AFTER_S: Final = 5

_HTTP: Final[dict[StatusCode, int]] = {
    StatusCode.OK: 200,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.ABORTED: 409,
    StatusCode.FAILED_PRECONDITION: 409,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.INTERNAL: 500,
    StatusCode.UNAVAILABLE: 503,
}
_WAIT: Final = frozenset({StatusCode.RESOURCE_EXHAUSTED, StatusCode.UNAVAILABLE})


class Problem(Exception):
    """A refusal that only HTTP knows: a body that is too large, a path that is none."""

    def __init__(self, http_status: int, status: StatusCode, code: str, message: str) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.status = status
        self.code = code
        self.message = message


def problem_response(http_status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the one kind of error body."""
    body = json.dumps({"error": {"code": code, "message": message}}).encode("utf-8")
    return Response(body, http_status, {"Cache-Control": "no-store", **(headers or {})}, JSON)


def refusal(error: AkpolicyError) -> tuple[StatusCode, Response] | None:
    """Return status and answer for a domain error; None for one that a call should never meet."""
    status = status_of(error)
    if status is None:
        return None
    return status, problem_response(_HTTP[status], error.code, error.message, _headers(status))


def ending(end: Ended) -> Response:
    """Return the answer to a call that the server ends."""
    headers = _headers(end.status)
    if end.retry_after_s is not None:
        headers["Retry-After"] = str(int(end.retry_after_s) + 1)
    return problem_response(_HTTP[end.status], end.status.name, end.message, headers)


def unforeseen() -> tuple[str, Response]:
    """Return an incident id and the answer that names it."""
    incident = secrets.token_hex(INCIDENT_BYTES)
    message = f"internal error; the server's log has it as incident {incident}"
    return incident, problem_response(_HTTP[StatusCode.INTERNAL], "InternalError", message)


def _headers(status: StatusCode) -> dict[str, str]:
    if status is StatusCode.UNAUTHENTICATED:
        return {"WWW-Authenticate": "Bearer", "Connection": "close"}
    return {"Retry-After": str(RETRY_AFTER_S)} if status in _WAIT else {}
