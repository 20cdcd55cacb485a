"""A TCP connection that goes wrong: what lies between a host and the server, and does what networks do.

Rules:

- It knows nothing of what it carries: bytes in, bytes out, in both directions.
- Faults take hold at once, on connections that are open too, and from any thread. `heal` ends them all.
- Nothing is made up and nothing is reordered: what arrives is a beginning of what was sent, and maybe late.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE_BYTES: Final = 16 * 1024
DEADLINE_S: Final = 30.0
_RESET = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class _Connection:
    """One host's connection, and the wire's own to the server."""

    host: asyncio.StreamWriter
    server: asyncio.StreamWriter
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Wire:
    """Listens on a port of its own and passes everything on to `target` (a port of this machine); a context manager."""

    def __init__(self, target: int) -> None:
        """Carry to `target`, once entered."""
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._open: set[_Connection] = set()
        self._flowing = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._refusing = False
        self._delay_s = 0.0
        self._cut_after: int | None = None
        self.port = 0
        # How many connections there were, and how many bytes went to hosts.
        self.connections = 0
        self.carried = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return len(self._open)

    # --- faults -------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Be a good wire again; what was held back goes on."""
        self._do(self._heal)

    def lead_to(self, target: int) -> None:
        """Carry new connections to another port; open ones stay where they are."""
        self._do(lambda: setattr(self, "_target", target))

    def stall(self) -> None:
        """Pass nothing on, and say nothing: connections stay open, new ones are taken."""
        self._do(self._flowing.clear)

    def delay(self, seconds: float) -> None:
        """Pass each piece on later, one after the other."""
        self._do(lambda: setattr(self, "_delay_s", seconds))

    def refuse(self) -> None:
        """Reset open connections, and each new one when it comes."""
        self._do(self._refuse)

    def reset(self) -> None:
        """Reset open connections (RST)."""
        self._do(self._reset_all)

    def half_close(self) -> None:
        """End what goes to hosts (FIN), and go on taking what they send."""
        self._do(self._half_close_all)

    def cut_after(self, size: int) -> None:
        """Reset the connection that has carried the last of the next `size` bytes to hosts, once."""
        self._do(lambda: setattr(self, "_cut_after", size))

    @property
    def is_cut(self) -> bool:
        """Whether the cut of `cut_after` has happened, or none was asked for."""
        return self._cut_after is None

    # --- on the loop --------------------------------------------------------------------------------------------------

    def _do(self, work: Callable[[], object]) -> None:
        async def run() -> None:
            result = work()
            if asyncio.iscoroutine(result):
                await result

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(DEADLINE_S)

    async def _listen(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._heal()
        connections = list(self._open)
        self._reset_all()
        ends = [writer.wait_closed() for connection in connections for writer in (connection.host, connection.server)]
        tasks = [task for connection in connections for task in connection.tasks]
        await asyncio.gather(*tasks, *ends, return_exceptions=True)

    def _heal(self) -> None:
        self._refusing, self._delay_s, self._cut_after = False, 0.0, None
        self._flowing.set()

    def _refuse(self) -> None:
        self._refusing = True
        self._reset_all()

    def _reset_all(self) -> None:
        for connection in list(self._open):
            self._reset(connection)

    def _reset(self, connection: _Connection) -> None:
        if connection not in self._open:
            return
        self._open.discard(connection)
        for writer in (connection.host, connection.server):
            _abort(writer)
        for task in connection.tasks:
            task.cancel()

    def _half_close_all(self) -> None:
        for connection in self._open:
            connection.tasks[0].cancel()
            connection.host.write_eof()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._refusing:
            _abort(writer)
            return
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _abort(writer)
            return
        connection = _Connection(writer, to_server)
        down = asyncio.create_task(self._carry(connection, from_server, writer, to_host=True))
        up = asyncio.create_task(self._carry(connection, reader, to_server, to_host=False))
        connection.tasks += [down, up]
        self._open.add(connection)

    async def _carry(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_host: bool
    ) -> None:
        try:
            while data := await reader.read(PIECE_BYTES):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                await self._flowing.wait()
                if to_host:
                    data, is_last = self._cut(data)
                    self.carried += len(data)
                writer.write(data)
                await writer.drain()
                if to_host and is_last:
                    break
        except OSError:
            pass
        # One that ended ends the other: a TCP connection to a process that is gone is reset.
        self._reset(connection)

    def _cut(self, data: bytes) -> tuple[bytes, bool]:
        if self._cut_after is None:
            return data, False
        if len(data) < self._cut_after:
            self._cut_after -= len(data)
            return data, False
        data, self._cut_after = data[: self._cut_after], None
        return data, True


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that the other end sees a reset."""
    found = writer.get_extra_info("socket")
    if found is not None and found.fileno() >= 0:
        # It is closed already if the other end left while the wire was still connecting.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
