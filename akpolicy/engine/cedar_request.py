"""A request in Cedar's terms: entity ids and ancestors, entities, context, and where policies for it are filed.

Rules:

- Entity ids are built here and never taken from the caller: `User::"<org>/local/<subject>"`, `Team::"<org>/<team>"`,
  `Org::"<org>"`, `Sandbox::"<org>/<id>"`. Subject and resource id are percent-encoded (RFC 3986: all but unreserved
  characters), so that no subject can spell another's path. `local` is the issuer of an identity that a trusted runtime
  states.
- Principal and resource are members of their teams and of the org, and every team is a member of the org, so that no
  missing team can skip an org's `forbid`.
- The caller's attributes cannot replace what the request states elsewhere, nor `context.source`, which is set here.
- What principal and resource are (`Subjects`) is independent of what is asked, so that a session builds it once.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import cedarpy

from akpolicy.engine.index import entity_keys, uid_key
from akpolicy.engine.limits import MAX_ID_CHARS, MAX_ROLES, MAX_STRING_CHARS, MAX_TEAMS
from akpolicy.engine.request import DEFAULT_TYPE, foreign_org
from akpolicy.engine.schema import NAMESPACE
from akpolicy.engine.values import check_text, invalid, record_to_json
from akpolicy.scope import GLOBAL, LOCAL_ISSUER, org_scope, team_scope, user_scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from akpolicy.engine.request import AuthorizationRequest, Principal, Resource
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.values import CedarValue

_ORG: Final = f"{NAMESPACE}::Org"
_TEAM: Final = f"{NAMESPACE}::Team"
_USER: Final = f"{NAMESPACE}::User"
_ACTION: Final = f"{NAMESPACE}::Action"
_TYPE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# Types that only the engine makes entities of.
_OWN_TYPES: Final = frozenset({"Org", "Team", "User", "Action"})
_STATED: Final = frozenset({"email", "org_id", "roles", "teams", "mfa_verified"})
_dumps: Final = json.JSONEncoder(separators=(",", ":")).encode


class EntitySet:
    """Entities in Cedar's JSON form, parsed once for a schema. Safe to use from several threads."""

    __slots__ = ("_parsed", "text")

    def __init__(self, text: str) -> None:
        """Hold `text`, an array of entities."""
        self.text = text
        self._parsed: tuple[CedarSchema, cedarpy.Entities] | None = None

    def parsed(self, schema: CedarSchema) -> cedarpy.Entities:
        """Return the entities as `schema` reads them; raise `ValueError` if they do not fit it."""
        held = self._parsed
        if held is None or held[0] is not schema:
            held = self._parsed = schema, cedarpy.Entities.from_json_str(self.text, schema.handle)
        return held[1]

    @property
    def is_parsed(self) -> bool:
        """Whether the parsed form is kept."""
        return self._parsed is not None

    def forget(self) -> None:
        """Give the memory of the parsed form back; it is parsed again when it is needed."""
        self._parsed = None


@dataclass(frozen=True, slots=True)
class Subjects:
    """Who and what a request is about. `scopes` are the layers that can apply, broad to specific."""

    principal: dict[str, str]
    resource: dict[str, str]
    entities: EntitySet
    principal_keys: tuple[str, ...]
    resource_keys: tuple[str, ...]
    scopes: tuple[str, ...]
    team_scopes: frozenset[str]
    resource_team_scopes: frozenset[str]

    def ask(self, action: str, context: Mapping[str, CedarValue], source: str) -> CedarRequest:
        """Return the Cedar request of an action with its context; `source` becomes `context.source`.

        Raises:
            RequestInvalid: action or context break a rule; `field` names the culprit.

        """
        query: dict[str, object] = {
            "principal": self.principal,
            "action": {"type": _ACTION, "id": _identifier(action, "action")},
            "resource": self.resource,
            "context": _dumps(_context(context, source)),
        }
        return CedarRequest(
            query,
            self.entities,
            self.principal_keys,
            self.resource_keys,
            self.scopes,
            self.team_scopes,
            self.resource_team_scopes,
        )


@dataclass(frozen=True, slots=True)
class CedarRequest:
    """A request in Cedar's terms: `query` has three entity uids and the context as JSON text.

    The keys are those of the index (`index`); `scopes` are the layers that can apply, broad to specific.
    """

    query: dict[str, object]
    entities: EntitySet
    principal_keys: tuple[str, ...]
    resource_keys: tuple[str, ...]
    scopes: tuple[str, ...]
    team_scopes: frozenset[str]
    resource_team_scopes: frozenset[str]

    @property
    def principal(self) -> dict[str, str]:
        """The principal's type and id."""
        return self.query["principal"]  # type: ignore[return-value] # it is built above

    @property
    def action(self) -> dict[str, str]:
        """The action's type and id."""
        return self.query["action"]  # type: ignore[return-value] # it is built above

    @property
    def resource(self) -> dict[str, str]:
        """The resource's type and id."""
        return self.query["resource"]  # type: ignore[return-value] # it is built above

    @property
    def context(self) -> str:
        """The context as JSON text."""
        return self.query["context"]  # type: ignore[return-value] # it is built above


def build(request: AuthorizationRequest, *, org: str, source: str, default_roles: tuple[str, ...] = ()) -> CedarRequest:
    """Build the Cedar request of `request` within `org`.

    `source` becomes `context.source` (`runtime` or `sandbox`); `default_roles` are those of a principal without roles.

    Raises:
        RequestInvalid: a field is missing or breaks a rule; `field` names it.
        RuntimeError: the request is of another org; ask `foreign_org` first.

    """
    subjects = build_subjects(request.principal, request.resource, org=org, default_roles=default_roles)
    return subjects.ask(request.action, request.context, source)


def build_subjects(
    principal: Principal, resource: Resource, *, org: str, default_roles: tuple[str, ...] = ()
) -> Subjects:
    """Build the entities of a principal and a resource within `org`; raises as `build`."""
    if foreign_org(principal, resource, org):
        raise RuntimeError("a request of another org must not be built; ask `foreign_org` first")
    _identifier(principal.org_id, "principal.org_id")
    subject = quote(_identifier(principal.id, "principal.id"), safe="")
    user = {"type": _USER, "id": f"{org}/{LOCAL_ISSUER}/{subject}"}
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
    own_teams = [team_scope(org, name) for name in user_teams]
    return Subjects(
        user,
        thing,
        EntitySet(_dumps(entities)),
        _keys(user, user_teams, parent),
        _keys(thing, thing_teams, parent),
        (GLOBAL, org_scope(org), *own_teams, user_scope(org, LOCAL_ISSUER, principal.id)),
        frozenset(own_teams),
        frozenset([team_scope(org, name) for name in thing_teams]),
    )


def _keys(uid: Mapping[str, str], teams: Mapping[str, Mapping[str, str]], org: Mapping[str, str]) -> tuple[str, ...]:
    ancestors = [uid_key(parent["type"], parent["id"]) for parent in (*teams.values(), org)]
    return entity_keys(uid["type"], uid["id"], ancestors)


def _identifier(text: str, where: str) -> str:
    if not text:
        invalid("is missing", where)
    return check_text(text, where, MAX_ID_CHARS)


def _resource_type(resource: Resource) -> str:
    name = resource.type or DEFAULT_TYPE
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
    if (resource.type or DEFAULT_TYPE) == DEFAULT_TYPE:
        attributes.setdefault("name", resource.id)
    return attributes


def _context(stated: Mapping[str, CedarValue], source: str) -> dict[str, object]:
    if "source" in stated:
        invalid("is set by the sidecar and cannot be stated", "context.source")
    context = record_to_json(stated, "context")
    context["source"] = source
    return context
