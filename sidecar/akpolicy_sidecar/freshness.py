"""For which scopes a heartbeat vouches, and until when.

Rules:

- A heartbeat vouches for a scope exactly if the index that it names has, for this scope, the document that is enforced
  here. So whoever passes heartbeats on and drops bundles lets the host age, and one scope that is withheld or refused
  ages alone.
- A scope that an index names and that is not enforced here yet ages from the last heartbeat whose index was enforced
  whole: until then it was not there. `MAX_NOT_ENFORCED` of them are kept; then no scope is taken to be fresh by itself.
- A scope that an index no longer names is not gone (a deletion is a signed, higher version): it ages. So does one that
  is enforced here and that no index ever named: whoever passes documents on may have slipped in an old one.
- Most scopes have the same confirmation, the last one: a heartbeat costs what differs, not what there is.
- Before the first index that is enforced whole, nothing is known to be complete. Whole means: what the index names is
  enforced, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from akpolicy.persistent import PersistentMap
from akpolicy.scope import GLOBAL, org_of, org_scope

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable, Iterator

    from akpolicy.heartbeat import Heartbeat
    from akpolicy.index import Index


# How many scopes are kept at the most of which an index was never enforced here. An index may have thousands.
MAX_NOT_ENFORCED: Final = 64

# A set that is never changed.
Members = PersistentMap[None, None]
NOBODY: Final[Members] = PersistentMap()


def with_members(members: Members, more: Iterable[str]) -> Members:
    """Return the set with more scopes."""
    for scope in more:
        members = members.put(scope, None)
    return members


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


class Confirmations(Mapping[str, Confirmation]):
    """The last confirmation of each scope. Most scopes have the same one, so `others` holds those that have not.

    `members` are all scopes. It is never changed.
    """

    __slots__ = ("common", "members", "others")

    def __init__(
        self,
        members: Members = NOBODY,
        common: Confirmation | None = None,
        others: Mapping[str, Confirmation] = MappingProxyType({}),
    ) -> None:
        """Let all `members` that `others` has no other confirmation for have the `common` one."""
        self.members = members
        self.common = common
        self.others = others

    @classmethod
    def of(cls, by_scope: Mapping[str, Confirmation]) -> Confirmations:
        """Return a mapping as one of these."""
        if isinstance(by_scope, Confirmations):
            return by_scope
        return cls(with_members(NOBODY, by_scope), None, dict(by_scope))

    def __getitem__(self, scope: str) -> Confirmation:
        found = self.others.get(scope)
        if found is not None:
            return found
        if self.common is None or scope not in self.members:
            raise KeyError(scope)
        return self.common

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    @property
    def distinct(self) -> list[Confirmation]:
        """Every confirmation that some scope has, `common` once."""
        has_common = self.common is not None and len(self.others) < len(self.members)
        return [*self.others.values(), *([self.common] if has_common and self.common else [])]

    @property
    def stalest(self) -> str:
        """The scope whose confirmation is the oldest, the first of them by name; empty without any."""
        oldest = min((seen.issued_at for seen in self.distinct), default=None)
        first = min((scope for scope, seen in self.others.items() if seen.issued_at == oldest), default="")
        if self.common is None or self.common.issued_at != oldest or len(self.others) == len(self.members):
            return first
        # Names of teams and users begin with their org's, and `global` comes before.
        org = next((org_scope(org) for scope in self.members if (org := org_of(scope)) is not None), GLOBAL)
        among = [scope for scope in (GLOBAL, org) if scope in self.members and scope not in self.others][:1]
        among = among or [scope for scope in self.members if scope not in self.others]
        return min(filter(None, (first, *among)))


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
        seen = self.confirmations.distinct
        confirmed_at = min((each.issued_at for each in seen), default=self.whole and self.whole.issued_at)
        until = min((each.expires_at for each in seen), default=self.whole and self.whole.expires_at)
        object.__setattr__(self, "by_scope", self.confirmations)
        object.__setattr__(self, "stalest", self.confirmations.stalest)
        object.__setattr__(self, "confirmed_at", confirmed_at)
        object.__setattr__(self, "fresh_until", until or 0)

    @property
    def confirmations(self) -> Confirmations:
        """`by_scope`, as what it is."""
        return Confirmations.of(self.by_scope)

    def of(self, scopes: Collection[str]) -> Freshness:
        """Return the freshness of these scopes alone."""
        return Freshness({scope: self.by_scope[scope] for scope in scopes if scope in self.by_scope}, self.whole)


NOTHING_CONFIRMED = Freshness({}, None)


def confirm(before: Freshness, heartbeat: Heartbeat, index: Index, enforced: Mapping[str, str]) -> Freshness:
    """Return the freshness after a heartbeat with its index; `enforced` has the digest of each enforced scope."""
    differing = {
        scope
        for scope in {**enforced, **index.lines}
        if (line := index.lines.get(scope)) is None or enforced.get(scope) != line.digest
    }
    gone = before.by_scope.keys() - enforced.keys() - index.lines.keys()
    arrived = enforced.keys() - differing - before.by_scope.keys()
    return renew(before, heartbeat, differing=differing, gone=gone, arrived=arrived, enforced=enforced)


def renew(
    before: Freshness,
    heartbeat: Heartbeat,
    *,
    differing: Collection[str],
    gone: Collection[str],
    arrived: Collection[str],
    enforced: Container[str],
) -> Freshness:
    """Return the freshness after a heartbeat.

    `differing` are the scopes that its index names otherwise than they are enforced, or that only one of them has;
    `gone` those that neither has any more; `arrived` those that it vouches for and for which none did before. All
    others that are enforced it vouches for too, and that costs no look at them.
    """
    was, now = before.confirmations, _said(heartbeat)
    common, left = now.later(was.common), {*differing, *gone}
    others = {scope: seen if scope in left else now.later(seen) for scope, seen in was.others.items()}
    others |= dict.fromkeys(arrived, now)
    members = with_members(was.members, arrived)
    not_enforced = sum(scope in was.members and scope not in enforced for scope in left)
    for scope in sorted(left - others.keys()):
        seen = was.common
        if scope not in was.members:
            is_kept = scope in enforced or not_enforced < MAX_NOT_ENFORCED
            seen = before.whole if is_kept and scope in differing else None
            not_enforced += seen is not None and scope not in enforced
        if seen is not None:
            others[scope] = seen
            members = members.put(scope, None)
    others = {scope: seen for scope, seen in others.items() if seen != common or scope in left}
    return Freshness(Confirmations(members, common, others), before.whole if differing else now.later(before.whole))


def deliver(before: Freshness, heartbeat: Heartbeat, scope: str, *, vouched: bool, is_whole: bool) -> Freshness:
    """Return the freshness once a scope has come that the last heartbeat had named, or had not (`vouched`)."""
    was, now = before.confirmations, _said(heartbeat)
    seen = was.get(scope)
    after = now.later(seen) if vouched else seen or before.whole
    whole = now.later(before.whole) if is_whole else before.whole
    if whole == before.whole and after == seen:
        return before
    others = dict(was.others)
    members = was.members
    if after is not None and after != seen:
        others[scope] = after
        members = members.put(scope, None)
        if vouched and after == was.common:
            del others[scope]
    return Freshness(Confirmations(members, was.common, others), whole)


def _said(heartbeat: Heartbeat) -> Confirmation:
    return Confirmation(heartbeat.issued_at, heartbeat.expires_at)
