"""Which policies the cases of some files have tried.

Rules:

- A policy is tried if it determined the decision of a case, in whichever file the case is: files of cases may share
  their policies. Two policies are the same if scope, id and text are.
- Shares are rounded down: 100 % means every policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.simulation.runner import FileResult

WHOLE_PERCENT: Final = 100


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many different policies there are, and how many of them were tried.

    `untried` has those that were not, as `<scope>/<id>`, for each of the files.
    """

    policies: int
    tried: int
    untried: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, results: Sequence[FileResult]) -> Coverage:
        """Count what the files tried together."""
        every = {policy for file in results for policy in file.texts.items()}
        tried = {(name, file.texts[name]) for file in results for name in file.covered}
        untried = [tuple(name for name, text in file.texts.items() if (name, text) not in tried) for file in results]
        return cls(len(every), len(tried), tuple(untried))

    @property
    def percent(self) -> float:
        """The share of policies that were tried, rounded down to a tenth."""
        return 10 * WHOLE_PERCENT * self.tried // self.policies / 10 if self.policies else float(WHOLE_PERCENT)

    def reaches(self, percent: int) -> bool:
        """Whether at least so many were tried."""
        return WHOLE_PERCENT * self.tried >= percent * self.policies
