"""Schemas of orgs on the server: chosen, kept, left, and everything that hosts enforce fits them at every moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.bundle import Content, Manifest, describe_content, encode_content
from akpolicy.engine.check import check_policies
from akpolicy.engine.schema import load_default_schema, parse_schema
from akpolicy.engine.source import PolicyText
from akpolicy.envelope import PayloadType, SignedEnvelope
from akpolicy.errors import (
    FieldInvalid,
    InvalidField,
    PolicySetInvalid,
    SchemaInvalid,
    SchemaUnsupported,
    ScopeMismatch,
    StoreUnavailable,
)
from akpolicy.freeze import FREEZE_POLICY
from akpolicy.scope import GLOBAL
from akpolicy.signing import sign_document
from akpolicy.strict_json import load
from akpolicy_server import schemas
from akpolicy_server.orders import EnvelopeOrder, RollbackOrder, SchemaChoice
from tests.simulators.schemas import DEPLOY, OTHER, OWN, PORT_MAP, SMALLER, by_level, changed
from tests.unit.server.conftest import Core, order, policy
from tests.unit.server.follower import Follower, current_root, next_root

if TYPE_CHECKING:
    from akpolicy_server.publisher import Published

ACME, TEAM, USER = "org/acme", "org/acme/team/red", "org/acme/user/alice"


def publish(core: Core, scope: str, text: str, schema: str | None = None, **conditions: Any) -> Published:
    own = {"schema": SchemaChoice.OWN, "schema_text": schema} if schema is not None else {}
    return core.publisher.publish(core.admin, order(scope, text, **own, **conditions))


def back(core: Core, text: str, **conditions: Any) -> Published:
    """Publish for the org with the packaged schema."""
    return core.publisher.publish(core.admin, order(ACME, text, schema=SchemaChoice.DEFAULT, **conditions))


def schema_of(core: Core, scope: str = ACME) -> str:
    return core.history.get(core.admin, scope, 0)[2]


def problems(error: pytest.ExceptionInfo[PolicySetInvalid]) -> list[tuple[str, str, str]]:
    return [(problem.code, problem.source, problem.policy_id) for problem in error.value.problems]


def assert_everything_fits(core: Core, org: str = "acme") -> None:
    """Assert that a host which takes everything finds that all its layers fit its schema."""
    host = Follower(core, org)
    host.follow()
    own = host.enforced.get(f"org/{org}")
    text = own.content.content.schema_text if own is not None and own.content is not None else None
    schema = load_default_schema() if text is None else parse_schema(text)
    for scope in host.enforced:
        texts = zip(host.policies(scope), host.texts(scope), strict=True)
        assert check_policies([PolicyText(name, text) for name, text in texts], schema) == (), scope


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_an_org_gets_keeps_changes_and_leaves_its_own_schema(core: Core) -> None:
    with pytest.raises(PolicySetInvalid):
        publish(core, ACME, by_level("p"))
    publish(core, ACME, by_level("p"), OWN)
    assert schema_of(core) == OWN
    publish(core, ACME, by_level("q") + DEPLOY)
    assert schema_of(core) == OWN
    publish(core, ACME, by_level("q", text=True), OTHER)
    assert schema_of(core) == OTHER
    with pytest.raises(PolicySetInvalid):
        back(core, by_level("q", text=True))
    back(core, policy("p"))
    assert schema_of(core) == ""
    with pytest.raises(PolicySetInvalid):
        publish(core, ACME, by_level("p"))
    assert_everything_fits(core)


def test_it_is_the_orgs_and_no_other_orgs(core: Core) -> None:
    publish(core, ACME, by_level("p"), OWN)
    with pytest.raises(PolicySetInvalid):
        publish(core, "org/globex", by_level("p"))
    publish(core, "org/globex", by_level("p", text=True), OTHER)
    assert (schema_of(core), schema_of(core, "org/globex")) == (OWN, OTHER)


@pytest.mark.parametrize(
    ("conditions", "error"),
    [
        ({"schema": SchemaChoice.OWN}, InvalidField),
        ({"schema": SchemaChoice.OWN, "schema_text": "  \n"}, InvalidField),
        ({"schema_text": OWN}, InvalidField),
        ({"schema": SchemaChoice.DEFAULT, "schema_text": OWN}, InvalidField),
        ({"schema": SchemaChoice.OWN, "schema_text": "nonsense"}, SchemaInvalid),
        ({"schema": SchemaChoice.OWN, "schema_text": "entity A;"}, SchemaUnsupported),
    ],
)
def test_what_is_no_schema_for_hosts_is_refused(core: Core, conditions: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        core.publisher.publish(core.admin, order(ACME, policy("p"), **conditions))
    with pytest.raises(error):
        core.presigned.prepare(core.admin, order(ACME, policy("p"), **conditions))
    assert core.announced == []


@pytest.mark.parametrize("scope", [GLOBAL, TEAM, USER])
@pytest.mark.parametrize("choice", [{"schema": SchemaChoice.DEFAULT}, {"schema": SchemaChoice.OWN, "schema_text": OWN}])
def test_only_an_org_has_a_choice(core: Core, scope: str, choice: dict[str, Any]) -> None:
    with pytest.raises(InvalidField, match="has no schema of its own"):
        core.publisher.publish(core.admin, order(scope, policy("p"), **choice))


def test_what_is_asked_for_includes_the_schema(core: Core) -> None:
    orders = [
        order(ACME, policy("p"), **fields)
        for fields in (
            {},
            {"schema": SchemaChoice.DEFAULT},
            {"schema": SchemaChoice.OWN, "schema_text": OWN},
            {"schema": SchemaChoice.OWN, "schema_text": OTHER},
        )
    ]
    assert len({asked.digest() for asked in orders}) == 4


# --- what has to fit --------------------------------------------------------------------------------------------------


def test_policies_of_teams_and_users_fit_their_orgs_schema(core: Core) -> None:
    publish(core, ACME, policy("p"), OWN)
    for scope in (TEAM, USER):
        publish(core, scope, by_level("p"))
        with pytest.raises(PolicySetInvalid) as refusal:
            publish(core, scope, by_level("p", text=True))
        assert "(by the schema of the org `acme`)" in refusal.value.message
    with pytest.raises(PolicySetInvalid):
        publish(core, "org/globex/team/red", by_level("p"))
    assert core.publisher.validate(core.admin, TEAM, order(TEAM, by_level("p")).sources).problems == ()
    assert core.publisher.validate(core.admin, "org/globex", order(ACME, by_level("p")).sources).problems
    assert_everything_fits(core)


def test_policies_of_everybody_fit_the_packaged_schema_and_each_orgs_own(core: Core) -> None:
    publish(core, ACME, policy("p"), OWN)
    with pytest.raises(PolicySetInvalid) as refusal:
        publish(core, GLOBAL, by_level("p"))
    assert "by the schema" not in refusal.value.message
    publish(core, "org/globex", policy("p"), SMALLER)
    with pytest.raises(PolicySetInvalid, match=r"\(by the schema of the org `globex`\)"):
        publish(core, GLOBAL, PORT_MAP)
    assert core.publisher.validate(core.admin, GLOBAL, order(GLOBAL, PORT_MAP).sources).problems
    publish(core, GLOBAL, policy("p"))
    for org in ("acme", "globex"):
        assert_everything_fits(core, org)


def test_a_schema_that_layers_of_the_org_do_not_fit_is_refused_with_each_of_them(core: Core) -> None:
    publish(core, GLOBAL, PORT_MAP)
    publish(core, ACME, policy("p"), OWN)
    publish(core, TEAM, by_level("t") + policy("u"))
    publish(core, USER, by_level("a") + by_level("b", "forbid"))
    publish(core, "org/globex/team/red", PORT_MAP)
    before = core.history.get(core.admin, ACME, 0)[0]

    with pytest.raises(PolicySetInvalid) as refusal:
        publish(core, ACME, policy("p"), SMALLER)
    assert problems(refusal) == [
        ("SchemaConflict", GLOBAL, "ports"),
        ("SchemaConflict", TEAM, "t"),
        ("SchemaConflict", USER, "a"),
        ("SchemaConflict", USER, "b"),
    ]
    assert "the policy does not fit the new schema: " in refusal.value.message
    for dry_run in (False, True):
        with pytest.raises(PolicySetInvalid) as refusal:
            back(core, policy("p"), dry_run=dry_run)
        assert {source for _, source, _ in problems(refusal)} == {TEAM, USER}
    assert core.history.get(core.admin, ACME, 0)[0] == before

    publish(core, TEAM, policy("u"))
    publish(core, USER, policy("u"))
    back(core, policy("p"))
    assert_everything_fits(core)


def test_what_comes_back_fits_the_schemas_of_now(core: Core) -> None:
    publish(core, ACME, policy("p"), OWN)
    publish(core, TEAM, by_level("t"))
    publish(core, TEAM, policy("t"))
    back(core, policy("p"))
    with pytest.raises(PolicySetInvalid):
        core.rollbacks.roll_back(core.admin, RollbackOrder(TEAM))
    # The org's own content brings its schema back.
    publish(core, TEAM, PORT_MAP)
    assert core.rollbacks.roll_back(core.admin, RollbackOrder(ACME)).revision.restores_version == 1
    assert schema_of(core) == OWN
    assert_everything_fits(core)


def test_a_schema_comes_back_only_if_the_other_layers_fit_it(core: Core) -> None:
    publish(core, ACME, policy("p"), SMALLER)
    back(core, policy("p"))
    publish(core, TEAM, PORT_MAP)
    asked = RollbackOrder(ACME, idempotency_key="k")
    with pytest.raises(PolicySetInvalid) as refusal:
        core.rollbacks.roll_back(core.admin, asked)
    assert problems(refusal) == [("SchemaConflict", TEAM, "ports")]
    publish(core, TEAM, policy("p"))
    done = core.rollbacks.roll_back(core.admin, asked)
    publish(core, TEAM, policy("q"))
    assert core.rollbacks.roll_back(core.admin, asked).revision == done.revision
    assert_everything_fits(core)


# --- freezing ---------------------------------------------------------------------------------------------------------


def test_a_freeze_keeps_the_schema_and_its_end_brings_the_policies_back(core: Core) -> None:
    publish(core, ACME, by_level("p"), OWN)
    publish(core, TEAM, by_level("t"))
    core.freeze.set(core.admin, "acme", frozen=True, message="")
    host = Follower(core)
    host.follow()
    assert (host.texts(ACME), schema_of(core)) == ([FREEZE_POLICY], OWN)
    assert not core.freeze.set(core.admin, "acme", frozen=True, message="").changed
    assert_everything_fits(core)

    core.freeze.set(core.admin, "acme", frozen=False, message="")
    host.follow()
    assert (host.policies(ACME), schema_of(core)) == (["p"], OWN)
    assert_everything_fits(core)


def test_a_freeze_ends_only_with_a_schema_that_the_other_layers_fit(core: Core) -> None:
    publish(core, ACME, policy("p"), SMALLER)
    frozen = core.freeze.set(core.admin, "acme", frozen=True, message="").revision
    # Somebody who knows of the freeze leaves it in place and takes the packaged schema.
    back(core, FREEZE_POLICY, expected_version=frozen.version)
    publish(core, TEAM, PORT_MAP)
    with pytest.raises(PolicySetInvalid):
        core.freeze.set(core.admin, "acme", frozen=False, message="")
    publish(core, TEAM, policy("p"))
    core.freeze.set(core.admin, "acme", frozen=False, message="")
    assert schema_of(core) == SMALLER
    assert_everything_fits(core)


# --- signed elsewhere -------------------------------------------------------------------------------------------------


def signed(core: Core, scope: str, text: str, **conditions: Any) -> EnvelopeOrder:
    prepared = core.presigned.prepare(core.admin, order(scope, text, **conditions))
    return EnvelopeOrder(_signed(core, prepared.envelope.payload), prepared.content)


def _signed(core: Core, payload: bytes) -> SignedEnvelope:
    key = current_root(core).bundle_role(ACME)
    assert key is not None
    return sign_document(PayloadType.BUNDLE, payload, [core.vault.load(key.keys[0])])


def test_a_bundle_that_is_signed_elsewhere_brings_its_schema(core: Core) -> None:
    own = {"schema": SchemaChoice.OWN, "schema_text": OWN}
    core.presigned.publish(core.admin, signed(core, ACME, by_level("p"), **own))
    assert schema_of(core) == OWN
    core.presigned.publish(core.admin, signed(core, TEAM, by_level("t")))
    kept = signed(core, ACME, policy("p"))
    assert load(kept.content, Content).schema_text == OWN
    core.presigned.publish(core.admin, kept)
    assert_everything_fits(core)
    with pytest.raises(PolicySetInvalid):
        core.presigned.prepare(core.admin, order(ACME, policy("p"), schema=SchemaChoice.DEFAULT))


def test_a_bundle_is_refused_if_what_it_has_to_fit_changed_while_it_was_signed(core: Core) -> None:
    waiting = signed(core, ACME, policy("p"), schema=SchemaChoice.OWN, schema_text=SMALLER)
    team = signed(core, TEAM, PORT_MAP)
    core.presigned.publish(core.admin, waiting)
    with pytest.raises(PolicySetInvalid):
        core.presigned.publish(core.admin, team)
    assert_everything_fits(core)


def test_a_team_cannot_bring_a_schema_with_whatever_signatures(core: Core) -> None:
    blob = encode_content([("p", policy("p"))], OWN)
    prepared = core.presigned.prepare(core.admin, order(TEAM, policy("p")))
    manifest = load(prepared.envelope.payload, Manifest).model_copy(update={"content": describe_content(blob, 1)})
    with pytest.raises(ScopeMismatch):
        core.presigned.publish(core.admin, EnvelopeOrder(_signed(core, manifest.to_bytes()), blob))


def test_a_schema_of_more_characters_than_hosts_take_is_refused(core: Core) -> None:
    comment = "//" + "x" * 2**20 + "\n"
    with pytest.raises((SchemaInvalid, FieldInvalid)):
        publish(core, ACME, policy("p"), comment + OWN)


# --- at once ----------------------------------------------------------------------------------------------------------


def test_what_is_published_while_a_schema_is_checked_is_looked_at_before_it_counts(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = schemas.Schemas.check_layers
    late = [lambda: publish(core, TEAM, PORT_MAP)]

    def interrupted(self: schemas.Schemas, footing: schemas.Footing) -> None:
        check(self, footing)
        if footing.own == SMALLER and late:
            late.pop()()

    monkeypatch.setattr(schemas.Schemas, "check_layers", interrupted)
    with pytest.raises(PolicySetInvalid) as refusal:
        publish(core, ACME, policy("p"), SMALLER)
    assert problems(refusal) == [("SchemaConflict", TEAM, "ports")]
    assert_everything_fits(core)


def test_a_schema_that_changes_while_policies_are_checked_is_looked_at_before_they_count(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = schemas.Schemas.check_layers
    late = [lambda: publish(core, ACME, policy("p"), SMALLER)]

    def interrupted(self: schemas.Schemas, footing: schemas.Footing) -> None:
        check(self, footing)
        if late and footing.schemas[0].text is None:
            late.pop()()

    monkeypatch.setattr(schemas.Schemas, "check_layers", interrupted)
    with pytest.raises(PolicySetInvalid, match=r"by the schema of the org `acme`"):
        publish(core, TEAM, PORT_MAP)
    assert_everything_fits(core)


def test_who_is_always_too_late_is_told_to_try_again(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    check = schemas.Schemas.check_layers
    texts = [changed("email: String,", f"email: String, level{number}?: Long,") for number in range(50)]

    def interrupted(self: schemas.Schemas, footing: schemas.Footing) -> None:
        check(self, footing)
        if footing.schemas[0].org == "acme" and footing.own is None and footing.layers == ():
            publish(core, ACME, policy("p"), texts.pop())

    monkeypatch.setattr(schemas.Schemas, "check_layers", interrupted)
    with pytest.raises(StoreUnavailable, match="try again"):
        publish(core, TEAM, policy("p"))


# --- roots ------------------------------------------------------------------------------------------------------------


def test_a_new_epoch_brings_the_schema_along(core: Core) -> None:
    publish(core, ACME, by_level("p"), OWN)
    publish(core, TEAM, by_level("t"))
    core.roots.publish(core.admin, "acme", next_root(core, epoch=2))
    assert schema_of(core) == OWN
    assert_everything_fits(core)
