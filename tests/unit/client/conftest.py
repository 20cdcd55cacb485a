"""A sidecar on a socket with a short path, and both clients behind one face."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from akpolicy.client import AsyncPolicyClient, PolicyClient
from akpolicy.client.answers import DEFAULT_TIMEOUT_S
from tests.simulators.sidecar import SidecarSimulator

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from akpolicy.client import AuthorizationRequest, ClientError, Decision
    from akpolicy.client.sockets import SidecarAddress

PATIENT = 20.0

Connect = Callable[..., "AbstractContextManager[Client]"]


class RunAsyncClient:
    """`AsyncPolicyClient` with an event loop of its own, called like `PolicyClient`."""

    def __init__(self, socket: SidecarAddress, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncPolicyClient(socket, timeout=timeout)

    def authorize(self, **question: Any) -> Decision:
        return self._runner.run(self._client.authorize(**question))

    def authorize_many(self, requests: list[AuthorizationRequest]) -> list[Decision | ClientError]:
        return self._runner.run(self._client.authorize_many(requests))

    def is_allowed(self, **question: Any) -> bool:
        return self._runner.run(self._client.is_allowed(**question))

    def ready(self) -> bool:
        return self._runner.run(self._client.ready())

    def close(self) -> None:
        self._runner.run(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._runner.close()


Client = PolicyClient | RunAsyncClient


@pytest.fixture
def socket() -> Iterator[Path]:
    # pytest's own directories can be too long for a Unix socket.
    with tempfile.TemporaryDirectory(prefix="ak") as directory:
        yield Path(directory) / "s.sock"


@pytest.fixture
def sidecar(socket: Path) -> Iterator[SidecarSimulator]:
    with SidecarSimulator(socket) as running:
        yield running


@pytest.fixture(params=[PolicyClient, RunAsyncClient], ids=["threads", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Connect:
    kind: Connect = request.param
    return kind


@pytest.fixture
def client(connect: Connect, socket: Path, sidecar: SidecarSimulator) -> Iterator[Client]:
    with connect(socket, timeout=PATIENT) as connected:
        yield connected
