"""Sessions: a sandbox that was registered once, asked about by what it does.

Rules:

- A runtime's session holds what it was opened with. When the sidecar no longer knows it (it was restarted, or the time
  is over), it is opened anew, once a question, and the question is asked again.
- A session that was closed here stays closed.
- Inside a sandbox there is only the token: nothing can be opened anew there, and the runtime has to hand in another.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Final, Self

from akpolicy.errors import ClientError, InvalidRequest, RequestInvalid, SessionRefused
from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.wire_authorization import principal_to_proto, resource_to_proto, session_request_to_proto

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from akpolicy.decision import Decision
    from akpolicy.engine.request import CedarValue, Principal, Resource

NO_CONTEXT: Final[Mapping[str, CedarValue]] = {}
# After these the same sandbox may be registered again.
ENDED: Final = frozenset({"SessionUnknown", "SessionExpired"})


def opening(principal: Principal, resource: Resource, lifetime_s: int) -> pb.OpenSessionRequest:
    """Return the message that opens a session; raise `InvalidRequest` for what has no message form."""
    try:
        return pb.OpenSessionRequest(
            principal=principal_to_proto(principal), resource=resource_to_proto(resource), lifetime_s=lifetime_s
        )
    except (RequestInvalid, UnicodeEncodeError, ValueError) as error:
        raise InvalidRequest(str(error)) from error


def question(token: str, action: str, context: Mapping[str, CedarValue]) -> pb.AuthorizeRequest:
    """Return the message of a session's question; raise `InvalidRequest` for what has no message form."""
    try:
        return session_request_to_proto(token, action, context)
    except RequestInvalid as error:
        raise InvalidRequest(error.message) from error


class Session:
    """A sandbox that this runtime has registered. Safe to share between threads."""

    def __init__(
        self,
        open_it: Callable[[], pb.OpenSessionResponse],
        ask: Callable[[str, str, Mapping[str, CedarValue]], Decision],
        end: Callable[[str], None],
        denied: Callable[[ClientError | None], None],
    ) -> None:
        """Open it; the client says how to open, ask and end, and logs what was `denied` without a decision."""
        self._open = open_it
        self._ask = ask
        self._end = end
        self._denied = denied
        self._lock = threading.Lock()
        self._closed = False
        self._opened = open_it()

    @property
    def token(self) -> str:
        """The token to hand into the sandbox: a secret."""
        return self._opened.session_token

    @property
    def expires_at(self) -> float:
        """When the session ends by itself, in seconds since the epoch."""
        return self._opened.expires_at_ms / 1000

    def authorize(self, action: str, context: Mapping[str, CedarValue] = NO_CONTEXT) -> Decision:
        """Ask whether the sandbox may do `action`; raises as `PolicyClient.authorize`, and `SessionRefused`."""
        token = self.token
        try:
            return self._ask(token, action, context)
        except SessionRefused as refused:
            if refused.reason not in ENDED or self._closed:
                raise
        return self._ask(self._opened_anew(token), action, context)

    def is_allowed(self, action: str, context: Mapping[str, CedarValue] = NO_CONTEXT) -> bool:
        """Ask as `authorize` does; whatever is not an allowance, a failure included, is False (and logged)."""
        try:
            decision = self.authorize(action, context)
        except ClientError as error:
            self._denied(error)
            return False
        self._denied(None)
        return decision.allowed

    def close(self) -> None:
        """End the session; raises `ClientError` if the sidecar cannot be told."""
        self._closed = True
        self._end(self.token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened_anew(self, token: str) -> str:
        with self._lock:
            # Another thread may have done it.
            if self._opened.session_token == token:
                self._opened = self._open()
            return self.token


class AsyncSession:
    """A sandbox that this runtime has registered, on asyncio; made by `AsyncPolicyClient.open_session`."""

    def __init__(
        self,
        opened: pb.OpenSessionResponse,
        open_it: Callable[[], Awaitable[pb.OpenSessionResponse]],
        ask: Callable[[str, str, Mapping[str, CedarValue]], Awaitable[Decision]],
        end: Callable[[str], Awaitable[None]],
        denied: Callable[[ClientError | None], None],
    ) -> None:
        """Go on with what was `opened`; the rest is as for `Session`."""
        self._opened = opened
        self._open = open_it
        self._ask = ask
        self._end = end
        self._denied = denied
        self._lock = asyncio.Lock()
        self._closed = False

    @property
    def token(self) -> str:
        """The token to hand into the sandbox: a secret."""
        return self._opened.session_token

    @property
    def expires_at(self) -> float:
        """When the session ends by itself, in seconds since the epoch."""
        return self._opened.expires_at_ms / 1000

    async def authorize(self, action: str, context: Mapping[str, CedarValue] = NO_CONTEXT) -> Decision:
        """Ask whether the sandbox may do `action`; raises as `Session.authorize`."""
        token = self.token
        try:
            return await self._ask(token, action, context)
        except SessionRefused as refused:
            if refused.reason not in ENDED or self._closed:
                raise
        async with self._lock:
            # Another task may have done it.
            if self._opened.session_token == token:
                self._opened = await self._open()
        return await self._ask(self.token, action, context)

    async def is_allowed(self, action: str, context: Mapping[str, CedarValue] = NO_CONTEXT) -> bool:
        """Ask as `authorize` does; whatever is not an allowance, a failure included, is False (and logged)."""
        try:
            decision = await self.authorize(action, context)
        except ClientError as error:
            self._denied(error)
            return False
        self._denied(None)
        return decision.allowed

    async def close(self) -> None:
        """End the session; raises `ClientError` if the sidecar cannot be told."""
        self._closed = True
        await self._end(self.token)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
