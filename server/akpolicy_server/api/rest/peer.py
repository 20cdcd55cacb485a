"""The client certificate of a connection, as REST calls see it.

Rules:

- It stands in the ASGI scope, in the manner of the ASGI extension for TLS (`scope["extensions"]["tls"]`), and is put
  there by the connection alone: nothing in a request gets there.
- It is there only if the handshake has verified it. The chain has one certificate, the client's own: Python's TLS
  library does not tell the others.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from akpolicy_server.api.authentication import METADATA_KEY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from akpolicy_server.access import Caller
    from akpolicy_server.api.authentication import HostAuthentication, KeyAuthentication

_EXTENSION: Final = "tls"


def with_peer(app: ASGIApp, tls: ssl.SSLObject | None) -> ASGIApp:
    """Return `app` for the requests of one connection, whose handshake is done; `tls` None: it has no TLS."""
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    if der is None or tls is None or tls.context.verify_mode is not ssl.CERT_REQUIRED:
        return app
    of_connection = {"client_cert_chain": (ssl.DER_cert_to_PEM_cert(der),), "client_cert_error": None}

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        extensions = {**scope.get("extensions", {}), _EXTENSION: of_connection}
        await app({**scope, "extensions": extensions}, receive, send)

    return answer


def certificates_in(scope: Scope) -> list[bytes]:
    """Return the client's certificate in PEM; nothing if the connection shows none."""
    of_connection = (scope.get("extensions") or {}).get(_EXTENSION) or {}
    if of_connection.get("client_cert_error"):
        return []
    return [str(pem).encode("ascii", "replace") for pem in of_connection.get("client_cert_chain", ())[:1]]


# --- who calls --------------------------------------------------------------------------------------------------------


def by_key(keys: KeyAuthentication) -> Callable[[Request], Awaitable[Caller]]:
    """Return what knows callers by their API keys."""

    async def caller(request: Request) -> Caller:
        return await keys.caller(_metadata(request))

    return caller


def by_certificate(hosts: HostAuthentication) -> Callable[[Request], Awaitable[Caller]]:
    """Return what knows hosts by their client certificates."""

    async def caller(request: Request) -> Caller:
        return await hosts.caller(certificates_in(request.scope), _metadata(request))

    return caller


def _metadata(request: Request) -> list[tuple[str, str | bytes]]:
    return [(METADATA_KEY, value) for value in request.headers.getlist(METADATA_KEY)]
