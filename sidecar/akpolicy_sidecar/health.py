"""What the sidecar says of itself: readiness, and the gauges that are worked out when somebody looks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from akpolicy.bundle import OfflineMode

if TYPE_CHECKING:
    from akpolicy_sidecar.audit import AuditLog
    from akpolicy_sidecar.metrics import SidecarMetrics
    from akpolicy_sidecar.report import Reporter
    from akpolicy_sidecar.updater import Updater
    from akpolicy_sidecar.view import Viewer


class Health:
    """Answers /readyz and /metrics. Ready means: decisions can be made by policy."""

    def __init__(
        self, *, viewer: Viewer, updater: Updater, report: Reporter, audit: AuditLog, metrics: SidecarMetrics
    ) -> None:
        """Look at these."""
        self._viewer = viewer
        self._updater = updater
        self._report = report
        self._audit = audit
        self._metrics = metrics
        self._scopes: set[str] = set()

    def is_ready(self) -> bool:
        """Whether decisions can be made by policy now; a change is logged."""
        standing = self._viewer.look().standing
        self._report.standing(standing)
        return standing.ready

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Return whether decisions can be made by policy, and the details for people."""
        view = self._viewer.look()
        standing = view.standing
        return standing.ready, {
            "mode": standing.mode.value,
            "source": standing.source.value,
            "policy_age_ms": standing.age_ms,
            "reason": standing.denial.value if standing.denial else "",
            "message": standing.message,
            "scopes": {bundle.scope: bundle.version for bundle in view.snapshot.bundles},
            "missing": list(view.snapshot.missing),
            **self._report.trouble,
            "audit": "ok" if self._audit.is_working else "failing",
        }

    def expose(self) -> tuple[str, bytes]:
        """Bring the gauges up to date and return /metrics."""
        self._update_gauges()
        return self._metrics.expose()

    def _update_gauges(self) -> None:
        view, metrics = self._viewer.look(), self._metrics
        link = view.link
        for layer in view.snapshot.layers:
            metrics.bundle_version.labels(scope=layer.scope).set(layer.bundle.version)
            metrics.bundle_expiry.labels(scope=layer.scope).set(layer.expires_at)
            metrics.policies.labels(scope=layer.scope).set(len(layer.compiled.policies))
        gone, self._scopes = self._scopes - view.snapshot.scopes, set(view.snapshot.scopes)
        for scope in gone:
            for gauge in (metrics.bundle_version, metrics.bundle_expiry, metrics.policies):
                gauge.remove(scope)
        metrics.last_contact.set(link.heard.wall if link.heard else 0)
        metrics.policy_age.set(view.moment.since(link.heard) if link.heard else math.inf)
        for mode in OfflineMode:
            metrics.offline_mode.labels(mode=mode.value).set(mode is view.standing.mode)
        root = self._updater.root
        metrics.root_version.set(root.version if root else 0)
        metrics.root_expiry.set(root.expires_at if root else 0)
