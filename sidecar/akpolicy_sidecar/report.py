"""What people and Prometheus are told of the stream and of updates.

Rules:

- Everything is counted; a line is logged when something changes. A server that stays away, refuses the same credentials
  or sends the same bad bundle at each connection costs one line, not one a retry.
- Codes are those of this program's own errors or of gRPC; scopes come from signed documents, or are one of the few that
  this sidecar enforces. Nothing that a peer chooses freely becomes a label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import structlog

from akpolicy_sidecar.update_modes import UpdateMode
from akpolicy_sidecar.updates import HEARTBEAT

if TYPE_CHECKING:
    from akpolicy.decision import Decision
    from akpolicy.errors import AkpolicyError
    from akpolicy_sidecar.metrics import SidecarMetrics
    from akpolicy_sidecar.status import Standing

# Statuses that more attempts will not mend: somebody has to look at the API key or the certificate.
# How many subjects are remembered with the code of their refusal.
MAX_REFUSALS: Final = 1024

CREDENTIAL_STATUSES: Final = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})

log = structlog.get_logger(__name__)


class Reporter:
    """Counts events, and logs changes. Decisions come from several threads, the rest from one."""

    def __init__(self, metrics: SidecarMetrics, configured: UpdateMode = UpdateMode.STREAM) -> None:
        """Count on `metrics`; `configured` is by which way updates are to come."""
        self._configured = configured
        self._metrics = metrics
        self._denial: str | None = None
        self._host_trouble = ""
        self._trouble = ""
        self._refusals: dict[str, str] = {}
        self._cache_trouble = ""
        self._is_connected = False
        # By which way updates are asked for, and come.
        self._attempted = UpdateMode.STREAM
        self._mode: UpdateMode | None = None

    # --- decisions ----------------------------------------------------------------------------------------------------

    def decided(self, decision: Decision, seconds: float) -> None:
        """Count a decision that took `seconds`."""
        self._metrics.decisions.labels(
            effect=decision.effect.value, reason=decision.reason.value, source=decision.source.value
        ).inc()
        self._metrics.decision_duration.observe(seconds)

    def overdrawn(self, sandbox: str) -> None:
        """Tell that the session of a sandbox has used up its quota for an hour."""
        self._metrics.sessions_overdrawn.inc()
        log.warning("a session has used up its hourly quota; it is refused until the hour is over", sandbox=sandbox)

    # --- updates ------------------------------------------------------------------------------------------------------

    def applied(self, what: str, version: int) -> None:
        """Tell that a root (`root`) or a scope's bundle took effect."""
        self._metrics.updates.labels(outcome="applied").inc()
        self._refusals.pop(what, None)
        log.info("update applied", subject=what, version=version)

    def unchanged(self, what: str) -> None:
        """Count an update that is in force already: whatever was refused before it is not what the server holds."""
        self._metrics.updates.labels(outcome="unchanged").inc()
        self._refusals.pop(what, None)

    def refused(self, what: str, error: AkpolicyError) -> None:
        """Tell that an update was refused, and why.

        `what` is `root`, `heartbeat`, a scope that is enforced here, or empty.
        """
        self._metrics.updates.labels(outcome="refused").inc()
        self._metrics.update_refusals.labels(code=error.code).inc()
        # By code: the text may quote the peer, which must not be able to fill the log. Nor may it with scopes.
        is_known = what in self._refusals or len(self._refusals) < MAX_REFUSALS
        if is_known and self._refusals.get(what) != error.code:
            self._refusals[what] = error.code
            log.error(
                "update refused; what was enforced stays enforced", subject=what, code=error.code, error=str(error)
            )

    def dropped(self, what: str, error: AkpolicyError) -> None:
        """Tell that something enforced had to be dropped, because a new root does not stand behind it."""
        self._metrics.update_refusals.labels(code=error.code).inc()
        log.error("enforced policy was dropped; everything is denied", subject=what, code=error.code, error=str(error))

    def withheld(self, what: str) -> None:
        """Tell that the server has vouched for a document of a scope that has not come."""
        log.warning("the server vouches for another version than it has sent; asking for it again", subject=what)

    def heartbeat(self) -> None:
        """Count a heartbeat that was believed."""
        self._metrics.heartbeats.inc()
        self._refusals.pop(HEARTBEAT, None)

    def standing(self, standing: Standing) -> None:
        """Tell that decisions begin or cease to be made by policy, or for another reason than before."""
        self._note_trouble(standing)
        reason = standing.denial.value if standing.denial else ""
        if reason == self._denial:
            return
        self._denial = reason
        if reason:
            log.error("every request is denied", reason=reason, message=standing.message)
        else:
            log.info("requests are decided by policy", source=standing.source.value)

    def _note_trouble(self, standing: Standing) -> None:
        """Count what is wrong with the state of this host, once for each change."""
        code = standing.error.code if standing.error else ""
        if code == self._host_trouble:
            return
        self._host_trouble = code
        if standing.error is not None:
            self._metrics.policy_troubles.labels(code=code).inc()
            if standing.ready:
                log.warning("policy is not fresh; decisions go on", code=code, error=str(standing.error))

    @property
    def trouble(self) -> dict[str, Any]:
        """By which way updates come, what is wrong with it (empty: nothing), and which updates were refused and why."""
        mode = self._mode.value if self._mode else ""
        return {"update_mode": mode, "connection": self._trouble, "refused": dict(self._refusals)}

    # --- cache --------------------------------------------------------------------------------------------------------

    def not_loaded(self, what: str, error: AkpolicyError) -> None:
        """Tell that a kept document cannot be loaded."""
        self._metrics.cache_errors.labels(code=error.code).inc()
        log.error(
            "kept document cannot be used; waiting for the server", subject=what, code=error.code, error=str(error)
        )

    def cache_failed(self, error: AkpolicyError) -> None:
        """Tell that the state directory could not be written or read."""
        self._metrics.cache_errors.labels(code=error.code).inc()
        if self._cache_trouble != error.code:
            self._cache_trouble = error.code
            log.error("state directory cannot be used", code=error.code, error=str(error))

    def cache_works(self) -> None:
        """Tell that the state directory could be written."""
        if self._cache_trouble:
            self._cache_trouble = ""
            log.info("state directory works again")

    # --- credentials --------------------------------------------------------------------------------------------------

    def not_reloaded(self, use: str, error: AkpolicyError) -> None:
        """Tell that files for `use` (listener, client) changed and cannot be used; what is in use stays so."""
        self._metrics.credential_reload_failures.labels(use=use).inc()
        log.error("TLS or API key files cannot be used", use=use, code=error.code, error=error.message)

    # --- stream -------------------------------------------------------------------------------------------------------

    def retrying(self) -> None:
        """Count an attempt to open the stream again."""
        self._metrics.reconnects.inc()

    def connected(self) -> None:
        """Tell that the server has delivered all that it holds."""
        self._metrics.connected.set(1)
        if self._trouble:
            log.info("policy server reached again")
        elif self._attempted is UpdateMode.STREAM or not self._is_connected:
            # Polls that follow one another are no news.
            log.info("policy server reached")
        self._trouble, self._is_connected = "", True
        self._note_mode()

    def attempting(self, mode: UpdateMode) -> None:
        """Tell by which way updates are asked for from now on."""
        self._attempted = mode

    def _note_mode(self) -> None:
        if self._mode is self._attempted:
            return
        before, self._mode = self._mode, self._attempted
        for mode in UpdateMode:
            self._metrics.update_mode.labels(mode=mode.value).set(mode is self._mode)
        if before is UpdateMode.STREAM or (before is None and self._mode is not self._configured):
            log.warning("no stream from the policy server can be had; polling instead", configured=self._configured)
        elif before is not None:
            log.info("updates come over a stream again")

    def lost(self, status: str, detail: str) -> None:
        """Tell that the server is not reached; `status` is a gRPC status name or a code of this program's."""
        self._metrics.connected.set(0)
        self._is_connected = False
        if self._trouble == status:
            return
        self._trouble = status
        if status in CREDENTIAL_STATUSES:
            message = "policy server refuses the API key or certificate; what was enforced stays enforced"
            log.error(message, status=status, detail=detail)
        else:
            log.warning("no connection to the policy server; trying again", status=status, detail=detail)
