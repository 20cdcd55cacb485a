"""Publishing: versions, conditions, repeats, and what hosts will make of it."""

from __future__ import annotations

import random
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from akpolicy.bundle import ContentReference, OfflineMode, examine_content
from akpolicy.engine.files import PolicyFile, examine
from akpolicy.errors import (
    IdempotencyKeyReused,
    InvalidField,
    KeyFileError,
    KeyNotAuthorised,
    OrgNotFound,
    PermissionDenied,
    PolicySetInvalid,
    RevisionNotFound,
    RootExpired,
    SignersMissing,
    TooManyPolicies,
    Unauthenticated,
    VersionConflict,
)
from akpolicy.keys import AnchorSet, TrustAnchor, parse_anchor
from akpolicy.trust import Judge
from akpolicy_server.access import Caller, Role
from akpolicy_server.history import MAX_PAGE_SIZE
from akpolicy_server.orders import PublishOrder, Sources
from akpolicy_server.store.blobs import load_blob
from akpolicy_server.store.revisions import current_revision
from akpolicy_server.store.roots import roots_after
from tests.unit.server.conftest import order, policy
from tests.unit.server.follower import current_root, next_root, with_role

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.engine.check import Check
    from akpolicy.engine.files import Findings
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.trust import VerifiedBundle
    from akpolicy_server.store.revisions import RevisionRecord
    from tests.unit.server.conftest import Core


def _believed(core: Core, org: str, *revisions: RevisionRecord) -> list[VerifiedBundle]:
    """Take the revisions as a host of the org would, in order."""
    judge = Judge(org, AnchorSet((TrustAnchor(parse_anchor(core.anchors[org])),)))
    bundles = []
    with core.database.read() as connection:
        for root in roots_after(connection, org, 0):
            judge.trust_root(root.envelope, core.clock.now())
        for revision in revisions:
            manifest = judge.judge_manifest(revision.envelope, core.clock.now())
            bundles.append(judge.judge_content(manifest, load_blob(connection, revision.content_digest)))
            judge.advance(bundles[-1])
    return bundles


def test_a_host_believes_what_was_published(core: Core) -> None:
    first = core.publisher.publish(core.admin, order("org/acme", policy("a") + policy("b"))).revision
    second = core.publisher.publish(core.admin, order("org/acme", policy("a", roles="admin"))).revision
    bundles = _believed(core, "acme", first, second)
    assert [bundle.manifest.version for bundle in bundles] == [1, 2]
    assert [bundle.manifest.min_version for bundle in bundles] == [1, 1]
    contents = [bundle.content for bundle in bundles]
    assert [[p.id for p in content.content.policies] for content in contents if content] == [["a", "b"], ["a"]]
    assert core.announced == ["acme", "acme"]


def test_every_orgs_hosts_believe_the_global_layer(core: Core) -> None:
    revision = core.publisher.publish(core.admin, order("global", policy("everyone"))).revision
    for org in ("acme", "globex"):
        assert _believed(core, org, revision)[0].manifest.scope == "global"


def test_the_manifest_says_what_was_asked(core: Core) -> None:
    asked = order(
        "org/acme",
        policy("p"),
        offline_mode=OfflineMode.FAIL_CLOSED,
        offline_max_age_s=60,
        lifetime_s=3600,
        no_rollback=True,
        message="why",
    )
    core.publisher.publish(core.admin, order("org/acme", policy("p")))
    revision = core.publisher.publish(core.admin, asked).revision
    manifest = _believed(core, "acme", revision)[0].manifest
    assert (manifest.offline.mode, manifest.offline.max_age_s) == ("fail_closed", 60)
    assert manifest.expires_at - manifest.issued_at == 3600
    assert manifest.min_version == manifest.version == 2
    assert revision.message == "why"
    assert revision.published_by == core.admin.key_id


def test_defaults_are_thirty_days_and_a_day_of_cache(core: Core) -> None:
    revision = core.publisher.publish(core.admin, order("org/acme", policy("p"))).revision
    manifest = _believed(core, "acme", revision)[0].manifest
    assert manifest.expires_at - manifest.issued_at == 30 * 86_400
    assert (manifest.offline.mode, manifest.offline.max_age_s) == ("cached_with_expiry", 86_400)


def test_an_expected_version_that_is_not_current_is_refused_with_the_current_one(core: Core) -> None:
    core.publisher.publish(core.admin, order("org/acme", policy("p"), expected_version=0))
    with pytest.raises(VersionConflict, match="at version 1, not at 0") as caught:
        core.publisher.publish(core.admin, order("org/acme", policy("q"), expected_version=0))
    assert caught.value.current == 1
    assert core.publisher.publish(core.admin, order("org/acme", policy("q"), expected_version=1)).revision.version == 2


def test_a_repeat_gets_the_first_answer_and_announces_nothing(core: Core) -> None:
    asked = partial(order, "org/acme", policy("p"), idempotency_key="change-1", expected_version=0)
    first = core.publisher.publish(core.admin, asked())
    core.publisher.publish(core.admin, order("org/acme", policy("q")))
    core.clock.advance(60)
    again = core.publisher.publish(core.admin, asked())
    assert (first.repeated, again.repeated) == (False, True)
    assert again.revision == first.revision
    assert core.announced == ["acme", "acme"]
    assert core.history.get(core.admin, "org/acme", 0)[0].version == 2


def test_the_files_of_an_order_are_taken_over_once(core: Core) -> None:
    asked = order("org/acme", policy("p"))
    core.publisher.publish(core.admin, asked)
    with pytest.raises(RuntimeError, match="taken over before"):
        core.publisher.publish(core.admin, asked)
    assert core.history.get(core.admin, "org/acme", 0)[0].version == 1


@pytest.mark.parametrize(
    "other",
    [
        partial(order, "org/acme", policy("other")),
        partial(order, "org/acme", policy("p"), message="another"),
        partial(order, "org/acme", policy("p"), no_rollback=True),
        partial(order, "org/acme", policy("p"), expected_version=1),
        partial(order, "org/globex", policy("p")),
        lambda **given: PublishOrder("org/acme", Sources([PolicyFile("renamed.cedar", policy("p").encode())]), **given),
    ],
)
def test_an_idempotency_key_belongs_to_one_change(core: Core, other: Callable[..., PublishOrder]) -> None:
    core.publisher.publish(core.admin, order("org/acme", policy("p"), idempotency_key="k"))
    with pytest.raises(IdempotencyKeyReused, match="made version 1 of `org/acme`"):
        core.publisher.publish(core.admin, other(idempotency_key="k"))


def test_orgs_do_not_meet_in_idempotency_keys(core: Core) -> None:
    for org in ("acme", "globex"):
        asked = order(f"org/{org}", policy("p"), idempotency_key="same")
        assert not core.publisher.publish(core.publisher_of(org), asked).repeated


def test_a_refused_publish_leaves_no_trace(core: Core) -> None:
    asked = order("org/acme", policy("p") + "permit (", idempotency_key="k")
    with pytest.raises(PolicySetInvalid):
        core.publisher.publish(core.admin, asked)
    with pytest.raises(RevisionNotFound):
        core.history.get(core.admin, "org/acme", 0)
    assert core.publisher.publish(core.admin, order("org/acme", policy("p"), idempotency_key="k")).revision.version == 1


def test_a_lost_signing_key_is_said_and_nothing_is_published(core: Core) -> None:
    role = current_root(core).bundle_role("org/acme")
    assert role is not None
    path = core.vault.path(role.keys[0])
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        core.publisher.publish(core.admin, order("org/acme", policy("p")))
    path.unlink()
    with pytest.raises(SignersMissing, match=r"1 of 1 keys must sign .*`org/acme`.* holds 0 .*--unsigned"):
        core.publisher.publish(core.admin, order("org/acme", policy("p")))
    assert core.announced == []


def test_the_longest_lifetime_is_granted_until_the_root_expires(core: Core) -> None:
    core.clock.advance(364 * 86_400)
    revision = core.publisher.publish(core.admin, order("org/acme", policy("p"), lifetime_s=366 * 86_400)).revision
    assert revision.expires_at - core.clock.now() == 366 * 86_400
    core.clock.advance(2 * 86_400)
    with pytest.raises(RootExpired):
        core.publisher.publish(core.admin, order("org/acme", policy("p")))


def test_an_org_whose_root_has_expired_does_not_keep_the_others_from_a_new_global(core: Core) -> None:
    core.clock.advance(364 * 86_400)
    core.orgs.create(core.admin, "late")
    core.clock.advance(2 * 86_400)
    assert core.publisher.publish(core.admin, order("global", policy("p"))).revision.version == 1


@pytest.mark.parametrize(
    "conditions",
    [
        {"idempotency_key": "x" * 129},
        {"idempotency_key": "two\nlines"},
        {"idempotency_key": "ä"},
        {"message": "x" * 1001},
        {"message": "\0"},
        {"lifetime_s": 367 * 86_400},
        {"offline_max_age_s": 367 * 86_400},
        {"expected_version": 2**63},
    ],
)
def test_fields_out_of_bounds_are_refused(core: Core, conditions: dict[str, object]) -> None:
    with pytest.raises(InvalidField, match=next(iter(conditions))):
        core.publisher.publish(core.admin, order("org/acme", policy("p"), **conditions))


def test_reach_is_judged_before_existence(core: Core) -> None:
    with pytest.raises(PermissionDenied):
        core.publisher.publish(core.publisher_of("acme"), order("org/nobody", policy("p")))
    with pytest.raises(OrgNotFound):
        core.publisher.publish(core.admin, order("org/nobody", policy("p")))
    with pytest.raises(OrgNotFound):
        core.publisher.validate(core.admin, "org/nobody", Sources([]))


def test_a_hosts_key_does_not_publish(core: Core) -> None:
    with pytest.raises(PermissionDenied, match="cannot publish"):
        core.publisher.publish(Caller("k", Role.HOST, "acme", "h"), order("org/acme", policy("p")))


def test_history_comes_in_pages_newest_first(core: Core) -> None:
    for number in range(5):
        core.publisher.publish(core.admin, order("org/acme", policy(f"p{number}"), message=f"change {number}"))
    token, versions = "", []
    while True:
        page = core.history.page(core.admin, "org/acme", page_size=2, token=token)
        versions.append([revision.version for revision in page.revisions])
        token = page.next_token
        if not token:
            break
    assert versions == [[5, 4], [3, 2], [1]]
    assert len(core.history.page(core.admin, "org/acme", page_size=10 * MAX_PAGE_SIZE, token="").revisions) == 5


@pytest.mark.parametrize("token", ["x", "1", "s0", "s-1", "s1; DROP", "s" + "9" * 30])
def test_a_page_token_that_was_never_given_is_refused(core: Core, token: str) -> None:
    with pytest.raises(InvalidField):
        core.history.page(core.admin, "org/acme", page_size=0, token=token)


def test_any_revision_can_be_read_with_its_policies(core: Core) -> None:
    core.publisher.publish(core.admin, order("org/acme", policy("a") + "// why\n" + policy("b")))
    core.publisher.publish(core.admin, order("org/acme", policy("c")))
    revision, policies, _ = core.history.get(core.admin, "org/acme", 1)
    assert revision.version == 1
    assert [entry.id for entry in policies] == ["a", "b"]
    assert "// why" in policies[1].text
    assert [entry.id for entry in core.history.get(core.admin, "org/acme", 0)[1]] == ["c"]
    for missing in (3, 2**60):
        with pytest.raises(RevisionNotFound):
            core.history.get(core.admin, "org/acme", missing)


# --- properties -------------------------------------------------------------------------------------------------------


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(["org/acme", "org/globex", "global"]), st.booleans()), max_size=8))
def test_a_host_can_follow_any_sequence_of_publishes(core: Core, changes: list[tuple[str, bool]]) -> None:
    published = [
        core.publisher.publish(core.admin, order(scope, policy(f"p{number}"), no_rollback=no_rollback)).revision
        for number, (scope, no_rollback) in enumerate(changes)
    ]
    for org in ("acme", "globex"):
        revisions = [revision for revision in published if revision.scope in ("global", f"org/{org}")]
        bundles = _believed(core, org, *revisions)
        assert all(b.manifest.min_version <= b.manifest.version for b in bundles)


@pytest.mark.parametrize("seed", range(3))
def test_concurrent_publishers_make_gapless_versions_and_each_expected_version_wins_once(core: Core, seed: int) -> None:
    chance = random.Random(seed)
    plans = [[chance.random() < 0.5 for _ in range(8)] for _ in range(4)]
    won: list[tuple[int, int | None]] = []
    lost: list[int] = []

    def work(number: int, plan: list[bool]) -> None:
        for step, conditional in enumerate(plan):
            expected = None
            if conditional:
                page = core.history.page(core.admin, "org/acme", page_size=1, token="").revisions
                expected = page[0].version if page else 0
            asked = order("org/acme", policy(f"p{number}-{step}"), expected_version=expected)
            try:
                won.append((core.publisher.publish(core.admin, asked).revision.version, expected))
            except VersionConflict as conflict:
                lost.append(conflict.current)

    threads = [threading.Thread(target=work, args=entry) for entry in enumerate(plans)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    versions = sorted(version for version, _ in won)
    assert versions == list(range(1, len(versions) + 1))
    assert len(won) + len(lost) == sum(len(plan) for plan in plans)
    assert all(version == expected + 1 for version, expected in won if expected is not None)
    stored = core.history.page(core.admin, "org/acme", page_size=500, token="").revisions
    assert [revision.version for revision in stored] == versions[::-1]


def test_concurrent_repeats_of_one_request_publish_once(core: Core) -> None:
    asked = partial(order, "org/acme", policy("p"), idempotency_key="once")
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(core.publisher.publish(core.admin, asked()))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.revision.version for answer in answers} == {1}
    assert sorted(answer.repeated for answer in answers) == [False] + [True] * 5
    assert core.announced == ["acme"]


def test_a_permit_of_a_scope_that_may_only_forbid_is_refused_and_a_forbid_is_published(core: Core) -> None:
    bundle_key = core.vault.load(current_root(core).bundle_role("org/acme").keys[0]).public_key  # type: ignore[union-attr]
    roles = with_role(core, "acme", "bundle", "org/acme", bundle_key, grants=False)
    core.roots.publish(core.admin, "acme", next_root(core, roles=roles))
    with pytest.raises(KeyNotAuthorised, match="hosts of the org `acme` would refuse it: policy `b` permits"):
        core.publisher.publish(core.admin, order("org/acme", policy("a", effect="forbid") + policy("b")))
    published = core.publisher.publish(core.admin, order("org/acme", policy("a", effect="forbid")))
    assert published.revision.version == 1


def test_a_key_that_is_revoked_while_its_policies_are_checked_publishes_nothing(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = core.publisher_of("acme")

    def check_slowly(cut: Findings, schema: CedarSchema, check: Check) -> Findings:
        core.api_keys.revoke(core.admin, caller.key_id)
        return examine(cut, schema, check)

    monkeypatch.setattr("akpolicy_server.intake.examine", check_slowly)
    with pytest.raises(Unauthenticated, match="revoked"):
        core.publisher.publish(caller, order("org/acme", policy("p")))
    assert core.announced == []
    with core.database.read() as connection:
        assert current_revision(connection, "org/acme") is None


def test_content_is_opened_before_other_writers_have_to_wait(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def examine_and_write(blob: bytes, reference: ContentReference) -> None:
        # Another write meanwhile, if none is under way.
        if not core.database._write_lock.locked():
            core.publisher_of("acme")
            opened.append(reference.policies)
        examine_content(blob, reference)

    monkeypatch.setattr("akpolicy_server.judging.examine_content", examine_and_write)
    core.publisher.publish(core.admin, order("global", policy("a") + policy("b")))
    assert opened == [2]


def test_content_that_no_host_would_open_is_not_published(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("akpolicy.bundle.MAX_POLICIES", 1)
    with pytest.raises(TooManyPolicies):
        core.publisher.publish(core.admin, order("org/acme", policy("a") + policy("b")))
    assert core.announced == []
