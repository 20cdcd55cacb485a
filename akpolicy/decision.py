"""The answer to an authorization request: allow or deny, and everything that explains it.

Rules:

- Only `allowed` opens a door, and it is true for `Effect.ALLOW` alone.
- A decision names the policies that determined it, the bundle of every enforced layer, where the policies came from and
  how old they are. "Why was this denied?" is answered here and not in a log.
- `to_json` is what the command line prints; its names are stable.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING

from akpolicy.engine.decide import Determining, Effect, EvalError, Reason

if TYPE_CHECKING:
    from akpolicy.bundle import OfflineMode

__all__ = ["BundleVersion", "Decision", "Determining", "Effect", "EvalError", "PolicySource", "Reason"]


class PolicySource(Enum):
    """Where the policies of a decision came from.

    LIVE: verified, while the server's stream is up and an unexpired heartbeat vouches for every layer. CACHE: verified,
    while that is not so. DEFAULT: the embedded default policy with the forbids of the last verified policies. NONE:
    there was no policy to apply.
    """

    LIVE = "live"
    CACHE = "cache"
    DEFAULT = "default"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class BundleVersion:
    """The enforced bundle of one layer; `digest` is the lower-case hex SHA-256 of its signed manifest."""

    scope: str
    epoch: int
    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision that explains itself.

    `determining` are the matching forbids of a denial or the matching permits of an allowance, broad to specific;
    `deciding_layer` is the most specific layer among them, empty if nothing matched. `policy_age_ms` counts
    milliseconds since the heartbeat was issued that last vouched for `stalest_layer`, the layer whose confirmation is
    the oldest; -1 if none ever did. `fresh` says whether an unexpired heartbeat vouches for every layer. `decision_id`
    is that of the audit line.
    """

    effect: Effect
    reason: Reason
    message: str
    determining: tuple[Determining, ...]
    bundles: tuple[BundleVersion, ...]
    mode: OfflineMode
    source: PolicySource
    policy_age_ms: int
    decision_id: str
    evaluation_time_us: int
    errors: tuple[EvalError, ...] = ()
    deciding_layer: str = ""
    fresh: bool = False
    stalest_layer: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the principal may go on."""
        return self.effect is Effect.ALLOW

    def to_json(self) -> dict[str, object]:
        """Return plain values, with enumerations by their values."""
        return {
            "decision": self.effect.value,
            "reason": self.reason.value,
            "message": self.message,
            "determining_policies": [
                {"scope": policy.scope, "policy_id": policy.policy_id, "effect": policy.effect.value}
                for policy in self.determining
            ],
            "deciding_layer": self.deciding_layer,
            "bundles": [asdict(bundle) for bundle in self.bundles],
            "mode": self.mode.value,
            "source": self.source.value,
            "policy_age_ms": self.policy_age_ms,
            "fresh": self.fresh,
            "stalest_layer": self.stalest_layer,
            "decision_id": self.decision_id,
            "evaluation_time_us": self.evaluation_time_us,
            "errors": [asdict(error) for error in self.errors],
        }
