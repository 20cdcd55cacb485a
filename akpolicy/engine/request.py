"""An authorization request as a runtime states it, before anything is built from it (`cedar_request`).

Rules:

- A principal or resource of another org is not judged: `foreign_org` says so before anything is built.
- JSON requests (a line of a request log, a test case) have integers only, no null, and no unknown keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from akpolicy.engine.values import (
    CedarValue,
    EntityRef,
    ExtensionCall,
    invalid,
    value_from_json,
)

__all__ = [
    "AuthorizationRequest",
    "CedarValue",
    "EntityRef",
    "ExtensionCall",
    "Principal",
    "Resource",
    "foreign_org",
    "request_from_json",
]

DEFAULT_TYPE: Final = "Sandbox"


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
    type: str = DEFAULT_TYPE
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


def foreign_org(principal: Principal, resource: Resource, org: str) -> bool:
    """Whether principal or resource belongs to another org than `org`.

    A principal without an org is not foreign but invalid; building says so.
    """
    return principal.org_id not in {"", org} or resource.org_id not in {"", org}


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
        type=_text(rest.pop("type", DEFAULT_TYPE), "resource.type"),
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
