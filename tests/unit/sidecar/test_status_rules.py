"""What holds of every standing: no layer, no age and no laxer rule makes policy usable that is not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from akpolicy.bundle import OfflineMode
from akpolicy.decision import PolicySource
from akpolicy.errors import HeartbeatStale
from akpolicy_sidecar.freshness import NOTHING_CONFIRMED, Confirmation, Freshness
from akpolicy_sidecar.link import Link
from akpolicy_sidecar.offline import OfflineRule
from akpolicy_sidecar.status import stand
from tests.unit.sidecar.standings import (
    AWAY,
    DAY,
    IN_A_MONTH,
    NOW,
    PROOF,
    START,
    after,
    layer,
    snapshot,
    up,
)

if TYPE_CHECKING:
    from akpolicy.clock import Moment
    from akpolicy_sidecar.snapshot import Layer

RULES = st.builds(OfflineRule, st.sampled_from(OfflineMode), st.sampled_from([0.0, 60.0, 1000.0, float(DAY)]))
LAYERS = st.lists(
    st.builds(
        layer,
        st.sampled_from([mode.value for mode in OfflineMode]),
        st.sampled_from([0.0, 60.0, 1000.0, float(DAY)]),
        scope=st.sampled_from(["global", "org/acme"]),
        expires_at=st.sampled_from([START + 30, START + 7200, IN_A_MONTH]),
    ),
    min_size=1,
    max_size=2,
    unique_by=lambda layer: layer.scope,
)
CONFIRMATIONS = st.builds(
    lambda issued_at, life: Confirmation(START - issued_at, START - issued_at + life),
    st.sampled_from([0, 100, 5000]),
    st.sampled_from([60, 300, 3600]),
)
FRESHNESS = st.builds(
    Freshness,
    st.dictionaries(st.sampled_from(["global", "org/acme"]), CONFIRMATIONS),
    st.one_of(st.none(), CONFIRMATIONS),
)
SNAPSHOTS = st.fixed_dictionaries(
    {
        "freshness": st.one_of(FRESHNESS, st.just(NOTHING_CONFIRMED)),
        "proof": st.sampled_from([PROOF, PROOF, PROOF, None]),
        "missing": st.sampled_from([(), (), (), ("org/other",)]),
    }
)
MOMENTS = st.builds(
    lambda passed, off: after(passed, wall_off=off),
    st.sampled_from([0.0, 29.0, 31.0, 61.0, 299.0, 300.0, 1001.0, 7200.0, 2.0 * DAY, 40.0 * DAY]),
    st.sampled_from([0.0, 0.0, 60.0, -60.0, 61.0, -61.0]),
)
LINKS = st.sampled_from([Link(), AWAY, up(NOW), Link(heard=NOW, proven=True, interval_s=300.0)])
STRICTNESS = [
    OfflineMode.FAIL_CLOSED,
    OfflineMode.CACHED_WITH_EXPIRY,
    OfflineMode.CACHED_INDEFINITE,
]


@given(layers=LAYERS, parts=SNAPSHOTS, link=LINKS, moment=MOMENTS, local=RULES)
def test_all_layers_together_are_never_laxer_than_one_alone(
    layers: list[Layer], parts: dict[str, object], link: Link, moment: Moment, local: OfflineRule
) -> None:
    together = stand(snapshot(*layers, local=local, **parts), link, moment)  # type: ignore[arg-type]  # drawn as needed

    if together.ready:
        for one in layers:
            alone = snapshot(one, local=local, **parts)  # type: ignore[arg-type]  # drawn as needed
            assert stand(alone, link, moment).ready
            # The shortest age decides when it takes over; that it may, every layer must have signed.
            assert alone.rule.mode is OfflineMode.DEFAULT_POLICY or not together.by_default


@given(
    parts=SNAPSHOTS,
    link=LINKS,
    moment=MOMENTS,
    modes=st.lists(st.sampled_from(STRICTNESS), min_size=2, max_size=2),
    ages=st.lists(st.sampled_from([0.0, 60.0, 1000.0, float(DAY)]), min_size=2, max_size=2),
)
def test_a_stricter_rule_never_allows_what_a_laxer_one_denies(
    parts: dict[str, object], link: Link, moment: Moment, modes: list[OfflineMode], ages: list[float]
) -> None:
    strict, lax = sorted(modes, key=STRICTNESS.index)
    indefinite = layer("cached_indefinite", math.inf)
    strict_standing, lax_standing = (
        stand(snapshot(indefinite, local=OfflineRule(mode, age), **parts), link, moment)  # type: ignore[arg-type]  # drawn as needed
        for mode, age in ((strict, min(ages)), (lax, max(ages)))
    )

    assert lax_standing.ready or not strict_standing.ready


@given(layers=LAYERS, parts=SNAPSHOTS, link=LINKS, passed=st.sampled_from([0.0, 31.0, 300.0, 7200.0]), local=RULES)
def test_growing_older_never_makes_policy_usable_again(
    layers: list[Layer], parts: dict[str, object], link: Link, passed: float, local: OfflineRule
) -> None:
    enforced = snapshot(*layers, local=local, **parts)  # type: ignore[arg-type]  # drawn as needed

    if not stand(enforced, link, after(passed)).ready:
        assert not stand(enforced, link, after(passed + 1)).ready


@given(layers=LAYERS, parts=SNAPSHOTS, link=LINKS, moment=MOMENTS, local=RULES)
def test_a_denial_always_says_why_and_an_error_stands_where_policy_is_not_fresh(
    layers: list[Layer], parts: dict[str, object], link: Link, moment: Moment, local: OfflineRule
) -> None:
    standing = stand(snapshot(*layers, local=local, **parts), link, moment)  # type: ignore[arg-type]  # drawn as needed

    assert standing.ready == (standing.message == "")
    if standing.ready and not standing.fresh:
        assert isinstance(standing.error, HeartbeatStale)
    if standing.source is PolicySource.LIVE:
        assert standing.fresh


@given(layers=LAYERS, parts=SNAPSHOTS, link=LINKS, moment=MOMENTS, local=RULES)
def test_live_policy_is_decided_by_only_while_a_heartbeat_vouches_for_every_layer(
    layers: list[Layer], parts: dict[str, object], link: Link, moment: Moment, local: OfflineRule
) -> None:
    enforced = snapshot(*layers, local=local, **parts)  # type: ignore[arg-type]  # drawn as needed

    if stand(enforced, link, moment).source is PolicySource.LIVE:
        assert link.is_live(moment)
        for seen in enforced.freshness.by_scope.values():
            # No later than the wall clock, corrected by at most the skew.
            assert moment.wall - 60 < seen.expires_at
