"""One request in, one decision and one audit line out."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest
from google.protobuf import json_format

from akpolicy.bundle import OfflineMode
from akpolicy.clock import Moment
from akpolicy.decision import BundleVersion, Decision, PolicySource, Reason
from akpolicy.engine.compile import compile_layer
from akpolicy.engine.default_policy import load_default_layer
from akpolicy.engine.request import AuthorizationRequest, Principal, Resource
from akpolicy.engine.schema import load_default_schema
from akpolicy.engine.source import PolicyText
from akpolicy.errors import RequestInvalid
from akpolicy.trusted_time import TimeProof
from akpolicy.v1 import audit_pb2
from akpolicy_sidecar.authorizer import Authorizer, decision_id
from akpolicy_sidecar.freshness import Confirmation, Freshness
from akpolicy_sidecar.link import LinkHolder
from akpolicy_sidecar.offline import OfflineRule
from akpolicy_sidecar.snapshot import Layer, Snapshot, SnapshotHolder
from akpolicy_sidecar.view import Viewer
from tests.simulators.clock import ManualClock

SCHEMA = load_default_schema()
DAY = 86_400.0
LIFE = 300
EXPIRY = 1_900_000_000
PERMIT = 'permit (principal, action, resource) when { principal.roles.contains("developer") };'
FORBID = (
    'forbid (principal, action == AgentKernel::Action::"Attach", resource is AgentKernel::Sandbox)'
    ' when { resource.name == "locked" };'
)

REQUEST = AuthorizationRequest(
    Principal("alice", "acme", roles=("developer",)),
    "Attach",
    Resource("box", attributes={"agent_type": "claude", "runtime": "python"}),
)


class Scene:
    """An authorizer with one layer that a heartbeat just vouched for, and what it recorded."""

    def __init__(self, mode: str = "cached_with_expiry", *, default_roles: tuple[str, ...] = ()) -> None:
        rule = OfflineRule(OfflineMode(mode), DAY)
        texts = [PolicyText("dev", PERMIT), PolicyText("locked", FORBID)]
        layer = Layer(compile_layer("org/acme", texts, SCHEMA), BundleVersion("org/acme", 1, 4, "a" * 64), EXPIRY, rule)
        self.clock = ManualClock()
        moment, now = Moment.read(self.clock), int(self.clock.now())
        seen = Confirmation(now, now + LIFE)
        self.snapshots = SnapshotHolder(
            Snapshot.build(
                [layer],
                local=rule,
                freshness=Freshness({"org/acme": seen}, seen),
                proof=TimeProof(float(now), moment),
            )
        )
        self.links = LinkHolder()
        self.links.proven(moment)
        self.lines: list[dict[str, object]] = []
        self.observed: list[Decision] = []
        self.authorizer = Authorizer(
            org="acme",
            default_roles=default_roles,
            schema=SCHEMA,
            default_layer=load_default_layer(SCHEMA),
            clock=self.clock,
            viewer=Viewer(self.clock, self.snapshots, self.links),
            audit=lambda line: self.lines.append(json.loads(line)),
            observe=lambda decision, _: self.observed.append(decision),
        )

    def ask(self, request: AuthorizationRequest = REQUEST) -> Decision:
        return self.authorizer.authorize(request)


def locked(request: AuthorizationRequest = REQUEST) -> AuthorizationRequest:
    return replace(request, resource=replace(request.resource, id="locked"))


def test_a_decision_names_policy_bundle_mode_source_and_age() -> None:
    scene = Scene()
    scene.clock.advance(2)

    decision = scene.ask()

    assert decision.allowed
    assert decision.reason is Reason.PERMITTED
    assert [(p.scope, p.policy_id) for p in decision.determining] == [("org/acme", "dev")]
    assert decision.bundles == (BundleVersion("org/acme", 1, 4, "a" * 64),)
    assert (decision.mode, decision.source) == (OfflineMode.CACHED_WITH_EXPIRY, PolicySource.LIVE)
    assert decision.policy_age_ms == 2000
    assert (decision.fresh, decision.stalest_layer) == (True, "org/acme")
    assert scene.observed == [decision]


def test_a_request_of_another_org_is_denied() -> None:
    for request in (
        replace(REQUEST, principal=replace(REQUEST.principal, org_id="other")),
        replace(REQUEST, resource=replace(REQUEST.resource, org_id="other")),
    ):
        scene = Scene()

        assert scene.ask(request).reason is Reason.FOREIGN_ORG
        assert "other" in f"{scene.lines[0]['principal']}{scene.lines[0]['resource']}"


def test_without_policy_the_answer_is_a_denial_and_no_error() -> None:
    scene = Scene()
    scene.snapshots.current = Snapshot.build((), local=OfflineRule(OfflineMode.FAIL_CLOSED, 0))

    decision = scene.ask()

    assert (decision.reason, decision.source, decision.bundles) == (Reason.NO_POLICY, PolicySource.NONE, ())


def test_stale_policy_denies_what_it_would_permit() -> None:
    scene = Scene()
    scene.links.lost()
    scene.clock.advance(DAY + 1)

    assert scene.ask().reason is Reason.POLICY_STALE


def test_an_expired_bundle_denies_what_it_would_permit() -> None:
    scene = Scene("cached_indefinite")
    scene.clock.advance(EXPIRY - scene.clock.now())

    assert scene.ask().reason is Reason.BUNDLE_EXPIRED


@pytest.mark.parametrize("seconds", [-DAY, DAY])
def test_a_clock_that_is_not_believed_denies_what_policy_would_permit(seconds: float) -> None:
    scene = Scene("cached_indefinite")
    scene.clock.set_wall(scene.clock.now() + seconds)

    decision = scene.ask()

    assert (decision.reason, decision.allowed) == (Reason.CLOCK_UNTRUSTED, False)
    assert (decision.policy_age_ms, decision.fresh) == (-1, False)


def test_a_decision_by_policy_that_is_not_fresh_says_so() -> None:
    scene = Scene()
    scene.clock.advance(LIFE)

    decision = scene.ask()

    assert (decision.allowed, decision.source, decision.fresh) == (True, PolicySource.CACHE, False)
    assert (decision.policy_age_ms, decision.stalest_layer) == (LIFE * 1000, "org/acme")
    assert scene.lines[0]["fresh"] is False


def test_under_the_default_policy_the_forbids_stay_and_the_permits_do_not() -> None:
    scene = Scene("default_policy")
    scene.links.lost()
    scene.clock.advance(DAY + 1)

    attach, create, forbidden = scene.ask(), scene.ask(replace(REQUEST, action="Create")), scene.ask(locked())

    assert (attach.allowed, attach.source, attach.deciding_layer) == (True, PolicySource.DEFAULT, "default")
    assert create.reason is Reason.NO_PERMIT
    assert (forbidden.reason, forbidden.deciding_layer) == (Reason.FORBIDDEN, "org/acme")


def test_a_principal_without_roles_has_the_default_roles() -> None:
    request = replace(REQUEST, principal=replace(REQUEST.principal, roles=()))

    assert not Scene().ask(request).allowed
    assert Scene(default_roles=("developer",)).ask(request).allowed


def test_default_roles_are_not_added_to_stated_ones() -> None:
    request = replace(REQUEST, principal=replace(REQUEST.principal, roles=("viewer",)))

    assert not Scene(default_roles=("developer",)).ask(request).allowed


@pytest.mark.parametrize(
    "request_",
    [
        replace(REQUEST, action=""),
        replace(REQUEST, action="Fly"),
        replace(REQUEST, principal=Principal("", "acme")),
        replace(REQUEST, principal=Principal("alice", "")),
        replace(REQUEST, resource=Resource("box")),
        replace(REQUEST, context={"source": "sandbox"}),
    ],
)
def test_a_request_that_cannot_be_judged_is_refused_and_not_recorded(request_: AuthorizationRequest) -> None:
    scene = Scene()

    with pytest.raises(RequestInvalid):
        scene.ask(request_)

    assert scene.lines == []


def test_the_view_of_a_batch_holds_although_policy_changes() -> None:
    scene = Scene()
    view = scene.authorizer.view()
    scene.snapshots.current = Snapshot.build((), local=OfflineRule(OfflineMode.FAIL_CLOSED, 0))

    assert scene.authorizer.authorize(REQUEST, view).allowed
    assert not scene.ask().allowed


# --- the record -------------------------------------------------------------------------------------------------------


def test_each_decision_has_one_record_with_its_id_and_the_fields_of_the_message() -> None:
    scene = Scene()

    decisions = [scene.ask(), scene.ask(locked())]

    assert [line["decision_id"] for line in scene.lines] == [d.decision_id for d in decisions]
    for line in scene.lines:
        record = json_format.ParseDict(line, audit_pb2.DecisionRecord())
        assert set(line) == {field.name for field in record.DESCRIPTOR.fields}


def test_a_record_says_who_what_and_why() -> None:
    scene = Scene()
    scene.ask()
    scene.ask(locked())

    permit, denial = scene.lines
    assert permit["timestamp"] == "2027-01-15T08:00:00.000000Z"
    assert (permit["decision"], permit["severity_id"], permit["status_id"]) == ("Permit", 1, 1)
    assert (denial["decision"], denial["severity_id"], denial["status_id"]) == ("Deny", 3, 2)
    assert (denial["principal"], denial["resource"]) == ("acme/local/alice", "acme/locked")
    assert (denial["action"], denial["sandbox"], denial["reason"]) == ("Attach", "locked", "FORBIDDEN")
    assert denial["matched_policies"] == ["org/acme/locked"]
    assert denial["policy_versions"] == {"org/acme": 4}
    assert (denial["mode"], denial["source"], denial["fresh"]) == ("cached_with_expiry", "live", True)


def test_decision_ids_are_uuids_of_version_7_in_the_order_of_time() -> None:
    ids = [decision_id(1_800_000_000 + n) for n in range(20)]

    assert ids == sorted(ids)
    for text in ids:
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert uuid.UUID(ids[0]).int >> 80 == 1_800_000_000_000


def test_decision_ids_of_one_moment_differ() -> None:
    assert len({decision_id(1_800_000_000.0) for _ in range(1000)}) == 1000
