"""Whether a host may decide by policy, moment by moment."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.bundle import OfflineMode
from akpolicy.decision import BundleVersion, PolicySource, Reason
from akpolicy.engine.compile import compile_layer
from akpolicy.engine.schema import load_default_schema
from akpolicy.engine.source import PolicyText
from akpolicy_sidecar.offline import OfflineRule
from akpolicy_sidecar.snapshot import Layer, Snapshot
from akpolicy_sidecar.status import MAX_KEEP_ALIVE_S, Link, LinkHolder, Moment, Standing, bounded_interval, stand

DAY = 86_400.0
NOW = Moment(wall=1_800_000_000.0, elapsed=50_000.0, boot_id="this-boot")
IN_A_MONTH = 1_800_000_000 + 30 * 86_400
LAX = OfflineRule(OfflineMode.CACHED_INDEFINITE, math.inf)
COMPILED = compile_layer("global", [PolicyText("p", "permit (principal, action, resource);")], load_default_schema())


def layer(
    mode: str = "cached_with_expiry", max_age_s: float = DAY, *, scope: str = "global", expires_at: int = IN_A_MONTH
) -> Layer:
    return Layer(COMPILED, BundleVersion(scope, 1, 1, "0" * 64), expires_at, OfflineRule(OfflineMode(mode), max_age_s))


def snapshot(*layers: Layer, local: OfflineRule = LAX, missing: tuple[str, ...] = ()) -> Snapshot:
    return Snapshot.build(layers or (layer(),), local=local, missing=missing)


def after(seconds: float, start: Moment = NOW) -> Moment:
    return replace(start, wall=start.wall + seconds, elapsed=start.elapsed + seconds)


def live(interval_s: float = 10.0, heard: Moment = NOW) -> Link:
    return Link(heard=heard, complete=True, caught_up=True, interval_s=interval_s)


def offline(heard: Moment = NOW) -> Link:
    return Link(heard=heard, complete=True)


def test_without_a_layer_there_is_no_policy() -> None:
    standing = stand(Snapshot.build((), local=LAX), live(), NOW)

    assert standing.denial is Reason.NO_POLICY
    assert standing.source is PolicySource.NONE


def test_a_layer_that_cannot_be_loaded_denies_although_others_are_there() -> None:
    standing = stand(snapshot(layer(), missing=("org/acme",)), live(), NOW)

    assert standing.denial is Reason.NO_POLICY
    assert "`org/acme`" in standing.message


def test_nothing_is_decided_before_the_server_has_delivered_everything_once() -> None:
    assert stand(snapshot(), Link(heard=NOW), NOW).denial is Reason.NO_POLICY


def test_a_live_stream_decides_in_every_mode() -> None:
    for mode in OfflineMode:
        standing = stand(snapshot(layer(mode.value, 0.0)), live(), after(5))

        assert (standing.denial, standing.source) == (None, PolicySource.LIVE)


def test_a_bundle_denies_from_its_expiry_on_in_every_mode_even_on_a_live_stream() -> None:
    for mode in OfflineMode:
        expiring = snapshot(layer(mode.value, DAY, expires_at=int(NOW.wall) + 5))

        assert stand(expiring, live(), after(4.9)).denial is None
        assert stand(expiring, live(), after(5)).denial is Reason.BUNDLE_EXPIRED


def test_one_expired_layer_is_not_skipped() -> None:
    both = snapshot(layer(), layer(scope="org/acme", expires_at=int(NOW.wall)))

    standing = stand(both, live(), NOW)

    assert standing.denial is Reason.BUNDLE_EXPIRED
    assert "`org/acme`" in standing.message
    assert "`global`" not in standing.message


def test_fail_closed_denies_once_the_connection_is_lost() -> None:
    strict = snapshot(layer("fail_closed", 0.0))

    assert stand(strict, live(), after(1)).denial is None
    assert stand(strict, offline(), after(1)).denial is Reason.POLICY_STALE


def test_fail_closed_denies_after_three_silent_intervals() -> None:
    strict = snapshot(layer("fail_closed", 0.0))

    assert stand(strict, live(interval_s=10), after(30)).denial is None
    assert stand(strict, live(interval_s=10), after(30.1)).denial is Reason.POLICY_STALE


def test_cached_policy_is_used_for_exactly_its_maximum_age() -> None:
    cached = snapshot(layer("cached_with_expiry", DAY))

    assert stand(cached, offline(), after(DAY)).denial is None
    assert stand(cached, offline(), after(DAY)).source is PolicySource.CACHE
    assert stand(cached, offline(), after(DAY + 1)).denial is Reason.POLICY_STALE


def test_indefinite_policy_is_used_until_the_bundle_expires() -> None:
    kept = snapshot(layer("cached_indefinite"))

    assert stand(kept, offline(), after(29 * DAY)).denial is None
    assert stand(kept, offline(), after(30 * DAY)).denial is Reason.BUNDLE_EXPIRED


def test_the_default_policy_takes_over_past_the_maximum_age() -> None:
    local = OfflineRule(OfflineMode.DEFAULT_POLICY, DAY)
    allowed = snapshot(layer("default_policy", 60.0), local=local)

    assert not stand(allowed, offline(), after(60)).by_default
    standing = stand(allowed, offline(), after(61))
    assert (standing.denial, standing.by_default, standing.source) == (None, True, PolicySource.DEFAULT)


def test_the_default_policy_does_not_revive_an_expired_bundle() -> None:
    local = OfflineRule(OfflineMode.DEFAULT_POLICY, DAY)
    expired = snapshot(layer("default_policy", 60.0, expires_at=int(NOW.wall) + 61), local=local)

    assert stand(expired, offline(), after(61)).denial is Reason.BUNDLE_EXPIRED


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_within_a_boot_the_age_does_not_depend_on_the_wall_clock() -> None:
    for wall in (0.0, NOW.wall, NOW.wall + 900 * DAY):
        assert replace(after(7), wall=wall).since(NOW) == pytest.approx(7)


def test_across_boots_the_wall_clock_counts() -> None:
    assert replace(after(90), elapsed=3.0, boot_id="next-boot").since(NOW) == pytest.approx(90)


def test_a_wall_clock_that_went_back_across_boots_makes_the_age_infinite() -> None:
    rebooted = Moment(wall=NOW.wall - 1, elapsed=3.0, boot_id="next-boot")

    assert rebooted.since(NOW) == math.inf
    standing = stand(snapshot(), offline(), rebooted)
    assert (standing.denial, standing.age_ms) == (Reason.POLICY_STALE, -1)


def test_setting_the_clock_back_does_not_revive_an_expired_bundle() -> None:
    kept = snapshot(layer("cached_indefinite", expires_at=int(NOW.wall) + 100))
    set_back = replace(after(100), wall=NOW.wall - 5 * DAY)

    assert stand(kept, offline(), set_back).denial is Reason.BUNDLE_EXPIRED


def test_an_unknown_boot_is_never_taken_for_the_same_boot() -> None:
    earlier = replace(NOW, boot_id="")

    assert replace(earlier, wall=NOW.wall + 50, elapsed=NOW.elapsed + 1).since(earlier) == pytest.approx(50)


# --- rules over everything --------------------------------------------------------------------------------------------

LAYERS = st.lists(
    st.builds(
        layer,
        st.sampled_from([mode.value for mode in OfflineMode]),
        st.sampled_from([0.0, 60.0, DAY]),
        expires_at=st.sampled_from([int(NOW.wall) + 30, int(NOW.wall) + 7200, IN_A_MONTH]),
    ),
    min_size=1,
    max_size=3,
)
LOCAL = st.builds(OfflineRule, st.sampled_from(OfflineMode), st.sampled_from([60.0, DAY]))
PASSED = st.sampled_from([0.0, 29.0, 31.0, 61.0, 7000.0, 2 * DAY, 40 * DAY])
LINKS = st.sampled_from([Link(), Link(heard=NOW), offline(), live()])


@given(layers=LAYERS, local=LOCAL, link=LINKS, passed=PASSED)
def test_all_layers_together_are_never_laxer_than_one_alone(
    layers: list[Layer], local: OfflineRule, link: Link, passed: float
) -> None:
    together = stand(snapshot(*layers, local=local), link, after(passed))

    if together.ready:
        for one in layers:
            alone = snapshot(one, local=local)
            assert stand(alone, link, after(passed)).ready
            # The shortest age decides when it takes over; that it may, every layer must have signed.
            assert alone.rule.mode is OfflineMode.DEFAULT_POLICY or not together.by_default


@given(layers=LAYERS, local=LOCAL, link=LINKS, passed=PASSED)
def test_growing_older_never_makes_policy_usable_again(
    layers: list[Layer], local: OfflineRule, link: Link, passed: float
) -> None:
    enforced = snapshot(*layers, local=local)

    if not stand(enforced, link, after(passed)).ready:
        assert not stand(enforced, link, after(passed + 1)).ready


@given(layers=LAYERS, local=LOCAL, link=LINKS, passed=PASSED)
def test_a_denial_always_says_why(layers: list[Layer], local: OfflineRule, link: Link, passed: float) -> None:
    standing: Standing = stand(snapshot(*layers, local=local), link, after(passed))

    assert standing.ready == (standing.message == "")


# --- the link ---------------------------------------------------------------------------------------------------------


def test_a_message_alone_does_not_make_the_stream_live() -> None:
    links = LinkHolder(Link())

    links.heard(NOW)

    assert not links.current.is_live(NOW)
    assert not links.current.complete


def test_a_lost_stream_stays_complete_and_keeps_its_age() -> None:
    links = LinkHolder(Link())
    links.caught_up(NOW, 10.0)

    links.lost()

    assert links.current.complete
    assert not links.current.is_live(NOW)
    assert after(5).since(links.current.heard or after(0)) == pytest.approx(5)


def test_no_announcement_turns_off_the_detection_of_silence() -> None:
    assert bounded_interval(1e9) == MAX_KEEP_ALIVE_S
    assert bounded_interval(0) > 0
