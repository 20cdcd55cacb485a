"""How long a stream may last: looked at regularly, for all streams at once.

Rules:

- A stream ends when the certificate that opened it does: TLS looks at a certificate in the handshake alone.
- A stream that is old ends too, so that hosts move to servers that were added; see `Fanout`.
- One loop looks at all streams, so that a stream costs no timer of its own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from akpolicy.clock import Clock
    from akpolicy_server.fanout import Fanout

# However long the keep-alive interval is.
MAX_INTERVAL_S: Final = 10.0


class StreamTerms:
    """Ends streams whose time is over."""

    def __init__(self, fanout: Fanout, clock: Clock, *, interval_s: float) -> None:
        """Look every `interval_s` seconds, at the latest every `MAX_INTERVAL_S`."""
        self._fanout = fanout
        self._clock = clock
        self._interval_s = min(interval_s, MAX_INTERVAL_S)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            self.once()

    def once(self) -> None:
        """End what is over."""
        self._fanout.end_expired(self._clock.now())
        self._fanout.end_old()
