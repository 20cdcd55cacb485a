"""Plain Cedar over any policies, schema and entities, by the same slices as every other decision.

Rules:

- What may be evaluated and how it is called is said in `foreign`.
- Only policies that can match are evaluated. If a scope cannot be read, all of them are: slower, and the same answer.
- Strict: a request must fit the schema, and a `forbid` that could not be evaluated denies. Not strict is Cedar as it
  is: such a policy is skipped, and what does not fit the schema is evaluated all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cedarpy

from akpolicy.engine.evaluate import Outcome, Refused, evaluate
from akpolicy.engine.foreign import read_context, read_policies, read_uid
from akpolicy.engine.heads import read_heads
from akpolicy.engine.hierarchy import ancestors_of
from akpolicy.engine.index import Bucket, RequestKeys, ScopeIndex, action_keys, entity_keys, positions_of, uid_key
from akpolicy.engine.slices import Member, Slice, SliceCache
from akpolicy.engine.tokens import head
from akpolicy.engine.verdict import Determining, Effect
from akpolicy.errors import PolicySetInvalid, RequestInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from akpolicy.engine.source import PolicyText

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
    query: dict[str, object] = {part: read_uid(request.get(part), part) for part in _REQUEST_PARTS}
    query["context"] = read_context(request.get("context"))
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


def _effect(policy: PolicyText) -> Effect:
    return Effect.ALLOW if head(policy.text, 0).effect == "permit" else Effect.DENY
