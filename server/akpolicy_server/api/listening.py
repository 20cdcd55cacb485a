"""gRPC servers bound to an address, with TLS that follows its files.

gRPC for Python asks clients for a certificate only where one is required (`require_client_auth`): a listener takes
certificates from all of its clients or from none.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import grpc
import structlog

from akpolicy.errors import StartupError
from akpolicy.tls_files import ListenerTls
from akpolicy_server.listener import check_free, grpc_options

if TYPE_CHECKING:
    from akpolicy.addresses import HostPort
    from akpolicy.clock import Clock
    from akpolicy.errors import AkpolicyError
    from akpolicy.settings_types import TlsFiles
    from akpolicy.tls_files import ServerTls
    from akpolicy_server.metrics import ServerMetrics
    from akpolicy_server.settings import ServerSection

log = structlog.get_logger(__name__)


def bind(
    listen: HostPort, files: TlsFiles | None, section: ServerSection, metrics: ServerMetrics, clock: Clock
) -> tuple[grpc.aio.Server, HostPort]:
    """Return a server that is not started and where it listens; raise `StartupError` or `ConfigError`.

    `section` says how patient connections are.
    """
    server = grpc.aio.server(options=grpc_options(section.ping_interval_seconds, section.ping_timeout_seconds))
    check_free(listen)
    try:
        if files is None:
            port = server.add_insecure_port(str(listen))
        else:
            tls = ListenerTls(files, clock=clock, failed=partial(not_reloaded, metrics))
            metrics.tls_certificate_expiry.set_function(tls.expires_at)
            port = server.add_secure_port(str(listen), _credentials(tls))
    except RuntimeError as error:
        raise StartupError(f"cannot listen on `{listen}`: {error}") from error
    return server, replace(listen, port=port)


def _credentials(tls: ListenerTls) -> grpc.ServerCredentials:
    """Return credentials that follow the files: gRPC asks at each handshake, on threads of its own."""

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        latest = tls.renewed()
        return _configuration(latest) if latest else None

    must_present = tls.initial.client_ca is not None
    first = _configuration(tls.initial)
    # The stubs do not know that None means: as before.
    return grpc.dynamic_ssl_server_credentials(first, renewed, must_present)  # type: ignore[arg-type]


def _configuration(tls: ServerTls) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(tls.identity.key, tls.identity.chain)], tls.client_ca)


def not_reloaded(metrics: ServerMetrics, error: AkpolicyError) -> None:
    """Count and log a change of TLS files that cannot be used."""
    metrics.credential_reload_failures.inc()
    log.error("TLS files cannot be used; what was read before stays in use", error=error.message)
