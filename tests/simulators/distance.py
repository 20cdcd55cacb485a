"""A long way to a server: connections come about late."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self


class LongWay:
    """Passes TCP connections on to a port of this machine, each after `delay_s` seconds; a context manager."""

    def __init__(self, port: int, delay_s: float) -> None:
        """Stand before `port`."""
        self._to = port
        self._delay_s = delay_s
        self._closed = threading.Event()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.port = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._begin(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for each in (self._listener, *self._open):
            # A thread that waits in accept or recv wakes up.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._open):
            each.close()

    def _begin(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(near)
            self._begin(self._connect, near)

    def _connect(self, near: socket.socket) -> None:
        if self._closed.wait(self._delay_s):
            return
        far = socket.create_connection(("127.0.0.1", self._to))
        self._open.append(far)
        self._begin(_pass_on, near, far)
        _pass_on(far, near)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
