"""What goes out on one stream, with as few messages as the host allows.

Rules:

- Order is kept. What was added goes out when it reaches `MAX_BATCH_BYTES`, and whenever the stream is about to wait.
- A message that goes out alone goes as it is; several go as one Batch, if the host takes that.
- Writing waits for the host to read (flow control): no more than `MAX_BATCH_BYTES`, or one message, waits here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.limits import MAX_BATCH_BYTES
from akpolicy.v1 import distribution_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Write = Callable[[distribution_pb2.SubscribeResponse], Awaitable[None]]


class Outbox:
    """The messages of one stream that are still to be written."""

    __slots__ = ("_messages", "_size", "_takes_batches", "_write")

    def __init__(self, write: Write, *, takes_batches: bool) -> None:
        """`write` sends one message to the host."""
        self._write = write
        self._takes_batches = takes_batches
        self._messages: list[distribution_pb2.SubscribeResponse] = []
        self._size = 0

    async def add(self, message: distribution_pb2.SubscribeResponse) -> None:
        """Have a message go out, now or with others."""
        if not self._takes_batches:
            await self._write(message)
            return
        size = message.ByteSize()
        if self._size + size > MAX_BATCH_BYTES:
            await self.flush()
        self._messages.append(message)
        self._size += size

    async def flush(self) -> None:
        """Write all that was added."""
        if not self._messages:
            return
        messages, self._messages, self._size = self._messages, [], 0
        if len(messages) == 1:
            await self._write(messages[0])
        else:
            await self._write(distribution_pb2.SubscribeResponse(batch=distribution_pb2.Batch(messages=messages)))
