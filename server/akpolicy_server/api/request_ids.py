"""The id of a request: what ties a caller's error to the lines that the server's log has about it.

Rules:

- A caller may name its request in the metadata `x-request-id`; a gateway before the server usually does. What is not 1
  to 64 characters of `A-Z a-z 0-9 . _ -`, or is given more than once, is passed over, and the server makes one: nobody
  is refused for it, and nothing that a caller writes breaks a log line.
- It is in every log line that comes of the call, whatever thread writes it, and in the trailing metadata of the answer.
- It proves nothing and need not be unique: a caller can give the same one twice.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Final

from akpolicy.client.server_errors import REQUEST_ID_METADATA

if TYPE_CHECKING:
    from collections.abc import Iterable

MADE_BYTES: Final = 8
_WELL_FORMED: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id_in(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the id that the caller gave, or a new one."""
    given = [value for key, value in metadata if key == REQUEST_ID_METADATA]
    if len(given) == 1 and isinstance(given[0], str) and _WELL_FORMED.fullmatch(given[0]):
        return given[0]
    return secrets.token_hex(MADE_BYTES)
