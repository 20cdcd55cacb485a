"""Which policies of a layer can matter for a request: an index by scope.

Rules:

- Cedar evaluates a policy's scope first, and a policy whose scope does not match neither applies nor errors. So leaving
  out what cannot match changes no decision, no reason and no error; taking too much changes nothing either.
- A policy is filed under its principal, then its action, then its resource constraint. A constraint is a key: anything
  (`*`), one entity (`=` and its uid), an entity and what is in it (`<` and its uid), a type (`is`). `is T in E` is
  filed under E: Cedar looks at the type. `action in [...]` is filed under each of its entities, under none if it is
  empty.
- A request reaches what is filed under one of its keys: `*`, its own uid as `=` and `<`, each ancestor as `<`, its
  type.
- Policies with the same keys are a bucket. Every bucket has a number of its own in this process, so the numbers of the
  reached buckets say which policies of which version of which layer they are.
- The time of a look-up depends on the keys of the request, not on the number of policies.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from cedarpy import pst

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ANY: Final = "*"
_numbers: Final = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Bucket:
    """The positions, in the order of their layer, of policies with the same keys."""

    number: int
    positions: tuple[int, ...]


class RequestKeys(NamedTuple):
    """The keys under which a request finds policies. A tuple, because one is made for every decision."""

    principal: tuple[str, ...]
    action: tuple[str, ...]
    resource: tuple[str, ...]


# What one policy is filed under: a principal's key, its actions' keys, a resource's key.
ScopeKeys = tuple[str, tuple[str, ...], str]

# A principal that has a policy of its own usually has few: then a list of keys takes a fifth of the memory of tables.
FEW: Final = 8
_Few = tuple[tuple[str, str, Bucket], ...]
_Many = dict[str, dict[str, Bucket]]


class ScopeIndex:
    """The policies of one layer by their scopes. Immutable."""

    __slots__ = ("_by_principal",)

    def __init__(self, scopes: Sequence[ScopeKeys]) -> None:
        """File policy `i` under `scopes[i]`."""
        keys: dict[str, str] = {}
        filed: dict[str, dict[tuple[str, str], list[int]]] = {}
        for position, (principal, actions, resource) in enumerate(scopes):
            by_rest = filed.setdefault(principal, {})
            for action in actions:
                rest = keys.setdefault(action, action), keys.setdefault(resource, resource)
                by_rest.setdefault(rest, []).append(position)
        self._by_principal: dict[str, _Few | _Many] = {key: _compact(rest) for key, rest in filed.items()}

    def reach(self, keys: RequestKeys, into: list[Bucket]) -> None:
        """Append every bucket that a request with these keys can match."""
        for principal in keys.principal:
            found = self._by_principal.get(principal)
            if found is None:
                continue
            if isinstance(found, tuple):
                for action, resource, bucket in found:
                    if action in keys.action and resource in keys.resource:
                        into.append(bucket)
            else:
                _reach_many(found, keys, into)

    def entries(self) -> Iterator[tuple[str, str, str, Bucket]]:
        """Yield every bucket with its three keys. For explanations: this looks at all."""
        for principal, rest in self._by_principal.items():
            if isinstance(rest, tuple):
                for action, resource, bucket in rest:
                    yield principal, action, resource, bucket
            else:
                for action, by_resource in rest.items():
                    for resource, bucket in by_resource.items():
                        yield principal, action, resource, bucket


def _compact(rest: dict[tuple[str, str], list[int]]) -> _Few | _Many:
    buckets = [(*keys, Bucket(next(_numbers), tuple(positions))) for keys, positions in rest.items()]
    if len(buckets) <= FEW:
        return tuple(buckets)
    many: _Many = {}
    for action, resource, bucket in buckets:
        many.setdefault(action, {})[resource] = bucket
    return many


def _reach_many(many: _Many, keys: RequestKeys, into: list[Bucket]) -> None:
    for action in keys.action:
        by_resource = many.get(action)
        if by_resource is None:
            continue
        for resource in keys.resource:
            bucket = by_resource.get(resource)
            if bucket is not None:
                into.append(bucket)


def positions_of(buckets: Iterable[Bucket]) -> list[int]:
    """Return the positions of all policies of the buckets, each once, in the order of their layer."""
    return sorted({position for bucket in buckets for position in bucket.positions})


def uid_key(entity_type: str, entity_id: str) -> str:
    """Return what stands for an entity in a key. A type has no `"`, so no two entities share one."""
    return f'{entity_type}"{entity_id}'


def entity_keys(entity_type: str, entity_id: str, ancestors: Iterable[str]) -> tuple[str, ...]:
    """Return the keys of a principal or resource; `ancestors` are uid keys."""
    own = uid_key(entity_type, entity_id)
    return (ANY, f"is {entity_type}", "=" + own, "<" + own, *["<" + uid for uid in ancestors])


def action_keys(entity_type: str, entity_id: str, ancestors: Iterable[str]) -> tuple[str, ...]:
    """Return the keys of an action; `ancestors` are the uid keys of its groups, of the schema and of the entities."""
    own = uid_key(entity_type, entity_id)
    return (ANY, "=" + own, "<" + own, *["<" + uid for uid in ancestors])


def scope_keys(
    principal: pst.PrincipalOrResourceConstraint,
    action: pst.ActionConstraint,
    resource: pst.PrincipalOrResourceConstraint,
) -> ScopeKeys:
    """Return what a policy with these constraints is filed under."""
    return _key(principal), _action_keys(action), _key(resource)


def _key(constraint: pst.PrincipalOrResourceConstraint) -> str:
    match constraint:
        case pst.ScopeAny():
            return ANY
        case pst.ScopeIs(entity_type):
            return f"is {entity_type}"
        case pst.ScopeEq(pst.EntityUid() as entity):
            return "=" + uid_key(str(entity.type), entity.id)
        case pst.ScopeIn(pst.EntityUid() as entity) | pst.ScopeIsIn(_, pst.EntityUid() as entity):
            return "<" + uid_key(str(entity.type), entity.id)
    msg = f"a policy with the scope {constraint} was not refused: templates have no place here"
    raise RuntimeError(msg)


def _action_keys(constraint: pst.ActionConstraint) -> tuple[str, ...]:
    match constraint:
        case pst.ScopeAny():
            return (ANY,)
        case pst.ActionEq(entity):
            return ("=" + uid_key(str(entity.type), entity.id),)
        case pst.ActionIn(entities):
            return tuple(dict.fromkeys("<" + uid_key(str(entity.type), entity.id) for entity in entities))
