"""What is current, over real connections: roots, rollbacks, freezes, renewals, heartbeats reach hosts as one state."""

from __future__ import annotations

import json
from dataclasses import astuple
from functools import partial
from typing import TYPE_CHECKING

import grpc
import pytest

from akpolicy.bundle import Manifest
from akpolicy.client.publishing_types import PublishTerms, RevisionKind
from akpolicy.engine.files import PolicyFile
from akpolicy.envelope import PayloadType, SignedEnvelope
from akpolicy.errors import ServerRefused
from akpolicy.root import Root
from akpolicy.signing import PrivateKeySigner, create_key_file
from akpolicy.strict_json import load
from akpolicy.v1 import distribution_pb2 as dist
from akpolicy_server.renewal import Renewal
from akpolicy_server.store.hosts import HostKey, HostNack, find_host, refused_by
from tests.integration.server.conftest import ANY_PORT, live_server, policy
from tests.integration.server.judged import JudgedHost, files, judged, next_root, refusals, root_fields
from tests.integration.server.test_operations import _value as metric
from tests.simulators.org import sign
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from akpolicy.client.publishing import PublishingClient
    from tests.integration.server.conftest import LiveServer

ACME = "org/acme"
HOST = HostKey("acme", "host-1")


def with_new_bundle_key(client: PublishingClient, server: LiveServer) -> SignedEnvelope:
    """Return acme's next root: a new online key in place of the one that signs its bundles."""
    newest = client.roots("acme", newest_only=True)[0].envelope
    fields = root_fields(newest)
    made = client.create_online_key("acme", "bundle")
    window = next(iter(fields["keys"].values()))
    [role] = [role for role in fields["roles"]["bundle"] if role["prefix"] == ACME]
    old, role["keys"] = role["keys"][0], [made.key_id]
    keys = fields["keys"] | {made.key_id: window | {"public_key": made.public_key.removeprefix("ed25519:")}}
    revoked = fields["revoked"] | {old: fields["issued_at"]}
    return next_root(newest, server.root_signer(), keys=keys, roles=fields["roles"], revoked=revoked)


# --- roots ------------------------------------------------------------------------------------------------------------


def test_a_root_reaches_open_streams_together_with_what_was_signed_anew(
    server: LiveServer, client: PublishingClient
) -> None:
    client.publish(ACME, files("p"), PublishTerms())
    client.publish("global", files("g"), PublishTerms())
    host = judged(server).follow()
    published = client.publish_root("acme", with_new_bundle_key(client, server))
    assert (published.version, published.repeated, published.dropped) == (2, False, ())
    assert [(name.scope, name.epoch, name.version) for name in published.signed_anew] == [(ACME, 1, 2)]
    host.follow_until(lambda: host.versions().get(ACME) == (1, 2))
    assert host.is_content
    assert host.heartbeats[-1].document.root.version == 2
    assert host.policies(ACME) == ["p"]
    late = judged(server, "late").follow()
    assert late.is_content

    def trusted_root() -> int:
        with server.serving.database.read() as connection:
            record = find_host(connection, HOST)
        return record.root_version if record else 0

    wait_until(lambda: trusted_root() == 2)


def test_the_root_moves_off_the_server_and_a_raised_epoch_recovers_everything(
    server: LiveServer, client: PublishingClient, tmp_path: Path
) -> None:
    client.publish(ACME, files("p"), PublishTerms())
    client.publish("global", files("g"), PublishTerms())
    host = judged(server).follow()
    foreign = judged(server, "other", "globex").follow()
    owner = create_key_file(tmp_path / "owner.pem")
    newest = client.roots("acme")[0].envelope
    fields = root_fields(newest)
    window = next(iter(fields["keys"].values()))
    key = owner.public_key
    fields["keys"][key.key_id] = window | {"public_key": key.anchor.removeprefix("ed25519:")}
    fields["roles"]["root"] = {"keys": [key.key_id], "threshold": 1}
    moved = next_root(newest, server.root_signer(), owner, keys=fields["keys"], roles=fields["roles"])
    client.publish_root("acme", moved)
    raised = next_root(moved, owner, epoch=2)
    preview = client.publish_root("acme", raised, dry_run=True)
    published = client.publish_root("acme", raised)
    # The digests may differ: they are not signed in the same second.
    assert [name[:3] for name in map(astuple, published.signed_anew)] == [
        name[:3] for name in map(astuple, preview.signed_anew)
    ]
    assert [(name.scope, name.epoch, name.version) for name in preview.signed_anew] == [("global", 2, 1), (ACME, 2, 1)]
    host.follow_until(lambda: host.versions() == {"global": (2, 1), ACME: (2, 1)})
    assert host.is_content
    assert foreign.versions() == {"global": (1, 1)}
    client.publish("global", files("h"), PublishTerms())
    for each in (host, foreign):
        each.follow_until(lambda each=each: each.policies("global") == ["h"])
        assert each.is_content
    with pytest.raises(ServerRefused) as refused:
        client.publish_root("acme", next_root(raised, server.root_signer()))
    assert refused.value.status == "FAILED_PRECONDITION"
    assert "RootThresholdOld" not in refused.value.message
    assert "would refuse it" in refused.value.message


def test_more_roots_than_may_wait_for_an_answer_arrive_as_they_are_answered(
    server: LiveServer, client: PublishingClient
) -> None:
    newest = client.roots("acme")[0].envelope
    for _ in range(40):
        newest = next_root(newest, server.root_signer())
        client.publish_root("acme", newest)
    client.publish(ACME, files("p"), PublishTerms())
    host = judged(server).follow()
    assert host.judge.root is not None
    assert host.judge.root.document.version == 41
    assert host.is_content
    assert [root.version for root in client.roots("acme", after=39)] == [40, 41]
    silent = server.host("silent").hello()
    got = [silent.next()[0] for _ in range(16)]
    assert got == ["root"] * 16
    silent.call.cancel()


def test_a_refused_root_is_recorded_and_no_further_one_is_sent(server: LiveServer, client: PublishingClient) -> None:
    stream = server.host().hello()
    (kind, root), *_ = stream.until_keep_alive()
    assert kind == "root"
    stream.send(nack=dist.Nack(nonce=root.nonce, code="RootUnanchored", detail="no anchor"))
    assert refusals(server) == [HostNack("root", 0, 1, "RootUnanchored", "no anchor", "")]
    client.publish_root("acme", next_root(client.roots("acme")[0].envelope, server.root_signer()))
    client.publish(ACME, files("p"), PublishTerms())
    kinds = [kind for kind, _ in stream.until_keep_alive()]
    while "bundle" not in kinds:
        kinds += [kind for kind, _ in stream.until_keep_alive()]
    assert "root" not in kinds
    stream.call.cancel()


def test_what_is_wrong_with_a_host_is_recorded_until_it_comes_anew(server: LiveServer) -> None:
    stream = server.host().hello()
    stream.until_keep_alive()
    stream.send(nack=dist.Nack(code="HeartbeatStale", detail="none for 10 minutes"))
    assert refusals(server) == [HostNack("", 0, 0, "HeartbeatStale", "none for 10 minutes", "")]
    stream.call.cancel()
    server.host().hello().until_keep_alive()

    def cleared() -> bool:
        with server.serving.database.read() as connection:
            return not refused_by(connection, HOST)

    wait_until(cleared)


@pytest.mark.parametrize("answer", ["ack", "nack"])
def test_a_root_version_out_of_bounds_ends_the_stream(server: LiveServer, answer: str) -> None:
    stream = server.host().hello()
    (_, root), *_ = stream.until_keep_alive()
    if answer == "ack":
        stream.send(ack=dist.Ack(nonce=root.nonce, root_version=2**63))
    else:
        stream.send(nack=dist.Nack(code="X", root_version=2**63))
    assert stream.ending()[0] is grpc.StatusCode.INVALID_ARGUMENT


# --- orgs of foreign keys, and bundles signed elsewhere ---------------------------------------------------------------


def test_an_org_begins_with_keys_that_the_server_never_sees(server: LiveServer, client: PublishingClient) -> None:
    owners = [PrivateKeySigner.generate() for _ in range(3)]
    anchors = [owner.public_key.anchor for owner in owners]
    created = client.create_org("initech", anchors, 2)
    assert client.create_org("initech", anchors, 2) == created
    assert created.unsigned_root is not None
    early = server.stream(server.admin.create_key("initech", "host", "h").secret).hello("initech")
    assert early.ending()[0] is grpc.StatusCode.FAILED_PRECONDITION
    for attempt in (
        lambda: server.admin.publish("org/initech", policy("p")),
        lambda: client.set_freeze("initech", frozen=True),
    ):
        with pytest.raises((grpc.RpcError, ServerRefused), match="waits for its first root"):
            attempt()
    # Bundles shall be signed by two owners too.
    fields = root_fields(created.unsigned_root)
    [role] = [role for role in fields["roles"]["bundle"] if role["prefix"] == "org/initech"]
    role |= {"keys": [owner.public_key.key_id for owner in owners], "threshold": 2}
    payload = load(json.dumps(fields).encode(), Root).to_bytes()
    assert client.publish_root("initech", sign(PayloadType.ROOT, payload, owners[:2])).version == 1
    prepared = client.prepare_bundle("org/initech", files("p"), PublishTerms(lifetime_s=3600))
    assert load(prepared.envelope.payload, Manifest).version == 1
    signed = sign(PayloadType.BUNDLE, prepared.envelope.payload, owners[1:])
    assert client.publish_envelope(signed, prepared.content, dry_run=True).dry_run
    published = client.publish_envelope(signed, prepared.content, message="why", idempotency_key="k")
    assert (published.revision.version, published.repeated) == (1, False)
    assert client.publish_envelope(signed, prepared.content).repeated
    assert client.revision("org/initech").envelope == signed
    host = JudgedHost(server.host("h2", "initech"), "initech", anchors, 2).hello().follow()
    assert host.policies("org/initech") == ["p"]
    assert host.is_content
    with pytest.raises(ServerRefused) as refused:
        client.publish("org/initech", files("q"), PublishTerms())
    assert (refused.value.status, "--unsigned" in refused.value.message) == ("FAILED_PRECONDITION", True)


def test_a_large_bundle_travels_there_and_back(client: PublishingClient) -> None:
    many = [PolicyFile("many.cedar", "".join(policy(f"p{n}", comment="x" * 9000) for n in range(200)).encode())]
    prepared = client.prepare_bundle(ACME, many, PublishTerms())
    assert len(prepared.content) > 1_500_000
    stranger = sign(PayloadType.BUNDLE, prepared.envelope.payload, [PrivateKeySigner.generate()])
    with pytest.raises(ServerRefused) as refused:
        client.publish_envelope(stranger, prepared.content)
    assert refused.value.status == "FAILED_PRECONDITION"


# --- rollback, freeze, dry run, renewal -------------------------------------------------------------------------------


def test_a_rollback_reaches_hosts_with_what_it_restores(server: LiveServer, client: PublishingClient) -> None:
    for name in ("a", "b"):
        client.publish(ACME, files(name), PublishTerms())
    host = judged(server).follow()
    rolled = client.rollback(ACME, message="b was wrong", expected_version=2).revision
    assert (rolled.version, rolled.kind, rolled.restores_version) == (3, RevisionKind.ROLLBACK, 1)
    host.follow_until(lambda: host.policies(ACME) == ["a"])
    assert host.is_content
    shown = client.revision(ACME)
    assert shown.original == client.revision(ACME, 1).envelope
    assert [policy.id for policy in shown.policies] == ["a"]
    assert [revision.kind for revision in client.history(ACME, 9)] == [
        RevisionKind.ROLLBACK,
        RevisionKind.PUBLISH,
        RevisionKind.PUBLISH,
    ]
    with pytest.raises(ServerRefused) as refused:
        client.rollback(ACME, 2, expected_version=2)
    assert refused.value.status == "ABORTED"


def test_a_freeze_reaches_hosts_and_ends_in_what_was(server: LiveServer, client: PublishingClient) -> None:
    client.publish(ACME, files("a"), PublishTerms())
    host = judged(server).follow()
    assert client.set_freeze("acme", frozen=True, message="now").changed
    assert not client.set_freeze("acme", frozen=True).changed
    host.follow_until(lambda: host.policies(ACME) == ["akpolicy-freeze"])
    with pytest.raises(ServerRefused) as refused:
        client.rollback(ACME)
    assert refused.value.status == "FAILED_PRECONDITION"
    assert client.set_freeze("acme", frozen=False).revision.kind is RevisionKind.UNFREEZE
    host.follow_until(lambda: host.policies(ACME) == ["a"])
    assert host.is_content


def test_a_dry_run_of_a_publish_says_the_version_and_sends_nothing(
    server: LiveServer, client: PublishingClient
) -> None:
    host = judged(server).follow()
    answer = client.publish(ACME, files("a"), PublishTerms(dry_run=True, idempotency_key="k"))
    assert (answer.dry_run, answer.revision.version) == (True, 1)
    assert client.history(ACME, 1) == []
    assert not client.publish(ACME, files("a"), PublishTerms(idempotency_key="k")).repeated
    host.follow_until(lambda: host.versions() == {ACME: (1, 1)})


def test_what_expires_is_renewed_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("akpolicy_server.app.Renewal", partial(Renewal, interval_s=0.05))
    with live_server(tmp_path, keep_alive_seconds=0.1, metrics_listen=ANY_PORT) as server, server.client() as client:
        client.publish(ACME, files("a"), PublishTerms(lifetime_s=4))
        host = judged(server).follow()
        host.follow_until(lambda: host.versions()[ACME][1] >= 2)
        assert host.is_content
        assert metric(server, 'akpolicy_server_renewals_total{outcome="renewed"}') >= 1
        assert client.history(ACME, 1)[0].kind is RevisionKind.RENEWAL
        assert client.history(ACME, 1)[0].published_by == ""
