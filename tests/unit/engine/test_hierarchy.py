"""Ancestors are all of them: direct or through others, of entities and of a schema's actions."""

from __future__ import annotations

import json

import cedarpy

from akpolicy.engine.hierarchy import ancestors_of
from akpolicy.engine.index import uid_key

LENGTH = 60
CHAIN = "".join(f"action a{n}{f' in [a{n - 1}]' if n else ''};" for n in range(LENGTH))


def test_a_chain_of_entities_has_all_ancestors() -> None:
    entities = [
        {"uid": {"type": "U", "id": str(n)}, "attrs": {}, "parents": [{"type": "U", "id": str(n - 1)}] if n else []}
        for n in range(LENGTH)
    ]

    found = ancestors_of(cedarpy.Entities.from_json_str(json.dumps(entities)))

    assert {key: sorted(above) for key, above in found.items()} == {
        uid_key("U", str(n)): sorted(uid_key("U", str(m)) for m in range(n)) for n in range(1, LENGTH)
    }


def test_an_ancestor_may_have_no_entity() -> None:
    entity = {"uid": {"type": "U", "id": "a"}, "attrs": {}, "parents": [{"__entity": {"type": "G", "id": 'x"\0'}}]}

    assert ancestors_of(cedarpy.Entities.from_json_str(json.dumps([entity]))) == {
        uid_key("U", "a"): (uid_key("G", 'x"\0'),)
    }


def test_groups_of_actions_of_a_schema_count() -> None:
    schema = cedarpy.Schema.from_str(CHAIN)

    found = ancestors_of(cedarpy.Entities.from_json_str("[]", schema))

    last = found[uid_key("Action", f"a{LENGTH - 1}")]
    assert sorted(last) == sorted(uid_key("Action", f"a{n}") for n in range(LENGTH - 1))
