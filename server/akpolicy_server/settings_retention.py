"""`[server.retention]`: how long old revisions stay in the database."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, StrictInt
from pydantic.dataclasses import dataclass

from akpolicy.settings_types import STRICT

MAX_DAYS: Final = 36_600
MAX_CONTENTS: Final = 10_000


@dataclass(frozen=True, config=STRICT)
class RetentionSection:
    """Which revisions stay: those younger than `days` (0: all, for ever), and the `contents` newest of each scope."""

    days: Annotated[StrictInt, Field(ge=0, le=MAX_DAYS)] = 0
    contents: Annotated[StrictInt, Field(ge=2, le=MAX_CONTENTS)] = 20
