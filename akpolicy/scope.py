"""Scopes: what a bundle is for.

Rules:

- `global`, `org/X`, `org/X/team/Y`, `org/X/user/Z`; nothing else. Segments are percent-encoded (RFC 3986, unreserved
  characters as they are, the rest as upper-case %XX), so that one scope has one spelling.
- A prefix covers whole segments: `org/a` covers `org/a` and `org/a/team/t`, not `org/ab`.
- Org names are 1 to 63 of [A-Za-z0-9_-], alphanumeric at both ends (agentkernel's rule).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote

from akpolicy.errors import FieldInvalid
from akpolicy.strict_json import shown

GLOBAL: Final = "global"
# Who vouches for an identity that a trusted runtime states.
LOCAL_ISSUER: Final = "local"
MAX_SCOPE_CHARS: Final = 512
ORG_PATTERN: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
HOST_ID_PATTERN: Final = r"[A-Za-z0-9._-]{1,128}"

_ORG = re.compile(ORG_PATTERN)
_ORG_DEPTH = 2
_MEMBER_DEPTH = 4
_MEMBER_KINDS = ("team", "user")


def check_scope(text: str) -> str:
    """Return `text` if it is a scope in its one spelling, else raise `FieldInvalid`."""
    if text == GLOBAL:
        return text
    segments = text.split("/") if len(text) <= MAX_SCOPE_CHARS else []
    well_formed = (
        len(segments) in (_ORG_DEPTH, _MEMBER_DEPTH)
        and segments[0] == "org"
        and is_org_name(segments[1])
        and (len(segments) == _ORG_DEPTH or (segments[2] in _MEMBER_KINDS and _is_segment(segments[3])))
    )
    if not well_formed:
        msg = (
            f"`{shown(text)}` is not a scope; "
            "write `global`, `org/<org>`, `org/<org>/team/<team>` or `org/<org>/user/<user>`"
        )
        raise FieldInvalid(msg)
    return text


def is_org_name(text: str) -> bool:
    """Whether `text` may name an org."""
    return _ORG.fullmatch(text) is not None


def org_scope(org: str) -> str:
    """Return the scope of a whole org."""
    return f"org/{org}"


def team_scope(org: str, team: str) -> str:
    """Return the scope of a team, by its unescaped name."""
    return f"org/{org}/team/{quote(team, safe='')}"


def user_scope(org: str, issuer: str, subject: str) -> str:
    """Return the scope of a user, by the alias of who vouches for the identity and the unescaped subject.

    A user that only the host's own runtime vouches for is named by the subject alone.
    """
    encoded = quote(subject, safe="")
    return f"org/{org}/user/{quote(encoded if issuer == LOCAL_ISSUER else f'{issuer}/{encoded}', safe='')}"


def is_team_scope(scope: str) -> bool:
    """Whether a well-formed scope is that of a team."""
    return scope.count("/") == _MEMBER_DEPTH - 1 and scope.split("/")[2] == "team"


def org_of(scope: str) -> str | None:
    """Return the org that a well-formed scope belongs to; None for `global`."""
    return None if scope == GLOBAL else scope.split("/")[1]


def covers(prefix: str, scope: str) -> bool:
    """Whether `scope` is `prefix` or below it, by whole segments."""
    return scope == prefix or scope.startswith(prefix + "/")


def specificity(scope: str) -> int:
    """Return a rank that orders layers from broad to specific: global, org, team, user."""
    if scope == GLOBAL:
        return 0
    segments = scope.split("/")
    return 1 if len(segments) == _ORG_DEPTH else 2 + _MEMBER_KINDS.index(segments[2])


def _is_segment(text: str) -> bool:
    decoded = unquote(text)
    if decoded in ("", ".", ".."):
        return False
    try:
        return quote(decoded, safe="") == text
    except UnicodeEncodeError:
        return False
