"""Calls on the gRPC listener of hosts that show a client certificate.

The certificate is that of the connection's verified peer, as gRPC has it; see `authentication`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from akpolicy_server.api.call import Calls

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from akpolicy.clock import Clock
    from akpolicy_server.access import Caller
    from akpolicy_server.api.authentication import HostAuthentication, KeyAuthentication
    from akpolicy_server.metrics import ServerMetrics

# What gRPC calls the leaf of a chain that it has verified; it is there for verified peers only.
_CERTIFICATE: Final = "x509_pem_cert"


class HostCalls(Calls):
    """Answers calls of hosts by their certificates."""

    def __init__(
        self, hosts: HostAuthentication, keys: KeyAuthentication, metrics: ServerMetrics, clock: Clock
    ) -> None:
        super().__init__(keys, metrics, clock)
        self._hosts = hosts

    async def authenticate(self, context: ServicerContext[Any, Any]) -> Caller:
        """Return who calls; raise and count `Unauthenticated`, raise `PermissionDenied` or `OrgNotFound`."""
        found = [bytes(each) for each in context.auth_context().get(_CERTIFICATE, ())]
        return await self._hosts.caller(found, context.invocation_metadata() or ())
