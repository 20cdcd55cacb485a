"""Room for scopes: an org has no more of them than one index can name, because hosts refuse a larger one.

Rules:

- `global` always has room. Of its own, an org has at most `MAX_SCOPES_AN_ORG` scopes.
- The index of all of them stays within its bytes, whatever epochs and versions they come to: each line is counted as
  long as it can become.
- A scope that was published once has its place for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from akpolicy.errors import TooManyScopes
from akpolicy.limits import MAX_INDEX_BYTES, MAX_INDEX_SCOPES
from akpolicy.scope import GLOBAL, org_of
from akpolicy_server.store.layers import find_layer, names_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

MAX_SCOPES_AN_ORG: Final = MAX_INDEX_SCOPES - 1
# Of a line of the index without the scope: epoch, version, digest, three spaces and the line feed.
MAX_LINE_BYTES: Final = 16 + 16 + 64 + 4


def require_room(connection: Connection, scope: str) -> None:
    """Raise `TooManyScopes` if the scope is new to its org and hosts could not take one more."""
    org = org_of(scope)
    if org is None or find_layer(connection, org, scope) is not None:
        return
    count, chars = names_of(connection, org)
    if count >= MAX_SCOPES_AN_ORG:
        raise TooManyScopes(f"`{org}` has {count} scopes, as many as hosts enforce; `{scope}` would be one more")
    size = chars + len(scope) + len(GLOBAL) + (count + 2) * MAX_LINE_BYTES
    if size > MAX_INDEX_BYTES:
        raise TooManyScopes(
            f"the index of `{org}` could grow to {size} bytes with `{scope}`, and hosts take {MAX_INDEX_BYTES}; give "
            "teams and users shorter names"
        )
