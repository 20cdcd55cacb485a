"""Where policies that somebody sent are parsed for the first time, and nowhere else.

Rules:

- Limits come before any parse (`akpolicy.engine`), and the first parse is that of a child process (`akpolicy.fence`).
  What passed here may be parsed again: by this server, by hosts.
- Files are cut into policies; the content of a bundle that was signed elsewhere is policies already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.engine.check import check_policies
from akpolicy.engine.files import examine, read_policies
from akpolicy.errors import PolicySetInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.engine.check import Check
    from akpolicy.engine.files import Findings, PolicyFile
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.source import PolicyText


class Intake:
    """Checks policies against one schema. Thread-safe; takes its time."""

    def __init__(self, schema: CedarSchema, check: Check = check_policies) -> None:
        """Check with `check`, such as `Fence.check`; each call may raise what that raises."""
        self._schema = schema
        self._check = check

    def examine(self, files: Sequence[PolicyFile]) -> Findings:
        """Say what files hold and what is wrong with it."""
        return examine(files, self._schema, self._check)

    def read(self, files: Sequence[PolicyFile]) -> tuple[PolicyText, ...]:
        """Return the policies of files; raise `PolicySetInvalid` with every problem."""
        return read_policies(files, self._schema, self._check)

    def check(self, policies: Sequence[PolicyText]) -> None:
        """Raise `PolicySetInvalid` with every problem of policies that were cut elsewhere."""
        if problems := self._check(policies, self._schema):
            raise PolicySetInvalid(problems)
