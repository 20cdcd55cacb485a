"""Lengths of time as options have them."""

from __future__ import annotations

import re
from typing import Final

from akpolicy.errors import UsageError

_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(text: str, option: str) -> int:
    """Read `90`, `90s`, `15m`, `24h` or `30d` as seconds; raise `UsageError` naming the option."""
    found = _DURATION.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise UsageError(f"`{option} {text}` is no time; write for example `90s`, `15m`, `24h` or `30d`")
    return int(found[1]) * _SECONDS[found[2]]
