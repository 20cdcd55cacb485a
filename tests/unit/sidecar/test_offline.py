"""The offline mode in force is never laxer than the host's configuration or any signed floor."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.bundle import OfflineMode
from akpolicy_sidecar.offline import OfflineRule, effective_rule

DAY = 86_400.0
AGES = st.sampled_from([0.0, 1.0, 60.0, DAY, 30 * DAY])
RULES = st.builds(OfflineRule, st.sampled_from(OfflineMode), AGES)


def allows(rule: OfflineRule, age: float) -> bool:
    """Whether policy that is this old may decide under the rule, while the server is away."""
    if rule.mode is OfflineMode.FAIL_CLOSED:
        return False
    return rule.mode is OfflineMode.CACHED_INDEFINITE or age <= rule.max_age_s


@given(local=RULES, floors=st.lists(RULES, min_size=1, max_size=4), age=AGES | st.just(math.inf))
def test_the_effective_mode_is_never_laxer_than_any_floor(
    local: OfflineRule, floors: list[OfflineRule], age: float
) -> None:
    rule = effective_rule(local, floors)

    if allows(rule, age):
        assert all(allows(one, age) for one in [local, *floors])


@given(local=RULES, floors=st.lists(RULES, max_size=4))
def test_the_default_policy_needs_the_configuration_and_every_floor(
    local: OfflineRule, floors: list[OfflineRule]
) -> None:
    rule = effective_rule(local, floors)

    permitted = bool(floors) and all(one.mode is OfflineMode.DEFAULT_POLICY for one in [local, *floors])
    assert (rule.mode is OfflineMode.DEFAULT_POLICY) == permitted


@given(local=RULES, floors=st.lists(RULES, min_size=1, max_size=4))
def test_the_order_of_layers_does_not_matter(local: OfflineRule, floors: list[OfflineRule]) -> None:
    assert effective_rule(local, floors) == effective_rule(local, floors[::-1])


@given(local=RULES, floors=st.lists(RULES, min_size=1, max_size=4))
def test_the_effective_mode_is_no_stricter_than_what_asks_for_it(local: OfflineRule, floors: list[OfflineRule]) -> None:
    rule = effective_rule(local, floors)

    if rule.mode is OfflineMode.FAIL_CLOSED:
        assert any(one.mode is OfflineMode.FAIL_CLOSED for one in [local, *floors])
    if math.isfinite(rule.max_age_s):
        assert any(one.max_age_s == rule.max_age_s for one in [local, *floors])


@pytest.mark.parametrize(
    ("local", "floor", "expected"),
    [
        (("cached_with_expiry", DAY), ("cached_with_expiry", 60.0), ("cached_with_expiry", 60.0)),
        (("cached_with_expiry", 60.0), ("cached_with_expiry", DAY), ("cached_with_expiry", 60.0)),
        (("cached_indefinite", 1.0), ("cached_with_expiry", DAY), ("cached_with_expiry", DAY)),
        (("cached_indefinite", 1.0), ("cached_indefinite", 1.0), ("cached_indefinite", math.inf)),
        (("cached_indefinite", 1.0), ("default_policy", DAY), ("cached_with_expiry", DAY)),
        (("default_policy", 60.0), ("cached_indefinite", 1.0), ("cached_with_expiry", 60.0)),
        (("default_policy", DAY), ("default_policy", 60.0), ("default_policy", 60.0)),
        (("default_policy", DAY), ("fail_closed", 0.0), ("fail_closed", DAY)),
        (("fail_closed", DAY), ("default_policy", 60.0), ("fail_closed", 60.0)),
    ],
)
def test_the_strictest_of_configuration_and_floor_holds(
    local: tuple[str, float], floor: tuple[str, float], expected: tuple[str, float]
) -> None:
    rule = effective_rule(_rule(local), [_rule(floor)])

    assert (rule.mode.value, rule.max_age_s) == expected


def _rule(written: tuple[str, float]) -> OfflineRule:
    return OfflineRule(OfflineMode(written[0]), written[1])
