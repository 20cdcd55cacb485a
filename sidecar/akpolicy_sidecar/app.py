"""The composition root: builds the sidecar's parts, starts them in order, and stops them in the reverse order.

Rules:

- Start: the fence's child (it warms up meanwhile), state directory (lock), policies from the cache, audit log, HTTP
  endpoint, listeners, stream client, ready file. Whatever fails raises a `StartupError` or `CacheError`, and what was
  started is stopped again.
- What the cache holds is enforced before the first call can come.
- Signals are blocked in every thread and taken by the main one: SIGTERM and SIGINT stop, SIGHUP reopens the audit log.
  Between signals the main thread looks at silence, credentials and health.
- Stop: the ready file is removed, health says NOT_SERVING, calls in flight end, our socket is removed, the stream is
  closed, the audit log is made durable, the fence's child ends.
"""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from akpolicy.addresses import HostPort
from akpolicy.bundle import OfflineMode
from akpolicy.client.channel import parse_server_url
from akpolicy.clock import SystemClock
from akpolicy.durable import write_atomic
from akpolicy.engine.default_policy import load_default_layer
from akpolicy.engine.schema import load_default_schema
from akpolicy.errors import CacheWriteFailed, EngineUnavailable, StartupError
from akpolicy.exposition import HttpEndpoint
from akpolicy.fence.fence import Fence
from akpolicy.tls_files import ListenerTls
from akpolicy_sidecar.api import sandbox
from akpolicy_sidecar.api.answering import Answering
from akpolicy_sidecar.api.authorization import AuthorizationServicer
from akpolicy_sidecar.audit import AuditLog
from akpolicy_sidecar.authorizer import Authorizer
from akpolicy_sidecar.cache import StateDirectory
from akpolicy_sidecar.credentials import Credentials, CredentialSource
from akpolicy_sidecar.enforcement import Enforcement
from akpolicy_sidecar.health import Health
from akpolicy_sidecar.layers import LayerBuilder
from akpolicy_sidecar.link import LinkHolder
from akpolicy_sidecar.listener import Listener, RuntimeListener, UnixAddress
from akpolicy_sidecar.metrics import CLIENT, LISTENER, SidecarMetrics
from akpolicy_sidecar.offline import OfflineRule
from akpolicy_sidecar.pauses import switch_often
from akpolicy_sidecar.permissions import PermissionAdvisor
from akpolicy_sidecar.report import Reporter
from akpolicy_sidecar.sessions import SessionBook
from akpolicy_sidecar.snapshot import Snapshot, SnapshotHolder
from akpolicy_sidecar.updater import Updater
from akpolicy_sidecar.view import Viewer
from akpolicy_sidecar.watcher import Watcher

if TYPE_CHECKING:
    from pathlib import Path

    from akpolicy.client.channel import ServerEndpoint
    from akpolicy.engine.schema import CedarSchema
    from akpolicy_sidecar.settings import SidecarSettings

T = TypeVar("T")

TICK_S: Final = 0.2
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SECONDS_AN_HOUR: Final = 3600

log = structlog.get_logger(__name__)


def run(settings: SidecarSettings, ready_file: Path | None = None) -> None:
    """Run the sidecar until a signal ends it.

    `ready_file` is written once everything serves, and removed at the end. Raises `StartupError` or `CacheError`.
    """
    # Threads inherit the mask, so this comes before any is started.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    switch_often()
    with ExitStack() as stack:
        sidecar = Sidecar(settings, stack)
        sidecar.start()
        if ready_file is not None:
            _write_ready_file(ready_file, sidecar.addresses())
            stack.callback(ready_file.unlink, missing_ok=True)
        log.info("sidecar is ready", **sidecar.addresses())
        sidecar.serve_until_signal()
        log.info("sidecar is stopping")
    log.info("sidecar has stopped")


class Sidecar:
    """All parts, wired together."""

    def __init__(self, settings: SidecarSettings, stack: ExitStack) -> None:
        """Build everything that needs no peer; `stack` gets what has to be stopped."""
        self._settings = settings
        self._stack = stack
        self._org = _required(settings.enterprise.org_id)
        self._clock = SystemClock()
        self._metrics = SidecarMetrics()
        self._report = Reporter(self._metrics)
        self._fence = _start_fence(stack)
        self._schema = load_default_schema()
        self._snapshots, self._updater = self._build_updater(self._schema)
        self._load_cache()
        self._links = LinkHolder()
        self._viewer = Viewer(self._clock, self._snapshots, self._links)
        self._audit = AuditLog(
            settings.sidecar.audit_log, written=self._metrics.audit_records.inc, failed=self._metrics.audit_errors.inc
        )
        stack.callback(self._audit.close)
        self._health = Health(
            viewer=self._viewer,
            updater=self._updater,
            report=self._report,
            audit=self._audit,
            metrics=self._metrics,
        )
        self._default_layer = load_default_layer(self._schema)
        self._answering = self._build_answering()
        advisor = PermissionAdvisor(self._answering.authorizer, self._default_layer)
        self._listener = RuntimeListener(AuthorizationServicer(self._answering, advisor))
        self._sandboxes = self._build_sandbox_listener()
        self._http = self._build_http()
        self._watcher = self._build_watcher()
        self._tcp: HostPort | None = None

    # --- parts --------------------------------------------------------------------------------------------------------

    def _build_updater(self, schema: CedarSchema) -> tuple[SnapshotHolder, Updater]:
        enterprise, sidecar = self._settings.enterprise, self._settings.sidecar
        directory = StateDirectory.open(sidecar.state_dir, self._org)
        self._stack.callback(directory.close)
        local = OfflineRule(OfflineMode(enterprise.offline_mode), enterprise.cache_max_age_hours * SECONDS_AN_HOUR)
        snapshots = SnapshotHolder(Snapshot.build((), local=local))
        updater = Updater(
            org=self._org,
            anchors=enterprise.trust_anchors.parse(),
            directory=directory,
            builder=LayerBuilder(schema, self._fence),
            clock=self._clock,
            enforcement=Enforcement(snapshots, local),
            watch=self._report,
        )
        return snapshots, updater

    def _load_cache(self) -> None:
        for problem in self._updater.load_from_cache():
            self._report.not_loaded(problem.subject, problem.error)
        versions = {bundle.scope: bundle.version for bundle in self._snapshots.current.bundles}
        log.info("loaded from cache", scopes=versions, missing=self._snapshots.current.missing)

    def _build_answering(self) -> Answering:
        authorizer = Authorizer(
            org=self._org,
            default_roles=self._settings.enterprise.default_roles,
            schema=self._schema,
            default_layer=self._default_layer,
            clock=self._clock,
            viewer=self._viewer,
            audit=self._audit.write,
            observe=self._report.decided,
        )
        sessions = SessionBook(
            org=self._org,
            default_roles=self._settings.enterprise.default_roles,
            clock=self._clock,
            limits=self._settings.sidecar.sessions.limits,
            check=authorizer.check,
            overdrawn=self._report.overdrawn,
        )
        self._metrics.sessions.set_function(lambda: len(sessions))
        return Answering(
            authorizer,
            sessions,
            worker_threads=self._settings.sidecar.worker_threads,
            failed=lambda status: self._metrics.request_errors.labels(status=status).inc(),
        )

    def _build_sandbox_listener(self) -> Listener | None:
        path = self._settings.sidecar.sessions.socket_beside(self._settings.sidecar.socket)
        return None if path is None else Listener(lambda server: sandbox.add_to(server, self._answering))

    def _build_http(self) -> HttpEndpoint | None:
        address = self._settings.sidecar.metrics_listen
        if address is None:
            return None
        return HttpEndpoint(address, metrics=self._health.expose, ready=self._health.readiness)

    def _build_watcher(self) -> Watcher:
        enterprise, sidecar = self._settings.enterprise, self._settings.sidecar
        endpoint = parse_server_url(
            _required(enterprise.policy_server),
            allow_plaintext=sidecar.allow_plaintext,
            ca_file=sidecar.ca_file,
            client_cert_file=sidecar.client_cert_file,
            client_key_file=sidecar.client_key_file,
        )
        return Watcher(
            org=self._org,
            endpoint=endpoint,
            credentials=self._build_credentials(endpoint),
            updater=self._updater,
            links=self._links,
            clock=self._clock,
            report=self._report,
        )

    def _build_credentials(self, endpoint: ServerEndpoint) -> CredentialSource:
        enterprise, expiry = self._settings.enterprise, self._metrics.tls_certificate_expiry

        def loaded(credentials: Credentials) -> None:
            if credentials.tls.identity is not None:
                expiry.labels(use=CLIENT).set(credentials.tls.identity.expires_at)

        return CredentialSource(
            enterprise.api_key_file or enterprise.api_key_env,
            endpoint.tls_files,
            clock=self._clock,
            failed=partial(self._report.not_reloaded, CLIENT),
            loaded=loaded,
        )

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Bind and serve."""
        # Stopped in the reverse order: no more calls, then no more updates.
        self._stack.callback(self._watcher.stop)
        if self._http is not None:
            self._http.start()
            self._stack.callback(self._http.stop)
        self._stack.callback(self._listener.stop, self._settings.sidecar.shutdown_grace_seconds)
        if self._sandboxes is not None:
            self._stack.callback(self._sandboxes.stop, self._settings.sidecar.shutdown_grace_seconds)
        self._bind()
        self._listener.set_serving(serving=self._health.look().ready)
        self._listener.start()
        if self._sandboxes is not None:
            self._sandboxes.start()
        self._watcher.start()

    def _bind(self) -> None:
        sidecar, tcp = self._settings.sidecar, self._settings.sidecar.tcp
        self._listener.bind_socket(UnixAddress(sidecar.socket, sidecar.socket_mode, sidecar.socket_group))
        path = sidecar.sessions.socket_beside(sidecar.socket)
        if self._sandboxes is not None and path is not None:
            self._sandboxes.bind_socket(UnixAddress(path, sidecar.sessions.socket_mode))
        if tcp is not None:
            tls = ListenerTls(tcp, clock=self._clock, failed=partial(self._report.not_reloaded, LISTENER))
            self._metrics.tls_certificate_expiry.labels(use=LISTENER).set_function(tls.expires_at)
            self._tcp = self._listener.bind_tcp(tcp.listen, tls)

    def addresses(self) -> dict[str, str | None]:
        """Return where this sidecar can be reached."""
        listen = self._settings.sidecar.metrics_listen
        metrics = str(HostPort(listen.host, self._http.port)) if self._http and listen else None
        sessions = self._settings.sidecar.sessions.socket_beside(self._settings.sidecar.socket)
        return {
            "socket": str(self._settings.sidecar.socket),
            "session_socket": str(sessions) if sessions else None,
            "metrics": metrics,
            "tcp": str(self._tcp) if self._tcp else None,
        }

    def serve_until_signal(self) -> None:
        """Look after health and silence until SIGTERM or SIGINT comes."""
        while True:
            received = signal.sigtimedwait(SIGNALS, TICK_S)
            if received is None:
                self._look_after()
            elif received.si_signo == signal.SIGHUP:
                self._audit.reopen()
            else:
                return

    def _look_after(self) -> None:
        standing = self._health.look()
        self._watcher.tell(standing.error)
        self._watcher.check_silence()
        self._watcher.check_credentials()
        self._listener.set_serving(serving=standing.ready)


def _start_fence(stack: ExitStack) -> Fence:
    fence = stack.enter_context(Fence())
    try:
        fence.start()
    except EngineUnavailable as error:
        raise StartupError(error.message) from error
    return fence


def _required(value: T | None) -> T:
    """Return what the settings' own checks guarantee to be there while the program is enabled."""
    if value is None:
        msg = "settings without [enterprise] values were not refused"
        raise RuntimeError(msg)
    return value


def _write_ready_file(path: Path, addresses: dict[str, str | None]) -> None:
    content = json.dumps({**addresses, "pid": os.getpid()}).encode() + b"\n"
    try:
        write_atomic(path, content)
    except CacheWriteFailed as error:
        msg = f"cannot write the ready file `{path}`: {error.message}"
        raise StartupError(msg) from error
