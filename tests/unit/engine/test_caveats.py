"""A forbid that only matches where an attribute is there is told; nothing else is."""

from __future__ import annotations

import pytest

from akpolicy.engine.caveats import FORBID_BEHIND_HAS, caveats_of
from akpolicy.engine.limits import MAX_PROBLEMS
from akpolicy.engine.source import PolicyText

BEHIND = [
    ("when { context has domain }", "context has domain"),
    ("when { context has domain && context.domain == principal.email }", "context has domain"),
    ("when { true && (context has a && true) }", "context has a"),
    ("when { ((context has a)) }", "context has a"),
    ("when { context has a || context has b }", "context has a"),
    ("when { context has a.b.c }", "context has a.b.c"),
    ('when { principal has "an odd name" }', 'principal has "an odd name"'),
    ("when { true } when { context.x\n  has // why\n  a }", "context.x has a"),
    ("unless { !(context has a) }", "context has a"),
    ("unless { !(context has a) || context.a != 1 }", "context has a"),
    ("unless { !(context has a && context.a == 1) }", "context has a"),
    ("unless { !(context has a) && !(context has b) }", "context has a"),
    ("when { !(!(context has a)) }", "context has a"),
    ("when { !(!(context has a) || context.a == 1) }", "context has a"),
]
NOT_BEHIND = [
    "",
    "when { true }",
    'when { resource.name == "has" }',
    "when { context has a || true }",
    "when { context has a || context.b }",
    "when { !(context has a) }",
    "when { !(context has a) || context.a == 1 }",
    "when { !(context has a && context.a == 1) }",
    "unless { context has a }",
    "unless { context has a && context.a == 1 }",
    "unless { !(context has a) && context.b }",
    "unless { context has a || context.b }",
    "when { (if context has a then context.a else true) }",
    "when { [context has a].contains(false) }",
]


def forbid(condition: str, effect: str = "forbid") -> PolicyText:
    return PolicyText("p", f"{effect} (principal, action, resource) {condition};", "a.cedar", 7)


@pytest.mark.parametrize(("condition", "guard"), BEHIND)
def test_a_forbid_behind_a_has_is_told(condition: str, guard: str) -> None:
    (found,) = caveats_of([forbid(condition)])

    assert (found.code, found.policy_id, found.source, found.line) == (FORBID_BEHIND_HAS, "p", "a.cedar", 7)
    assert f"`{guard}`" in found.message


@pytest.mark.parametrize("condition", NOT_BEHIND)
def test_a_forbid_that_can_match_without_it_is_not_told(condition: str) -> None:
    assert caveats_of([forbid(condition)]) == ()


@pytest.mark.parametrize("condition", [condition for condition, _ in BEHIND])
def test_a_permit_is_not_told(condition: str) -> None:
    assert caveats_of([forbid(condition, "permit")]) == ()


def test_no_more_are_told_than_problems_are() -> None:
    assert len(caveats_of([forbid("when { context has a }")] * (MAX_PROBLEMS + 1))) == MAX_PROBLEMS
