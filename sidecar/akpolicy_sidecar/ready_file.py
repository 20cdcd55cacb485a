"""The ready file: where a sidecar that serves can be reached, for whoever started it.

It is written whole, and removed at the end by the process that wrote it: a successor may have written its own by then.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from akpolicy.durable import write_atomic
from akpolicy.errors import CacheWriteFailed, StartupError

if TYPE_CHECKING:
    from pathlib import Path


def write_ready_file(path: Path, addresses: dict[str, str | None]) -> None:
    """Write addresses and pid as JSON; raise `StartupError`."""
    content = json.dumps({**addresses, "pid": os.getpid()}).encode() + b"\n"
    try:
        write_atomic(path, content)
    except CacheWriteFailed as error:
        msg = f"cannot write the ready file `{path}`: {error.message}"
        raise StartupError(msg) from error


def remove_ready_file(path: Path) -> None:
    """Remove the file if this process wrote it."""
    with suppress(OSError, ValueError, KeyError):
        if json.loads(path.read_bytes())["pid"] == os.getpid():
            path.unlink()
