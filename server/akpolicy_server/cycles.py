"""How often Python looks for objects that keep each other alive.

Rules:

- What was loaded at the start stays: it is never looked at again (`gc.freeze`).
- Thousands of streams are objects that stay as well, and each broadcast makes thousands more that go by themselves.
  With Python's own thresholds a fifth of a broadcast to 1,000 hosts was spent on looks; with these it is rare.
- It is not switched off: exceptions with their frames do make cycles.
"""

from __future__ import annotations

import gc
from typing import Final

# So many objects more than were released, then so many looks at the youngest, then at the middle ones.
THRESHOLDS: Final = (20_000, 20, 20)


def settle() -> None:
    """Take what there is now for lasting, and look less often; call it once the program is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
