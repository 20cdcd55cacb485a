"""A sidecar for tests of its callers: the real wire and the real engine on a real socket, and every way to misbehave.

It judges by the policies that it was given, without server, trust or cache. `answer` is sent in place of every
decision; `stall` makes calls wait until `stop`; `abort` fails them with a status. `stop` and `start` restart it.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import quote

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from akpolicy.bundle import OfflineMode
from akpolicy.decision import BundleVersion, Decision, Effect, PolicySource, Reason
from akpolicy.engine.cedar_request import build
from akpolicy.engine.compile import compile_layer
from akpolicy.engine.decide import Verdict, decide
from akpolicy.engine.request import foreign_org
from akpolicy.engine.schema import load_default_schema
from akpolicy.engine.source import split_policies
from akpolicy.errors import RequestInvalid
from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.v1 import authorization_pb2_grpc
from akpolicy.wire_authorization import decision_to_proto, request_from_proto

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ORG: Final = "acme-corp"
DECISION_ID: Final = "01890a5d-ac96-774b-bcce-b302099a8057"
_WORKERS: Final = 8


def example_policies() -> str:
    """Return the policies that the package ships as examples."""
    return resources.files("akpolicy").joinpath("examples", "policies.cedar").read_text(encoding="utf-8")


class SidecarSimulator(authorization_pb2_grpc.AuthorizationServiceServicer):
    """Serves `AuthorizationService` and health on a Unix socket (plaintext) or on a TCP port with TLS."""

    def __init__(
        self, socket: Path, *, policies: str | None = None, credentials: grpc.ServerCredentials | None = None
    ) -> None:
        """Judge by `policies` (the examples if None); with `credentials`, listen on a free port of 127.0.0.1."""
        self._socket = socket
        self._credentials = credentials
        self._schema = load_default_schema()
        texts = split_policies(example_policies() if policies is None else policies, source="policies.cedar")
        self._layer = compile_layer(f"org/{ORG}", texts, self._schema)
        self._released = threading.Event()
        self._released.set()
        self._server: grpc.Server | None = None
        self.health = health.HealthServicer()
        self.calls = 0
        self.asked: list[pb.AuthorizeRequest] = []
        self.port = 0
        self.answer: pb.AuthorizeResponse | None = None
        self.batch_answer: pb.BatchAuthorizeResponse | None = None
        self.abort: tuple[grpc.StatusCode, str] | None = None

    def start(self) -> Self:
        """Listen; a socket file that is left over is replaced."""
        server = grpc.server(ThreadPoolExecutor(_WORKERS), options=[("grpc.so_reuseport", 0)])
        authorization_pb2_grpc.add_AuthorizationServiceServicer_to_server(self, server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        self.health.set("", health_pb2.HealthCheckResponse.SERVING)
        if self._credentials is None:
            self._socket.unlink(missing_ok=True)
            server.add_insecure_port("unix:" + quote(str(self._socket), safe="/"))
        else:
            self.port = server.add_secure_port("127.0.0.1:0", self._credentials)
        server.start()
        self._server = server
        return self

    def stop(self) -> None:
        """Stop at once, as a killed process does; stalled calls end."""
        self._released.set()
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    def stall(self) -> None:
        """Let every call wait from now on."""
        self._released.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def Authorize(self, request: pb.AuthorizeRequest, context: grpc.ServicerContext) -> pb.AuthorizeResponse:  # noqa: N802
        """Judge one request, or misbehave."""
        self._misbehave(context)
        if self.answer is not None:
            return self.answer
        try:
            return pb.AuthorizeResponse(decision=self._judge(request))
        except RequestInvalid as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)

    def BatchAuthorize(  # noqa: N802
        self, request: pb.BatchAuthorizeRequest, context: grpc.ServicerContext
    ) -> pb.BatchAuthorizeResponse:
        """Judge several requests, or misbehave."""
        self._misbehave(context)
        if self.batch_answer is not None:
            return self.batch_answer
        answer = pb.BatchAuthorizeResponse()
        for each in request.requests:
            try:
                answer.results.add(decision=self._judge(each))
            except RequestInvalid as error:
                answer.results.add(error=pb.RequestError(status="INVALID_ARGUMENT", message=error.message))
        return answer

    def StreamAuthorize(  # noqa: N802
        self, request_iterator: Iterator[pb.StreamAuthorizeRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamAuthorizeResponse]:
        """Judge requests as they come, or misbehave."""
        self._misbehave(context)
        for message in request_iterator:
            try:
                answer = pb.AuthorizeResponse(decision=self._judge(message.request))
                yield pb.StreamAuthorizeResponse(id=message.id, response=answer)
            except RequestInvalid as error:
                wrong = pb.RequestError(status="INVALID_ARGUMENT", message=error.message)
                yield pb.StreamAuthorizeResponse(id=message.id, error=wrong)

    def OpenSession(self, request: pb.OpenSessionRequest, context: grpc.ServicerContext) -> pb.OpenSessionResponse:  # noqa: N802
        """Refuse: the real sidecar is tested for sessions."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no sessions here")

    def CloseSession(self, request: pb.CloseSessionRequest, context: grpc.ServicerContext) -> pb.CloseSessionResponse:  # noqa: N802
        """Refuse."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no sessions here")

    def GetPermissions(  # noqa: N802
        self, request: pb.GetPermissionsRequest, context: grpc.ServicerContext
    ) -> pb.GetPermissionsResponse:
        """Refuse: the real sidecar is tested for permissions."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no permissions here")

    def _misbehave(self, context: grpc.ServicerContext) -> None:
        self.calls += 1
        self._released.wait()
        if self.abort is not None:
            context.abort(*self.abort)

    def _judge(self, message: pb.AuthorizeRequest) -> pb.Decision:
        self.asked.append(message)
        request = request_from_proto(message)
        if foreign_org(request.principal, request.resource, ORG):
            verdict = Verdict(Effect.DENY, Reason.FOREIGN_ORG, "denied: the request is of another org")
        else:
            verdict = decide([self._layer], build(request, org=ORG, source="runtime"), self._schema)
        return decision_to_proto(decision_of(verdict))


def decision_of(verdict: Verdict) -> Decision:
    """Return a decision for a verdict, as a sidecar with a live stream would."""
    return Decision(
        effect=verdict.effect,
        reason=verdict.reason,
        message=verdict.message,
        determining=verdict.determining,
        bundles=(BundleVersion(f"org/{ORG}", 1, 3, "ab" * 32),),
        mode=OfflineMode.CACHED_WITH_EXPIRY,
        source=PolicySource.LIVE,
        policy_age_ms=120,
        decision_id=DECISION_ID,
        evaluation_time_us=210,
        errors=verdict.errors,
        deciding_layer=verdict.deciding_layer,
        fresh=True,
        stalest_layer=f"org/{ORG}",
    )
