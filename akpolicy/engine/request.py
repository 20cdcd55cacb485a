"""An authorization request, and the Cedar request built from it.

Rules:

- Entity ids are built here and never taken from the caller: `User::"<org>/local/<subject>"`, `Team::"<org>/<team>"`,
  `Org::"<org>"`, `Sandbox::"<org>/<id>"`. Subject and resource id are percent-encoded (RFC 3986: all but unreserved
  characters), so that no subject can spell another's path. `local` is the issuer of an identity that a trusted runtime
  states.
- Principal and resource are members of their teams and of the org, and every team is a member of the org, so that no
  missing team can skip an org's `forbid`.
- The caller's attributes cannot replace what the request states elsewhere, nor `context.source`, which is set here.
- A principal or resource of another org is not judged: `foreign_org` says so before anything is built.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from akpolicy.engine.limits import MAX_ID_CHARS, MAX_ROLES, MAX_STRING_CHARS, MAX_TEAMS
from akpolicy.engine.schema import NAMESPACE
from akpolicy.engine.values import (
    CedarValue,
    EntityRef,
    ExtensionCall,
    check_text,
    invalid,
    record_to_json,
    value_from_json,
)

__all__ = [
    "AuthorizationRequest",
    "CedarRequest",
    "CedarValue",
    "EntityRef",
    "ExtensionCall",
    "Principal",
    "Resource",
    "build",
    "foreign_org",
    "request_from_json",
]

_ORG: Final = f"{NAMESPACE}::Org"
_TEAM: Final = f"{NAMESPACE}::Team"
_USER: Final = f"{NAMESPACE}::User"
_ACTION: Final = f"{NAMESPACE}::Action"
_DEFAULT_TYPE: Final = "Sandbox"
_TYPE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# Types that only the engine makes entities of.
_OWN_TYPES: Final = frozenset({"Org", "Team", "User", "Action"})
_STATED: Final = frozenset({"email", "org_id", "roles", "teams", "mfa_verified"})
_FORMAT: Final = (",", ":")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as the runtime states it. `id` is the unescaped subject."""

    id: str
    org_id: str
    email: str = ""
    roles: tuple[str, ...] = ()
    teams: tuple[str, ...] = ()
    mfa_verified: bool = False
    attributes: Mapping[str, CedarValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resource:
    """What is acted upon. `type` has no namespace; an empty `org_id` means the sidecar's own."""

    id: str
    type: str = _DEFAULT_TYPE
    org_id: str = ""
    teams: tuple[str, ...] = ()
    attributes: Mapping[str, CedarValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """One question: may this principal do this to that? `action` is an id, for example `Run`."""

    principal: Principal
    action: str
    resource: Resource
    context: Mapping[str, CedarValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CedarRequest:
    """A request in Cedar's terms: three entity uids, entities and context as JSON texts."""

    principal: Mapping[str, str]
    action: Mapping[str, str]
    resource: Mapping[str, str]
    entities: str
    context: str


def foreign_org(request: AuthorizationRequest, org: str) -> bool:
    """Whether principal or resource belongs to another org than `org`.

    A principal without an org is not foreign but invalid; `build` says so.
    """
    return request.principal.org_id not in {"", org} or request.resource.org_id not in {"", org}


def build(request: AuthorizationRequest, *, org: str, source: str, default_roles: tuple[str, ...] = ()) -> CedarRequest:
    """Build the Cedar request of `request` within `org`.

    `source` becomes `context.source` (`runtime` or `sandbox`); `default_roles` are those of a principal without roles.

    Raises:
        RequestInvalid: a field is missing or breaks a rule; `field` names it.
        RuntimeError: the request is of another org; ask `foreign_org` first.

    """
    principal, resource = request.principal, request.resource
    if foreign_org(request, org):
        raise RuntimeError("a request of another org must not be built; ask `foreign_org` first")
    _identifier(principal.org_id, "principal.org_id")
    action = {"type": _ACTION, "id": _identifier(request.action, "action")}
    user = {"type": _USER, "id": f"{org}/local/{quote(_identifier(principal.id, 'principal.id'), safe='')}"}
    thing = {
        "type": f"{NAMESPACE}::{_resource_type(resource)}",
        "id": f"{org}/{quote(_identifier(resource.id, 'resource.id'), safe='')}",
    }
    parent = {"type": _ORG, "id": org}
    user_teams = _teams(principal.teams, org, "principal.teams")
    thing_teams = _teams(resource.teams, org, "resource.teams")
    entities = [
        {"uid": user, "attrs": _user_attributes(principal, default_roles), "parents": [*user_teams.values(), parent]},
        {"uid": thing, "attrs": _resource_attributes(resource), "parents": [*thing_teams.values(), parent]},
        {"uid": parent, "attrs": {}, "parents": []},
    ]
    entities += [{"uid": team, "attrs": {}, "parents": [parent]} for team in (user_teams | thing_teams).values()]
    context = _context(request.context, source)
    return CedarRequest(
        user, action, thing, json.dumps(entities, separators=_FORMAT), json.dumps(context, separators=_FORMAT)
    )


def request_from_json(obj: Mapping[str, object]) -> AuthorizationRequest:
    """Read a request from parsed JSON: a line of a request log or of a test file.

    `principal` has `id`, `org_id`, `email`, `roles`, `teams` and `mfa_verified`; what else it has are attributes.
    `resource` has `id` (or `name` in its place), `type`, `org_id` and `teams`, likewise. The keys `expect` and `by` are
    for the tools that read such files, and ignored.

    Raises:
        RequestInvalid: a value is missing, of a wrong type, or not to be had in Cedar; `field` names it.

    """
    for key in obj:
        if key not in {"principal", "action", "resource", "context", "expect", "by"}:
            invalid("is unknown; a request has `principal`, `action`, `resource` and `context`", key)
    context = obj.get("context", {})
    return AuthorizationRequest(
        _principal_from_json(_record(obj.get("principal"), "principal")),
        _text(obj.get("action"), "action"),
        _resource_from_json(_record(obj.get("resource"), "resource")),
        _values(_record(context, "context"), "context"),
    )


def _principal_from_json(rest: dict[str, object]) -> Principal:
    return Principal(
        id=_text(rest.pop("id", None), "principal.id"),
        org_id=_text(rest.pop("org_id", None), "principal.org_id"),
        email=_text(rest.pop("email", ""), "principal.email"),
        roles=_texts(rest.pop("roles", []), "principal.roles"),
        teams=_texts(rest.pop("teams", []), "principal.teams"),
        mfa_verified=_flag(rest.pop("mfa_verified", False), "principal.mfa_verified"),
        attributes=_values(rest, "principal"),
    )


def _resource_from_json(rest: dict[str, object]) -> Resource:
    key = "id" if "id" in rest else "name"
    return Resource(
        id=_text(rest.pop(key, None), f"resource.{key}"),
        type=_text(rest.pop("type", _DEFAULT_TYPE), "resource.type"),
        org_id=_text(rest.pop("org_id", ""), "resource.org_id"),
        teams=_texts(rest.pop("teams", []), "resource.teams"),
        attributes=_values(rest, "resource"),
    )


def _record(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, Mapping):
        invalid("is missing" if value is None else "must be an object", where)
    return dict(value)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        invalid("is missing" if value is None else "must be a text", where)
    return value


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        invalid("must be true or false", where)
    return value


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(element, str) for element in value):
        invalid("must be a list of texts", where)
    return tuple(value)


def _values(record: Mapping[str, object], where: str) -> dict[str, CedarValue]:
    return {name: value_from_json(value, f"{where}.{name}") for name, value in record.items()}


def _identifier(text: str, where: str) -> str:
    if not text:
        invalid("is missing", where)
    return check_text(text, where, MAX_ID_CHARS)


def _resource_type(resource: Resource) -> str:
    name = resource.type or _DEFAULT_TYPE
    if _TYPE_NAME.fullmatch(name) is None or name in _OWN_TYPES:
        invalid("is no type of resource; use `Sandbox` or `Permission`", "resource.type")
    return name


def _teams(names: Iterable[str], org: str, where: str) -> dict[str, dict[str, str]]:
    teams = {name: {"type": _TEAM, "id": f"{org}/{_identifier(name, where)}"} for name in names}
    if len(teams) > MAX_TEAMS:
        invalid(f"has {len(teams)} teams; the limit is {MAX_TEAMS}", where)
    return teams


def _user_attributes(principal: Principal, default_roles: tuple[str, ...]) -> dict[str, object]:
    if not _STATED.isdisjoint(principal.attributes):
        name = min(_STATED.intersection(principal.attributes))
        invalid("is a field of the principal and no further attribute", f"principal.attributes.{name}")
    attributes = record_to_json(principal.attributes, "principal.attributes")
    roles = principal.roles or default_roles
    if len(roles) > MAX_ROLES:
        invalid(f"has {len(roles)} roles; the limit is {MAX_ROLES}", "principal.roles")
    attributes["email"] = check_text(principal.email, "principal.email", MAX_STRING_CHARS)
    attributes["org_id"] = principal.org_id
    attributes["roles"] = [check_text(role, "principal.roles", MAX_ID_CHARS) for role in roles]
    attributes["mfa_verified"] = principal.mfa_verified
    if principal.teams:
        attributes["teams"] = list(principal.teams)
    return attributes


def _resource_attributes(resource: Resource) -> dict[str, object]:
    attributes = record_to_json(resource.attributes, "resource.attributes")
    if (resource.type or _DEFAULT_TYPE) == _DEFAULT_TYPE:
        attributes.setdefault("name", resource.id)
    return attributes


def _context(stated: Mapping[str, CedarValue], source: str) -> dict[str, object]:
    if "source" in stated:
        invalid("is set by the sidecar and cannot be stated", "context.source")
    context = record_to_json(stated, "context")
    context["source"] = source
    return context
