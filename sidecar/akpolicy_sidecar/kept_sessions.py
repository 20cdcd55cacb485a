"""Sessions on their way to a successor.

Rules:

- What travels is what the runtime stated, as the public message that opened the session, and never what was built of
  it: the successor may be another version, and builds and checks anew by its own rules.
- No token travels, because nobody has one: the key is its SHA-256.
- The times are those of the boot clock, which both processes share. The rate begins anew; the hour's count goes on.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.wire_authorization import (
    principal_from_proto,
    principal_to_proto,
    resource_from_proto,
    resource_to_proto,
)

if TYPE_CHECKING:
    from akpolicy.engine.request import Principal, Resource

KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class KeptSession:
    """An open session: who acts in which sandbox, until when (seconds since boot), and what it has used of its hour."""

    principal: Principal
    resource: Resource
    ends_at: float
    hour_began: float
    in_hour: int


def session_to_json(key: bytes, session: KeptSession) -> dict[str, Any]:
    """Return a session as a JSON object; `key` is the SHA-256 of its token."""
    stated = pb.OpenSessionRequest(
        principal=principal_to_proto(session.principal), resource=resource_to_proto(session.resource)
    )
    return {
        "key": key.hex(),
        "stated": base64.b64encode(stated.SerializeToString()).decode("ascii"),
        "ends_at": session.ends_at,
        "hour_began": session.hour_began,
        "in_hour": session.in_hour,
    }


def session_from_json(value: dict[str, Any]) -> tuple[bytes, KeptSession]:
    """Return the key and the session; raise `ValueError` or `RequestInvalid`."""
    try:
        key = bytes.fromhex(value["key"])
        stated = pb.OpenSessionRequest.FromString(base64.b64decode(value["stated"], validate=True))
        times = float(value["ends_at"]), float(value["hour_began"]), int(value["in_hour"])
    except (KeyError, TypeError, DecodeError) as error:
        msg = f"a session is not readable: {error}"
        raise ValueError(msg) from error
    if len(key) != KEY_BYTES:
        msg = f"a session's key has {len(key)} bytes"
        raise ValueError(msg)
    return key, KeptSession(principal_from_proto(stated.principal), resource_from_proto(stated.resource), *times)
