"""Waiting for what happens elsewhere, with a deadline."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_DEADLINE_S = 30.0
_POLL_S = 0.01

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, deadline: float = DEFAULT_DEADLINE_S, what: str = "") -> T:
    """Return the first truthy value of `condition`; raise `AssertionError` when `deadline` seconds have passed."""
    pause = threading.Event()
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            msg = f"waited {deadline} seconds in vain for {what or condition}; last seen: {value!r}"
            raise AssertionError(msg)
        pause.wait(_POLL_S)
