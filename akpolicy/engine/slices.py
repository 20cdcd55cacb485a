"""Slices: the parsed policies that one kind of request needs, built once and kept for a while.

Rules:

- The full set of policies is never parsed into one `PolicySet`: Cedar evaluates all that a set holds (78.6 ms a
  decision at 40,000 policies) and needs about 12 KiB of memory for each. A slice has what a request can match.
- Member `i` of a slice is what Cedar calls `policy{i}` in it.
- Slices are kept by what they are made of, at most `MAX_SLICES` with `MAX_SLICED_POLICIES` policies in all; the one
  that was asked for last always stays. What was not asked for the longest goes first.
- There is no lock. Two threads that miss the same slice at once build it twice, which costs time alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import cedarpy

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from akpolicy.engine.verdict import Determining

MAX_SLICES: Final = 1024
MAX_SLICED_POLICIES: Final = 4096
# Parsing takes about 13 us a policy; beyond this many, other threads may run meanwhile.
_LONG: Final = 64


@dataclass(frozen=True, slots=True)
class Member:
    """A policy of a slice: how a decision names it, and its text."""

    policy: Determining
    text: str = field(repr=False)


@dataclass(slots=True)
class Slice:
    """Parsed policies; `policies[i]` is what Cedar calls `policy{i}`."""

    policy_set: cedarpy.PolicySet = field(repr=False)
    policies: tuple[Determining, ...]
    last_used: int = 0

    @classmethod
    def of(cls, members: Sequence[Member]) -> Slice:
        """Parse the members. Each was accepted by `check_policies`, so that Cedar's numbering is theirs."""
        text = "\n".join([member.text for member in members])
        parsed = cedarpy.PolicySet.from_str(text, release_gil=len(members) > _LONG)
        if len(parsed) != len(members):
            msg = f"Cedar reads {len(parsed)} policies where {len(members)} were compiled"
            raise RuntimeError(msg)
        return cls(parsed, tuple([member.policy for member in members]))


class SliceCache:
    """The slices that were needed last. Safe to use from several threads."""

    def __init__(self, *, max_slices: int = MAX_SLICES, max_policies: int = MAX_SLICED_POLICIES) -> None:
        """Keep at most so many slices with so many policies."""
        self._max_slices = max_slices
        self._max_policies = max_policies
        self._slices: dict[Hashable, Slice] = {}
        self._uses = itertools.count(1)

    def get(self, key: Hashable, members: Callable[[], Sequence[Member]]) -> Slice:
        """Return the slice of `key`; `members` says what it is made of if it is not here."""
        found = self._slices.get(key)
        if found is None:
            found = Slice.of(members())
            self._make_room(len(found.policies))
            self._slices[key] = found
        found.last_used = next(self._uses)
        return found

    def __len__(self) -> int:
        """Return how many slices are kept."""
        return len(self._slices)

    @property
    def policies(self) -> int:
        """How many policies the kept slices have in all."""
        return sum(len(kept.policies) for kept in list(self._slices.values()))

    def _make_room(self, policies: int) -> None:
        """Drop what was not used the longest until there is room for a slice with so many policies, and a little more.

        Two threads may do this at once: copies are walked, and what the other has dropped is dropped.
        """
        oldest = sorted(self._slices.items(), key=lambda kept: kept[1].last_used)
        left = sum(len(kept.policies) for _, kept in oldest)
        if len(oldest) < self._max_slices and left + policies <= self._max_policies:
            return
        # An eighth at once: each search looks at all.
        wanted_slices, wanted_policies = self._max_slices * 7 // 8, self._max_policies - policies
        for count, (key, kept) in enumerate(oldest):
            if len(oldest) - count <= wanted_slices and left <= wanted_policies:
                return
            self._slices.pop(key, None)
            left -= len(kept.policies)
