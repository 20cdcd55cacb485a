"""The client for runtimes on asyncio.

Rules are those of `akpolicy.client.answers`. One client serves any number of tasks of one event loop over one
connection; keep it for the life of the runtime. The connection belongs to the loop that makes the first call.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

import grpc
import grpc.aio

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
from akpolicy.client.sessions import NO_CONTEXT, AsyncSession, opening, question
from akpolicy.client.sockets import DEFAULT_SOCKET, SidecarAddress, SidecarTarget
from akpolicy.client.streams import QuestionStream
from akpolicy.engine.request import AuthorizationRequest, CedarValue, Principal, Resource
from akpolicy.errors import ClientError, SidecarUnreachable
from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.v1.authorization_pb2_grpc import AuthorizationServiceStub
from akpolicy.wire_explanation import explanation_from_proto

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from akpolicy.decision import Decision
    from akpolicy.engine.explain import Explanation
    from akpolicy.engine.permissions import Permissions
    from akpolicy.tls_files import ClientTls
    from akpolicy.v1.authorization_pb2_grpc import AuthorizationServiceAsyncStub

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class _Connection:
    channel: grpc.aio.Channel
    stub: AuthorizationServiceAsyncStub
    tls: ClientTls | None


class AsyncPolicyClient:
    """Asks the sidecar of this host for decisions, as `PolicyClient` does, in coroutines.

    `socket` is the path of the sidecar's Unix socket, or a `ServerEndpoint` where it listens on TCP. `timeout` is the
    deadline of each call in seconds. `close` it, or use it in an `async with` statement.

    Raises `ConfigError` for a path that cannot be a socket, or certificate files that cannot be used.
    """

    def __init__(self, socket: SidecarAddress = DEFAULT_SOCKET, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        self._at = socket
        self._timeout = timeout
        self._sidecar = SidecarTarget(socket)
        self._connection: _Connection | None = None
        self._closed = False
        self._denials = DenialLog()

    async def authorize(
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
        return decision_of(await self._call(lambda stub: stub.Authorize(message, timeout=self._timeout)))

    async def explain(self, request: AuthorizationRequest) -> tuple[Decision, Explanation]:
        """Ask as `authorize` does, and why: policy by policy. It takes several times as long; raises as `authorize`."""
        message = to_message(request)
        message.explain = True
        answer = await self._call(lambda stub: stub.Authorize(message, timeout=self._timeout))
        return decision_of(answer), explanation_from_proto(answer.explanation)

    async def authorize_many(self, requests: Sequence[AuthorizationRequest]) -> list[Decision | ClientError]:
        """Ask up to 1,000 questions that are judged by the same policy; the answers come in their order.

        A question that cannot be judged has a `ClientError` in its place and does not fail the others: treat it as
        denied. Raises `ClientError` as `authorize` does when the call as a whole fails.
        """
        batch = Batch.of(requests)
        if not batch.message.requests:
            return [result for result in batch.results if result is not None]
        answer = await self._call(lambda stub: stub.BatchAuthorize(batch.message, timeout=self._timeout))
        return batch.answered(answer)

    async def is_allowed(
        self,
        *,
        principal: Principal,
        action: str,
        resource: Resource,
        context: Mapping[str, CedarValue] = NO_CONTEXT,
    ) -> bool:
        """Ask as `authorize` does; whatever is not an allowance, a failure included, is False (and logged)."""
        try:
            decision = await self.authorize(principal=principal, action=action, resource=resource, context=context)
        except ClientError as error:
            self._note(error)
            return False
        self._note(None)
        return decision.allowed

    async def authorize_stream(
        self, requests: AsyncIterable[AuthorizationRequest] | Iterable[AuthorizationRequest]
    ) -> AsyncIterator[Decision | ClientError]:
        """Ask any number of questions over one stream; yield the answers in their order, as they come.

        A question that cannot be judged has a `ClientError` in its place. Raises `ClientError` when the stream breaks.
        """
        connection, stream = self._current(), QuestionStream()
        try:
            async for answer in connection.stub.StreamAuthorize(_messages(stream, requests)):
                for outcome in stream.take(answer):
                    yield outcome
        except grpc.RpcError as error:
            raise self._failed(error, connection) from error
        for outcome in stream.rest():
            yield outcome
        stream.end()

    async def get_permissions(
        self, principal: Principal, resource: Resource, wanted: str | Permissions, *, cwd: str = "", home: str = ""
    ) -> GrantedPermissions:
        """Ask what a sandbox may have of `wanted`: a profile's name (`moderate`), or single permissions.

        `cwd` and `home` are the absolute paths that mounts would be of. Raises as `authorize`.
        """
        message = permissions_question(principal, resource, wanted, cwd, home)
        return granted(await self._call(lambda stub: stub.GetPermissions(message, timeout=self._timeout)))

    async def open_session(self, principal: Principal, resource: Resource, *, lifetime_s: int = 0) -> AsyncSession:
        """Register a sandbox, for `lifetime_s` seconds at most (0: the sidecar's default).

        Raises `ClientError` as `authorize` does, and `SessionRefused` where the sidecar opens none.
        """
        message = opening(principal, resource, lifetime_s)

        async def open_it() -> pb.OpenSessionResponse:
            return await self._call(lambda stub: stub.OpenSession(message, timeout=self._timeout))

        return AsyncSession(await open_it(), open_it, self.authorize_session, self._close_session, self._note)

    async def authorize_session(
        self, token: str, action: str, context: Mapping[str, CedarValue] = NO_CONTEXT
    ) -> Decision:
        """Ask for a session by its token: what there is inside a sandbox, on the session socket.

        Raises as `authorize`, and `SessionRefused`.
        """
        message = question(token, action, context)
        return decision_of(await self._call(lambda stub: stub.Authorize(message, timeout=self._timeout)))

    async def _close_session(self, token: str) -> None:
        message = pb.CloseSessionRequest(session_token=token)
        await self._call(lambda stub: stub.CloseSession(message, timeout=self._timeout))

    def _note(self, error: ClientError | None) -> None:
        if error is None:
            self._denials.answered()
        else:
            self._denials.failed(error)

    async def ready(self) -> bool:
        """Whether a sidecar answers within the timeout and says by the gRPC health protocol that it serves."""
        connection = self._current()
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = connection.channel.unary_unary(HEALTH_METHOD)
        try:
            return await check(HEALTH_REQUEST, timeout=self._timeout) == HEALTH_SERVING
        except grpc.RpcError as error:
            self._failed(error, connection)
            return False

    async def close(self) -> None:
        """Close the connection; calls that still wait for an answer are cancelled."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _current(self) -> _Connection:
        if self._closed:
            raise RuntimeError("the client is closed; make a new one")
        tls = self._sidecar.tls()
        if self._connection is None or self._connection.tls is not tls:
            # An old one is dropped, not closed: it closes when the last call that still holds it has ended.
            channel = self._open(tls)
            self._connection = _Connection(channel, AuthorizationServiceStub(channel), tls)
        return self._connection

    def _open(self, tls: ClientTls | None) -> grpc.aio.Channel:
        target, options = self._sidecar.target, self._sidecar.options
        if tls is None:
            return grpc.aio.insecure_channel(target, options=options)
        return grpc.aio.secure_channel(target, channel_credentials(tls), options=options)

    async def _call(self, ask: Callable[[AuthorizationServiceAsyncStub], Awaitable[_Answer]]) -> _Answer:
        connection = self._current()
        try:
            return await ask(connection.stub)
        except grpc.RpcError as error:
            raise self._failed(error, connection) from error

    def _failed(self, error: grpc.RpcError, connection: _Connection) -> ClientError:
        meaning = failure(error, self._at, self._timeout)
        if isinstance(meaning, SidecarUnreachable) and self._connection is connection:
            # A channel that failed to connect waits before it tries again; a new one does not.
            self._connection = None
        return meaning


async def _messages(
    stream: QuestionStream, requests: AsyncIterable[AuthorizationRequest] | Iterable[AuthorizationRequest]
) -> AsyncIterator[pb.StreamAuthorizeRequest]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            if (message := stream.message(request)) is not None:
                yield message
    else:
        for request in requests:
            if (message := stream.message(request)) is not None:
                yield message
