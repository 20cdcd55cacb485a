"""Layers of teams and users: enforced for their members, kept, and no trouble of theirs is anybody else's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from akpolicy.bundle import OfflineMode
from akpolicy.decision import PolicySource
from akpolicy.engine.decide import Effect
from akpolicy.errors import TooManyScopes
from akpolicy.freeze import FREEZE_POLICY, FREEZE_POLICY_ID
from akpolicy.limits import MAX_INDEX_SCOPES
from akpolicy.scope import user_scope
from akpolicy.trust import bundles
from akpolicy_sidecar.offline import OfflineRule
from akpolicy_sidecar.outstanding import LASTING_PAUSE_S, MAX_SUBJECTS
from tests.simulators.host import REQUEST, HostSimulator
from tests.unit.sidecar.conversation import is_asked_for_again, is_live, messages_of, signed_wrong

if TYPE_CHECKING:
    from pathlib import Path

    from akpolicy.engine.request import AuthorizationRequest

PERMIT: Final = {"p": '@id("p") permit (principal, action, resource);'}
FORBID: Final = {"f": '@id("f") forbid (principal, action, resource);'}
TEAM: Final = "org/acme/team/red"
ALICE: Final = "org/acme/user/alice"
BOB: Final = user_scope("acme", "local", "bob@acme.com")


def by(subject: str, *teams: str) -> AuthorizationRequest:
    return replace(REQUEST, principal=replace(REQUEST.principal, id=subject, teams=teams))


def effects(host: HostSimulator) -> list[Effect | None]:
    """Return what alice may do, what bob may, and what a member of the team may; None: denied unseen."""
    verdicts = [host.decide(by("alice")), host.decide(by("bob@acme.com")), host.decide(by("carol", "red"))]
    return [verdict.effect if verdict else None for verdict in verdicts]


ALLOW, DENY = Effect.ALLOW, Effect.DENY


def test_a_layer_counts_for_its_members_alone(host: HostSimulator) -> None:
    host.update(PERMIT)
    assert effects(host) == [ALLOW, ALLOW, ALLOW]

    host.update(FORBID, scope=ALICE)
    assert effects(host) == [DENY, ALLOW, ALLOW]
    host.update(FORBID, scope=BOB)
    assert effects(host) == [DENY, DENY, ALLOW]
    host.update(FORBID, scope=TEAM)
    assert effects(host) == [DENY, DENY, DENY]
    assert host.nacks == []


def test_layers_of_members_survive_a_restart(host: HostSimulator) -> None:
    for scope in ("global", "org/acme", TEAM, ALICE):
        host.update(PERMIT, scope=scope)
    host.update(FORBID, scope=BOB)

    again = host.restart()

    assert again.not_loaded == []
    assert again.versions == host.versions == dict.fromkeys(["global", "org/acme", TEAM, ALICE, BOB], 1)
    assert again.connect().nacks == []
    assert effects(again) == [ALLOW, DENY, ALLOW]
    assert is_live(again)


def test_a_host_that_lacks_layers_of_members_is_sent_them(host: HostSimulator) -> None:
    host.update(PERMIT)
    for scope in (TEAM, ALICE):
        host.office.publish(FORBID, scope=scope)

    host.connect()

    assert set(host.versions) == {"global", TEAM, ALICE}
    assert host.updater.lacking == ()


def test_a_rollback_and_a_deletion_are_of_a_members_layer_too(host: HostSimulator) -> None:
    host.update(PERMIT)
    first = host.office.publish(FORBID, scope=ALICE)
    host.hear(*host.office.bundle(ALICE)).update(PERMIT, scope=ALICE)
    assert effects(host)[0] is ALLOW

    host.office.roll_back(first)
    host.hear(*host.office.bundle(ALICE)).beat()
    assert effects(host)[0] is DENY

    host.office.delete(ALICE)
    host.hear(*host.office.bundle(ALICE)).beat()
    assert (effects(host)[0], host.nacks) == (ALLOW, [])
    assert effects(host.restart().connect())[0] is ALLOW


@pytest.mark.parametrize("scope", [TEAM, ALICE])
def test_a_freeze_of_the_org_denies_whatever_members_have(host: HostSimulator, scope: str) -> None:
    same_id = {FREEZE_POLICY_ID: f'@id("{FREEZE_POLICY_ID}") permit (principal, action, resource);'}
    host.update(PERMIT).update({**PERMIT, **same_id}, scope=scope)

    host.update({FREEZE_POLICY_ID: FREEZE_POLICY}, scope="org/acme")

    assert effects(host) == [DENY, DENY, DENY]


def test_what_is_refused_of_a_member_keeps_the_stream_from_counting_for_that_member_alone(tmp_path: Path) -> None:
    host = HostSimulator(tmp_path / "state", local=OfflineRule(OfflineMode.FAIL_CLOSED, 0.0)).connect()
    host.update(PERMIT).update(PERMIT, scope=ALICE)
    assert effects(host) == [ALLOW, ALLOW, ALLOW]

    host.hear(*messages_of(signed_wrong(host, ALICE)))
    assert host.nacks == ["KeyNotAuthorised"]
    for _ in range(2):
        assert is_live(host)
        assert effects(host) == [None, ALLOW, ALLOW]
        sources = [host.viewer.look().select(["global", scope]).standing.source for scope in (ALICE, TEAM)]
        assert sources == [PolicySource.CACHE, PolicySource.LIVE]
        host.beat()

    host.update(PERMIT, scope=ALICE)
    assert effects(host) == [ALLOW, ALLOW, ALLOW]
    host.close()


def test_what_is_refused_of_a_member_that_has_nothing_yet_counts_for_that_member_too(tmp_path: Path) -> None:
    host = HostSimulator(tmp_path / "state", local=OfflineRule(OfflineMode.FAIL_CLOSED, 0.0)).connect()
    host.update(PERMIT)

    host.hear(*messages_of(signed_wrong(host, ALICE)))

    assert effects(host) == [None, ALLOW, ALLOW]
    host.close()


def test_what_is_refused_of_a_member_is_asked_for_again(host: HostSimulator) -> None:
    host.update(PERMIT).hear(*messages_of(signed_wrong(host, TEAM)))

    assert not is_asked_for_again(host, LASTING_PAUSE_S - 1)
    assert is_asked_for_again(host, 1)


def test_more_refused_members_than_can_be_told_apart_keep_the_stream_from_counting(host: HostSimulator) -> None:
    host.update(PERMIT)
    wrong = signed_wrong(host, TEAM)
    for number in range(MAX_SUBJECTS):
        host.hear(*messages_of(wrong, scope=f"org/acme/team/{number}"))
    assert is_live(host)

    host.hear(*messages_of(wrong, scope="org/acme/team/more"))

    assert not is_live(host)
    assert len(host.report.trouble["refused"]) <= MAX_SUBJECTS


@pytest.mark.parametrize("hint", ["org/other/team/red", "org/acme/team/", "root", "no scope"])
def test_a_refusal_that_the_server_ascribes_to_nobody_here_keeps_the_stream_from_counting(
    host: HostSimulator, hint: str
) -> None:
    host.update(PERMIT).hear(*messages_of(signed_wrong(host, TEAM), scope=hint)).beat()

    assert not is_live(host)


def test_a_host_takes_no_more_scopes_than_an_index_can_name(
    host: HostSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_INDEX_SCOPES > 20_000
    monkeypatch.setattr(bundles, "MAX_INDEX_SCOPES", 2)
    host.update(PERMIT).update(PERMIT, scope=TEAM)

    with pytest.raises(TooManyScopes, match=f"new scope `{ALICE}`, beyond the 2 that a host enforces"):
        host.take(host.office.publish(PERMIT, scope=ALICE))

    assert host.update(FORBID, scope=TEAM).versions == {"global": 1, TEAM: 2}
    assert host.restart().not_loaded == []
