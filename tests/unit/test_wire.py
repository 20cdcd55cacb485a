"""The wire that goes wrong does go wrong, and in the way that was asked for."""

from __future__ import annotations

import socket
import socketserver
import threading
from typing import TYPE_CHECKING, cast

import pytest

from tests.simulators.waiting import wait_until
from tests.simulators.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 30.0


class _Echo(socketserver.BaseRequestHandler):
    """Sends back what comes, and counts the bytes."""

    def handle(self) -> None:
        server = cast("_Server", self.server)
        try:
            while data := self.request.recv(4096):
                server.received += len(data)
                self.request.sendall(data)
        except OSError:
            server.resets += 1


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    received = 0
    resets = 0


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Echo) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def wire(server: _Server) -> Iterator[Wire]:
    with Wire(server.server_address[1]) as made:
        yield made


def _connect(wire: Wire) -> socket.socket:
    return socket.create_connection(("127.0.0.1", wire.port), TIMEOUT_S)


def _receive(host: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := host.recv(size - len(data))):
        data += piece
    return data


def _ends_with_reset(host: socket.socket) -> bool:
    """Read to the end; return whether it is a reset."""
    try:
        while host.recv(4096):
            pass
    except ConnectionResetError:
        return True
    return False


def _is_refused(wire: Wire) -> bool:
    """Return whether a new connection is reset, before it is there or after."""
    try:
        with _connect(wire) as host:
            return _ends_with_reset(host)
    except ConnectionResetError:
        return True


def test_a_good_wire_carries_everything_both_ways(wire: Wire) -> None:
    sent = bytes(range(256)) * 400
    with _connect(wire) as host:
        host.sendall(sent)
        assert _receive(host, len(sent)) == sent
    assert (wire.connections, wire.carried) == (1, len(sent))


def test_what_a_stalled_wire_held_back_goes_on_when_it_heals(wire: Wire, server: _Server) -> None:
    with _connect(wire) as host:
        host.sendall(b"a")
        assert _receive(host, 1) == b"a"
        wire.stall()
        host.sendall(b"b")
        host.settimeout(0.2)
        with pytest.raises(TimeoutError):
            host.recv(1)
        assert server.received == 1
        host.settimeout(TIMEOUT_S)
        wire.heal()
        assert _receive(host, 1) == b"b"


def test_a_wire_is_cut_after_so_many_bytes_and_once(wire: Wire) -> None:
    wire.cut_after(5000)
    with _connect(wire) as host:
        host.sendall(bytes(3000))
        assert len(_receive(host, 3000)) == 3000
        host.sendall(bytes(3000))
        assert _ends_with_reset(host)
    assert wire.is_cut
    assert wire.carried == 5000
    with _connect(wire) as host:
        host.sendall(b"again")
        assert _receive(host, 5) == b"again"


def test_a_reset_reaches_both_ends(wire: Wire, server: _Server) -> None:
    with _connect(wire) as host:
        host.sendall(b"a")
        assert _receive(host, 1) == b"a"
        wire.reset()
        with pytest.raises(ConnectionResetError):
            host.recv(1)
        wait_until(lambda: server.resets == 1)


def test_a_half_closed_wire_ends_for_the_host_and_takes_on(wire: Wire, server: _Server) -> None:
    with _connect(wire) as host:
        host.sendall(b"a")
        assert _receive(host, 1) == b"a"
        wire.half_close()
        assert host.recv(1) == b""
        host.sendall(b"bc")
        wait_until(lambda: server.received == 3)


def test_a_refusing_wire_resets_what_comes_until_it_heals(wire: Wire) -> None:
    wire.refuse()
    assert _is_refused(wire)
    wire.heal()
    with _connect(wire) as host:
        host.sendall(b"a")
        assert _receive(host, 1) == b"a"


def test_a_slow_wire_carries_everything_late(wire: Wire) -> None:
    wire.delay(0.01)
    with _connect(wire) as host:
        host.sendall(bytes(100_000))
        assert _receive(host, 100_000) == bytes(100_000)


def test_a_wire_to_nobody_resets() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with Wire(unused.getsockname()[1]) as wire:
            assert _is_refused(wire)
