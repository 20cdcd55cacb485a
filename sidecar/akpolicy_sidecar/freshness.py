"""For which scopes a heartbeat vouches, and until when.

Rules:

- A heartbeat vouches for a scope exactly if the index that it names has, for this scope, the document that is enforced
  here. So whoever passes heartbeats on and drops bundles lets the host age, and one scope that is withheld or refused
  ages alone.
- A scope that an index names and that is not enforced here yet ages from the last heartbeat whose index was enforced
  whole: until then it was not there. `MAX_NOT_ENFORCED` of them are kept; then no scope is taken to be fresh by itself.
- A scope that an index no longer names is not gone (a deletion is a signed, higher version): it ages. So does one that
  is enforced here and that no index ever named: whoever passes documents on may have slipped in an old one.
- Before the first index that is enforced whole, nothing is known to be complete. Whole means: what the index names is
  enforced, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from akpolicy.heartbeat import Heartbeat
    from akpolicy.index import Index


# How many scopes are kept at the most of which an index was never enforced here. An index may have thousands.
MAX_NOT_ENFORCED: Final = 64


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A heartbeat that vouched for something: when it was issued and when it expires, in epoch seconds."""

    issued_at: int
    expires_at: int

    def later(self, other: Confirmation | None) -> Confirmation:
        """Return what both say together."""
        if other is None:
            return self
        return Confirmation(max(self.issued_at, other.issued_at), max(self.expires_at, other.expires_at))


@dataclass(frozen=True, slots=True)
class Freshness:
    """The last confirmation of each scope, and of the whole (None: no index was ever enforced whole).

    Derived, for every decision: `confirmed_at`, the oldest confirmation (None without any), the scope that it is of
    (`stalest`), and `fresh_until`, when the first of them expires; in epoch seconds.
    """

    by_scope: Mapping[str, Confirmation]
    whole: Confirmation | None
    confirmed_at: int | None = field(init=False)
    fresh_until: int = field(init=False)
    stalest: str = field(init=False)

    def __post_init__(self) -> None:
        """Work out once what every decision needs."""
        stalest = min(self.by_scope, key=lambda scope: (self.by_scope[scope].issued_at, scope), default="")
        confirmed_at = self.by_scope[stalest].issued_at if stalest else self.whole and self.whole.issued_at
        until = min((seen.expires_at for seen in self.by_scope.values()), default=self.whole and self.whole.expires_at)
        object.__setattr__(self, "stalest", stalest)
        object.__setattr__(self, "confirmed_at", confirmed_at)
        object.__setattr__(self, "fresh_until", until or 0)

    def of(self, scopes: Collection[str]) -> Freshness:
        """Return the freshness of these scopes alone."""
        return Freshness({scope: seen for scope, seen in self.by_scope.items() if scope in scopes}, self.whole)


NOTHING_CONFIRMED = Freshness({}, None)


def confirm(before: Freshness, heartbeat: Heartbeat, index: Index, enforced: Mapping[str, str]) -> Freshness:
    """Return the freshness after a heartbeat with its index; `enforced` has the digest of each enforced scope."""
    now = Confirmation(heartbeat.issued_at, heartbeat.expires_at)
    by_scope = dict(before.by_scope)
    is_whole = True
    not_enforced = sum(scope not in enforced for scope in by_scope)
    for scope in {**enforced, **index.lines}:
        line = index.lines.get(scope)
        if line is not None and enforced.get(scope) == line.digest:
            by_scope[scope] = now.later(before.by_scope.get(scope))
            continue
        is_whole = False
        if scope not in by_scope and before.whole is not None and not_enforced < MAX_NOT_ENFORCED:
            by_scope[scope] = before.whole
            not_enforced += scope not in enforced
    return Freshness(by_scope, now.later(before.whole) if is_whole else before.whole)
