"""What keeps one thread's long work from being a pause of all threads.

Rules:

- The interpreter is handed on after `SWITCH_INTERVAL_S`: a decision waits that long for it while policies are compiled,
  not Python's usual 5 ms. Measured with 40,000 policies being activated beside 500 decisions a second.
- Who compiles gives way after each small piece of work. A thread that is only asked for the interpreter asks for it
  again at once, and then interrupts the very decision that it made room for.
- While very many objects come to be that all stay (a layer of thousands of policies), the search for garbage cycles is
  off: it looks at all of them again and again, and stops every thread for up to 100 ms each time. Afterwards what has
  come to be is taken out of later searches. Objects without cycles, and layers are such, are freed as ever.
"""

from __future__ import annotations

import gc
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

SWITCH_INTERVAL_S: Final = 0.0002
# About as long as a decision takes.
GIVE_WAY_S: Final = 0.00005
FREED_AT_ONCE: Final = 500
# From how many policies on a layer is large.
MANY_POLICIES: Final = 1000


def switch_often() -> None:
    """Let threads of this process take turns in short intervals."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def give_way() -> None:
    """Let a thread that waits for the interpreter have it for about one decision."""
    time.sleep(GIVE_WAY_S)


def let_go(objects: list[Any]) -> None:
    """Empty a list a few objects at a time: freeing ten thousands at once stops every thread."""
    while objects:
        del objects[-FREED_AT_ONCE:]
        give_way()


@contextmanager
def many_objects(policies: int) -> Iterator[None]:
    """Make objects for so many policies without searches for garbage cycles, if they are many."""
    if policies < MANY_POLICIES or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
