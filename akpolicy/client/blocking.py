"""The client for runtimes with threads.

Rules are those of `akpolicy.client.answers`. One client serves any number of threads over one connection; keep it for
the life of the runtime.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

import grpc

from akpolicy.client.answers import (
    DEFAULT_TIMEOUT_S,
    HEALTH_METHOD,
    HEALTH_REQUEST,
    HEALTH_SERVING,
    Batch,
    DenialLog,
    decision_of,
    failure,
    to_message,
)
from akpolicy.client.channel import channel_credentials
from akpolicy.client.permissions import GrantedPermissions, granted, permissions_question
from akpolicy.client.sessions import NO_CONTEXT, Session, opening, question
from akpolicy.client.sockets import DEFAULT_SOCKET, SidecarAddress, SidecarTarget
from akpolicy.client.streams import QuestionStream
from akpolicy.engine.request import AuthorizationRequest, CedarValue, Principal, Resource
from akpolicy.errors import ClientError, SidecarUnreachable
from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.v1.authorization_pb2_grpc import AuthorizationServiceStub
from akpolicy.wire_explanation import explanation_from_proto

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from akpolicy.decision import Decision
    from akpolicy.engine.explain import Explanation
    from akpolicy.engine.permissions import Permissions
    from akpolicy.tls_files import ClientTls

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class _Connection:
    channel: grpc.Channel
    stub: AuthorizationServiceStub
    tls: ClientTls | None


class PolicyClient:
    """Asks the sidecar of this host for decisions.

    `socket` is the path of the sidecar's Unix socket, or a `ServerEndpoint` where it listens on TCP. `timeout` is the
    deadline of each call in seconds. Safe to share between threads; `close` it, or use it in a `with` statement.

    Raises `ConfigError` for a path that cannot be a socket, or certificate files that cannot be used.
    """

    def __init__(self, socket: SidecarAddress = DEFAULT_SOCKET, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        self._at = socket
        self._timeout = timeout
        self._sidecar = SidecarTarget(socket)
        self._lock = threading.Lock()
        self._connection: _Connection | None = self._connect()
        self._denials = DenialLog()

    def authorize(
        self,
        *,
        principal: Principal,
        action: str,
        resource: Resource,
        context: Mapping[str, CedarValue] = NO_CONTEXT,
    ) -> Decision:
        """Ask whether `principal` may do `action` to `resource`; only a decision whose `allowed` is true lets it.

        Raises:
            SidecarUnreachable: nobody answers on the socket.
            DeadlineExceeded: no answer within the timeout.
            InvalidRequest: a field is missing, or the request does not fit the schema.
            BadAnswer: the answer is no decision.

        All of them are `ClientError`: treat them as denied.

        """
        message = to_message(AuthorizationRequest(principal, action, resource, context))
        return decision_of(self._call(lambda stub: stub.Authorize(message, timeout=self._timeout)))

    def explain(self, request: AuthorizationRequest) -> tuple[Decision, Explanation]:
        """Ask as `authorize` does, and why: policy by policy. It takes several times as long; raises as `authorize`."""
        message = to_message(request)
        message.explain = True
        answer = self._call(lambda stub: stub.Authorize(message, timeout=self._timeout))
        return decision_of(answer), explanation_from_proto(answer.explanation)

    def authorize_many(self, requests: Sequence[AuthorizationRequest]) -> list[Decision | ClientError]:
        """Ask up to 1,000 questions that are judged by the same policy; the answers come in their order.

        A question that cannot be judged has a `ClientError` in its place and does not fail the others: treat it as
        denied. Raises `ClientError` as `authorize` does when the call as a whole fails.
        """
        batch = Batch.of(requests)
        if not batch.message.requests:
            return [result for result in batch.results if result is not None]
        return batch.answered(self._call(lambda stub: stub.BatchAuthorize(batch.message, timeout=self._timeout)))

    def is_allowed(
        self,
        *,
        principal: Principal,
        action: str,
        resource: Resource,
        context: Mapping[str, CedarValue] = NO_CONTEXT,
    ) -> bool:
        """Ask as `authorize` does; whatever is not an allowance, a failure included, is False (and logged)."""
        try:
            decision = self.authorize(principal=principal, action=action, resource=resource, context=context)
        except ClientError as error:
            self._note(error)
            return False
        self._note(None)
        return decision.allowed

    def authorize_stream(self, requests: Iterable[AuthorizationRequest]) -> Iterator[Decision | ClientError]:
        """Ask any number of questions over one stream; yield the answers in their order, as they come.

        A question that cannot be judged has a `ClientError` in its place. Raises `ClientError` when the stream breaks.
        """
        connection, stream = self._current(), QuestionStream()
        messages = (message for request in requests if (message := stream.message(request)) is not None)
        try:
            for answer in connection.stub.StreamAuthorize(messages):
                yield from stream.take(answer)
        except grpc.RpcError as error:
            raise self._failed(error, connection) from error
        yield from stream.rest()
        stream.end()

    def get_permissions(
        self, principal: Principal, resource: Resource, wanted: str | Permissions, *, cwd: str = "", home: str = ""
    ) -> GrantedPermissions:
        """Ask what a sandbox may have of `wanted`: a profile's name (`moderate`), or single permissions.

        `cwd` and `home` are the absolute paths that mounts would be of. Raises as `authorize`.
        """
        message = permissions_question(principal, resource, wanted, cwd, home)
        return granted(self._call(lambda stub: stub.GetPermissions(message, timeout=self._timeout)))

    def open_session(self, principal: Principal, resource: Resource, *, lifetime_s: int = 0) -> Session:
        """Register a sandbox, for `lifetime_s` seconds at most (0: the sidecar's default).

        Raises `ClientError` as `authorize` does, and `SessionRefused` where the sidecar opens none.
        """
        message = opening(principal, resource, lifetime_s)
        return Session(
            lambda: self._call(lambda stub: stub.OpenSession(message, timeout=self._timeout)),
            self.authorize_session,
            self._close_session,
            self._note,
        )

    def authorize_session(self, token: str, action: str, context: Mapping[str, CedarValue] = NO_CONTEXT) -> Decision:
        """Ask for a session by its token: what there is inside a sandbox, on the session socket.

        Raises as `authorize`, and `SessionRefused`.
        """
        message = question(token, action, context)
        return decision_of(self._call(lambda stub: stub.Authorize(message, timeout=self._timeout)))

    def _close_session(self, token: str) -> None:
        message = pb.CloseSessionRequest(session_token=token)
        self._call(lambda stub: stub.CloseSession(message, timeout=self._timeout))

    def _note(self, error: ClientError | None) -> None:
        if error is None:
            self._denials.answered()
        else:
            self._denials.failed(error)

    def ready(self) -> bool:
        """Whether a sidecar answers within the timeout and says by the gRPC health protocol that it serves."""
        connection = self._current()
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = connection.channel.unary_unary(HEALTH_METHOD)
        try:
            return check(HEALTH_REQUEST, timeout=self._timeout) == HEALTH_SERVING
        except grpc.RpcError as error:
            self._failed(error, connection)
            return False

    def close(self) -> None:
        """Close the connection; calls that still wait for an answer fail."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self) -> _Connection:
        sidecar, tls = self._sidecar, self._sidecar.tls()
        if tls is None:
            channel = grpc.insecure_channel(sidecar.target, options=sidecar.options)
        else:
            channel = grpc.secure_channel(sidecar.target, channel_credentials(tls), options=sidecar.options)
        return _Connection(channel, AuthorizationServiceStub(channel), tls)

    def _current(self) -> _Connection:
        connection = self._connection
        if connection is not None and connection.tls is not self._sidecar.tls():
            connection = self._replace(connection)
        if connection is None:
            raise RuntimeError("the client is closed; make a new one")
        return connection

    def _replace(self, connection: _Connection) -> _Connection | None:
        """Open a new connection in place of this one, unless another thread did, and return the one of now."""
        # The old one is dropped, not closed: calls of other threads may still end well on it.
        with self._lock:
            if self._connection is connection:
                self._connection = self._connect()
            return self._connection

    def _call(self, ask: Callable[[AuthorizationServiceStub], _Answer]) -> _Answer:
        connection = self._current()
        try:
            return ask(connection.stub)
        except grpc.RpcError as error:
            raise self._failed(error, connection) from error

    def _failed(self, error: grpc.RpcError, connection: _Connection) -> ClientError:
        meaning = failure(error, self._at, self._timeout)
        if isinstance(meaning, SidecarUnreachable):
            # A channel that failed to connect waits before it tries again; a new one does not.
            self._replace(connection)
        return meaning
