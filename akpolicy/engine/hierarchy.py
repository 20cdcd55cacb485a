"""Who is in what: the ancestors of every entity, as Cedar itself reads them.

Rules:

- The source is what Cedar gives back of entities that it has parsed, so that every form that it accepts counts:
  escapes, implicit types, and the actions that a schema adds with their groups.
- Cedar computes all ancestors when it parses, refuses cycles, and gives back as `parents` every ancestor, not only the
  direct ones. Computing that again would cost the third power of a chain's length, so it is taken as it is; a test
  holds Cedar to it.
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
    return {
        _key(entity["uid"]): tuple([_key(parent) for parent in entity["parents"]])
        for entity in json.loads(str(entities))
        if entity["parents"]
    }


def _key(uid: Mapping[str, str]) -> str:
    return uid_key(uid["type"], uid["id"])
