"""What every call of the operators' client has in common: the connection, the API key, the deadline, the errors."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self, TypedDict

import grpc

from akpolicy.client.channel import ServerEndpoint, bearer, open_channel
from akpolicy.client.server_errors import server_failure
from akpolicy.errors import BadAnswer
from akpolicy.v1.publishing_pb2_grpc import PublishingServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

DEFAULT_TIMEOUT_S: Final = 60.0


class CallTerms(TypedDict):
    """What goes with each call."""

    metadata: tuple[tuple[str, str], ...]
    timeout: float


class ServerCalls:
    """A connection to the policy server with one API key; `timeout` is the deadline of each call in seconds."""

    def __init__(self, endpoint: ServerEndpoint, api_key: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        self._endpoint = endpoint
        self._metadata = bearer(api_key)
        self._timeout = timeout
        self._channel = open_channel(endpoint)
        self._stub = PublishingServiceStub(self._channel)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _terms(self) -> CallTerms:
        return {"metadata": self._metadata, "timeout": self._timeout}

    @contextmanager
    def _call(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise server_failure(error, self._endpoint) from error

    def _bad_answer(self, what: str) -> BadAnswer:
        return BadAnswer(f"the server's answer {what}; is `{self._endpoint.target}` an akpolicy server?")
