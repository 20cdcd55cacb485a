"""The HTTP endpoint, asked over real connections."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.addresses import HostPort
from akpolicy.errors import AddressInUse, StartupError
from akpolicy.exposition import MAX_CONCURRENT_REQUESTS, MAX_HEAD_BYTES, HttpEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ANY_PORT = HostPort("127.0.0.1", 0)
TEXT = "text/plain; version=0.0.4"
Ready = tuple[bool, dict[str, Any]]


class State:
    """What the endpoint shows; tests change it."""

    def __init__(self) -> None:
        self.metrics: Callable[[], tuple[str, bytes]] = lambda: (TEXT, b"a_total 1\n")
        self.ready: Ready = (True, {"policies": 3})

    def show(self) -> tuple[str, bytes]:
        return self.metrics()


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def endpoint(state: State) -> Iterator[HttpEndpoint]:
    endpoint = HttpEndpoint(ANY_PORT, metrics=state.show, ready=lambda: state.ready)
    endpoint.start()
    yield endpoint
    endpoint.stop()


def ask(endpoint: HttpEndpoint, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=30)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


def send(endpoint: HttpEndpoint, data: bytes) -> bytes:
    """Send raw bytes; return everything that comes back."""
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=30) as connection:
        connection.sendall(data)
        answer = b""
        while chunk := connection.recv(65_536):
            answer += chunk
        return answer


def test_metrics_are_shown_with_their_content_type(endpoint: HttpEndpoint) -> None:
    assert ask(endpoint, "/metrics") == (200, TEXT, b"a_total 1\n")
    assert ask(endpoint, "/metrics?name=x") == (200, TEXT, b"a_total 1\n")


def test_a_living_process_is_healthy(endpoint: HttpEndpoint, state: State) -> None:
    state.ready = (False, {})
    assert ask(endpoint, "/healthz")[0] == 200


def test_readiness_is_a_status_with_details(endpoint: HttpEndpoint, state: State) -> None:
    status, content_type, body = ask(endpoint, "/readyz")
    assert (status, content_type, json.loads(body)) == (200, "application/json", {"ready": True, "policies": 3})
    state.ready = (False, {"reason": "no policies"})
    status, _, body = ask(endpoint, "/readyz")
    assert (status, json.loads(body)) == (503, {"ready": False, "reason": "no policies"})


def test_head_answers_without_a_body(endpoint: HttpEndpoint) -> None:
    assert ask(endpoint, "/metrics", "HEAD") == (200, TEXT, b"")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/../metrics", "/healthz/x"])
def test_other_paths_are_not_found(endpoint: HttpEndpoint, path: str) -> None:
    assert ask(endpoint, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_only_get_and_head_are_allowed(endpoint: HttpEndpoint, method: str) -> None:
    assert ask(endpoint, "/metrics", method)[0] == 405


def test_a_failing_callable_is_an_error_and_not_the_end(endpoint: HttpEndpoint, state: State) -> None:
    def fail() -> tuple[str, bytes]:
        msg = "secret detail"
        raise ValueError(msg)

    working, state.metrics = state.metrics, fail
    status, _, body = ask(endpoint, "/metrics")
    assert status == 500
    assert b"secret detail" not in body
    state.metrics = working
    assert ask(endpoint, "/metrics")[0] == 200


def test_a_head_over_the_limit_is_refused(endpoint: HttpEndpoint) -> None:
    # Exactly as much as is read before the refusal: nothing is left over that would reset the connection.
    filler = b"GET /metrics HTTP/1.1\r\nX: ".ljust(MAX_HEAD_BYTES + 1, b"a")
    assert send(endpoint, filler).startswith(b"HTTP/1.0 431 ")


def test_garbage_is_a_bad_request_and_not_the_end(endpoint: HttpEndpoint) -> None:
    assert send(endpoint, b"\x16\x03\x01 what is this\r\n\r\n").startswith(b"HTTP/1.0 400 ")
    assert ask(endpoint, "/healthz")[0] == 200


def test_a_head_that_never_ends_is_given_up() -> None:
    endpoint = HttpEndpoint(ANY_PORT, metrics=lambda: (TEXT, b""), ready=lambda: (True, {}), request_timeout=0.05)
    endpoint.start()
    try:
        assert send(endpoint, b"GET /metrics HTTP/1.1\r\n") == b""
    finally:
        endpoint.stop()


def test_no_more_requests_are_worked_on_at_once_than_the_limit(endpoint: HttpEndpoint, state: State) -> None:
    lock, all_in, release = threading.Lock(), threading.Event(), threading.Event()
    now = most = 0

    def wait() -> tuple[str, bytes]:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            if now == MAX_CONCURRENT_REQUESTS:
                all_in.set()
        release.wait(30)
        with lock:
            now -= 1
        return TEXT, b""

    state.metrics = wait
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ask(endpoint, "/metrics")[0]))
        for _ in range(2 * MAX_CONCURRENT_REQUESTS)
    ]
    for thread in threads:
        thread.start()
    assert all_in.wait(30)
    release.set()
    for thread in threads:
        thread.join(30)
    assert answers == [200] * len(threads)
    assert most == MAX_CONCURRENT_REQUESTS


def test_a_taken_port_is_named(endpoint: HttpEndpoint) -> None:
    taken = HostPort("127.0.0.1", endpoint.port)
    other = HttpEndpoint(taken, metrics=lambda: (TEXT, b""), ready=lambda: (True, {}))
    with pytest.raises(AddressInUse, match=f"`{taken}` is in use"):
        other.start()
    other.stop()


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
    endpoint = HttpEndpoint(HostPort("192.0.2.1", 0), metrics=lambda: (TEXT, b""), ready=lambda: (True, {}))
    with pytest.raises(StartupError, match="cannot listen on"):
        endpoint.start()


def test_a_stopped_endpoint_frees_its_port_and_can_start_again(endpoint: HttpEndpoint) -> None:
    port = endpoint.port
    endpoint.stop()
    endpoint.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=30)
    with pytest.raises(RuntimeError, match="not started"):
        _ = endpoint.port
    endpoint.start()
    assert ask(endpoint, "/healthz")[0] == 200


def test_an_ipv6_address_is_served() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    endpoint = HttpEndpoint(HostPort("::1", 0), metrics=lambda: (TEXT, b""), ready=lambda: (True, {}))
    endpoint.start()
    try:
        connection = http.client.HTTPConnection("::1", endpoint.port, timeout=30)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        endpoint.stop()
