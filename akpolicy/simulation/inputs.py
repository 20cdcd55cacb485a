"""Files that a file of cases is or names: read to a limit, so that a device or a wrong file ends with an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def read_input(path: Path, limit: int) -> bytes:
    """Return the content of a file; raise `UsageError` if it cannot be read or has more than `limit` bytes."""
    try:
        with path.open("rb") as opened:
            data = opened.read(limit + 1)
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise UsageError(f"cannot read {str(path)!r}: {error}") from error
    if len(data) > limit:
        raise UsageError(f"`{path}` has more than {limit} bytes")
    return data
