"""Calls on the listener of hosts that show a client certificate.

The certificate is that of the connection's verified peer, as gRPC has it; nothing that the caller says is asked for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from akpolicy.errors import Unauthenticated
from akpolicy_server.api.authentication import METADATA_KEY
from akpolicy_server.api.call import Calls
from akpolicy_server.certified_hosts import of_both

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from akpolicy.clock import Clock
    from akpolicy_server.access import Caller
    from akpolicy_server.api_keys import ApiKeys
    from akpolicy_server.certified_hosts import CertifiedHosts
    from akpolicy_server.metrics import ServerMetrics
    from akpolicy_server.threads import Threads

# What gRPC calls the leaf of a chain that it has verified; it is there for verified peers only.
_CERTIFICATE: Final = "x509_pem_cert"


class HostCalls(Calls):
    """Answers calls of hosts by their certificates."""

    def __init__(
        self, hosts: CertifiedHosts, api_keys: ApiKeys, threads: Threads, metrics: ServerMetrics, clock: Clock
    ) -> None:
        super().__init__(api_keys, threads, metrics, clock)
        self._hosts = hosts

    async def authenticate(self, context: ServicerContext[Any, Any]) -> Caller:
        """Return who calls; raise and count `Unauthenticated`, raise `PermissionDenied` or `OrgNotFound`."""
        try:
            host = self._hosts.identify(_certificate_of(context))
        except Unauthenticated:
            self._metrics.authentication_failures.labels(reason="certificate").inc()
            raise
        caller = await self._threads.database(self._hosts.admit, host)
        if not any(name == METADATA_KEY for name, _ in context.invocation_metadata() or ()):
            return caller
        return of_both(host, await super().authenticate(context))


def _certificate_of(context: ServicerContext[Any, Any]) -> bytes:
    found = list(context.auth_context().get(_CERTIFICATE, ()))
    if len(found) != 1:
        raise Unauthenticated("the connection shows no client certificate")
    return bytes(found[0])
