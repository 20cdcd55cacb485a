"""Whether this host may decide by policy at a moment, and by which.

Rules, in this order; the first that applies denies:

1. No verified policy denies with NO_POLICY: there is no layer, a layer that was accepted earlier cannot be enforced any
   more, or no index was ever enforced whole.
2. A clock that contradicts what has been proven denies with CLOCK_UNTRUSTED: no expiry could be judged.
3. An expired layer denies with BUNDLE_EXPIRED, in every offline mode. It is never skipped.
4. Policy is fresh while an unexpired heartbeat vouches for every layer. While the stream is up too, it is live, and
   decides.
5. Else the offline mode decides (`offline`). `fail_closed` denies with POLICY_STALE once the stream is gone or policy
   is not fresh; `cached_with_expiry` does once the age is above its maximum; `cached_indefinite` does not;
   `default_policy` goes over to the embedded default policy together with the forbids of the snapshot.

The age counts from the issue of the heartbeat that last vouched for the stalest layer. It is signed time, and it is
kept on disk, so neither a restart nor a touched file nor a held-back heartbeat makes old policy young. What time it is
now is for `akpolicy.trusted_time` to say. Nothing here reads a clock; a `Moment` is handed in.

Whatever keeps policy from being fresh has a typed `error` beside the reason, for metrics, logs and the server:
decisions may well go on meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from akpolicy.bundle import OfflineMode
from akpolicy.decision import PolicySource, Reason
from akpolicy.errors import BundleExpired, ClockJump, ClockRollback, HeartbeatStale, PolicyStale
from akpolicy.trusted_time import time_of

if TYPE_CHECKING:
    from akpolicy.clock import Moment
    from akpolicy.errors import AkpolicyError
    from akpolicy_sidecar.freshness import Freshness
    from akpolicy_sidecar.link import Link
    from akpolicy_sidecar.offline import OfflineRule
    from akpolicy_sidecar.snapshot import Snapshot

AGE_UNKNOWN_MS: Final = -1


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether policy may decide at a moment.

    `denial` is the reason to deny everything, None if policies decide; `by_default` says that the embedded default
    policy replaces the permits of the snapshot. `age_ms` is -1 if the age is unknown; it is that of `stalest`, a scope.
    `fresh`: an unexpired heartbeat vouches for every layer. `error` is what is wrong, None if nothing is.
    """

    denial: Reason | None
    message: str
    mode: OfflineMode
    source: PolicySource
    age_ms: int
    by_default: bool = False
    fresh: bool = False
    stalest: str = ""
    error: AkpolicyError | None = None

    @property
    def ready(self) -> bool:
        """Whether decisions can be made by policy."""
        return self.denial is None


def stand(snapshot: Snapshot, link: Link, moment: Moment) -> Standing:
    """Judge whether `snapshot` may decide at `moment`."""
    freshness, mode = snapshot.freshness, snapshot.rule.mode
    # (1) there is verified policy, and all of it
    missing = snapshot.missing_at(moment.elapsed)
    if missing or not snapshot.by_scope or freshness.whole is None:
        return _no_policy(snapshot, missing)
    # (2) it is known what time it is
    try:
        now = time_of(snapshot.proof, moment)
    except (ClockRollback, ClockJump) as error:
        unknown = Standing(None, "", mode, PolicySource.CACHE, AGE_UNKNOWN_MS, stalest=freshness.stalest)
        return _deny(unknown, Reason.CLOCK_UNTRUSTED, error)
    age = max(0.0, now - freshness.confirmed_at) if freshness.confirmed_at is not None else None
    fresh = now < freshness.fresh_until
    live = fresh and link.is_live(moment)
    source = PolicySource.LIVE if live else PolicySource.CACHE
    age_ms = AGE_UNKNOWN_MS if age is None else int(age * 1000)
    standing = Standing(None, "", mode, source, age_ms, fresh=fresh, stalest=freshness.stalest)
    # (3) none of it has expired
    if snapshot.expires_at is not None and now >= snapshot.expires_at:
        return _deny(standing, Reason.BUNDLE_EXPIRED, _expired(snapshot, now))
    # (4) it is fresh and live, (5) or may be used all the same
    if live:
        return standing
    if not fresh:
        standing = replace(standing, error=_stale_heartbeat(freshness, now))
    return _offline(standing, snapshot.rule, age, fresh=fresh)


def _offline(standing: Standing, rule: OfflineRule, age: float | None, *, fresh: bool) -> Standing:
    if rule.mode is OfflineMode.FAIL_CLOSED:
        what = "no heartbeat of the policy server vouches for the policy" if not fresh else "the policy server is away"
        return _deny(standing, Reason.POLICY_STALE, PolicyStale(f"{what} and the offline mode is fail_closed"))
    if rule.mode is OfflineMode.CACHED_INDEFINITE or (age is not None and age <= rule.max_age_s):
        return standing
    if rule.mode is OfflineMode.DEFAULT_POLICY:
        return replace(standing, source=PolicySource.DEFAULT, by_default=True)
    return _deny(standing, Reason.POLICY_STALE, _stale(standing, age, rule.max_age_s))


def _no_policy(snapshot: Snapshot, missing: tuple[str, ...]) -> Standing:
    """Return the denial where there is nothing to decide by."""
    error: AkpolicyError | None = None
    if missing:
        names = ", ".join(f"`{scope}`" for scope in missing)
        message = f"denied: the policy of {names} cannot be enforced any more; the server has to deliver it again"
    elif not snapshot.by_scope:
        message = "denied: no verified policy is here yet"
    else:
        message = "denied: the policy server has not yet vouched for the policies of this host as a whole"
        error = HeartbeatStale(message.removeprefix("denied: "))
    mode, stalest = snapshot.rule.mode, snapshot.freshness.stalest
    return Standing(Reason.NO_POLICY, message, mode, PolicySource.NONE, AGE_UNKNOWN_MS, stalest=stalest, error=error)


def _deny(standing: Standing, reason: Reason, error: AkpolicyError) -> Standing:
    return replace(standing, denial=reason, message=f"denied: {error}", error=error)


def _expired(snapshot: Snapshot, now: float) -> BundleExpired:
    names = ", ".join(f"`{layer.scope}`" for layer in snapshot.layers if now >= layer.expires_at)
    return BundleExpired(f"the policy of {names} is past its signed expiry; it has to be published again")


def _stale_heartbeat(freshness: Freshness, now: float) -> HeartbeatStale:
    seconds = int(now - freshness.fresh_until)
    return HeartbeatStale(f"the last heartbeat that vouches for `{freshness.stalest}` expired {seconds} seconds ago")


def _stale(standing: Standing, age: float | None, max_age_s: float) -> PolicyStale:
    if age is None:
        return PolicyStale("the age of the policy is unknown; the server has to be reached")
    return PolicyStale(
        f"the policy server last vouched for `{standing.stalest}` {int(age)} seconds ago, more than the allowed "
        f"{int(max_age_s)}"
    )
