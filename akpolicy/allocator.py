"""Memory that goes back to the system: content of up to 32 MiB passes through programs that run for months.

Rules:

- Blocks of a MiB and more are mapped each for itself, and unmapped when they are freed. By itself glibc raises that
  bound to the largest block that was ever freed (up to 32 MiB): the next content then lies in a heap, between small
  blocks that stay, and its memory stays with it.
- A program with thousands of connections maps blocks from 17 KiB on (`CONNECTION_BUFFER_BYTES`): of the buffers of
  17 KiB that TLS has in each connection, only the pages that were ever written to are then in memory, and a broadcast
  of content leaves no holes. Mapping costs more than copying such a block does, so that whoever makes many of them
  makes few copies.
- No more than `MAX_MAPPED` blocks are mapped; what is beyond lies in a heap. Linux gives a process 65,530 mappings, and
  threads need some.
- Small blocks that are freed in great numbers, such as the policies of a large bundle, leave holes that glibc keeps for
  what comes next. Whoever is done with such work gives them back (`give_back`).
- Where there is no such setting (another C library), nothing happens; nothing depends on it but memory.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

from akpolicy.limits import KIB, MIB

MAPPED_FROM_BYTES: Final = MIB
CONNECTION_BUFFER_BYTES: Final = 17 * KIB
MAX_MAPPED: Final = 32_768
# From how much content on giving memory back is worth its milliseconds.
WORTH_GIVING_BACK_BYTES: Final = MIB
# From malloc.h.
_M_MMAP_THRESHOLD: Final = -3
_M_MMAP_MAX: Final = -4


def map_large_blocks(from_bytes: int = MAPPED_FROM_BYTES) -> bool:
    """Have blocks of `from_bytes` and more mapped one by one in this process from now on; return whether that is so."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, from_bytes) and mallopt(_M_MMAP_MAX, MAX_MAPPED))


def give_back(size: int = WORTH_GIVING_BACK_BYTES) -> None:
    """Give free memory back to the system, after work on content of `size` bytes; nothing if it was little.

    Takes about as long as there is free memory to look through, with the allocator's locks held: not for an event loop.
    """
    if size < WORTH_GIVING_BACK_BYTES:
        return
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
