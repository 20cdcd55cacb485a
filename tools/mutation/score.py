"""What a run amounts to: who survived, and whether that is good enough.

A mutant is killed when a test fails, or when it does not come to an end or crashes the process, which no test would
overlook. One that no test runs has survived. Listed or not, a survivor counts against the score.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tools.mutation.survivors import as_entry, stale

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tools.mutation.mutants import Change, Mutant

LEAST_SCORE: Final = 0.90
SURVIVED: Final = "survived"

_HEAD: Final = ("file", "mutants", "killed", "listed", "unlisted", "score")


@dataclass(frozen=True, slots=True)
class Score:
    """The result of a run: each mutant that ran, with what became of it."""

    statuses: Mapping[Change, str]
    unlisted: Sequence[Change]
    stale: Sequence[Change]

    @property
    def killed(self) -> float:
        """The share of mutants that were killed, 0 to 1."""
        alive = sum(status == SURVIVED for status in self.statuses.values())
        return 1 - alive / len(self.statuses) if self.statuses else 1.0

    @property
    def passed(self) -> bool:
        """Whether nothing has to be done."""
        return not self.unlisted and not self.stale and self.killed >= LEAST_SCORE


def judge(
    run: Sequence[Mutant], existing: Sequence[Mutant], statuses: Mapping[str, str], listed: Collection[Change]
) -> Score:
    """Return the score of the mutants that were to run; `statuses` are by name, one without has no test."""
    by_change = {mutant.change: statuses.get(mutant.name, SURVIVED) for mutant in run}
    killed = [change for change, status in by_change.items() if status != SURVIVED]
    unlisted = [change for change, status in by_change.items() if status == SURVIVED and change not in listed]
    return Score(by_change, unlisted, stale(listed, (mutant.change for mutant in existing), killed))


def report(score: Score) -> str:
    """Return the table, what has to be done, and a last line with the verdict."""
    parts = [table(score)]
    if score.unlisted:
        parts.append(
            f"{len(score.unlisted)} survivors are not listed. Write a test that kills them, or list them with a reason:"
        )
        parts += [as_entry(change) for change in score.unlisted]
    if score.stale:
        parts.append(f"{len(score.stale)} entries of the list are stale: they name no mutant, or one that is killed:")
        parts += [as_entry(change) for change in score.stale]
    kinds = Counter(status for status in score.statuses.values() if status not in (SURVIVED, "killed"))
    others = "".join(f", {count} by {kind}" for kind, count in sorted(kinds.items()))
    verdict = "passed" if score.passed else "FAILED"
    parts.append(f"{verdict}: {score.killed:.1%} of {len(score.statuses)} mutants killed{others}")
    return "\n\n".join(parts)


def table(score: Score) -> str:
    """Return one line a module and one for all of them."""
    total: Counter[str] = Counter(change.module for change in score.statuses)
    alive = Counter(change.module for change, status in score.statuses.items() if status == SURVIVED)
    unlisted = Counter(change.module for change in score.unlisted)
    rows: list[tuple[str, ...]] = [_HEAD]
    for name in (*sorted(total), "all"):
        numbers = [sum(c.values()) if name == "all" else c[name] for c in (total, alive, unlisted)]
        rows.append(_row(name, *numbers))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    )


def _row(name: str, total: int, alive: int, unlisted: int) -> tuple[str, ...]:
    share = f"{1 - alive / total:.1%}" if total else "-"
    return name, str(total), str(total - alive), str(alive - unlisted), str(unlisted), share
