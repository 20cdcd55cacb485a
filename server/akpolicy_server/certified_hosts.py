"""Hosts that are known by their client certificate.

Rules:

- A host need not be registered: whoever issues certificates says which hosts there are. The org must exist, and the
  server's settings must let certificates speak for it. A host that is refused by id (`denied_hosts`) gets nothing.
- An API key that comes along must be one of the same host: a certificate never widens what a key may do, nor the other
  way round.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from akpolicy.errors import OrgNotFound, Unauthenticated
from akpolicy_server.denied_hosts import require_not_denied
from akpolicy_server.store.hosts import HostKey
from akpolicy_server.store.orgs import org_exists

if TYPE_CHECKING:
    from akpolicy.clock import Clock
    from akpolicy_server.access import Caller
    from akpolicy_server.host_identity import CertifiedHost, HostNaming
    from akpolicy_server.store.engine import Database


class CertifiedHosts:
    """Admits hosts by their certificates. Thread-safe; `admit` blocks."""

    def __init__(self, naming: HostNaming, database: Database, clock: Clock) -> None:
        self._naming = naming
        self._database = database
        self._clock = clock

    def identify(self, pem: bytes) -> CertifiedHost:
        """Return the host of a certificate that TLS has verified; raise `Unauthenticated` or `PermissionDenied`."""
        return self._naming.host_of(pem, self._clock.now())

    def admit(self, host: CertifiedHost) -> Caller:
        """Return the caller; raise `OrgNotFound` or `HostDenied`."""
        with self._database.read() as connection:
            if not org_exists(connection, host.org):
                raise OrgNotFound(f"there is no org `{host.org}`")
            require_not_denied(connection, HostKey(host.org, host.host_id))
        return host.caller


def of_both(host: CertifiedHost, key: Caller) -> Caller:
    """Return the caller who shows a certificate and an API key; raise `Unauthenticated` unless they name one host.

    The key's id counts, so that its revocation ends the stream, and the certificate's end does too.
    """
    if (key.org, key.host_id) != (host.org, host.host_id):
        raise Unauthenticated(
            f"the client certificate is of the host `{host.host_id}` of `{host.org}`, and the API key is not; "
            "leave one of them out, or use a key of this host"
        )
    return replace(key, expires_at=host.expires_at)
