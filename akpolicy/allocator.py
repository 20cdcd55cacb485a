"""Memory that goes back to the system: content of up to 32 MiB passes through programs that run for months.

Rules:

- Blocks of a MiB and more are mapped each for itself, and unmapped when they are freed. By itself glibc raises that
  bound to the largest block that was ever freed (up to 32 MiB): the next content then lies in a heap, between small
  blocks that stay, and its memory stays with it.
- Smaller blocks, such as messages and chunks (256 KiB), are not concerned: mapping costs more than they do.
- Where there is no such setting (another C library), nothing happens; nothing depends on it but memory.
"""

from __future__ import annotations

import ctypes
from typing import Final

from akpolicy.limits import MIB

MAPPED_FROM_BYTES: Final = MIB
# From malloc.h.
_M_MMAP_THRESHOLD: Final = -3


def map_large_blocks() -> bool:
    """Have large blocks mapped one by one in this process from now on; return whether that is so."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM_BYTES))
