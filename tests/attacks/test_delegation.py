"""Attacks with a key that signs one team's layer (A-26, A-29, A-33): its reach, and what its loss costs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from akpolicy.engine.decide import Effect
from akpolicy.errors import KeyNotAuthorised, KeyRevoked
from akpolicy.signing import PrivateKeySigner
from tests.attacks.stage import FORBID, ORG, PERMIT, REGISTER, TEAM, Attack, Stage, bundle_of, roles_with, root_of
from tests.simulators.host import REQUEST
from tests.simulators.org import delegation

if TYPE_CHECKING:
    from pathlib import Path

LEAD: Final = PrivateKeySigner.generate()
FORBID_ALL: Final = {"forbid-all": '@id("forbid-all") forbid (principal, action, resource);'}
MEMBER: Final = replace(REQUEST, principal=replace(REQUEST.principal, teams=("a",)))


def team_stage(place: Path, *, grants: bool = True) -> Stage:
    """Return a host of an org that lets a team's lead sign that team's layer, which it has."""
    stage = Stage(place)
    org = stage.org
    delegations = delegation(ORG, org.bundle_signer), delegation(TEAM, LEAD, grants=grants)
    stage.office.roots = [org.root_envelope(signers=[LEAD], roles=roles_with(org, *delegations))]
    stage.enforce()
    stage.host.update(FORBID, scope=TEAM, signed_by=[LEAD])
    assert stage.host.nacks == []
    return stage


def signed(stage: Stage, scope: str, signer: PrivateKeySigner, policies: Any = None) -> Any:
    return bundle_of(*stage.org.bundle_envelope(scope, policies or FORBID_ALL, signed_by=[signer]))


OUT_OF_REACH = REGISTER.table(
    (26, "a team's key cannot sign for the org", KeyNotAuthorised, lambda s: signed(s, ORG, LEAD)),
    (26, "a team's key cannot sign for everybody", KeyNotAuthorised, lambda s: signed(s, "global", LEAD)),
    (26, "a team's key cannot sign for another team", KeyNotAuthorised, lambda s: signed(s, "org/acme/team/b", LEAD)),
    (26, "a team's key cannot sign for a user", KeyNotAuthorised, lambda s: signed(s, "org/acme/user/a", LEAD)),
    (
        26,
        "the org's key cannot sign for a team with keys of its own",
        KeyNotAuthorised,
        lambda s: signed(s, TEAM, s.org.bundle_signer),
    ),
)


@pytest.mark.parametrize("attack", OUT_OF_REACH, ids=str)
def test_a_teams_key_signs_for_that_team_alone(tmp_path: Path, attack: Attack) -> None:
    stage = team_stage(tmp_path / "state")
    stage.refuses(attack, attack.act(stage))


@REGISTER.single(29, "a permit of a team that may only forbid is refused", KeyNotAuthorised)
def test_a_team_that_may_only_forbid_cannot_permit(tmp_path: Path, attack: Attack) -> None:
    stage = team_stage(tmp_path / "state", grants=False)
    stage.refuses(attack, signed(stage, TEAM, LEAD, PERMIT))


@REGISTER.single(33, "what a team's revoked key has signed is dropped, and its members alone are denied", KeyRevoked)
def test_a_teams_revoked_key_costs_that_team_alone(tmp_path: Path, attack: Attack) -> None:
    stage = team_stage(tmp_path / "state")
    org, host = stage.org, stage.host
    roles = roles_with(org, delegation(ORG, org.bundle_signer))
    revoked = {LEAD.public_key.key_id: int(host.clock.now())}
    host.hear(*root_of(stage.office.rotate(signers=[LEAD], roles=roles, revoked=revoked)))
    assert host.nacks == ["KeyRevoked"]
    assert host.versions == {"global": 2, ORG: 2}
    host.beat(about=[held.envelope for scope, held in stage.office.current.items() if scope != TEAM])
    stage.assert_decides()
    assert host.decide(MEMBER) is None
    # What the org's own key signs for the team brings it back.
    host.connect().update(FORBID, scope=TEAM)
    verdict = host.decide(MEMBER)
    assert verdict is not None
    assert verdict.effect is Effect.ALLOW
