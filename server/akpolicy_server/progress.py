"""How far long work is, on standard error: a line that is rewritten on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
import time
from typing import IO, Final

from akpolicy.limits import MIB

INTERVAL_S: Final = 0.5
_ERASE: Final = "\r\x1b[K"


class ProgressLine:
    """Shows what it is told, a few times a second; `close` takes the line away."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        """Write to `stream`, by default standard error."""
        self._stream = stream or sys.stderr
        self._is_shown = self._stream.isatty()
        self._said_at = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` bytes are done, if the last time was a while ago."""
        now = time.monotonic()
        if not self._is_shown or now - self._said_at < INTERVAL_S:
            return
        self._said_at = now
        how_far = f"{done // MIB} of {total // MIB} MiB" if total else "…"
        self._stream.write(f"{_ERASE}{what} {how_far}")
        self._stream.flush()

    def close(self) -> None:
        """Take the line away."""
        if self._is_shown and self._said_at:
            self._stream.write(_ERASE)
            self._stream.flush()
