"""Plain Cedar over any policies, schema and entities, by the same slices as every other decision.

Rules:

- A policy is called by its `@id` where no other has it, else `policy<N>` by its place in the text, as Cedar does. In
  Cedar's JSON form policies have their names.
- Templates are refused. So is text that nests deeper than Cedar's parser survives; all else is Cedar's to judge.
- Only policies that can match are evaluated. If a scope cannot be read, all of them are: slower, and the same answer.
- Strict: a request must fit the schema, and a `forbid` that could not be evaluated denies. Not strict is Cedar as it
  is: such a policy is skipped, and what does not fit the schema is evaluated all the same.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cedarpy
from cedarpy import pst

from akpolicy.engine.evaluate import Outcome, Refused, evaluate
from akpolicy.engine.heads import read_heads
from akpolicy.engine.hierarchy import ancestors_of
from akpolicy.engine.index import Bucket, RequestKeys, ScopeIndex, action_keys, entity_keys, positions_of, uid_key
from akpolicy.engine.slices import Member, Slice, SliceCache
from akpolicy.engine.source import PolicyText
from akpolicy.engine.tokens import head, pieces
from akpolicy.engine.verdict import Determining, Effect
from akpolicy.errors import (
    PolicyParseError,
    PolicySetInvalid,
    PolicyTemplate,
    PolicyTooDeep,
    RequestInvalid,
    SchemaInvalid,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Measured: Cedar's parser ends the process at about 610 nested brackets.
MAX_DEPTH: Final = 200
_REQUEST_PARTS: Final = ("principal", "action", "resource")


@dataclass(frozen=True, slots=True)
class Answer:
    """What Cedar says: the names of the policies that determined it, and `<policy>: <message>` for each that failed.

    `failed_forbid` names the `forbid` that could not be evaluated and therefore denies; only where it is strict.
    """

    effect: Effect
    reasons: tuple[str, ...]
    errors: tuple[str, ...]
    failed_forbid: str = ""


class Policies:
    """Any policies, filed by their scopes."""

    def __init__(self, policies: Sequence[PolicyText]) -> None:
        """File policies that Cedar parses, each with its name as id."""
        self._policies = policies
        self._slices = SliceCache()
        try:
            heads = read_heads(policies)
        except PolicySetInvalid:
            self._index, self._effects = None, [_effect(policy) for policy in policies]
        else:
            self._index, self._effects = ScopeIndex([one.keys for one in heads]), [one.effect for one in heads]

    @classmethod
    def read(cls, text: str) -> Policies:
        """Read policies in Cedar's syntax or its JSON form.

        Raises:
            PolicyError: what is wrong with them.

        """
        return cls(_from_json(text) if text.lstrip()[:1] == "{" else _from_text(text))

    def slice_for(self, keys: RequestKeys) -> Slice:
        """Return the policies that can match a request with these keys."""
        if self._index is None:
            return self._slices.get("all", lambda: self._members(range(len(self._policies))))
        reached: list[Bucket] = []
        self._index.reach(keys, reached)
        key = tuple([bucket.number for bucket in reached])
        return self._slices.get(key, lambda: self._members(positions_of(reached)))

    def _members(self, positions: Sequence[int]) -> list[Member]:
        return [
            Member(Determining("", self._policies[at].id, self._effects[at]), self._policies[at].text)
            for at in positions
        ]


class World:
    """The entities that requests are about, and the schema if there is one."""

    def __init__(self, entities: str, schema: cedarpy.Schema | None, *, strict: bool) -> None:
        """Parse entities in Cedar's JSON form.

        Raises:
            RequestInvalid: they cannot be parsed, or do not fit the schema.

        """
        self.schema = schema
        try:
            self.entities = _parsed(entities, schema, strict=strict)
            self._ancestors = ancestors_of(self.entities)
        except ValueError as error:
            raise RequestInvalid(f"the entities cannot be used: {error}", field="entities") from error

    def keys_of(self, query: Mapping[str, Any]) -> RequestKeys:
        """Return what policies for a request are filed under."""
        principal, action, resource = (query[part] for part in _REQUEST_PARTS)
        return RequestKeys(
            entity_keys(principal["type"], principal["id"], self._above(principal)),
            action_keys(action["type"], action["id"], self._above(action)),
            entity_keys(resource["type"], resource["id"], self._above(resource)),
        )

    def _above(self, uid: Mapping[str, str]) -> tuple[str, ...]:
        return self._ancestors.get(uid_key(uid["type"], uid["id"]), ())


def answer(policies: Policies, world: World, request: Mapping[str, Any], *, strict: bool) -> Answer:
    """Evaluate one request in Cedar's JSON form: `principal`, `action`, `resource` and perhaps `context`.

    Raises:
        RequestInvalid: it is no request, or (where it is strict) does not fit the schema.

    """
    query: dict[str, object] = {part: _uid(request.get(part), part) for part in _REQUEST_PARTS}
    query["context"] = json.dumps(request.get("context") or {})
    sliced = policies.slice_for(world.keys_of(query))
    try:
        outcome = evaluate(query, sliced, world.entities, world.schema)
    except UnicodeEncodeError as error:
        raise RequestInvalid("the request has a lone surrogate and is no valid Unicode text") from error
    except Refused as refused:
        if strict or world.schema is None:
            raise _invalid(refused) from None
        outcome = _without_schema(query, sliced, world)
    return _answer(sliced, outcome, strict=strict)


def read_schema(text: str) -> cedarpy.Schema:
    """Read a schema in Cedar's syntax or its JSON form; raise `SchemaInvalid`."""
    try:
        return cedarpy.Schema.from_json_str(text) if text.lstrip()[:1] == "{" else cedarpy.Schema.from_str(text)
    except ValueError as error:
        raise SchemaInvalid(f"Cedar refuses the schema: {error}") from error


def _without_schema(query: dict[str, object], sliced: Slice, world: World) -> Outcome:
    try:
        return evaluate(query, sliced, world.entities, None)
    except Refused as refused:
        raise _invalid(refused) from None


def _invalid(refused: Refused) -> RequestInvalid:
    return RequestInvalid(f"the request cannot be evaluated: {'; '.join(refused.messages)}")


def _answer(sliced: Slice, outcome: Outcome, *, strict: bool) -> Answer:
    names = [policy.policy_id for policy in sliced.policies]
    errors = tuple(
        failure.message if failure.position is None else f"{names[failure.position]}: {failure.message}"
        for failure in outcome.failures
    )
    reasons = tuple(names[position] for position in outcome.matching)
    if strict and outcome.effect is Effect.ALLOW:
        for failure in outcome.failures:
            at = failure.position
            if at is None or sliced.policies[at].effect is Effect.DENY:
                return Answer(Effect.DENY, (), errors, names[at] if at is not None else "an unknown policy")
    return Answer(outcome.effect, reasons, errors)


def _parsed(entities: str, schema: cedarpy.Schema | None, *, strict: bool) -> cedarpy.Entities:
    try:
        return cedarpy.Entities.from_json_str(entities, schema)
    except ValueError:
        if strict or schema is None:
            raise
        return cedarpy.Entities.from_json_str(entities)


# --- uids -------------------------------------------------------------------------------------------------------------


def _uid(value: object, part: str) -> dict[str, str]:
    """Read a uid: `{"type": ..., "id": ...}`, the same below `__entity`, or Cedar's syntax."""
    if isinstance(value, str):
        return _uid_from_text(value, part)
    if isinstance(value, dict):
        inner = value.get("__entity", value)
        if isinstance(inner, dict) and isinstance(inner.get("type"), str) and isinstance(inner.get("id"), str):
            return {"type": inner["type"], "id": inner["id"]}
    msg = f'`{part}` must be `{{"type": ..., "id": ...}}` or a text such as `User::"alice"`'
    raise RequestInvalid(msg, field=part)


def _uid_from_text(text: str, part: str) -> dict[str, str]:
    try:
        found = list(
            cedarpy.policies_to_pst(f"permit (principal == {text}, action, resource);").static_policies.values()
        )
    except ValueError:
        found = []
    match found:
        case [pst.Template(principal=pst.ScopeEq(pst.EntityUid() as uid), resource=pst.ScopeAny(), clauses=())]:
            return {"type": str(uid.type), "id": uid.id}
    msg = f'`{part}` is `{text[:80]}`, which is no entity; write it as `User::"alice"`'
    raise RequestInvalid(msg, field=part)


# --- policies ---------------------------------------------------------------------------------------------------------


def _from_text(text: str) -> list[PolicyText]:
    found = [piece for piece in pieces(text) if not piece.is_comment]
    deepest = max((piece.depth for piece in found), default=0)
    if deepest > MAX_DEPTH:
        raise PolicyTooDeep(
            f"brackets nest {deepest} deep; beyond {MAX_DEPTH} Cedar's parser cannot be trusted with them"
        )
    for piece in found:
        if piece.slot >= 0:
            msg = "is a template (`?principal` or `?resource`); these are not supported: write the policy out"
            raise PolicyTemplate(msg, line=piece.line)
    _parse(text, len(found))
    given = [head(text, piece.first).id or "" for piece in found]
    return [
        PolicyText(name, text[piece.start : piece.end], line=piece.line)
        for name, piece in zip(_names(given), found, strict=True)
    ]


def _names(given: Sequence[str]) -> list[str]:
    """Return the name of each policy: its own if no other could be meant by it."""
    positional = {f"policy{number}" for number in range(len(given))}
    times = Counter(given)
    return [
        name if name and times[name] == 1 and name not in positional else f"policy{number}"
        for number, name in enumerate(given)
    ]


def _from_json(text: str) -> list[PolicyText]:
    try:
        document = json.loads(text)
        if document.get("templates") or document.get("templateLinks"):
            msg = "the policies have templates; these are not supported: write the policies out"
            raise PolicyTemplate(msg)
        static = document.get("staticPolicies", {})
        return [PolicyText(name, _text_of(name, policy)) for name, policy in static.items()]
    except (ValueError, AttributeError, RecursionError) as error:
        raise PolicyParseError(f"the policies are not in Cedar's JSON form: {error}") from error


def _text_of(name: str, policy: object) -> str:
    return cedarpy.policies_from_json_str(
        json.dumps({"staticPolicies": {name: policy}, "templates": {}, "templateLinks": []})
    )


def _parse(text: str, expected: int) -> None:
    try:
        count = len(cedarpy.PolicySet.from_str(text))
    except ValueError as error:
        raise PolicyParseError(f"Cedar refuses the policies: {error}") from error
    if count != expected:
        raise PolicyParseError(f"Cedar reads {count} policies, where {expected} end with `;`")


def _effect(policy: PolicyText) -> Effect:
    return Effect.ALLOW if head(policy.text, 0).effect == "permit" else Effect.DENY
