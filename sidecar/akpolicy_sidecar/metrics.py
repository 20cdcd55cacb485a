"""The sidecar's metrics. Names, meanings and labels are in `akpolicy.metrics_names`."""

from __future__ import annotations

from typing import Final

from akpolicy import __version__
from akpolicy import metrics_names as names
from akpolicy.metrics_registry import MetricsRegistry

UPDATE_OUTCOMES: Final = ("applied", "refused", "unchanged")
# What TLS files and API keys are for: answering runtimes, and reaching the server.
LISTENER: Final = "listener"
CLIENT: Final = "client"


class SidecarMetrics(MetricsRegistry):
    """What the sidecar counts and measures, on a registry of its own.

    Labels whose values are known beforehand start at zero, so that an alert on a rate sees the first event.
    """

    def __init__(self) -> None:
        super().__init__()
        self.decisions = self.counter(names.SIDECAR_DECISIONS)
        self.decision_duration = self.histogram(names.SIDECAR_DECISION_DURATION)
        self.request_errors = self.counter(names.SIDECAR_REQUEST_ERRORS)
        self.sessions = self.gauge(names.SIDECAR_SESSIONS)
        self.sessions_overdrawn = self.counter(names.SIDECAR_SESSIONS_OVERDRAWN)
        self.updates = self.counter(names.SIDECAR_UPDATES)
        self.update_refusals = self.counter(names.SIDECAR_UPDATE_REFUSALS)
        self.bundle_version = self.gauge(names.SIDECAR_BUNDLE_VERSION)
        self.bundle_expiry = self.gauge(names.SIDECAR_BUNDLE_EXPIRY)
        self.policies = self.gauge(names.SIDECAR_POLICIES)
        self.member_layers = self.gauge(names.SIDECAR_MEMBER_LAYERS)
        self.member_layer_expiry = self.gauge(names.SIDECAR_MEMBER_LAYER_EXPIRY)
        self.member_policies = self.gauge(names.SIDECAR_MEMBER_POLICIES)
        self.heartbeats = self.counter(names.SIDECAR_HEARTBEATS)
        self.policy_troubles = self.counter(names.SIDECAR_POLICY_TROUBLES)
        self.fresh = self.gauge(names.SIDECAR_FRESH)
        self.heartbeat_expiry = self.gauge(names.SIDECAR_HEARTBEAT_EXPIRY)
        self.evidence = self.gauge(names.SIDECAR_EVIDENCE)
        self.connected = self.gauge(names.SIDECAR_CONNECTED)
        self.update_mode = self.gauge(names.SIDECAR_UPDATE_MODE)
        self.last_contact = self.gauge(names.SIDECAR_LAST_CONTACT)
        self.reconnects = self.counter(names.SIDECAR_RECONNECTS)
        self.policy_age = self.gauge(names.SIDECAR_POLICY_AGE)
        self.offline_mode = self.gauge(names.SIDECAR_OFFLINE_MODE)
        self.cache_errors = self.counter(names.SIDECAR_CACHE_ERRORS)
        self.audit_records = self.counter(names.SIDECAR_AUDIT_RECORDS)
        self.audit_errors = self.counter(names.SIDECAR_AUDIT_ERRORS)
        self.root_version = self.gauge(names.SIDECAR_ROOT_VERSION)
        self.root_expiry = self.gauge(names.SIDECAR_ROOT_EXPIRY)
        self.tls_certificate_expiry = self.gauge(names.SIDECAR_TLS_CERTIFICATE_EXPIRY)
        self.credential_reload_failures = self.counter(names.SIDECAR_CREDENTIAL_RELOAD_FAILURES)
        self.build_info = self.gauge(names.SIDECAR_BUILD_INFO)
        self.build_info.labels(version=__version__).set(1)
        for outcome in UPDATE_OUTCOMES:
            self.updates.labels(outcome=outcome)
        for use in (LISTENER, CLIENT):
            self.credential_reload_failures.labels(use=use)
