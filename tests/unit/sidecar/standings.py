"""Snapshots and moments by which tests ask whether a host may decide."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from akpolicy.bundle import OfflineMode
from akpolicy.clock import Moment
from akpolicy.decision import BundleVersion, Reason
from akpolicy.engine.compile import compile_layer
from akpolicy.engine.schema import load_default_schema
from akpolicy.engine.source import PolicyText
from akpolicy.trusted_time import TimeProof
from akpolicy_sidecar.freshness import Confirmation, Freshness
from akpolicy_sidecar.link import Link
from akpolicy_sidecar.offline import OfflineRule
from akpolicy_sidecar.snapshot import Layer, Snapshot

if TYPE_CHECKING:
    from akpolicy.errors import AkpolicyError
    from akpolicy_sidecar.status import Standing

DAY = 86_400
START = 1_800_000_000
NOW = Moment(wall=float(START), elapsed=50_000.0, boot_id="this-boot")
PROOF = TimeProof(float(START), NOW)
LIFE = 300
IN_A_MONTH = START + 30 * DAY
LAX = OfflineRule(OfflineMode.CACHED_INDEFINITE, math.inf)
COMPILED = compile_layer("global", [PolicyText("p", "permit (principal, action, resource);")], load_default_schema())
MODES = list(OfflineMode)


def layer(
    mode: str = "cached_with_expiry", max_age_s: float = DAY, *, scope: str = "global", expires_at: int = IN_A_MONTH
) -> Layer:
    return Layer(COMPILED, BundleVersion(scope, 1, 1, "0" * 64), expires_at, OfflineRule(OfflineMode(mode), max_age_s))


def confirmed(issued_at: int = START, life: int = LIFE, **earlier: int) -> Freshness:
    """Return that a heartbeat vouched for `global` and for the whole; `earlier` names orgs and how long before."""
    now = Confirmation(issued_at, issued_at + life)
    older = {f"org/{org}": Confirmation(issued_at - by, issued_at - by + life) for org, by in earlier.items()}
    return Freshness({"global": now, **older}, now)


def snapshot(
    *layers: Layer,
    local: OfflineRule = LAX,
    missing: tuple[str, ...] = (),
    freshness: Freshness | None = None,
    proof: TimeProof | None = PROOF,
) -> Snapshot:
    """Return a snapshot that a heartbeat vouched for at `NOW`, unless the arguments say otherwise."""
    return Snapshot.build(
        layers or (layer(),),
        local=local,
        missing=missing,
        freshness=confirmed() if freshness is None else freshness,
        proof=proof,
    )


def under(mode: OfflineMode, max_age_s: float = DAY) -> Snapshot:
    """Return a snapshot for which host and bundle say the same mode."""
    return snapshot(layer(mode.value, max_age_s), local=OfflineRule(mode, max_age_s))


def after(seconds: float, *, wall_off: float = 0.0) -> Moment:
    return replace(NOW, wall=NOW.wall + seconds + wall_off, elapsed=NOW.elapsed + seconds)


def up(moment: Moment) -> Link:
    """Return a stream that counts and was heard at this moment."""
    return Link(heard=moment, proven=True, interval_s=10.0)


AWAY = Link(heard=NOW, proven=False)
EVERY_MODE = pytest.mark.parametrize("mode", MODES)
UP_OR_AWAY = pytest.mark.parametrize("is_up", [True, False], ids=["up", "away"])


def denied(standing: Standing, reason: Reason, error: type[AkpolicyError] | None) -> None:
    """Assert a denial, and what is wrong."""
    assert standing.denial is reason
    assert not standing.ready
    assert type(standing.error) is (error or type(None))
    assert standing.message.startswith("denied: ")
