"""What is current, over real connections: roots, rollbacks, freezes, renewals, heartbeats reach hosts as one state."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from dataclasses import astuple
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from akpolicy.bundle import Manifest
from akpolicy.client.publishing_types import PublishTerms, RevisionKind
from akpolicy.engine.files import PolicyFile
from akpolicy.envelope import PayloadType, SignedEnvelope
from akpolicy.errors import ServerRefused
from akpolicy.root import Root
from akpolicy.signing import PrivateKeySigner, create_key_file, load_key_file
from akpolicy.strict_json import load
from akpolicy.v1 import distribution_pb2 as dist
from akpolicy.v1 import publishing_pb2 as pub
from akpolicy_server.renewal import Renewal
from akpolicy_server.settings import DATABASE_FILE
from akpolicy_server.store.engine import Database
from akpolicy_server.store.hosts import HostKey, HostNack, find_host, refused_by
from akpolicy_server.store.online_keys import KeyRole, newest_key
from akpolicy_server.vault import Vault
from tests.integration.server.conftest import ANY_PORT, DEADLINE_S, live_server, policy
from tests.integration.server.judged import JudgedHost, next_root
from tests.integration.server.test_operations import _value as metric
from tests.integration.server.test_publishing import refusal
from tests.simulators.org import sign
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from akpolicy.client.publishing import PublishingClient
    from tests.integration.server.conftest import LiveServer, Stream

ACME = "org/acme"
HOST = HostKey("acme", "host-1")


def files(*ids: str) -> list[PolicyFile]:
    return [PolicyFile("policies.cedar", "".join(map(policy, ids)).encode())]


def root_fields(root: SignedEnvelope) -> dict[str, Any]:
    return dict(json.loads(root.payload))


@pytest.fixture
def client(server: LiveServer) -> Iterator[PublishingClient]:
    with server.client() as connected:
        yield connected


def judged(server: LiveServer, host_id: str = "host-1", org: str = "acme") -> JudgedHost:
    anchor = next(made.trust_anchor for made in server.made.orgs if made.org == org)
    return JudgedHost(server.host(host_id, org), org, [anchor]).hello()


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


# --- heartbeats -------------------------------------------------------------------------------------------------------


def test_a_host_gets_a_heartbeat_that_answers_it_and_names_all_that_it_has(server: LiveServer) -> None:
    server.admin.publish(ACME, policy("own"))
    server.admin.publish("global", policy("everyone"))
    host = judged(server).follow()
    assert host.is_content
    assert host.versions() == {"global": (1, 1), ACME: (1, 1)}
    server.admin.publish(ACME, policy("other"))
    host.follow_until(lambda: host.versions()[ACME] == (1, 2))
    assert host.is_content
    assert [heartbeat.document.seq for heartbeat in host.heartbeats] == [3, 4]


def test_heartbeats_go_on_at_a_third_of_their_life_without_the_index_again(tmp_path: Path) -> None:
    with live_server(tmp_path, keep_alive_seconds=0.1, heartbeat_lifetime_seconds=3) as server:
        server.admin.publish(ACME, policy("p"))
        hosts = [judged(server, f"h{number}").follow() for number in range(2)]
        for host in hosts:
            host.follow_until(lambda host=host: len(host.heartbeats) >= 4)
            assert host.indexes == 1
            assert len({heartbeat.document.seq for heartbeat in host.heartbeats}) == 1
            assert all(h.document.expires_at - h.document.issued_at == 3 for h in host.heartbeats)
    shared = [{h.envelope.digest() for h in host.heartbeats[1:]} for host in hosts]
    assert shared[0] & shared[1]


def test_a_host_is_never_sent_a_heartbeat_that_is_not_later_than_its_last(tmp_path: Path) -> None:
    # Less than a second apart, and times are whole seconds: shared ones were often signed in the second of the first.
    with live_server(tmp_path, keep_alive_seconds=0.05, heartbeat_lifetime_seconds=2) as server:
        server.admin.publish(ACME, policy("p"))
        hosts = [judged(server, f"h{number}").follow() for number in range(4)]
        for host in hosts:
            host.follow_until(lambda host=host: len(host.heartbeats) >= 3)


def test_a_host_that_has_the_index_is_not_sent_it_unless_it_refuses_a_heartbeat(tmp_path: Path) -> None:
    with live_server(tmp_path, keep_alive_seconds=0.1, heartbeat_lifetime_seconds=2) as server:
        revision = server.admin.publish(ACME, policy("p")).revision.revision
        first = judged(server).follow()
        assert first.judge.index is not None
        digest = bytes.fromhex(first.judge.index.digest)
        stream = server.host().hello(root_version=1, enforced=[revision], index_digest=digest)
        [(kind, heartbeat)] = stream.until_keep_alive()
        assert (kind, heartbeat.index) == ("heartbeat", b"")
        while not (beats := [message for kind, message in stream.until_keep_alive() if kind == "heartbeat"]):
            pass
        assert beats[0].index == b""
        stream.send(nack=dist.Nack(nonce=beats[0].nonce, code="Equivocation"))
        assert refusals(server)[0].scope == ""
        while not (beats := [message for kind, message in stream.until_keep_alive() if kind == "heartbeat"]):
            pass
        assert beats[0].index == first.judge.index.text
        stream.call.cancel()


def test_without_a_heartbeat_key_streams_go_on_and_the_metric_tells(tmp_path: Path) -> None:
    with live_server(tmp_path, keep_alive_seconds=0.1, metrics_listen=ANY_PORT) as server, server.client() as client:
        fields = root_fields(client.roots("acme")[0].envelope)
        fields["roles"].pop("heartbeat")
        client.publish_root(
            "acme", next_root(client.roots("acme")[0].envelope, server.root_signer(), roles=fields["roles"])
        )
        server.admin.publish(ACME, policy("p"))
        host = judged(server).follow()
        assert host.versions() == {ACME: (1, 1)}
        assert host.heartbeats == []
        wait_until(lambda: metric(server, "akpolicy_server_heartbeat_failures_total") >= 1)
        other = judged(server, org="globex").follow()
        assert len(other.heartbeats) == 1
        assert metric(server, "akpolicy_server_heartbeats_signed_total") >= 1
        now = root_fields(client.roots("acme")[0].envelope)["issued_at"]
        day = 86_400
        assert metric(server, "akpolicy_server_earliest_root_expiry_timestamp_seconds") == now + 365 * day
        assert metric(server, "akpolicy_server_earliest_key_expiry_timestamp_seconds") == now + 730 * day


def test_a_slow_key_delays_its_heartbeat_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    class Slow:
        """The key of acme's heartbeats, in a key service that takes its time."""

        def __init__(self, _uri: str) -> None:
            data = tmp_path / "server" / "data"
            with closing(Database(f"sqlite:///{data / DATABASE_FILE}")) as database, database.read() as connection:
                key_id = newest_key(connection, "acme", KeyRole.HEARTBEAT)
            self._key = load_key_file(Vault.file(data, key_id or ""))
            self.public_key = self._key.public_key

        def sign(self, message: bytes) -> bytes:
            assert released.wait(DEADLINE_S)
            return self._key.sign(message)

    monkeypatch.setattr("akpolicy_server.app.open_signer", Slow)
    monkeypatch.setattr("akpolicy_server.api.subscription.SIGNING_PATIENCE_S", 0.05)
    with live_server(tmp_path, keep_alive_seconds=3600, signers=("slow:",)) as server:
        server.admin.publish(ACME, policy("p"))
        host = judged(server).follow()
        assert (host.versions(), host.heartbeats) == ({ACME: (1, 1)}, [])
        assert len(judged(server, org="globex").follow().heartbeats) == 1
        released.set()
        # At once, and not with the next KeepAlive, which is an hour away.
        assert host.follow().is_content
        assert len(host.heartbeats) == 1


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


def refusals(server: LiveServer) -> list[HostNack]:
    def found() -> list[HostNack]:
        with server.serving.database.read() as connection:
            return refused_by(connection, HOST)

    return wait_until(found)


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


def test_a_heartbeat_is_refused_once_and_not_acknowledged(server: LiveServer) -> None:
    def heartbeat_of(stream: Stream) -> dist.HeartbeatUpdate:
        [heartbeat] = [message for kind, message in stream.until_keep_alive() if kind == "heartbeat"]
        assert isinstance(heartbeat, dist.HeartbeatUpdate)
        return heartbeat

    stream = server.host().hello()
    stream.send(ack=dist.Ack(nonce=heartbeat_of(stream).nonce))
    assert stream.ending()[0] is grpc.StatusCode.INVALID_ARGUMENT
    stream = server.host().hello()
    nonce = heartbeat_of(stream).nonce
    for _ in range(2):
        stream.send(nack=dist.Nack(nonce=nonce, code="HeartbeatReplay"))
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


# --- statuses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (lambda c: c.create_org("x", ["nonsense"]), "INVALID_ARGUMENT"),
        (lambda c: c.create_org("acme", [PrivateKeySigner.generate().public_key.anchor]), "ALREADY_EXISTS"),
        (lambda c: c.create_online_key("nobody", "bundle"), "NOT_FOUND"),
        (lambda c: c.create_online_key("", "heartbeat"), "INVALID_ARGUMENT"),
        (lambda c: c.roots("nobody"), "NOT_FOUND"),
        (lambda c: c.publish_root("nobody", c.roots("acme")[0].envelope), "NOT_FOUND"),
        (lambda c: c.rollback(ACME), "NOT_FOUND"),
        (lambda c: c.rollback("org/nobody"), "NOT_FOUND"),
        (lambda c: c.rollback("nonsense"), "INVALID_ARGUMENT"),
        (lambda c: c.set_freeze("nobody", frozen=True), "NOT_FOUND"),
        (lambda c: c.set_freeze("acme", frozen=False), "NOT_FOUND"),
        (lambda c: c.publish_envelope(c.roots("acme")[0].envelope, b""), "FAILED_PRECONDITION"),
    ],
)
def test_what_cannot_be_done_has_its_status(
    client: PublishingClient, call: Callable[[PublishingClient], object], status: str
) -> None:
    with pytest.raises(ServerRefused) as refused:
        call(client)
    assert refused.value.status == status


def test_two_roots_of_one_version_are_a_conflict(server: LiveServer, client: PublishingClient) -> None:
    newest = client.roots("acme")[0].envelope
    later = root_fields(newest)["expires_at"] - 1
    client.publish_root("acme", next_root(newest, server.root_signer()))
    with pytest.raises(ServerRefused) as refused:
        client.publish_root("acme", next_root(newest, server.root_signer(), expires_at=later))
    assert refused.value.status == "ABORTED"


def test_requests_without_what_they_need_are_refused(server: LiveServer) -> None:
    stub = server.admin.stub
    terms: dict[str, Any] = {"metadata": server.admin.metadata, "timeout": DEADLINE_S}
    header = pub.PublishEnvelopeRequest(header=pub.EnvelopeHeader())
    content = pub.PublishEnvelopeRequest(content=b"x")
    for call in (
        lambda: stub.PublishRoot(pub.PublishRootRequest(org="acme"), **terms),
        lambda: stub.CreateOnlineKey(pub.CreateOnlineKeyRequest(org="acme"), **terms),
        lambda: stub.PublishEnvelope(iter([header]), **terms),
        lambda: stub.PublishEnvelope(iter([content]), **terms),
        lambda: stub.PublishEnvelope(iter([]), **terms),
    ):
        assert refusal(call)[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_keys_of_other_orgs_and_roles_reach_none_of_it(server: LiveServer) -> None:
    publisher, foreign = (server.admin.create_key(org, "publisher").secret for org in ("acme", "globex"))
    server.admin.publish(ACME, policy("p"))
    with server.client() as admin:
        root = admin.roots("acme")[0].envelope
        prepared = admin.prepare_bundle(ACME, files("q"), PublishTerms())
    envelope = sign(PayloadType.BUNDLE, prepared.envelope.payload, [server.root_signer()])
    with server.client(publisher) as client:
        for forbidden in (
            lambda: client.create_org("initech"),
            lambda: client.create_online_key("acme", "bundle"),
            lambda: client.publish_root("acme", root),
        ):
            with pytest.raises(ServerRefused, match="PERMISSION_DENIED"):
                forbidden()
        assert client.roots("acme")[0].envelope == root
    with server.client(foreign) as stranger:
        for out_of_reach in (
            lambda: stranger.roots("acme"),
            lambda: stranger.prepare_bundle(ACME, files("q"), PublishTerms()),
            lambda: stranger.publish_envelope(envelope, prepared.content),
            lambda: stranger.rollback(ACME),
            lambda: stranger.set_freeze("acme", frozen=True),
        ):
            with pytest.raises(ServerRefused, match="PERMISSION_DENIED"):
                out_of_reach()
