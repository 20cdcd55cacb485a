"""`[sidecar.sessions]`: sandboxes that runtimes register, and the socket on which they ask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, PlainValidator, StrictBool, StrictInt, ValidationInfo
from pydantic.dataclasses import dataclass

from akpolicy.settings_types import STRICT, OctalMode, resolve_path
from akpolicy_sidecar.default_paths import SOCKET_NAME
from akpolicy_sidecar.sessions import (
    DEFAULT_BURST,
    DEFAULT_HOURLY_QUOTA,
    DEFAULT_LIFETIME_S,
    DEFAULT_MAX_SESSIONS,
    DEFAULT_RATE,
    MAX_LIFETIME_S,
    SessionLimits,
)

SESSION_SOCKET_NAME: Final = "session.sock"
# A sandbox runs as any user, and its token is what lets it in; the socket takes nothing else.
SESSION_SOCKET_MODE: Final = 0o666
MAX_SESSIONS: Final = 1_000_000
MAX_RATE: Final = 100_000
MAX_HOURLY_QUOTA: Final = 1_000_000_000

_BESIDE: Any = ""


def _socket(value: object, info: ValidationInfo) -> Path | None:
    return None if value == "" else resolve_path(value, info)


@dataclass(frozen=True, config=STRICT)
class SessionsSection:
    """What sessions may. `socket` None: beside the socket for runtimes, see `socket_beside`."""

    listen: StrictBool = True
    socket: Annotated[Path | None, PlainValidator(_socket)] = Field(default=_BESIDE, validate_default=True)
    socket_mode: OctalMode = SESSION_SOCKET_MODE
    lifetime_seconds: Annotated[StrictInt, Field(ge=1, le=MAX_LIFETIME_S)] = DEFAULT_LIFETIME_S
    max_sessions: Annotated[StrictInt, Field(ge=0, le=MAX_SESSIONS)] = DEFAULT_MAX_SESSIONS
    rate: Annotated[StrictInt, Field(ge=1, le=MAX_RATE)] = DEFAULT_RATE
    burst: Annotated[StrictInt, Field(ge=1, le=MAX_RATE)] = DEFAULT_BURST
    hourly_quota: Annotated[StrictInt, Field(ge=1, le=MAX_HOURLY_QUOTA)] = DEFAULT_HOURLY_QUOTA

    @property
    def limits(self) -> SessionLimits:
        """The same for the book of sessions."""
        return SessionLimits(
            self.lifetime_seconds, MAX_LIFETIME_S, self.max_sessions, self.rate, self.burst, self.hourly_quota
        )

    def socket_beside(self, socket: Path) -> Path | None:
        """Return where sandboxes ask, given the socket for runtimes; None if they cannot."""
        if not self.listen:
            return None
        # Several sidecars may have their sockets in one directory.
        usual = socket.name == SOCKET_NAME
        return self.socket or socket.with_name(SESSION_SOCKET_NAME if usual else f"{socket.stem}-{SESSION_SOCKET_NAME}")
