"""Offline modes: what a host may still do while its server is away.

Rules:

- From strict to lax: `fail_closed`, `cached_with_expiry` (a shorter age is stricter), `cached_indefinite`.
- The host's configuration and the signed floor of every enforced layer each permit something; the strictest holds.
- `default_policy` counts only where the configuration and every floor say so. Elsewhere it behaves as
  `cached_with_expiry` with the age that stands beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from akpolicy.bundle import OfflineMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from akpolicy.bundle import OfflineFloor

_STRICTNESS: Final = {
    OfflineMode.FAIL_CLOSED: 0,
    OfflineMode.CACHED_WITH_EXPIRY: 1,
    OfflineMode.CACHED_INDEFINITE: 2,
}


@dataclass(frozen=True, slots=True)
class OfflineRule:
    """A mode and the greatest age of policy in seconds, which matters to the two modes that have one."""

    mode: OfflineMode
    max_age_s: float

    @classmethod
    def from_floor(cls, floor: OfflineFloor) -> OfflineRule:
        """Return the rule that a manifest's signed floor permits at most."""
        return cls(OfflineMode(floor.mode), floor.max_age_s)


def effective_rule(local: OfflineRule, floors: Sequence[OfflineRule]) -> OfflineRule:
    """Return the strictest of the host's configuration and the floors of all layers."""
    rules = [local, *floors]
    if floors and all(rule.mode is OfflineMode.DEFAULT_POLICY for rule in rules):
        return OfflineRule(OfflineMode.DEFAULT_POLICY, min(rule.max_age_s for rule in rules))
    bounded = [_without_default(rule) for rule in rules]
    mode = min((rule.mode for rule in bounded), key=_STRICTNESS.__getitem__)
    ages = [rule.max_age_s for rule in bounded if rule.mode is OfflineMode.CACHED_WITH_EXPIRY]
    return OfflineRule(mode, min(ages, default=math.inf))


def least_of_each_mode(rules: Iterable[OfflineRule]) -> tuple[OfflineRule, ...]:
    """Return at most one rule a mode that bound as much as all `rules` do together."""
    ages: dict[OfflineMode, float] = {}
    for rule in rules:
        ages[rule.mode] = min(rule.max_age_s, ages.get(rule.mode, math.inf))
    return tuple(OfflineRule(mode, age) for mode, age in sorted(ages.items()))


def _without_default(rule: OfflineRule) -> OfflineRule:
    if rule.mode is OfflineMode.DEFAULT_POLICY:
        return OfflineRule(OfflineMode.CACHED_WITH_EXPIRY, rule.max_age_s)
    return rule
