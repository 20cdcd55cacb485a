"""How a call ended, and what the server said with that. Nothing of it is believed beyond its bounds."""

from __future__ import annotations

from typing import Any, Final

from akpolicy.client.channel import REOPEN_METADATA, RETRY_AFTER_METADATA

# However long the server asks to be left alone.
MAX_ASKED_S: Final = 300.0
MAX_DETAIL_CHARS: Final = 300
_MILLISECONDS: Final = 1000
_MAX_DIGITS: Final = 12


def status_of(error: Any) -> tuple[str, str]:  # noqa: ANN401 - the errors of a call are calls too, which no type says
    """Return the name of the status that a call ended with, and its details."""
    return error.code().name, (error.details() or "")[:MAX_DETAIL_CHARS]


def asks_for_another(error: Any) -> bool:  # noqa: ANN401 - as above
    """Whether the server ended the stream for nobody's fault, and asks for another one."""
    return any(entry.key == REOPEN_METADATA for entry in error.trailing_metadata() or ())


def asked_s_of(error: Any) -> float | None:  # noqa: ANN401 - as above
    """Return how long the server asks to be left alone, in seconds; None if it does not, or not in a number."""
    for entry in error.trailing_metadata() or ():
        if entry.key == RETRY_AFTER_METADATA and entry.value.isascii() and entry.value.isdigit():
            return min(MAX_ASKED_S, int(entry.value[:_MAX_DIGITS]) / _MILLISECONDS)
    return None
