"""Schemas of orgs: what hosts need is there, and what is missing is said."""

from __future__ import annotations

import pytest

from akpolicy.engine.check import check_policies
from akpolicy.engine.host_schema import MAX_ACTIONS, check_host_schema, read_host_schema
from akpolicy.engine.schema import load_default_schema
from akpolicy.engine.source import PolicyText
from akpolicy.errors import SchemaInvalid, SchemaUnsupported
from akpolicy.freeze import FREEZE_POLICY, FREEZE_POLICY_ID
from tests.simulators.messages import check_text
from tests.simulators.schemas import OTHER, OWN, PACKAGED, SMALLER, changed

SOURCED = "appliesTo { principal: [User], resource: [Sandbox], context: { source: String } };"


def test_the_packaged_schema_has_what_hosts_need() -> None:
    check_host_schema(load_default_schema())


@pytest.mark.parametrize(
    "text",
    [
        OWN,
        OTHER,
        SMALLER,
        changed("email: String,", "email?: String,"),
        changed("entity Org;", "entity Org { tier?: String };"),
        changed(
            "action Exec", 'action All; action "an \\"odd\\" \\\\ name\\n" in [All] ' + SOURCED + "\n  action Exec"
        ),
        PACKAGED + "\nnamespace Other { entity A; action go appliesTo { principal: [A], resource: [A] }; }",
    ],
)
def test_what_hosts_do_not_care_about_is_the_orgs_own_affair(text: str) -> None:
    schema = read_host_schema(text)
    assert check_policies([PolicyText(FREEZE_POLICY_ID, FREEZE_POLICY)], schema) == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (changed("email: String,", ""), "`principal.email` is unknown"),
        (changed("email: String,", "email: Long,"), "`principal.email` must be a Long"),
        (changed("email: String,", "email: String, level: Long,"), "`principal.level` is missing"),
        (changed("teams?:", "teams:"), "`principal.teams` is missing"),
        (changed("teams?: Set<String>,", ""), "`principal.teams` is unknown"),
        (changed("roles: Set<String>", "roles: Set<Long>"), "`principal.roles` must be a Long"),
        (changed("mfa_verified: Bool", "mfa?: Bool"), "`principal.mfa_verified` is unknown"),
        (changed("entity Team in [Org];", "entity Team;"), "a team in `Org`"),
        (changed("entity User in [Team, Org]", "entity User in [Org]"), "a user is in `Team`"),
        (changed("entity Org;", "entity Org { tier: String };"), "`resource.tier` is missing"),
        (changed("namespace AgentKernel", "namespace Other"), "unknown type `AgentKernel::User`"),
        ("entity A;", "unknown type `AgentKernel::User`"),
    ],
)
def test_a_schema_without_what_hosts_build_is_refused(text: str, says: str) -> None:
    with pytest.raises(SchemaUnsupported) as refusal:
        read_host_schema(text)
    assert says in refusal.value.message
    assert "keep `entity Org;" in refusal.value.message
    check_text(refusal.value.message)


@pytest.mark.parametrize("context", ["{}", "{ source?: String }", "{ source: Long }", "{ source: Set<String> }"])
def test_an_action_whose_context_has_no_place_for_its_source_is_refused(context: str) -> None:
    action = f"action Deploy appliesTo {{ principal: [User], resource: [Sandbox], context: {context} }};\n  action Exec"
    with pytest.raises(
        SchemaUnsupported, match=r'the context of `AgentKernel::Action::"Deploy"` lacks `source: String`'
    ):
        read_host_schema(changed("action Exec", action))


def test_a_schema_by_which_nothing_can_be_asked_is_refused() -> None:
    entities = PACKAGED[: PACKAGED.index("  // `source` is set by the sidecar")] + "  action Group;\n}"
    with pytest.raises(SchemaUnsupported, match="no action that can be asked for"):
        read_host_schema(entities)


def test_the_number_of_actions_is_bounded() -> None:
    def with_actions(count: int) -> str:
        names = ", ".join(f"a{number}" for number in range(count))
        return PACKAGED[: PACKAGED.index("  // `source` is set by the sidecar")] + f"  action {names} {SOURCED}\n}}"

    read_host_schema(with_actions(MAX_ACTIONS))
    with pytest.raises(SchemaUnsupported, match=f"has {MAX_ACTIONS + 1} actions"):
        read_host_schema(with_actions(MAX_ACTIONS + 1))


def test_what_is_no_schema_is_refused() -> None:
    with pytest.raises(SchemaInvalid):
        read_host_schema("nonsense")
