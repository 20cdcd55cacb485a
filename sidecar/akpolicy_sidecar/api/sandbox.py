"""The session socket: what a sandbox may ask, with the token that its runtime gave it.

Rules:

- It takes Authorize with a session token. Every other call of this or any service is PERMISSION_DENIED and says what
  the socket takes.
- `context.source` of these questions is `sandbox`: the context comes from whoever is inside.
- No explanation is given: a sandbox learns what it may do, and not the policies of the org.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc

from akpolicy.errors import SessionRequired
from akpolicy.v1 import authorization_pb2 as pb
from akpolicy_sidecar.api.status import abort
from akpolicy_sidecar.authorizer import SOURCE_SANDBOX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from akpolicy_sidecar.api.answering import Answering

AUTHORIZE: Final = f"/{pb.DESCRIPTOR.services_by_name['AuthorizationService'].full_name}/Authorize"


def add_to(server: grpc.Server, answering: Answering) -> None:
    """Serve sandboxes, and nobody else, on `server`."""
    server.add_generic_rpc_handlers((_Gate(answering),))


class _Gate(grpc.GenericRpcHandler):
    """Lets one method through; the others are refused before anything is read."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """Return what serves a method."""
        if handler_call_details.method == AUTHORIZE:
            return grpc.unary_unary_rpc_method_handler(
                self._authorize,
                request_deserializer=pb.AuthorizeRequest.FromString,
                response_serializer=pb.AuthorizeResponse.SerializeToString,
            )
        return grpc.stream_stream_rpc_method_handler(self._refuse)

    def _authorize(self, request: pb.AuthorizeRequest, context: grpc.ServicerContext) -> pb.AuthorizeResponse:
        if not request.session_token:
            self._refuse_with(context, "this socket is for sandboxes: give `session_token`")
        if request.explain:
            self._refuse_with(
                context, "this socket gives no explanations; the runtime can ask for one on its own socket"
            )
        with self._answering.judging:
            outcome = self._answering.one(request, source=SOURCE_SANDBOX)
        if isinstance(outcome, pb.RequestError):
            abort(context, outcome)
        return outcome

    def _refuse(self, _: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._refuse_with(context, "this socket takes Authorize with a session token, and nothing else")

    def _refuse_with(self, context: grpc.ServicerContext, message: str) -> NoReturn:
        abort(context, self._answering.refused(SessionRequired(message)))
