"""Limits of Cedar text and of requests: what is refused before Cedar sees it.

Rules:

- Cedar's parser and its abstract syntax trees are recursive. Measured with cedarpy 4.12.2: about 610 nested brackets,
  4,400 nested `if` or 16,400 chained `&&` end the process with SIGSEGV. Brackets nested at most 64 deep within at most
  16 KiB a policy stay far away from all of them.
- Chains are as deep as nesting in Cedar's trees. Measured: beyond about 4,000 `.` or `+` in a row a policy still
  validates, but each of its evaluations ends with "recursion limit reached"; `has a.b.c...` takes time and memory by
  the square of its length (2.5 s for 7,000). A policy therefore has at most 1,000 operators in all.
- A request's limits bound the work that one caller can cause. They are counted per value, in characters or elements.
"""

from __future__ import annotations

from typing import Final

# Cedar text; the sizes are in `akpolicy.limits`, because documents carry them too.
MAX_BRACKET_DEPTH: Final = 64
MAX_OPERATORS: Final = 1000
MAX_PROBLEMS: Final = 100

# Requests.
MAX_VALUE_DEPTH: Final = 16
MAX_STRING_CHARS: Final = 64 * 1024
MAX_ID_CHARS: Final = 1024
MAX_ATTRIBUTES: Final = 256
MAX_SET_ELEMENTS: Final = 4096
MAX_ROLES: Final = 256
MAX_TEAMS: Final = 256

# Cedar's `Long`.
MIN_LONG: Final = -(2**63)
MAX_LONG: Final = 2**63 - 1
