"""Somebody between server and sidecar changes what passes: nothing of it is enforced, and the server is told why."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import dropwhile
from typing import TYPE_CHECKING

import pytest

from akpolicy.cli.demo.middleman import Middleman
from akpolicy.wire import envelope_from_proto, envelope_to_proto
from tests.integration.e2e.world import ORG, World, decided_by, permit
from tests.simulators.distribution import Response
from tests.simulators.org import OrgSimulator
from tests.simulators.tampering import flip_bit
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.e2e.programs import Program
    from tests.simulators.distribution import Tamper

SCOPE = f"org/{ORG}"


@dataclass
class Scene:
    """A world whose sidecar enforces `first` through an honest middleman."""

    world: World
    middleman: Middleman
    published: int = 1

    @property
    def server(self) -> Program:
        assert self.world.server is not None
        return self.world.server

    def publish(self) -> str:
        """Publish a new policy and return its id."""
        self.published += 1
        policy_id = f"policy-{self.published}"
        self.world.publish(permit(policy_id))
        return policy_id

    def count(self, code: str) -> float:
        """Return how many refusals with this code the server has heard of."""
        return self.server.metric("akpolicy_server_nacks_total", code=code)


@pytest.fixture(scope="module")
def stage() -> Iterator[Scene]:
    with World() as world:
        world.init()
        world.start_server()
        world.publish(permit("first"))
        with Middleman(f"127.0.0.1:{world.port}") as between:
            tables = world.sidecar_tables()
            tables["enterprise"]["policy_server"] = f"http://127.0.0.1:{between.port}"
            world.start_sidecar(tables=tables)
            world.wait_decided_by("first")
            yield Scene(world, between)


@pytest.fixture
def scene(stage: Scene) -> Scene:
    """The scene with an honest middleman, and a sidecar that enforces what was published last."""
    stage.middleman.tamper = None
    stage.world.wait_decided_by(stage.publish())
    return stage


def altered_manifest(response: Response) -> list[Response]:
    if response.WhichOneof("message") == "bundle":
        payload = response.bundle.envelope.payload
        response.bundle.envelope.payload = payload.replace(b'"cached_with_expiry"', b'"cached_indefinite"')
    return [response]


def altered_signature(response: Response) -> list[Response]:
    if response.WhichOneof("message") == "bundle":
        signature = response.bundle.envelope.signatures[0]
        signature.signature = flip_bit(signature.signature, 7)
    return [response]


def altered_content(response: Response) -> list[Response]:
    if response.WhichOneof("message") == "chunk":
        response.chunk.data = response.chunk.data.replace(b"permit", b"forbid")
    return [response]


def missing_signature(response: Response) -> list[Response]:
    if response.WhichOneof("message") == "bundle":
        del response.bundle.envelope.signatures[:]
    return [response]


def own_signature(response: Response) -> list[Response]:
    """Sign the server's manifest with another org's keys."""
    if response.WhichOneof("message") == "bundle":
        genuine = envelope_from_proto(response.bundle.envelope)
        forged = OrgSimulator(ORG).sign_manifest(genuine.payload)
        response.bundle.envelope.CopyFrom(envelope_to_proto(forged))
    return [response]


@pytest.mark.parametrize(
    ("tamper", "code"),
    [
        (altered_manifest, "SignatureInvalid"),
        (altered_signature, "SignatureInvalid"),
        (altered_content, "ContentDigestMismatch"),
        (missing_signature, "EnvelopeMalformed"),
        (own_signature, "UnknownKey"),
    ],
)
def test_a_changed_update_is_refused_with_its_code_and_what_was_enforced_stays(
    scene: Scene, tamper: Tamper, code: str
) -> None:
    world, sidecar = scene.world, scene.world.sidecars["host-1"]
    before, state, heard, changed = world.ask(), world.state(), scene.count(code), scene.middleman.changed
    refused = sidecar.metric("akpolicy_sidecar_update_refusals_total", code=code)
    scene.middleman.tamper = tamper
    scene.publish()

    wait_until(lambda: scene.count(code) == heard + 1, what=code)
    assert scene.middleman.changed == changed + 1
    after = world.ask()
    assert (decided_by(after), after.bundles) == (decided_by(before), before.bundles)
    assert world.state() == state
    assert sidecar.metric("akpolicy_sidecar_update_refusals_total", code=code) == refused + 1
    assert sidecar.wait_for_record("update refused", code=code)["subject"] == SCOPE
    told = [("host-1", SCOPE, scene.published, code)]
    wait_until(lambda: refusals(world) == told, what="the refusal in the database")

    # What the middleman lets pass is enforced again, and the refusal is history.
    scene.middleman.tamper = None
    world.wait_decided_by(scene.publish())
    wait_until(lambda: refusals(world) == [], what="an empty list of refusals")


def refusals(world: World) -> list[tuple[str, str, int, str]]:
    """Return what hosts refused, as the server's database has it."""
    database = world.directory / "server" / "data" / "akpolicy.sqlite3"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT host_id, scope, version, code FROM host_nacks").fetchall()


def test_a_replayed_older_update_is_refused(scene: Scene) -> None:
    recorded: list[Response] = []

    def record(response: Response) -> list[Response]:
        if response.WhichOneof("message") in {"bundle", "chunk"}:
            recorded.append(Response.FromString(response.SerializeToString()))
        return [response]

    def replay(response: Response) -> list[Response]:
        if response.WhichOneof("message") == "bundle":
            update = Response.FromString(recorded[0].SerializeToString())
            # The server takes answers to its own updates only.
            update.bundle.nonce = response.bundle.nonce
            return [update]
        return recorded[1:] if response.WhichOneof("message") == "chunk" else [response]

    scene.middleman.tamper = record
    scene.world.wait_decided_by(scene.publish())
    scene.middleman.tamper = None
    assert [r.WhichOneof("message") for r in recorded] == ["bundle", "chunk"]
    newest = scene.publish()
    scene.world.wait_decided_by(newest)

    heard = scene.count("RollbackDetected")
    scene.middleman.tamper = replay
    scene.publish()
    wait_until(lambda: scene.count("RollbackDetected") == heard + 1, what="RollbackDetected")
    assert decided_by(scene.world.ask()) == newest


def test_a_host_that_sees_the_middlemans_root_first_believes_neither_root_nor_bundle(world: World) -> None:
    world.init()
    world.start_server()
    world.publish(permit("first"))
    attacker = OrgSimulator(ORG)

    def other_root(response: Response) -> list[Response]:
        if response.WhichOneof("message") == "root":
            response.root.envelope.CopyFrom(envelope_to_proto(attacker.root_envelope()))
        return [response]

    with Middleman(f"127.0.0.1:{world.port}", other_root) as between:
        tables = world.sidecar_tables()
        tables["enterprise"]["policy_server"] = f"http://127.0.0.1:{between.port}"
        sidecar = world.start_sidecar(tables=tables)
        sidecar.wait_for_record("update refused", subject="root", code="RootUnanchored")
        sidecar.wait_for_record("update refused", subject=SCOPE, code="RootMissing")
        assert decided_by(world.ask()) == "NO_POLICY"
        assert sidecar.readiness()[0] == 503


@pytest.mark.slow
def test_a_host_whose_update_is_withheld_denies_once_the_last_heartbeat_that_vouched_for_it_has_expired(
    world: World,
) -> None:
    world.init()
    world.server_tables["server"]["heartbeat_lifetime_seconds"] = 3
    world.start_server()
    world.publish(permit("first"))

    def withhold(response: Response) -> list[Response]:
        return [] if response.WhichOneof("message") in {"bundle", "chunk"} else [response]

    with Middleman(f"127.0.0.1:{world.port}") as between:
        tables = world.sidecar_tables()
        tables["enterprise"] |= {"policy_server": f"http://127.0.0.1:{between.port}", "offline_mode": "fail_closed"}
        sidecar = world.start_sidecar(tables=tables)
        assert world.wait_decided_by("first").fresh
        between.tamper = withhold
        world.publish(permit("second"))

        denied = world.wait_decided_by("POLICY_STALE")
        assert (denied.fresh, denied.stalest_layer, denied.source.value) == (False, SCOPE, "cache")
        status, ready = sidecar.readiness()
        assert (status, ready["trouble"], ready["fresh"]) == (503, "PolicyStale", False)
        assert sidecar.metric("akpolicy_sidecar_fresh") == 0
        # At the second at which the heartbeat that vouched last expired, and not before.
        vouched_until = world.freshness()[SCOPE]["expires_at"]
        decisions = [(datetime.fromisoformat(r["timestamp"]).timestamp(), r["reason"]) for r in world.audited()]
        # Before its first heartbeat a host denies too: for a moment it has a bundle that nobody has vouched for.
        vouched = dropwhile(lambda decision: decision[1] in {"NO_POLICY", "POLICY_STALE"}, decisions)
        assert [at for at, reason in vouched if (reason == "POLICY_STALE") != (at >= vouched_until)] == []

        between.tamper = None
        assert world.wait_decided_by("second").fresh
