"""What a schema must have so that hosts can use it: an org may bring its own in place of the packaged one.

Rules:

- It has what hosts build for every request (`cedar_request`), in the namespace `AgentKernel`: `Org`, `Team in [Org]`,
  and `User in [Team, Org]` with the attributes that hosts set. Further attributes of a user are optional, and so is
  `teams`: hosts leave them out where nothing is known.
- There is something that can be asked, or no policy would fit, not even one that forbids all. The context of every
  action has `source: String`, which hosts always set; there are at most `MAX_ACTIONS` actions.
- That is tried, not read: users are built as hosts build them, and held against the schema. Types of resources are the
  org's own affair; those that do not fit what a runtime states make its requests invalid.

The schema was parsed where a crash does no harm (`akpolicy.fence`) before it comes here.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

import cedarpy

from akpolicy.engine.conformance import find_entity_misfit
from akpolicy.engine.schema import NAMESPACE, parse_schema
from akpolicy.errors import SchemaUnsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from akpolicy.engine.schema import CedarSchema

MAX_ACTIONS: Final = 1024
# In a message.
MAX_NAMED: Final = 5
# Cedar's validator takes time by the square of the number of its errors.
_BATCH: Final = 128

_ORG: Final = {"type": f"{NAMESPACE}::Org", "id": "acme"}
_TEAM: Final = {"type": f"{NAMESPACE}::Team", "id": "acme/red"}
_USER: Final = {"type": f"{NAMESPACE}::User", "id": "acme/local/alice"}
_ACTION: Final = f"{NAMESPACE}::Action"
_ATTRIBUTES: Final = {"email": "", "org_id": "acme", "roles": ["developer"], "mfa_verified": False}
_POSITION: Final = re.compile(r"policy(\d+)")

_ADVICE: Final = (
    "keep `entity Org; entity Team in [Org]; entity User in [Team, Org] { email: String, org_id: String, roles: "
    "Set<String>, teams?: Set<String>, mfa_verified: Bool }` of the packaged schema, and add to it what is optional"
)


def read_host_schema(text: str) -> CedarSchema:
    """Parse a schema of an org.

    Raises:
        SchemaInvalid: Cedar cannot read it.
        SchemaUnsupported: hosts could not use it.

    """
    schema = parse_schema(text)
    check_host_schema(schema)
    return schema


def check_host_schema(schema: CedarSchema) -> None:
    """Raise `SchemaUnsupported` with what hosts build and the schema has no place for."""
    for attributes, parents in (
        (_ATTRIBUTES, [_ORG]),
        ({**_ATTRIBUTES, "roles": []}, [_TEAM, _ORG]),
        ({**_ATTRIBUTES, "teams": ["red"]}, [_TEAM, _ORG]),
    ):
        if reason := _misfit(_entities(attributes, parents), schema):
            raise SchemaUnsupported(f"hosts could not describe a user by the schema: {reason}; {_ADVICE}")
    actions = _actions(schema)
    if len(actions) > MAX_ACTIONS:
        raise SchemaUnsupported(f"the schema has {len(actions)} actions; the limit is {MAX_ACTIONS}")
    askable = [action for action, fits in zip(actions, _fit(actions, "", schema), strict=True) if fits]
    if not askable:
        raise SchemaUnsupported("the schema has no action that can be asked for; give one an `appliesTo`")
    if lacking := _without_source(askable, schema):
        named = ", ".join(f"`{action}`" for action in lacking[:MAX_NAMED])
        named += " and others" if len(lacking) > MAX_NAMED else ""
        raise SchemaUnsupported(
            f"the context of {named} lacks `source: String`, which hosts set for every request; add it"
        )


def _entities(attributes: dict[str, object], parents: list[dict[str, str]]) -> str:
    return json.dumps(
        [
            {"uid": _USER, "attrs": attributes, "parents": parents},
            {"uid": _TEAM, "attrs": {}, "parents": [_ORG]},
            {"uid": _ORG, "attrs": {}, "parents": []},
        ]
    )


def _misfit(entities: str, schema: CedarSchema) -> str:
    """Return why entities do not fit a schema; empty if they do."""
    try:
        cedarpy.Entities.from_json_str(entities, schema.handle)
    except ValueError as error:
        # Cedar says no more than that they do not.
        query = {"principal": _USER, "resource": _ORG}
        found = find_entity_misfit(schema.model, query, json.loads(entities))
        if found is not None:
            return found.message
        return f"{error}; a user is in `Team` and `Org`, and a team in `Org`"
    return ""


def _actions(schema: CedarSchema) -> list[str]:
    """Return every action that hosts can ask about as Cedar writes it, and groups of actions."""
    found = [entity["uid"] for entity in json.loads(str(cedarpy.Entities.from_json_str("[]", schema.handle)))]
    return sorted(f"{_ACTION}::{_quoted(uid['id'])}" for uid in found if uid["type"] == _ACTION)


def _quoted(text: str) -> str:
    # Cedar's escapes of strings are Rust's: of JSON's, the ones for quotes, backslashes and line ends are the same.
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    return char if char.isprintable() and char not in '"\\' else f"\\u{{{ord(char):x}}}"


def _without_source(askable: Sequence[str], schema: CedarSchema) -> list[str]:
    """Return the actions whose context is not sure to have a text `source`."""
    checks = _fit(askable, ' when { context.source like "*" }', schema)
    return [action for action, fits in zip(askable, checks, strict=True) if not fits]


def _fit(actions: Sequence[str], condition: str, schema: CedarSchema) -> list[bool]:
    """Return of each action whether a policy for it alone, with this condition, fits the schema."""
    fits: list[bool] = []
    for start in range(0, len(actions), _BATCH):
        batch = actions[start : start + _BATCH]
        text = "\n".join(f"forbid (principal, action == {action}, resource){condition};" for action in batch)
        wrong = _positions(error.policy_id for error in cedarpy.validate_policies(text, schema.handle).errors)
        fits += [at not in wrong for at in range(len(batch))]
    return fits


def _positions(names: Iterable[str]) -> set[int]:
    return {int(match[1]) for match in map(_POSITION.fullmatch, names) if match}
