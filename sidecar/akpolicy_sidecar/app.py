"""The composition root: builds the sidecar's parts, starts them in order, and stops them in the reverse order.

Rules:

- Start: the fence's child (it warms up meanwhile), state directory (lock), policies from the cache, audit log, HTTP
  endpoint, listeners, stream client, ready file. Whatever fails raises a `StartupError` or `CacheError`, and what was
  started is stopped again.
- What the cache holds is enforced before the first call can come.
- Signals are received by a thread of their own (`signals`): SIGTERM and SIGINT stop, SIGHUP reopens the audit log.
  Between signals the main thread looks at silence, credentials and health.
- Take-over: the fence is warm before the predecessor lets go of the state directory; the sockets get their names once
  the stream counts and the sessions are here, and then the predecessor leaves. With a successor it is the other way
  round (`handover`).
- Stop: the ready file is removed, health says NOT_SERVING, calls in flight end, our socket is removed, the stream is
  closed, the audit log is made durable, the fence's child ends.
"""

from __future__ import annotations

import math
import signal
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from akpolicy.addresses import HostPort
from akpolicy.bundle import OfflineMode
from akpolicy.clock import Moment, SystemClock
from akpolicy.engine.default_policy import load_default_layer
from akpolicy.engine.schema import load_default_schema
from akpolicy.errors import EngineUnavailable, HandoverFailed, StartupError
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
from akpolicy_sidecar.handover import HandoverServer
from akpolicy_sidecar.health import Health
from akpolicy_sidecar.layers import LayerBuilder
from akpolicy_sidecar.link import LinkHolder
from akpolicy_sidecar.listener import LEFT_AFTER_S, Listener, RuntimeListener
from akpolicy_sidecar.metrics import CLIENT, LISTENER, SidecarMetrics
from akpolicy_sidecar.offline import OfflineRule
from akpolicy_sidecar.pauses import switch_often
from akpolicy_sidecar.permissions import PermissionAdvisor
from akpolicy_sidecar.ready_file import remove_ready_file, write_ready_file
from akpolicy_sidecar.report import Reporter
from akpolicy_sidecar.servers import PolicyServers, endpoints_of
from akpolicy_sidecar.sessions import SessionBook
from akpolicy_sidecar.signals import Signals
from akpolicy_sidecar.snapshot import Snapshot, SnapshotHolder
from akpolicy_sidecar.socket_place import UnixAddress
from akpolicy_sidecar.takeover import LIVE_DEADLINE_S, Predecessor
from akpolicy_sidecar.update_modes import UpdateMode, UpdateModes
from akpolicy_sidecar.updater import Updater
from akpolicy_sidecar.view import Viewer
from akpolicy_sidecar.watcher import Watcher

if TYPE_CHECKING:
    from pathlib import Path

    from akpolicy.client.channel import ServerEndpoint
    from akpolicy_sidecar.settings import SidecarSettings

T = TypeVar("T")

TICK_S: Final = 0.2
LIVE_POLL_S: Final = 0.05
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SECONDS_AN_HOUR: Final = 3600

log = structlog.get_logger(__name__)


def run(settings: SidecarSettings, ready_file: Path | None = None, *, take_over: bool = False) -> None:
    """Run the sidecar until a signal or a successor ends it.

    `ready_file` is written once everything serves, and removed at the end unless a successor wrote it. With `take_over`
    a sidecar that runs in the state directory is replaced. Raises `StartupError` or `CacheError`.
    """
    # Before any other thread is started, which inherits the mask.
    signals = Signals(SIGNALS)
    switch_often()
    with ExitStack() as stack:
        sidecar = Sidecar(settings, stack, take_over=take_over)
        sidecar.start()
        if ready_file is not None:
            write_ready_file(ready_file, sidecar.addresses())
            stack.callback(remove_ready_file, ready_file)
        log.info("sidecar is ready", **sidecar.addresses())
        sidecar.serve_until_end(signals)
        log.info("sidecar is stopping")
    log.info("sidecar has stopped")


class Sidecar:
    """All parts, wired together."""

    def __init__(self, settings: SidecarSettings, stack: ExitStack, *, take_over: bool = False) -> None:
        """Build everything that needs no peer; `stack` gets what has to be stopped."""
        self._settings = settings
        self._stack = stack
        self._org = _required(settings.enterprise.org_id)
        self._clock = SystemClock()
        self._metrics = SidecarMetrics()
        self._report = Reporter(self._metrics, UpdateMode(settings.sidecar.update_mode))
        self._fence = _start_fence(stack)
        self._schema = load_default_schema()
        self._predecessor = self._find_predecessor() if take_over else None
        self._local = OfflineRule(
            OfflineMode(settings.enterprise.offline_mode), settings.enterprise.cache_max_age_hours * SECONDS_AN_HOUR
        )
        self._directory = StateDirectory.open(settings.sidecar.state_dir, self._org)
        stack.callback(self._directory.close)
        self._snapshots = SnapshotHolder(Snapshot.build((), local=self._local))
        self._updater = self._build_updater()
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
        is_local = settings.sidecar.tcp is None
        self._listener = RuntimeListener(AuthorizationServicer(self._answering, advisor), is_local=is_local)
        self._sandboxes = self._build_sandbox_listener()
        self._http = self._build_http()
        self._watcher = self._build_watcher()
        self._tcp: HostPort | None = None
        # When to end, in seconds since boot, and whether that is a failure.
        self._leaves_at = math.inf
        self._gave_up = False

    # --- parts --------------------------------------------------------------------------------------------------------

    def _find_predecessor(self) -> Predecessor | None:
        """Return the sidecar that runs in the state directory, which has let go of it, if one does."""
        found = Predecessor.find(self._settings.sidecar.state_dir)
        if found is not None:
            self._stack.callback(found.close)
            found.release()
            log.info("taking over from a running sidecar", pid=found.pid, was_live=found.was_live)
        return found

    def _build_updater(self) -> Updater:
        return Updater(
            org=self._org,
            anchors=self._settings.enterprise.trust_anchors.parse(),
            directory=self._directory,
            builder=LayerBuilder(self._schema, self._fence),
            clock=self._clock,
            enforcement=Enforcement(self._snapshots, self._local),
            watch=self._report,
        )

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
        endpoints = endpoints_of(_required(enterprise.policy_server), sidecar)
        return Watcher(
            org=self._org,
            servers=PolicyServers(endpoints),
            credentials=self._build_credentials(endpoints[0]),
            updater=self._updater,
            links=self._links,
            clock=self._clock,
            report=self._report,
            modes=UpdateModes(UpdateMode(sidecar.update_mode), sidecar.poll_interval_s),
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
        self._stack.callback(self._stop_watcher)
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
        if self._predecessor is not None:
            self._wait_until_live(self._predecessor)
            self._predecessor.give_sessions(self._answering.sessions)
        for listener in filter(None, (self._listener, self._sandboxes)):
            listener.publish()
        if self._predecessor is not None:
            self._predecessor.leave()
        handover = HandoverServer(self._settings.sidecar.state_dir, self, self._answering.sessions)
        self._stack.callback(handover.stop)
        handover.start()

    def _stop_watcher(self) -> None:
        # The one of now, which a successor that failed may have made a second one.
        self._watcher.stop()

    def _wait_until_live(self, predecessor: Predecessor) -> None:
        ends_at = self._clock.elapsed() + (LIVE_DEADLINE_S if predecessor.was_live else 0.0)
        while not self._is_live() and self._clock.elapsed() < ends_at:
            time.sleep(LIVE_POLL_S)

    def _is_live(self) -> bool:
        return self._links.current.is_live(Moment.read(self._clock))

    def _bind(self) -> None:
        sidecar, tcp = self._settings.sidecar, self._settings.sidecar.tcp
        before = self._predecessor.pid if self._predecessor is not None else None
        self._listener.bind_socket(UnixAddress(sidecar.socket, sidecar.socket_mode, sidecar.socket_group), before)
        path = sidecar.sessions.socket_beside(sidecar.socket)
        if self._sandboxes is not None and path is not None:
            self._sandboxes.bind_socket(UnixAddress(path, sidecar.sessions.socket_mode), before)
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

    def serve_until_end(self, signals: Signals) -> None:
        """Look after health and silence until SIGTERM, SIGINT or a successor comes; raise `HandoverFailed`."""
        while self._clock.elapsed() < self._leaves_at:
            received = signals.next(TICK_S)
            if received is None:
                self._look_after()
            elif received == signal.SIGHUP:
                self._audit.reopen()
            else:
                return
        if self._gave_up:
            raise HandoverFailed("the successor took over and failed; start the sidecar again")

    def _look_after(self) -> None:
        standing = self._health.look()
        self._watcher.tell(standing.error)
        self._watcher.check_silence()
        self._watcher.check_credentials()
        self._listener.set_serving(serving=standing.ready)
        if self._predecessor is not None:
            self._follow(self._predecessor)

    def _follow(self, predecessor: Predecessor) -> None:
        """Learn which sessions were opened and closed at the predecessor, while it still has connections."""
        try:
            predecessor.give_sessions(self._answering.sessions)
        except HandoverFailed:
            self._predecessor = None
            log.info("the predecessor has ended", pid=predecessor.pid)

    # --- the side of the incumbent, on the thread of the handover -----------------------------------------------------

    def release(self) -> bool:
        """Let go of all but the decisions; return whether the stream counted. Raises `HandoverFailed`."""
        if self._tcp is not None:
            raise HandoverFailed("it listens on TCP too, and a port cannot be handed over; stop it first")
        live = self._is_live()
        self._watcher.release()
        if self._http is not None:
            self._http.stop()
        self._directory.close()
        return live

    def resume(self) -> None:
        """Take everything back; raise `HandoverFailed` or a `CacheError`."""
        if not self._listener.is_found:
            raise HandoverFailed("its socket is another's by now")
        self._directory.lock_again()
        self._updater = self._build_updater()
        self._load_cache()
        self._health.follow(self._updater)
        self._watcher = self._build_watcher()
        self._watcher.start()
        if self._http is not None:
            self._http.start()

    def leave(self) -> None:
        """End once every connection has ended by its age."""
        self._leaves_at = self._clock.elapsed() + LEFT_AFTER_S

    def give_up(self) -> None:
        """End with an error."""
        self._gave_up, self._leaves_at = True, 0.0


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
