"""What a publish replaces and unshadows, as its publisher is told; held against what the engine makes of the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from akpolicy.engine.compile import CompiledLayer, compile_layer
from akpolicy.engine.slices import SliceCache
from akpolicy.engine.source import PolicyText
from akpolicy.engine.stack import LayerStack
from akpolicy.envelope import PayloadType
from akpolicy.scope import GLOBAL, specificity
from akpolicy.signing import sign_document
from akpolicy_server.orders import EnvelopeOrder, RollbackOrder
from akpolicy_server.replacements import Outlines, Replacements
from tests.unit.server.conftest import Core, order, policy
from tests.unit.server.follower import Follower, current_root

if TYPE_CHECKING:
    from akpolicy.engine.schema import CedarSchema

ACME, TEAM, OTHER_TEAM, USER = "org/acme", "org/acme/team/red", "org/acme/team/blue", "org/acme/user/alice"


def publish(core: Core, scope: str, *permits: str, forbids: tuple[str, ...] = (), **conditions: object) -> Replacements:
    texts = [policy(name) for name in permits] + [policy(name, effect="forbid") for name in forbids]
    return core.publisher.publish(core.admin, order(scope, "".join(texts), **conditions)).replacements


def test_a_policy_replaces_the_permits_with_its_id_in_broader_layers(core: Core) -> None:
    assert publish(core, GLOBAL, "a", "b", forbids=("f",)) == Replacements()
    assert publish(core, ACME, "b", "c", forbids=("f",)) == Replacements(("global/b",))
    assert publish(core, TEAM, "a", "c") == Replacements(("global/a", "org/acme/c"))
    assert publish(core, OTHER_TEAM, "d", forbids=("a",)) == Replacements(("global/a",))
    assert publish(core, USER, "a", "d", "x", forbids=("b",)) == Replacements(
        ("global/a", "global/b", "org/acme/b", "org/acme/team/blue/d", "org/acme/team/red/a")
    )


def test_nothing_of_other_orgs_other_users_or_narrower_layers_is_replaced(core: Core) -> None:
    for scope in ("org/globex", "org/globex/team/red", "org/acme/user/bob", USER):
        publish(core, scope, "a")
    assert publish(core, ACME, "a") == Replacements()
    assert publish(core, TEAM, "a") == Replacements(("org/acme/a",))
    assert publish(core, GLOBAL, "a") == Replacements()
    assert publish(core, "org/acme/user/carol", "a").replaces == ("global/a", "org/acme/a", "org/acme/team/red/a")


def test_what_the_version_before_replaced_and_this_one_does_not_is_unshadowed(core: Core) -> None:
    publish(core, GLOBAL, "a", "b")
    publish(core, ACME, "a", "x")
    assert publish(core, ACME, "b") == Replacements(("global/b",), ("global/a",))
    assert publish(core, ACME, "b") == Replacements(("global/b",))


def test_a_forbid_is_never_replaced_nor_unshadowed(core: Core) -> None:
    publish(core, GLOBAL, forbids=("f",))
    assert publish(core, ACME, "f") == Replacements()
    assert publish(core, ACME, "g") == Replacements()


def test_a_dry_run_says_the_same_and_a_repeat_nothing(core: Core) -> None:
    publish(core, GLOBAL, "a", "b")
    publish(core, ACME, "a")
    expected = Replacements(("global/b",), ("global/a",))
    assert publish(core, ACME, "b", dry_run=True) == expected
    assert publish(core, ACME, "b", idempotency_key="k") == expected
    assert publish(core, ACME, "b", idempotency_key="k") == Replacements()


def test_a_rollback_says_it_too(core: Core) -> None:
    publish(core, GLOBAL, "a", "b")
    publish(core, ACME, "a")
    publish(core, ACME, "b")
    rolled = core.rollbacks.roll_back(core.admin, RollbackOrder(ACME))
    assert rolled.replacements == Replacements(("global/a",), ("global/b",))


def test_so_does_a_bundle_that_was_signed_elsewhere(core: Core) -> None:
    publish(core, GLOBAL, "a", "b")
    publish(core, ACME, "b")
    prepared = core.presigned.prepare(core.admin, order(ACME, policy("a")))
    signer = core.vault.load(current_root(core).bundle_role(ACME).keys[0])  # type: ignore[union-attr]
    signed = sign_document(PayloadType.BUNDLE, prepared.envelope.payload, [signer])
    published = core.presigned.publish(core.admin, EnvelopeOrder(signed, prepared.content))
    assert published.replacements == Replacements(("global/a",), ("global/b",))


def test_a_name_of_an_org_is_no_pattern(core: Core) -> None:
    for org in ("a_c", "abc", "a"):
        core.orgs.create(core.admin, org)
        publish(core, f"org/{org}/team/t", "p")
    assert publish(core, "org/a_c/user/u", "p") == Replacements(("org/a_c/team/t/p",))
    assert publish(core, "org/a/user/u", "p") == Replacements(("org/a/team/t/p",))


def test_what_was_forgotten_is_read_again(core: Core) -> None:
    publish(core, GLOBAL, "a", "b")
    publish(core, ACME, "a", "c")
    core.publisher._outlines = Outlines(max_policies=1)
    assert publish(core, USER, "a", "b", "c").replaces == ("global/a", "global/b", "org/acme/a", "org/acme/c")


# --- against the engine -----------------------------------------------------------------------------------------------

SCOPES: Final = (GLOBAL, ACME, TEAM, USER)
SETS = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["permit", "forbid"]), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(SCOPES), SETS), min_size=1, max_size=6))
def test_what_is_listed_is_what_the_engine_replaces(
    core: Core, schema: CedarSchema, changes: list[tuple[str, dict[str, str]]]
) -> None:
    """For a user of one team: what hosts replaced before the publish, and what they replace after it."""
    host = Follower(core)
    for scope, policies in changes:
        before = _replaced_by(host, scope, schema)
        text = "".join(policy(name, effect=effect) for name, effect in policies.items())
        found = core.publisher.publish(core.admin, order(scope, text)).replacements
        after = _replaced_by(host, scope, schema)
        assert set(found.replaces) == after
        assert set(found.unshadows) == before - after


def _replaced_by(host: Follower, scope: str, schema: CedarSchema) -> set[str]:
    """Return the permits that count no more because of a scope's layer alone."""
    enforced = host.follow().revisions
    broader = [
        _compiled(host, name, schema) for name in SCOPES if specificity(name) < specificity(scope) and name in enforced
    ]
    if scope not in enforced:
        return set()
    found: set[str] = set()
    for layer in broader:
        stack = LayerStack([layer, _compiled(host, scope, schema)], schema, slices=SliceCache())
        # A request of somebody in the team.
        replaced = stack._replaced(0, frozenset({TEAM}), has_other=False)
        found |= {f"{layer.scope}/{name}" for name in replaced}
    return found


def _compiled(host: Follower, scope: str, schema: CedarSchema) -> CompiledLayer:
    texts = zip(host.policies(scope), host.texts(scope), strict=True)
    return compile_layer(scope, [PolicyText(name, text) for name, text in texts], schema)


@pytest.mark.parametrize("scope", [ACME, TEAM, USER])
def test_a_broader_publish_is_not_refused_for_a_narrower_layer(core: Core, scope: str) -> None:
    publish(core, scope, "a")
    assert publish(core, GLOBAL, "a", forbids=("b",)) == Replacements()
