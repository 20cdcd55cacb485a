"""A layer: the policies of one scope, checked and parsed, ready to decide.

Rules:

- A layer is compiled alone: a change in one scope recompiles that scope only.
- Everything that a publish checks is checked here again. A sidecar compiles what came over the network.
- Cedar names the policies of a set by position (`policy0`, `policy1`, ...). `policies[i]` says which one that is; the
  check that each entry is exactly one policy makes the two agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from akpolicy.engine.check import inspect
from akpolicy.engine.tokens import head, pieces
from akpolicy.errors import PolicySetInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    import cedarpy

    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.source import PolicyText


class Effect(Enum):
    """What a policy or a decision does."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class PolicyRef:
    """A policy of a layer: its own id, and ALLOW for a `permit`, DENY for a `forbid`."""

    id: str
    effect: Effect


@dataclass(frozen=True, slots=True)
class CompiledLayer:
    """The policies of one scope: `policies[i]` is what `policy_set` calls `policy{i}`."""

    scope: str
    policy_set: cedarpy.PolicySet = field(repr=False, compare=False)
    policies: tuple[PolicyRef, ...]


def compile_layer(scope: str, policies: Sequence[PolicyText], schema: CedarSchema) -> CompiledLayer:
    """Check and parse the policies of `scope`, for example `org/acme`.

    Raises:
        PolicySetInvalid: with every problem that `check_policies` finds.

    """
    problems, policy_set = inspect(policies, schema)
    if policy_set is None:
        raise PolicySetInvalid(problems)
    return CompiledLayer(scope, policy_set, tuple(PolicyRef(policy.id, effect_of(policy)) for policy in policies))


def effect_of(policy: PolicyText) -> Effect:
    """Return what a parsed policy does: its first word after the annotations is `permit` or `forbid`."""
    outline = next(pieces(policy.text))
    word = head(policy.text, outline.first).effect
    if word not in {"permit", "forbid"}:
        raise RuntimeError(f"policy `{policy.id}` was accepted by Cedar but begins with `{word}`")
    return Effect.ALLOW if word == "permit" else Effect.DENY
