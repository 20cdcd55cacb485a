"""What the sidecar says of itself: readiness, and the gauges that are worked out when somebody looks."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from akpolicy.bundle import OfflineMode
from akpolicy.scope import is_member_scope
from akpolicy_sidecar.status import AGE_UNKNOWN_MS

if TYPE_CHECKING:
    from akpolicy_sidecar.audit import AuditLog
    from akpolicy_sidecar.metrics import SidecarMetrics
    from akpolicy_sidecar.report import Reporter
    from akpolicy_sidecar.status import Standing
    from akpolicy_sidecar.updater import Updater
    from akpolicy_sidecar.view import View, Viewer


# How many scopes /readyz lists, the broadest first.
MAX_LISTED: Final = 100


def standing_of(view: View) -> Standing:
    """Return how policy stands for everybody; what is wrong with any layer at all is in its `error`."""
    standing = view.base.standing
    return standing if standing.error is not None else replace(standing, error=view.standing.error)


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

    def follow(self, updater: Updater) -> None:
        """Look at another updater from now on."""
        self._updater = updater

    def look(self) -> Standing:
        """Return how policy stands now; a change is logged and counted."""
        standing = standing_of(self._viewer.look())
        self._report.standing(standing)
        return standing

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Return whether decisions can be made by policy, and the details for people."""
        view = self._viewer.look()
        standing = standing_of(view)
        confirmed = view.snapshot.freshness.by_scope
        return standing.ready, {
            "mode": standing.mode.value,
            "source": standing.source.value,
            "fresh": standing.fresh,
            "policy_age_ms": standing.age_ms,
            "stalest": standing.stalest,
            "confirmed_at": dict(islice(((s, seen.issued_at) for s, seen in sorted(confirmed.items())), MAX_LISTED)),
            "reason": standing.denial.value if standing.denial else "",
            "message": standing.message,
            "trouble": standing.error.code if standing.error else "",
            "scopes": {bundle.scope: bundle.version for bundle in view.snapshot.bundles[:MAX_LISTED]},
            "scope_count": len(view.snapshot.bundles),
            "missing": list(view.snapshot.missing[:MAX_LISTED]),
            "root_version": self._updater.root.version if self._updater.root else 0,
            **self._report.trouble,
            "audit": "ok" if self._audit.is_working else "failing",
        }

    def expose(self) -> tuple[str, bytes]:
        """Bring the gauges up to date and return /metrics."""
        self._update_gauges()
        return self._metrics.expose()

    def _update_gauges(self) -> None:
        view, metrics = self._viewer.look(), self._metrics
        freshness, standing = view.snapshot.freshness, standing_of(view)
        base = [layer for layer in view.snapshot.layers if not is_member_scope(layer.scope)]
        for layer in base:
            metrics.bundle_version.labels(scope=layer.scope).set(layer.bundle.version)
            metrics.bundle_expiry.labels(scope=layer.scope).set(layer.expires_at)
            metrics.policies.labels(scope=layer.scope).set(len(layer.compiled.policies))
        # An org can have thousands of teams and users: they are counted, and the first that ends is told.
        members = [layer for layer in view.snapshot.layers if is_member_scope(layer.scope)]
        metrics.member_layers.set(len(members))
        metrics.member_layer_expiry.set(min((layer.expires_at for layer in members), default=0))
        metrics.member_policies.set(sum(len(layer.compiled.policies) for layer in members))
        scopes = {layer.scope for layer in base}
        gone, self._scopes = self._scopes - scopes, scopes
        for scope in gone:
            for gauge in (metrics.bundle_version, metrics.bundle_expiry, metrics.policies):
                gauge.remove(scope)
        metrics.last_contact.set(freshness.whole.issued_at if freshness.whole else 0)
        metrics.heartbeat_expiry.set(freshness.fresh_until)
        metrics.fresh.set(standing.fresh)
        metrics.evidence.set(self._updater.evidence_count)
        metrics.policy_age.set(standing.age_ms / 1000 if standing.age_ms != AGE_UNKNOWN_MS else math.inf)
        for mode in OfflineMode:
            metrics.offline_mode.labels(mode=mode.value).set(mode is standing.mode)
        root = self._updater.root
        metrics.root_version.set(root.version if root else 0)
        metrics.root_expiry.set(root.expires_at if root else 0)
