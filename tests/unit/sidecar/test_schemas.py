"""An org's own schema on a host: one for all layers, with the bundle that brings it or not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from akpolicy.bundle import encode_content
from akpolicy.engine.decide import Effect
from akpolicy.errors import (
    CacheWriteFailed,
    PolicyError,
    PolicySetInvalid,
    RequestInvalid,
    SchemaConflict,
    SchemaInvalid,
    SchemaUnsupported,
)
from akpolicy.freeze import FREEZE_POLICY, FREEZE_POLICY_ID
from akpolicy.signing import PrivateKeySigner
from akpolicy_sidecar.outstanding import CONFLICT_PAUSE_S
from tests.simulators.host import REQUEST, SCHEMA, HostSimulator, OpenGate
from tests.simulators.office import root_message
from tests.simulators.org import delegation
from tests.simulators.schemas import DEPLOY, OTHER, OWN, PORT_MAP, SMALLER, by_level
from tests.unit.sidecar.conversation import is_asked_for_again, is_live, messages_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.source import PolicyText
    from tests.simulators.office import Held

ORG, TEAM, ALICE = "org/acme", "org/acme/team/red", "org/acme/user/alice"
PERMIT: Final = '@id("p") permit (principal, action, resource);'
DEPLOY_IT: Final = replace(
    REQUEST, action="Deploy", principal=replace(REQUEST.principal, attributes={"level": 3}, teams=("red",))
)


def held(host: HostSimulator, text: str, scope: str = ORG, schema: str | None = None) -> Held:
    """Publish one policy, with a schema if there is one."""
    policy_id = text.split('"')[1]
    return host.office.publish(encode_content([(policy_id, text)], schema), scope=scope)


def put(host: HostSimulator, text: str, scope: str = ORG, schema: str | None = None) -> HostSimulator:
    """Let a host take such a bundle, and the heartbeat behind it."""
    return host.hear(*messages_of(held(host, text, scope, schema))).beat()


def schema_of(host: HostSimulator) -> str:
    """Return the schema by which the host decides."""
    return (host.snapshots.current.schema or SCHEMA).text


@pytest.fixture
def own(host: HostSimulator) -> HostSimulator:
    """A host of an org with its own schema, which a team's policy needs."""
    put(put(put(host, PERMIT, "global"), DEPLOY, schema=OWN), by_level("t"), TEAM)
    assert host.nacks == []
    return host


def test_a_host_decides_by_the_schema_that_its_org_brings(host: HostSimulator) -> None:
    put(host, PERMIT, "global")
    with pytest.raises(RequestInvalid):
        host.decide(DEPLOY_IT)
    assert schema_of(host) == SCHEMA.text

    put(host, DEPLOY, schema=OWN)

    verdict = host.decide(DEPLOY_IT)
    assert verdict is not None
    assert {(p.scope, p.policy_id) for p in verdict.determining} == {("global", "p"), (ORG, "deploy")}
    assert schema_of(host) == OWN


def test_policies_of_members_fit_it(own: HostSimulator) -> None:
    verdict = own.decide(DEPLOY_IT)
    assert verdict is not None
    assert [p.policy_id for p in verdict.determining] == ["p", "deploy", "t"]
    with pytest.raises(PolicySetInvalid):
        own.take(held(own, by_level("a", text=True), ALICE))
    assert own.take(held(own, by_level("a", "forbid"), ALICE)).name == "APPLIED"
    verdict = own.decide(DEPLOY_IT)
    assert verdict is not None
    assert verdict.effect is Effect.DENY


def test_another_schema_comes_with_the_next_bundle_and_the_packaged_one_comes_back(own: HostSimulator) -> None:
    put(own, PERMIT, TEAM)
    put(own, by_level("x", text=True), schema=OTHER)
    assert (schema_of(own), own.nacks) == (OTHER, [])
    put(own, PERMIT)
    assert (schema_of(own), own.nacks) == (SCHEMA.text, [])
    with pytest.raises(RequestInvalid):
        own.decide(DEPLOY_IT)


def test_a_deleted_org_has_the_packaged_schema(own: HostSimulator) -> None:
    own.office.delete(ORG)
    own.hear(*own.office.bundle(ORG))
    assert (own.nacks, schema_of(own)) == (["SchemaConflict"], OWN)
    put(own, PERMIT, TEAM).connect()
    assert (set(own.versions), schema_of(own)) == ({"global", TEAM}, SCHEMA.text)


# --- all or nothing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "schema", "conflict"),
    [
        (by_level("x", text=True), OTHER, "`org/acme/team/red` does not fit the schema"),
        (PERMIT, None, "`org/acme/team/red` does not fit the schema"),
    ],
    ids=["other", "packaged"],
)
def test_a_schema_that_another_layer_does_not_fit_is_refused_and_nothing_changes(
    own: HostSimulator, text: str, schema: str | None, conflict: str
) -> None:
    bundle = held(own, text, schema=schema)
    before = own.facts()

    with pytest.raises(SchemaConflict, match=conflict) as refusal:
        own.take(bundle)

    assert (refusal.value.policy_id, refusal.value.source) == ("t", TEAM)
    assert own.facts() == before
    assert schema_of(own) == OWN
    assert own.take(held(own, by_level("u"), ALICE)).name == "APPLIED"


def test_a_scope_that_was_deleted_does_not_hide_one_that_does_not_fit(own: HostSimulator) -> None:
    own.take(own.office.delete("global"))

    with pytest.raises(SchemaConflict, match=TEAM):
        own.take(held(own, PERMIT))


@pytest.mark.parametrize(
    ("scope", "schema", "error"),
    [
        (ORG, "nonsense", SchemaInvalid),
        (ORG, "entity A;", SchemaUnsupported),
        ("global", OWN, SchemaUnsupported),
    ],
)
def test_what_is_no_schema_for_this_host_is_refused(
    own: HostSimulator, scope: str, schema: str, error: type[PolicyError]
) -> None:
    bundle = held(own, PERMIT, scope, schema)
    before = own.facts()

    with pytest.raises(error):
        own.take(bundle)

    assert own.facts() == before


def test_a_schema_that_cannot_be_kept_does_not_count(own: HostSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = held(own, by_level("x"), schema=OWN.replace("level?: Long", "level?: Long, more?: Long"))

    def full(_: Any) -> None:
        raise CacheWriteFailed("no space")

    with monkeypatch.context() as patch:
        patch.setattr(own.directory, "append", full)
        with pytest.raises(CacheWriteFailed):
            own.take(bundle)
    assert schema_of(own) == OWN
    assert own.take(bundle).name == "APPLIED"
    assert "more?: Long" in schema_of(own)


def test_every_layer_is_proven_with_a_new_schema_before_it_counts(tmp_path: Path) -> None:
    class Watched(OpenGate):
        """A fence that says what it was given."""

        seen: list[tuple[str, bool]] = []  # noqa: RUF012 - of this test

        def prove(self, policies: Sequence[PolicyText], schema: CedarSchema) -> None:
            self.seen.append((policies[0].source, schema.text == OWN))
            super().prove(policies, schema)

        def prove_schema(self, text: str) -> None:
            self.seen.append(("schema", text == OWN))
            super().prove_schema(text)

    host = HostSimulator(tmp_path / "state", fence=Watched()).connect()
    for scope in ("global", TEAM, ALICE):
        put(host, PERMIT, scope)
    Watched.seen.clear()

    put(host, DEPLOY, schema=OWN)
    assert Watched.seen[:2] == [("schema", True), (ORG, True)]
    assert set(Watched.seen[2:]) == {("global", True), (ALICE, True), (TEAM, True)}
    Watched.seen.clear()
    put(host, PERMIT, schema=OWN)
    assert Watched.seen == [(ORG, True)]
    host.close()


# --- over time --------------------------------------------------------------------------------------------------------


def test_the_schema_survives_a_restart(own: HostSimulator) -> None:
    again = own.restart()

    assert (again.not_loaded, schema_of(again)) == ([], OWN)
    verdict = again.connect().decide(DEPLOY_IT)
    assert verdict is not None
    assert [p.policy_id for p in verdict.determining] == ["p", "deploy", "t"]
    assert again.nacks == []


def test_an_org_that_cannot_be_loaded_takes_its_schema_along_and_both_come_back(own: HostSimulator) -> None:
    blob = own.directory.state.scopes[ORG].blob
    (own.place / "blobs" / str(blob)).unlink()

    again = own.restart()
    assert {subject for subject, _ in again.not_loaded} == {ORG, TEAM}
    assert again.decide(REQUEST) is None

    again.connect()
    assert (again.nacks, schema_of(again)) == ([], OWN)
    assert set(again.versions) == {"global", ORG, TEAM}


def test_a_freeze_with_the_schema_of_the_org_denies_everything(own: HostSimulator) -> None:
    own.hear(*messages_of(own.office.publish(encode_content([(FREEZE_POLICY_ID, FREEZE_POLICY)], OWN), scope=ORG)))
    for request in (REQUEST, DEPLOY_IT):
        verdict = own.decide(request)
        assert verdict is not None
        assert (verdict.effect, [p.policy_id for p in verdict.determining]) == (Effect.DENY, [FREEZE_POLICY_ID])


def test_a_rotation_of_keys_leaves_the_schema_as_it_is(own: HostSimulator) -> None:
    org, second = own.org, PrivateKeySigner.generate()
    bundle = [delegation("global", org.platform_signer), delegation(ORG, second)]
    roles = {**org.root_document()["roles"], "bundle": bundle}
    own.hear(root_message(own.office.rotate(signers=[second], roles=roles)))
    assert (set(own.versions), schema_of(own)) == ({"global", ORG, TEAM}, OWN)

    org.bundle_signer = second
    first, second_one = held(own, DEPLOY, schema=OWN), held(own, by_level("t"), TEAM)
    own.hear(*messages_of(first), *messages_of(second_one)).beat()
    assert (own.nacks, own.versions, schema_of(own)) == ([], {"global": 1, ORG: 2, TEAM: 2}, OWN)


def test_a_schema_whose_layers_are_on_the_way_is_asked_for_again_before_long(own: HostSimulator) -> None:
    # While the host was away, first the team gave up what the new schema has no place for.
    held(own, PERMIT, TEAM)
    held(own, PORT_MAP)
    own.connect()
    assert own.nacks == ["SchemaConflict"]
    assert not is_live(own)

    assert not is_asked_for_again(own, CONFLICT_PAUSE_S - 1)
    assert is_asked_for_again(own, 1)
    own.connect()
    assert (own.nacks, schema_of(own), is_live(own)) == (["SchemaConflict"], SCHEMA.text, True)


def test_a_policy_that_only_the_packaged_schema_fits_keeps_a_smaller_one_away(host: HostSimulator) -> None:
    put(put(host, PORT_MAP, "global"), PERMIT, schema=SMALLER)
    assert host.nacks == ["SchemaConflict"]
    assert host.versions == {"global": 1}
