"""The API key of a call: `authorization: Bearer <key>` in its metadata, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from akpolicy.errors import Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Iterable

METADATA_KEY: Final = "authorization"
_SCHEME: Final = "bearer "


def bearer_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the API key; raise `Unauthenticated` unless there is exactly one (RFC 6750, section 2.1)."""
    values = [value for name, value in metadata if name == METADATA_KEY]
    if len(values) != 1:
        count = "no API key" if not values else "more than one API key"
        raise Unauthenticated(f"{count}; send `authorization: Bearer <key>` once")
    value = values[0]
    if not isinstance(value, str) or not value.lower().startswith(_SCHEME):
        raise Unauthenticated("the API key must be sent as `authorization: Bearer <key>`")
    return value[len(_SCHEME) :].strip()
