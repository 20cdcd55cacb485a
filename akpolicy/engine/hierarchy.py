"""Who is in what: the ancestors of every entity, as Cedar itself reads them.

Rules:

- The source is what Cedar gives back of entities that it has parsed, so that every form that it accepts counts:
  escapes, implicit types, and the actions that a schema adds with their groups.
- Ancestors are transitive. Cedar refuses cycles when it parses.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from akpolicy.engine.index import uid_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    import cedarpy

# Of each entity that has ancestors, by its uid key: the uid keys of the ancestors.
Ancestors = dict[str, tuple[str, ...]]


def ancestors_of(entities: cedarpy.Entities) -> Ancestors:
    """Return the ancestors of the entities, in no particular order."""
    parents: dict[str, list[str]] = {}
    for entity in json.loads(str(entities)):
        if entity["parents"]:
            parents[_key(entity["uid"])] = [_key(parent) for parent in entity["parents"]]
    return {key: _reachable(key, parents) for key in parents}


def _reachable(start: str, parents: Mapping[str, list[str]]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    waiting = list(parents[start])
    while waiting:
        key = waiting.pop()
        if key not in found:
            found[key] = None
            waiting += parents.get(key, ())
    return tuple(found)


def _key(uid: Mapping[str, str]) -> str:
    return uid_key(uid["type"], uid["id"])
