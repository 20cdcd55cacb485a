"""Slices: the parsed policies that one kind of request needs, built once and kept for a while.

Rules:

- The full set of policies is never parsed into one `PolicySet`: Cedar evaluates all that a set holds (78.6 ms a
  decision at 40,000 policies) and needs about 12 KiB of memory for each. A slice has what a request can match.
- Member `i` of a slice is what Cedar calls `policy{i}` in it.
- Slices are kept by what they are made of, at most `MAX_SLICES` with `MAX_SLICED_POLICIES` policies in all; the one
  that was asked for last always stays. What was not asked for the longest goes first.
- Reading takes no lock. Two threads that miss the same slice at once build it twice, which costs time alone.
"""

from __future__ import annotations

import itertools
import threading
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
        self._policies = 0
        self._uses = itertools.count(1)
        self._changing = threading.Lock()

    def get(self, key: Hashable, members: Callable[[], Sequence[Member]]) -> Slice:
        """Return the slice of `key`; `members` says what it is made of if it is not here."""
        found = self._slices.get(key)
        if found is None:
            found = Slice.of(members())
            self._keep(key, found)
        found.last_used = next(self._uses)
        return found

    def __len__(self) -> int:
        """Return how many slices are kept."""
        return len(self._slices)

    @property
    def policies(self) -> int:
        """How many policies the kept slices have in all."""
        return self._policies

    def _keep(self, key: Hashable, made: Slice) -> None:
        with self._changing:
            if key in self._slices:
                return
            self._make_room(len(made.policies))
            self._slices[key] = made
            self._policies += len(made.policies)

    def _make_room(self, policies: int) -> None:
        """Drop the oldest eighth until there is room: finding the oldest takes a look at each."""
        while self._slices and (
            len(self._slices) >= self._max_slices or self._policies + policies > self._max_policies
        ):
            oldest = sorted(self._slices, key=lambda key: self._slices[key].last_used)
            for key in oldest[: max(1, len(oldest) // 8)]:
                self._policies -= len(self._slices.pop(key).policies)
