"""Mappings that are never changed: as a dictionary, and what does not differ is shared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.persistent import PersistentMap

if TYPE_CHECKING:
    from collections.abc import Iterable


class Colliding(str):
    """A key whose hash says next to nothing."""

    __slots__ = ()

    def __hash__(self) -> int:
        return len(self) % 2


class Total:
    """The sum of all values, and how often it was worked out."""

    def __init__(self) -> None:
        self.looks = 0

    def of(self, value: int) -> int:
        return value

    def together(self, parts: Iterable[int]) -> int:
        parts = list(parts)
        self.looks += len(parts)
        return sum(parts)


KEYS = st.text("abc", max_size=3) | st.text("abc", max_size=3).map(Colliding)
STEPS = st.lists(st.tuples(KEYS, st.none() | st.integers(0, 3)), max_size=30)


def played(steps: list[tuple[str, int | None]]) -> tuple[PersistentMap[int, int], dict[str, int]]:
    """Put, or with None remove, one key after the other in both kinds of mappings."""
    mapping: PersistentMap[int, int] = PersistentMap(Total())
    plain: dict[str, int] = {}
    for key, value in steps:
        if value is None:
            mapping, _ = mapping.without(key), plain.pop(key, None)
        else:
            mapping, plain[key] = mapping.put(key, value), value
    return mapping, plain


@given(STEPS)
def test_it_is_what_a_dictionary_is(steps: list[tuple[str, int | None]]) -> None:
    mapping, plain = played(steps)

    assert mapping == plain
    assert sorted(mapping) == sorted(plain)
    assert len(mapping) == len(plain)
    assert mapping.summary == (sum(plain.values()) if plain else None)
    assert "none" not in mapping
    at_once = PersistentMap.of(plain, Total())
    assert (at_once, at_once.summary) == (mapping, mapping.summary)
    assert list(at_once.differences(mapping)) == []


@given(STEPS, KEYS)
def test_whoever_has_the_one_before_sees_no_change(steps: list[tuple[str, int | None]], key: str) -> None:
    mapping, plain = played(steps)

    mapping.put(key, 9)
    mapping.without(key)

    assert mapping == plain


@given(STEPS, STEPS, st.booleans())
def test_exactly_what_differs_is_named(
    first: list[tuple[str, int | None]], more: list[tuple[str, int | None]], related: bool
) -> None:
    (one, plain), (another, other) = played(first), played([*first, *more] if related else more)

    differing = {key for key in {**plain, **other} if plain.get(key) != other.get(key)}
    assert sorted(one.differences(another)) == sorted(another.differences(one)) == sorted(differing)


@pytest.mark.parametrize("count", [1_000, 16_000])
def test_a_change_looks_at_a_few_entries_however_many_there_are(count: int) -> None:
    total = Total()
    mapping: PersistentMap[int, int] = PersistentMap(total)
    for number in range(count):
        mapping = mapping.put(f"key {number}", number)
    total.looks = 0

    changed = mapping.put("key 7", 0)

    assert total.looks <= 5 * 32
    assert list(changed.differences(mapping)) == ["key 7"]
    assert changed.summary == sum(range(count)) - 7
