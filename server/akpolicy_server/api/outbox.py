"""What goes out on one stream, with as few messages as the host allows.

Rules:

- Order is kept. What was added goes out when it reaches `MAX_BATCH_BYTES`, and whenever the stream is about to wait.
- A message that goes out alone goes as it is; several go as one Batch, if the host takes that.
- Writing waits for the host to read (flow control): no more than `MAX_BATCH_BYTES`, or one message, waits here.
- What waits is bytes, and nothing else: in a broadcast thousands of streams write at once, and each object that their
  messages were made of would wait with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.limits import MAX_BATCH_BYTES
from akpolicy_server.api.encoding import batch, size_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from akpolicy_server.api.encoding import Pieces

    Write = Callable[[bytes], Awaitable[None]]


class Outbox:
    """The messages of one stream that are still to be written."""

    __slots__ = ("_messages", "_size", "_takes_batches", "_write")

    def __init__(self, write: Write, *, takes_batches: bool) -> None:
        """`write` sends one message, a `SubscribeResponse`, to the host."""
        self._write = write
        self._takes_batches = takes_batches
        self._messages: list[Pieces] | None = None
        self._size = 0

    async def add(self, *message: bytes | memoryview) -> None:
        """Have a message go out, now or with others: the pieces of a `SubscribeResponse`."""
        if not self._takes_batches:
            await self._write(b"".join(message))
            return
        size = size_of(message)
        if self._size + size > MAX_BATCH_BYTES:
            await self.flush()
        if self._messages is None:
            self._messages = []
        self._messages.append(message)
        self._size += size

    async def flush(self) -> None:
        """Write all that was added."""
        if self._messages:
            await self._write(self._taken())

    def _taken(self) -> bytes:
        messages, self._messages, self._size = self._messages or [], None, 0
        return b"".join(messages[0]) if len(messages) == 1 else batch(messages)
