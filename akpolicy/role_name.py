"""The names of a root's roles, as people write them.

`root`, `heartbeat`, and for each scope prefix `bundle:<prefix>` and `rollback:<prefix>`. Without a prefix, `bundle` and
`rollback` mean those of the whole org.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from akpolicy.errors import FieldInvalid, UsageError
from akpolicy.scope import check_scope, org_of, org_scope
from akpolicy.strict_json import shown

RoleKind = Literal["root", "heartbeat", "bundle", "rollback"]

ROOT: Final = "root"
HEARTBEAT: Final = "heartbeat"
BUNDLE: Final = "bundle"
ROLLBACK: Final = "rollback"


@dataclass(frozen=True, slots=True)
class RoleName:
    """A role; `prefix` is empty for those that have none."""

    kind: RoleKind
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.prefix}" if self.prefix else self.kind


def parse_role(text: str, org: str) -> RoleName:
    """Read the name of a role in a root of `org`; raise `UsageError` saying which there can be."""
    kind, separator, prefix = text.partition(":")
    match kind:
        case "root" | "heartbeat" if not separator:
            return RoleName(kind)
        case "bundle" | "rollback":
            return RoleName(kind, _checked(prefix, org) if separator else org_scope(org))
    raise UsageError(
        f"`{shown(text)}` is not a role; write `root`, `heartbeat`, `bundle`, `rollback`, `bundle:global`, "
        f"`bundle:{org_scope(org)}/team/<team>` and the like"
    )


def _checked(prefix: str, org: str) -> str:
    try:
        check_scope(prefix)
    except FieldInvalid as error:
        raise UsageError(error.message) from None
    if org_of(prefix) not in (None, org):
        raise UsageError(f"the root of `{org}` has no say in `{prefix}`; name a scope of `{org}`, or `global`")
    return prefix
