"""A mapping that is never changed: what differs by one entry shares all the rest with the one before.

Rules:

- `put` and `without` return another mapping in a time that does not grow with the number of entries (it does with its
  logarithm, to the base 32). Whoever holds the one before sees no change; no lock is needed.
- Order is that of hashes: whoever shows entries sorts them.
- `Summary` says what all entries together come to, for example the least of some number. Each node keeps its own, so
  that a change costs no look at all entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

V = TypeVar("V")
S = TypeVar("S")
V_contra = TypeVar("V_contra", contravariant=True)

_BITS: Final = 5
_MASK: Final = (1 << _BITS) - 1
# `hash` has 64 bits; keys that agree in all of them share a node at this depth.
_MAX_SHIFT: Final = 65
_NOTHING: Final = object()


class Summary(Protocol[V_contra, S]):
    """What entries come to."""

    def of(self, value: V_contra) -> S:
        """Return what one entry comes to."""

    def together(self, parts: Iterable[S]) -> S:
        """Return what at least one part come to together, whatever their order."""


@dataclass(frozen=True, slots=True)
class _Leaf(Generic[V, S]):
    key: str
    value: V
    summary: S | None


@dataclass(frozen=True, slots=True)
class _Node(Generic[V, S]):
    """Entries by five bits of the hash; at the greatest depth by the key itself."""

    entries: dict[object, _Node[V, S] | _Leaf[V, S]]
    size: int
    summary: S | None


_Entry = _Node[V, S] | _Leaf[V, S]


class PersistentMap(Mapping[str, V], Generic[V, S]):
    """The mapping. `summary` is None without entries, and without a `Summary`."""

    __slots__ = ("_root", "_summary")

    def __init__(self, summary: Summary[V, S] | None = None, _root: _Node[V, S] | None = None) -> None:
        """Begin without entries."""
        self._summary = summary
        self._root: _Node[V, S] = _root or _Node({}, 0, None)

    @classmethod
    def of(cls, entries: Mapping[str, V], summary: Summary[V, S] | None = None) -> PersistentMap[V, S]:
        """Return a mapping with all these entries at once."""
        empty = cls(summary)
        leaves = [_Leaf(key, value, summary.of(value) if summary else None) for key, value in entries.items()]
        return cls(summary, empty._gather(leaves, 0))

    @property
    def summary(self) -> S | None:
        """What all entries come to together."""
        return self._root.summary

    def put(self, key: str, value: V) -> PersistentMap[V, S]:
        """Return the mapping with this value for the key."""
        leaf = _Leaf(key, value, self._summary.of(value) if self._summary else None)
        return PersistentMap(self._summary, self._put(self._root, leaf, 0))

    def without(self, key: str) -> PersistentMap[V, S]:
        """Return the mapping without the key, if it has it."""
        return PersistentMap(self._summary, self._without(self._root, key, 0)) if key in self else self

    def __getitem__(self, key: str) -> V:
        node, shift, hashed = self._root, 0, hash(key)
        while True:
            found = node.entries.get(_place(hashed, key, shift))
            if isinstance(found, _Node):
                node, shift = found, shift + _BITS
                continue
            if found is None or found.key != key:
                raise KeyError(key)
            return found.value

    def __len__(self) -> int:
        return self._root.size

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in _leaves(self._root))

    def differences(self, other: PersistentMap[V, S]) -> Iterator[str]:
        """Yield the keys that only one of both has, or that have other values; what both share costs nothing."""
        waiting: list[tuple[_Entry[V, S] | None, _Entry[V, S] | None]] = [(self._root, other._root)]
        while waiting:
            ours, theirs = waiting.pop()
            if ours is theirs:
                continue
            if isinstance(ours, _Node) and isinstance(theirs, _Node):
                places = {**ours.entries, **theirs.entries}
                waiting += [(ours.entries.get(place), theirs.entries.get(place)) for place in places]
                continue
            one, another = dict(_leaves(ours)), dict(_leaves(theirs))
            yield from (key for key in {**one, **another} if one.get(key, _NOTHING) != another.get(key, _NOTHING))

    def _put(self, node: _Node[V, S], leaf: _Leaf[V, S], shift: int) -> _Node[V, S]:
        place = _place(hash(leaf.key), leaf.key, shift)
        found = node.entries.get(place)
        new: _Node[V, S] | _Leaf[V, S] = leaf
        if isinstance(found, _Node):
            new = self._put(found, leaf, shift + _BITS)
        elif found is not None and found.key != leaf.key:
            new = self._put(self._put(_Node({}, 0, None), found, shift + _BITS), leaf, shift + _BITS)
        return self._node({**node.entries, place: new})

    def _gather(self, leaves: list[_Leaf[V, S]], shift: int) -> _Node[V, S]:
        by_place: dict[object, list[_Leaf[V, S]]] = {}
        for leaf in leaves:
            by_place.setdefault(_place(hash(leaf.key), leaf.key, shift), []).append(leaf)
        return self._node(
            {
                place: some[0] if len(some) == 1 else self._gather(some, shift + _BITS)
                for place, some in by_place.items()
            }
        )

    def _without(self, node: _Node[V, S], key: str, shift: int) -> _Node[V, S]:
        place = _place(hash(key), key, shift)
        entries = dict(node.entries)
        found = entries.pop(place)
        if isinstance(found, _Node) and (left := self._without(found, key, shift + _BITS)).size:
            entries[place] = left
        return self._node(entries)

    def _node(self, entries: dict[object, _Node[V, S] | _Leaf[V, S]]) -> _Node[V, S]:
        size = sum([entry.size if isinstance(entry, _Node) else 1 for entry in entries.values()])
        summary = None
        if self._summary is not None and entries:
            # What is not None where there is a `Summary`.
            summary = self._summary.together([entry.summary for entry in entries.values()])  # type: ignore[misc]
        return _Node(entries, size, summary)


def _leaves(entry: _Entry[V, S] | None) -> Iterator[tuple[str, V]]:
    waiting = [entry] if entry is not None else []
    while waiting:
        last = waiting.pop()
        if isinstance(last, _Leaf):
            yield last.key, last.value
        else:
            waiting.extend(last.entries.values())


def _place(hashed: int, key: str, shift: int) -> object:
    return hashed >> shift & _MASK if shift < _MAX_SHIFT else key
