"""What the engine answers: allow or deny, and why.

Rules:

- The names of `Reason` are those of the wire's `ReasonCode`.
- Policies are named by the scope of their layer and their own id.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Effect(Enum):
    """What a policy or a decision does."""

    ALLOW = "allow"
    DENY = "deny"


class Reason(Enum):
    """Why a decision came out as it did."""

    PERMITTED = "permitted"
    FORBIDDEN = "forbidden"
    NO_PERMIT = "no_permit"
    EVALUATION_ERROR = "evaluation_error"
    NO_POLICY = "no_policy"
    POLICY_STALE = "policy_stale"
    BUNDLE_EXPIRED = "bundle_expired"
    FOREIGN_ORG = "foreign_org"
    CLOCK_UNTRUSTED = "clock_untrusted"


@dataclass(frozen=True, slots=True)
class Determining:
    """A policy that determined a decision."""

    scope: str
    policy_id: str
    effect: Effect


@dataclass(frozen=True, slots=True)
class EvalError:
    """A policy that could not be evaluated; `scope` and `policy_id` are empty if Cedar does not say which."""

    scope: str
    policy_id: str
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision that explains itself.

    `deciding_layer` is the most specific layer with a determining policy, empty if nothing matched. Where several teams
    have one, it names all of them, separated by a comma and a space.
    """

    effect: Effect
    reason: Reason
    message: str
    determining: tuple[Determining, ...] = ()
    deciding_layer: str = ""
    errors: tuple[EvalError, ...] = ()
