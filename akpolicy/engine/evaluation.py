"""Plain Cedar over any policies, schema and entities, by the same slices as every other decision.

Rules:

- What may be evaluated and how it is called is said in `foreign`.
- Only policies that can match are evaluated. If a scope cannot be read, all of them are: slower, and the same answer.
- Strict: a request must fit the schema, and a `forbid` that could not be evaluated denies. Not strict is Cedar as it
  is: such a policy is skipped, and what does not fit the schema is evaluated all the same. The schema then still says
  which groups actions are in and how a context is to be read.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cedarpy

from akpolicy.engine.conformance import find_entity_misfit, find_misfit
from akpolicy.engine.evaluate import Outcome, Refused, evaluate
from akpolicy.engine.foreign import read_context, read_policies, read_uid
from akpolicy.engine.heads import read_heads
from akpolicy.engine.hierarchy import ancestors_of
from akpolicy.engine.index import Bucket, RequestKeys, ScopeIndex, action_keys, entity_keys, positions_of, uid_key
from akpolicy.engine.schema_syntax import read_model
from akpolicy.engine.slices import Member, Slice, SliceCache
from akpolicy.engine.spelling import spelled_out
from akpolicy.engine.tokens import head
from akpolicy.engine.verdict import Determining, Effect
from akpolicy.errors import PolicySetInvalid, RequestInvalid, SchemaInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from akpolicy.engine.schema_model import SchemaModel
    from akpolicy.engine.source import PolicyText

_REQUEST_PARTS: Final = ("principal", "action", "resource")
_NOBODY: Final[Mapping[str, Mapping[str, str]]] = {"principal": {}, "resource": {}}


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
        return cls(read_policies(text))

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
        self._model: SchemaModel | None = None
        try:
            self.entities = _parsed(entities, schema, strict=strict)
            self._ancestors = ancestors_of(self.entities)
        except ValueError as error:
            told = self._misfit_of(entities) or error
            raise RequestInvalid(f"the entities cannot be used: {told}", field="entities") from error

    @property
    def model(self) -> SchemaModel | None:
        """What the schema says, read when it is asked for first; None without one, or if it cannot be read."""
        if self._model is None and self.schema is not None:
            # For messages and spelling alone: Cedar knows the schema, whether or not it can be read here.
            with suppress(SchemaInvalid):
                self._model = read_model(str(self.schema))
        return self._model

    def _misfit_of(self, entities: str) -> str | None:
        """Return what does not fit the schema in entities that Cedar refuses; None if that is not it."""
        if self.model is None:
            return None
        try:
            for entity in json.loads(entities):
                uid = entity["uid"].get("__entity", entity["uid"])
                if misfit := find_entity_misfit(self.model, _NOBODY, [{**entity, "uid": uid}]):
                    return f"{uid['type']}::{json.dumps(uid['id'])}: {misfit.message.replace('`entities.', '`')}"
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass
        return None

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
    query: dict[str, object] = {part: read_uid(request.get(part), part) for part in _REQUEST_PARTS}
    query["context"] = read_context(request.get("context"))
    sliced = policies.slice_for(world.keys_of(query))
    try:
        outcome = evaluate(query, sliced, world.entities, world.schema)
    except UnicodeEncodeError as error:
        raise RequestInvalid("the request has a lone surrogate and is no valid Unicode text") from error
    except Refused as refused:
        if strict or world.schema is None:
            raise _invalid(refused, query, world.model) from None
        outcome = _without_schema(query, sliced, world.entities, world.model)
    return _answer(sliced, outcome, strict=strict)


def _without_schema(
    query: dict[str, Any], sliced: Slice, entities: cedarpy.Entities, model: SchemaModel | None
) -> Outcome:
    """Evaluate what does not fit the schema, which still says how the context is to be read."""
    action = None if model is None else model.actions.get((query["action"]["type"], query["action"]["id"]))
    if action is not None:
        query = {**query, "context": json.dumps(spelled_out(json.loads(query["context"]), action.context))}
    try:
        return evaluate(query, sliced, entities, None)
    except Refused as refused:
        raise _invalid(refused, query, None) from None


def _invalid(refused: Refused, query: Mapping[str, Any], model: SchemaModel | None) -> RequestInvalid:
    misfit = None if model is None else find_misfit(model, query, json.loads(query["context"]), ())
    if misfit is not None:
        return RequestInvalid(f"the request does not fit the schema: {misfit.message}", field=misfit.field)
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
    try:
        # The schema's actions and their groups count all the same, unless the entities name them too.
        return cedarpy.Entities.from_json_str("[]", schema).with_added_json_str(entities)
    except ValueError:
        return cedarpy.Entities.from_json_str(entities)


def _effect(policy: PolicyText) -> Effect:
    return Effect.ALLOW if head(policy.text, 0).effect == "permit" else Effect.DENY
