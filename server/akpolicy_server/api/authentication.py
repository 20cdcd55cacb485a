"""Who calls, by what the call shows: an API key, or a client certificate with or without one. For gRPC and REST alike.

Rules:

- An API key comes as `authorization: Bearer <key>` in the call's metadata, once.
- A client certificate is that of the connection's verified peer, as the transport has it. Nothing that the caller says
  is asked for it. It is looked at with each call, because connections outlive handshakes.
- Failures are counted by reason. What is no key or certificate at all takes no thread: anybody can send anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from akpolicy.errors import Unauthenticated
from akpolicy_server.api_keys import key_id_in
from akpolicy_server.certified_hosts import of_both

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from akpolicy_server.access import Caller
    from akpolicy_server.api_keys import ApiKeys
    from akpolicy_server.certified_hosts import CertifiedHosts
    from akpolicy_server.metrics import ServerMetrics
    from akpolicy_server.threads import Threads

    Metadata = Iterable[tuple[str, str | bytes]]

METADATA_KEY: Final = "authorization"
_SCHEME: Final = "bearer "


class KeyAuthentication:
    """Knows callers by their API keys."""

    def __init__(self, api_keys: ApiKeys, threads: Threads, metrics: ServerMetrics) -> None:
        self._api_keys = api_keys
        self._threads = threads
        self._metrics = metrics

    async def caller(self, metadata: Metadata) -> Caller:
        """Return who calls; raise and count `Unauthenticated`."""
        reason = "missing"
        try:
            secret = bearer_of(metadata)
            reason = "refused"
            key_id_in(secret)
            return await self._threads.database(self._api_keys.authenticate, secret)
        except Unauthenticated:
            self._metrics.authentication_failures.labels(reason=reason).inc()
            raise


class HostAuthentication:
    """Knows hosts by their client certificates; an API key that comes along must be of the same host."""

    def __init__(
        self, hosts: CertifiedHosts, keys: KeyAuthentication, threads: Threads, metrics: ServerMetrics
    ) -> None:
        self._hosts = hosts
        self._keys = keys
        self._threads = threads
        self._metrics = metrics

    async def caller(self, certificates: Sequence[bytes], metadata: Metadata) -> Caller:
        """Return who calls; raise and count `Unauthenticated`, raise `PermissionDenied` or `OrgNotFound`.

        `certificates`: the leaf of each chain that the transport has verified, in PEM; there must be one.
        """
        try:
            host = self._hosts.identify(_only(certificates))
        except Unauthenticated:
            self._metrics.authentication_failures.labels(reason="certificate").inc()
            raise
        caller = await self._threads.database(self._hosts.admit, host)
        sent = tuple(metadata)
        if not any(name == METADATA_KEY for name, _ in sent):
            return caller
        return of_both(host, await self._keys.caller(sent))


def bearer_of(metadata: Metadata) -> str:
    """Return the API key; raise `Unauthenticated` unless there is exactly one (RFC 6750, section 2.1)."""
    values = [value for name, value in metadata if name == METADATA_KEY]
    if len(values) != 1:
        count = "no API key" if not values else "more than one API key"
        raise Unauthenticated(f"{count}; send `authorization: Bearer <key>` once")
    value = values[0]
    if not isinstance(value, str) or not value.lower().startswith(_SCHEME):
        raise Unauthenticated("the API key must be sent as `authorization: Bearer <key>`")
    return value[len(_SCHEME) :].strip()


def _only(certificates: Sequence[bytes]) -> bytes:
    if len(certificates) != 1:
        raise Unauthenticated("the connection shows no client certificate")
    return certificates[0]
