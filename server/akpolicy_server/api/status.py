"""From domain errors to gRPC status codes: the one table.

Rules:

- The most specific class in the table counts. The status message is the error's own message.
- Bugs and surprises become INTERNAL with a random incident id; the id and the traceback are in the log, and nothing
  else leaves the server.
"""

from __future__ import annotations

from typing import Final

from grpc import StatusCode

from akpolicy import errors

_STATUS: Final[dict[type[errors.AkpolicyError], StatusCode]] = {
    errors.Unauthenticated: StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: StatusCode.PERMISSION_DENIED,
    errors.OrgNotFound: StatusCode.NOT_FOUND,
    errors.KeyNotFound: StatusCode.NOT_FOUND,
    errors.HostNotDenied: StatusCode.NOT_FOUND,
    errors.RevisionNotFound: StatusCode.NOT_FOUND,
    errors.LegacyNotServed: StatusCode.NOT_FOUND,
    errors.LegacyUnsupported: StatusCode.FAILED_PRECONDITION,
    errors.OrgExists: StatusCode.ALREADY_EXISTS,
    errors.IdempotencyKeyReused: StatusCode.ALREADY_EXISTS,
    errors.VersionConflict: StatusCode.ABORTED,
    errors.OrgFrozen: StatusCode.FAILED_PRECONDITION,
    errors.LastAdminKey: StatusCode.FAILED_PRECONDITION,
    errors.InvalidField: StatusCode.INVALID_ARGUMENT,
    errors.PolicyError: StatusCode.INVALID_ARGUMENT,
    errors.EngineUnavailable: StatusCode.UNAVAILABLE,
    errors.StreamProtocolError: StatusCode.INVALID_ARGUMENT,
    errors.TooManyStreams: StatusCode.RESOURCE_EXHAUSTED,
    errors.TooManyDenials: StatusCode.RESOURCE_EXHAUSTED,
    errors.StoreUnavailable: StatusCode.UNAVAILABLE,
    # What the server would sign, hosts would refuse; or its keys cannot be used. An operator has to act.
    errors.TrustError: StatusCode.FAILED_PRECONDITION,
    errors.SignerError: StatusCode.FAILED_PRECONDITION,
    errors.SignersMissing: StatusCode.FAILED_PRECONDITION,
    # The org is there, its first root not yet: its owners have to act.
    errors.RootNotFound: StatusCode.FAILED_PRECONDITION,
}


def status_of(error: errors.AkpolicyError) -> StatusCode | None:
    """Return the status of a domain error; None for one that a call should never meet."""
    for kind in type(error).__mro__:
        if kind in _STATUS:
            return _STATUS[kind]
    return None
