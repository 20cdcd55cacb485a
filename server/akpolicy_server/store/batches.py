"""Long lists in statements: SQLite takes 32,766 parameters a statement, older ones 999."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

VALUES_A_STATEMENT: Final = 500

T = TypeVar("T")


def batches(values: Collection[T]) -> Iterator[Sequence[T]]:
    """Yield the values, as many at a time as one statement takes."""
    listed = list(values)
    for start in range(0, len(listed), VALUES_A_STATEMENT):
        yield listed[start : start + VALUES_A_STATEMENT]
