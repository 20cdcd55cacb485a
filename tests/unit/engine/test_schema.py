"""Schemas: the package's own parses, and another is judged before Cedar sees it."""

from __future__ import annotations

import pytest

from akpolicy.engine.schema import CedarSchema, load_default_schema_text, parse_schema
from akpolicy.errors import SchemaInvalid
from akpolicy.limits import MAX_SCHEMA_BYTES


def test_the_default_schema_parses(schema: CedarSchema) -> None:
    assert schema.text == load_default_schema_text()
    assert "AgentKernel" in str(schema.handle)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("namespace {", "Cedar refuses"),
        ("/" * (MAX_SCHEMA_BYTES + 1), "the limit is"),
        (f"entity A {{ a: {'Set<' * 70}Long{'>' * 70} }};", "nests brackets 71 deep"),
        (f"entity A {{ a: {'{a:' * 70}Long{'}' * 70} }};", "nests brackets 71 deep"),
        ("// \ud800", "not UTF-8"),
    ],
)
def test_what_is_no_schema_is_refused(text: str, reason: str) -> None:
    with pytest.raises(SchemaInvalid, match=reason):
        parse_schema(text)
