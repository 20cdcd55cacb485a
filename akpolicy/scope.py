"""Scopes: what a bundle is for.

Rules:

- `global`, `org/X`, `org/X/team/Y`, `org/X/user/Z`; nothing else. Segments are percent-encoded (RFC 3986, unreserved
  characters as they are, the rest as upper-case %XX), so that one scope has one spelling.
- Y is the team's name. Z is what the user's entity has behind its org, `<issuer>/<subject percent-encoded>`, but a user
  of the issuer `local` is the subject alone: `alice`, `a%2540acme.com` (the subject `a@acme.com`), `okta%2Falice`. So a
  subject with a slash cannot name another issuer's user, and no user has two names.
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
# The alias of an issuer: what a configuration calls whoever vouches for identities.
ISSUER_PATTERN: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"

_ORG = re.compile(ORG_PATTERN)
_ISSUER = re.compile(ISSUER_PATTERN)
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
        and (len(segments) == _ORG_DEPTH or _is_member(*segments[2:]))
    )
    if not well_formed:
        msg = (
            f"`{shown(text)}` is not a scope; "
            "write `global`, `org/<org>`, `org/<org>/team/<team>` or `org/<org>/user/<user>`, percent-encoded"
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
    """Return the scope of a team, by its unescaped name; raise `ValueError` for a lone surrogate.

    It may be none that anything can be published for: `check_scope` says so.
    """
    return f"org/{org}/team/{quote(team, safe='')}"


def user_scope(org: str, issuer: str, subject: str) -> str:
    """Return the scope of a user, by the alias of who vouches for the identity and the unescaped subject.

    Raises and says as little of what can be published as `team_scope`.
    """
    encoded = quote(subject, safe="")
    return f"org/{org}/user/{quote(encoded if issuer == LOCAL_ISSUER else f'{issuer}/{encoded}', safe='')}"


def user_of(scope: str) -> tuple[str, str] | None:
    """Return the issuer's alias and the unescaped subject of a well-formed scope; None if it is no user's."""
    segments = scope.split("/")
    if len(segments) != _MEMBER_DEPTH or segments[2] != "user":
        return None
    issuer, separator, subject = unquote(segments[3]).rpartition("/")
    return (issuer if separator else LOCAL_ISSUER), unquote(subject)


def is_team_scope(scope: str) -> bool:
    """Whether a well-formed scope is that of a team."""
    return scope.count("/") == _MEMBER_DEPTH - 1 and scope.split("/")[2] == "team"


def is_member_scope(scope: str) -> bool:
    """Whether a well-formed scope is that of a team or user: of some of an org, not of all."""
    return scope.count("/") == _MEMBER_DEPTH - 1


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


def _is_member(kind: str, text: str) -> bool:
    return _is_segment(text) and (kind == "team" or (kind == "user" and _is_user(unquote(text))))


def _is_user(text: str) -> bool:
    issuer, separator, subject = text.rpartition("/")
    if separator and (issuer == LOCAL_ISSUER or _ISSUER.fullmatch(issuer) is None):
        return False
    return _is_segment(subject)


def _is_segment(text: str) -> bool:
    decoded = unquote(text)
    if decoded in ("", ".", ".."):
        return False
    try:
        return quote(decoded, safe="") == text
    except UnicodeEncodeError:
        return False
