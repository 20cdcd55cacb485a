"""Whether a host may decide by policy, moment by moment."""

from __future__ import annotations

import pytest

from akpolicy.bundle import OfflineMode
from akpolicy.clock import Moment
from akpolicy.decision import PolicySource, Reason
from akpolicy.errors import AkpolicyError, BundleExpired, ClockJump, ClockRollback, HeartbeatStale, PolicyStale
from akpolicy_sidecar.freshness import Confirmation, Freshness
from akpolicy_sidecar.offline import OfflineRule
from akpolicy_sidecar.snapshot import Snapshot
from akpolicy_sidecar.status import AGE_UNKNOWN_MS, stand
from tests.unit.sidecar.standings import (
    AWAY,
    DAY,
    EVERY_MODE,
    LIFE,
    NOW,
    PROOF,
    START,
    UP_OR_AWAY,
    after,
    confirmed,
    denied,
    layer,
    snapshot,
    under,
    up,
)

# --- (1) there is verified policy, and all of it ----------------------------------------------------------------------


@EVERY_MODE
@UP_OR_AWAY
def test_without_a_layer_there_is_no_policy(mode: OfflineMode, is_up: bool) -> None:
    nothing = Snapshot.build((), local=OfflineRule(mode, DAY), freshness=confirmed(), proof=PROOF)

    standing = stand(nothing, up(NOW) if is_up else AWAY, NOW)

    denied(standing, Reason.NO_POLICY, None)
    assert (standing.source, standing.age_ms, standing.fresh) == (PolicySource.NONE, AGE_UNKNOWN_MS, False)


@EVERY_MODE
@UP_OR_AWAY
def test_a_layer_that_cannot_be_enforced_denies_although_others_are_there(mode: OfflineMode, is_up: bool) -> None:
    part = snapshot(layer(mode.value), local=OfflineRule(mode, DAY), missing=("org/acme",))

    standing = stand(part, up(NOW) if is_up else AWAY, NOW)

    denied(standing, Reason.NO_POLICY, None)
    assert "`org/acme`" in standing.message


@EVERY_MODE
@UP_OR_AWAY
def test_nothing_is_decided_before_the_server_has_vouched_for_the_whole(mode: OfflineMode, is_up: bool) -> None:
    part = Freshness({"global": Confirmation(START, START + LIFE)}, None)
    unvouched = snapshot(layer(mode.value), local=OfflineRule(mode, DAY), freshness=part)

    standing = stand(unvouched, up(NOW) if is_up else AWAY, NOW)

    denied(standing, Reason.NO_POLICY, HeartbeatStale)
    assert standing.source is PolicySource.NONE


def test_no_policy_comes_before_an_untrusted_clock_and_an_expired_layer() -> None:
    expired = snapshot(layer(expires_at=START), missing=("org/acme",))

    for off in (0.0, -DAY, DAY):
        assert stand(expired, AWAY, after(0, wall_off=off)).denial is Reason.NO_POLICY


# --- (2) it is known what time it is ----------------------------------------------------------------------------------


@EVERY_MODE
@UP_OR_AWAY
@pytest.mark.parametrize(("off", "error"), [(-60.01, ClockRollback), (60.01, ClockJump)])
def test_a_clock_that_contradicts_what_is_proven_denies(
    mode: OfflineMode, is_up: bool, off: float, error: type[AkpolicyError]
) -> None:
    moment = after(10, wall_off=off)

    standing = stand(under(mode), up(moment) if is_up else AWAY, moment)

    denied(standing, Reason.CLOCK_UNTRUSTED, error)
    assert (standing.age_ms, standing.source, standing.mode) == (AGE_UNKNOWN_MS, PolicySource.CACHE, mode)


@EVERY_MODE
@pytest.mark.parametrize("off", [-60, 60])
def test_a_clock_that_is_off_by_the_skew_still_decides(mode: OfflineMode, off: int) -> None:
    moment = after(10, wall_off=off)

    assert stand(under(mode), up(moment), moment).denial is None


def test_a_clock_that_was_set_back_does_not_revive_an_expired_bundle() -> None:
    kept = snapshot(layer("cached_indefinite", expires_at=START + 100))

    assert stand(kept, AWAY, after(100, wall_off=-30)).denial is Reason.BUNDLE_EXPIRED
    assert stand(kept, AWAY, after(100, wall_off=-5 * DAY)).denial is Reason.CLOCK_UNTRUSTED


def test_a_clock_that_was_set_back_does_not_make_policy_young() -> None:
    standing = stand(snapshot(), AWAY, after(2 * LIFE, wall_off=-60))

    assert (standing.fresh, standing.age_ms) == (False, 2 * LIFE * 1000)


def test_where_nothing_is_proven_the_wall_clock_is_believed() -> None:
    unproven = snapshot(proof=None)

    assert stand(unproven, up(after(0)), after(0)).denial is None
    assert stand(unproven, AWAY, after(0, wall_off=40 * DAY)).denial is Reason.BUNDLE_EXPIRED


def test_after_a_reboot_the_age_goes_on_by_the_wall_clock() -> None:
    rebooted = Moment(NOW.wall + 900, 3.0, "next-boot")

    standing = stand(snapshot(), AWAY, rebooted)

    assert (standing.denial, standing.age_ms) == (None, 900_000)


# --- (3) none of it has expired ---------------------------------------------------------------------------------------


@EVERY_MODE
@UP_OR_AWAY
def test_a_bundle_denies_from_its_expiry_on(mode: OfflineMode, is_up: bool) -> None:
    expiring = snapshot(layer(mode.value, expires_at=START + 5), local=OfflineRule(mode, DAY))
    before, then = after(4.999), after(5)

    standing = stand(expiring, up(then) if is_up else AWAY, then)

    denied(standing, Reason.BUNDLE_EXPIRED, BundleExpired)
    assert stand(expiring, up(before), before).denial is None


def test_one_expired_layer_is_not_skipped() -> None:
    both = snapshot(layer(), layer(scope="org/acme", expires_at=START))

    standing = stand(both, up(NOW), NOW)

    assert standing.denial is Reason.BUNDLE_EXPIRED
    assert "`org/acme`" in standing.message
    assert "`global`" not in standing.message


def test_the_default_policy_does_not_revive_an_expired_bundle() -> None:
    expired = snapshot(
        layer("default_policy", 60.0, expires_at=START + 61), local=OfflineRule(OfflineMode.DEFAULT_POLICY, DAY)
    )

    assert stand(expired, AWAY, after(61)).denial is Reason.BUNDLE_EXPIRED


# --- (4) it is fresh, and the stream is up ----------------------------------------------------------------------------


@EVERY_MODE
def test_live_policy_decides_whatever_its_age(mode: OfflineMode) -> None:
    moment = after(LIFE - 1)

    standing = stand(under(mode, max_age_s=0.0), up(moment), moment)

    assert (standing.denial, standing.source, standing.fresh) == (None, PolicySource.LIVE, True)
    assert (standing.error, standing.message) == (None, "")
    assert standing.age_ms == (LIFE - 1) * 1000


def test_policy_is_fresh_until_the_second_at_which_the_heartbeat_expires() -> None:
    last, first = after(LIFE - 0.001), after(LIFE)

    assert stand(snapshot(), up(last), last).source is PolicySource.LIVE
    standing = stand(snapshot(), up(first), first)
    assert (standing.source, standing.fresh) == (PolicySource.CACHE, False)
    assert isinstance(standing.error, HeartbeatStale)


def test_a_stream_that_is_up_does_not_make_up_for_heartbeats_that_do_not_come() -> None:
    moment = after(LIFE)

    standing = stand(under(OfflineMode.FAIL_CLOSED), up(moment), moment)

    denied(standing, Reason.POLICY_STALE, PolicyStale)
    assert "no heartbeat" in standing.message


def test_the_stalest_layer_counts() -> None:
    one_is_old = snapshot(layer(), layer(scope="org/acme"), freshness=confirmed(acme=200))

    standing = stand(one_is_old, up(NOW), NOW)
    assert (standing.source, standing.stalest, standing.age_ms) == (PolicySource.LIVE, "org/acme", 200_000)

    moment = after(100)
    standing = stand(one_is_old, up(moment), moment)
    assert (standing.source, standing.stalest, standing.age_ms) == (PolicySource.CACHE, "org/acme", 300_000)
    assert "`org/acme` expired 0 seconds ago" in str(standing.error)


def test_a_heartbeat_from_a_server_that_is_a_little_ahead_makes_no_negative_age() -> None:
    ahead = snapshot(freshness=confirmed(START + 30))

    assert stand(ahead, up(NOW), NOW).age_ms == 0


# --- (5) or the offline mode lets it --------------------------------------------------------------------------------


def test_fail_closed_denies_once_the_stream_is_gone_although_policy_is_fresh() -> None:
    standing = stand(under(OfflineMode.FAIL_CLOSED), AWAY, after(1))

    denied(standing, Reason.POLICY_STALE, PolicyStale)
    assert standing.fresh
    assert "the policy server is away" in standing.message


def test_fail_closed_denies_after_three_silent_intervals() -> None:
    strict = under(OfflineMode.FAIL_CLOSED)

    assert stand(strict, up(NOW), after(30)).denial is None
    assert stand(strict, up(NOW), after(30.1)).denial is Reason.POLICY_STALE


def test_cached_policy_is_used_for_exactly_its_maximum_age() -> None:
    cached = under(OfflineMode.CACHED_WITH_EXPIRY, max_age_s=1000)

    standing = stand(cached, AWAY, after(1000))
    assert (standing.denial, standing.source, standing.age_ms) == (None, PolicySource.CACHE, 1_000_000)

    standing = stand(cached, AWAY, after(1000.001))
    denied(standing, Reason.POLICY_STALE, PolicyStale)
    assert "1000 seconds ago, more than the allowed 1000" in standing.message


def test_while_cached_policy_is_used_it_is_said_what_is_wrong() -> None:
    cached = under(OfflineMode.CACHED_WITH_EXPIRY)

    assert stand(cached, AWAY, after(LIFE - 1)).error is None
    standing = stand(cached, AWAY, after(LIFE + 7))
    assert standing.ready
    assert isinstance(standing.error, HeartbeatStale)
    assert "`global` expired 7 seconds ago" in standing.error.message


def test_indefinite_policy_is_used_until_the_bundle_expires() -> None:
    kept = under(OfflineMode.CACHED_INDEFINITE)

    standing = stand(kept, AWAY, after(30 * DAY - 1))
    assert (standing.denial, standing.source, standing.fresh) == (None, PolicySource.CACHE, False)
    assert isinstance(standing.error, HeartbeatStale)
    assert stand(kept, AWAY, after(30 * DAY)).denial is Reason.BUNDLE_EXPIRED


def test_the_default_policy_takes_over_past_the_maximum_age() -> None:
    local = OfflineRule(OfflineMode.DEFAULT_POLICY, DAY)
    allowed = snapshot(layer("default_policy", 600.0), local=local)

    assert not stand(allowed, AWAY, after(600)).by_default
    standing = stand(allowed, AWAY, after(601))
    assert (standing.denial, standing.by_default, standing.source) == (None, True, PolicySource.DEFAULT)
    assert isinstance(standing.error, HeartbeatStale)


def test_a_scope_that_is_withheld_makes_the_whole_stale_although_the_rest_is_confirmed() -> None:
    withheld = snapshot(
        layer("cached_with_expiry", 1000),
        layer("cached_with_expiry", 1000, scope="org/acme"),
        freshness=confirmed(START, acme=1001),
    )

    standing = stand(withheld, up(NOW), NOW)

    denied(standing, Reason.POLICY_STALE, PolicyStale)
    assert (standing.stalest, standing.age_ms) == ("org/acme", 1_001_000)


def test_policy_of_which_no_layer_was_ever_confirmed_alone_has_the_age_of_the_whole() -> None:
    whole = Freshness({}, Confirmation(START, START + LIFE))

    standing = stand(snapshot(freshness=whole), AWAY, after(50))

    assert (standing.denial, standing.age_ms, standing.stalest) == (None, 50_000, "")
