"""What freezing an org means: one policy that forbids everything.

A freeze is a bundle like any other. It is recognised by its content, whoever published it and however.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

FREEZE_POLICY_ID: Final = "akpolicy-freeze"
FREEZE_POLICY: Final = f'@id("{FREEZE_POLICY_ID}")\nforbid (principal, action, resource);'


def is_freeze(policies: Sequence[tuple[str, str]]) -> bool:
    """Whether `(id, text)` pairs are a freeze."""
    return list(policies) == [(FREEZE_POLICY_ID, FREEZE_POLICY)]
