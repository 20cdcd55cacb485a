"""Who may do what.

Rules:

- An `admin` key without an org is the platform's: everything, everywhere.
- Every other key may touch only its own org; a `publisher` key without an org has the scope `global` alone.
- Whether an org exists is told only to those who may know: reach is judged before existence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from akpolicy.errors import FieldInvalid, InvalidField, PermissionDenied
from akpolicy.scope import GLOBAL, check_scope, is_org_name, org_of, org_scope
from akpolicy.strict_json import shown


class Role(StrEnum):
    """What an API key is for."""

    ADMIN = "admin"
    PUBLISHER = "publisher"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: taken from the API key or the client certificate, never from a message. `org` None: a platform key.

    `expires_at`: when the certificate ends, in epoch seconds; None for an API key alone.
    """

    key_id: str
    role: Role
    org: str | None
    host_id: str | None = None
    expires_at: float | None = None

    @property
    def is_platform_admin(self) -> bool:
        """Whether this caller may do everything."""
        return self.role is Role.ADMIN and self.org is None


def require_platform_admin(caller: Caller) -> None:
    """Raise `PermissionDenied` unless the caller is a platform admin."""
    if not caller.is_platform_admin:
        raise PermissionDenied("this needs a platform admin's API key")


def require_admin_of(caller: Caller, org: str | None) -> None:
    """Raise `PermissionDenied` unless the caller administers `org` (None: the platform)."""
    if caller.role is not Role.ADMIN:
        raise PermissionDenied(f"this needs an admin's API key, this one is for the role `{caller.role}`")
    if not caller.is_platform_admin and caller.org != org:
        raise PermissionDenied(f"this API key is of the org `{caller.org}` and reaches no other")


def require_publisher(caller: Caller, scope: str) -> None:
    """Raise `PermissionDenied` unless the caller may publish and read `scope`."""
    if caller.role is Role.HOST:
        raise PermissionDenied("a host's API key cannot publish or read revisions; use a publisher's or an admin's")
    if caller.is_platform_admin:
        return
    if scope == GLOBAL and caller.org is not None:
        raise PermissionDenied("the scope `global` needs a platform API key")
    if org_of(scope) != caller.org:
        own = f"org `{caller.org}`" if caller.org else "scope `global`"
        raise PermissionDenied(f"this API key is for the {own} and reaches no other")


def require_host(caller: Caller) -> tuple[str, str]:
    """Return the caller's org and host id; raise `PermissionDenied` unless it is a host."""
    if caller.role is not Role.HOST or caller.org is None or caller.host_id is None:
        raise PermissionDenied(f"this needs a host's API key, this one is for the role `{caller.role}`")
    return caller.org, caller.host_id


def scope_of_org(text: str) -> str:
    """Return the scope of a whole org by its name; raise `InvalidField` for what is no name of one."""
    if not is_org_name(text):
        raise InvalidField(
            f"`{shown(text)}` is not an org name; use 1 to 63 of [A-Za-z0-9_-], alphanumeric at both ends"
        )
    return org_scope(text)


def check_publishable_scope(text: str) -> str:
    """Return `text` if it is a scope in its one spelling, else raise `InvalidField`."""
    try:
        return check_scope(text)
    except FieldInvalid as error:
        raise InvalidField(error.message) from None
