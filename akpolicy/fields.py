"""The kinds of fields that signed documents are made of.

Each is an annotated type that pydantic checks in strict mode: nothing is converted. Times are whole epoch seconds,
digests are lower-case hex SHA-256, counters begin at 1 and stay below 2^53.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, Field

from akpolicy.errors import FieldInvalid
from akpolicy.limits import MAX_JSON_INT
from akpolicy.scope import check_scope, is_org_name

NONCE_BYTES: Final = 16


def _scope(value: str) -> str:
    try:
        return check_scope(value)
    except FieldInvalid as error:
        raise ValueError(error.message) from None


def _org_name(value: str) -> str:
    if not is_org_name(value):
        msg = "an org name is 1 to 63 of [A-Za-z0-9_-], alphanumeric at both ends"
        raise ValueError(msg)
    return value


Seconds = Annotated[int, Field(ge=0, le=MAX_JSON_INT)]
# Not `Literal[1]`, which takes JSON's `true` for 1.
SpecOne = Annotated[int, Field(ge=1, le=1)]
Counter = Annotated[int, Field(ge=1, le=MAX_JSON_INT)]
HexDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
HexNonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
ScopeText = Annotated[str, AfterValidator(_scope)]
OrgName = Annotated[str, AfterValidator(_org_name)]
SoftwareVersion = Annotated[str, Field(pattern=r"^[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}$")]
