"""The operators' client: what it sends, and what it makes of the answers, over the real wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from akpolicy.bundle import Manifest, OfflineMode, open_content
from akpolicy.client import parse_server_url
from akpolicy.client.publishing import PublishingClient
from akpolicy.client.publishing_types import PublishTerms, RevisionKind
from akpolicy.engine.files import PolicyFile
from akpolicy.envelope import PayloadType, SignedEnvelope, from_dsse_json
from akpolicy.errors import BadAnswer, ServerRefused
from akpolicy.limits import MAX_CHUNK_BYTES, MIB
from akpolicy.root import Root, parse_root
from akpolicy.signing import PrivateKeySigner
from akpolicy.strict_json import load
from akpolicy.v1 import bundle_pb2
from akpolicy.v1 import publishing_pb2 as pb
from tests.simulators.org import sign
from tests.simulators.publishing import API_KEY, PublishingSimulator

if TYPE_CHECKING:
    from collections.abc import Iterator

SCOPE: Final = "org/acme"
FILES: Final = [PolicyFile("a.cedar", b'@id("a")\npermit (principal, action, resource);')]


@pytest.fixture
def server() -> Iterator[PublishingSimulator]:
    with PublishingSimulator() as running:
        yield running


@pytest.fixture
def client(server: PublishingSimulator) -> Iterator[PublishingClient]:
    with PublishingClient(parse_server_url(server.url), API_KEY) as connected:
        yield connected


def next_root(server: PublishingSimulator, version: int) -> SignedEnvelope:
    return server.org.root_envelope(version=version)


# --- orgs, keys, roots ------------------------------------------------------------------------------------------------


def test_an_org_with_the_servers_own_root_key_waits_for_nobody(client: PublishingClient) -> None:
    created = client.create_org("globex")
    assert (created.org, created.root_version, created.unsigned_root) == ("globex", 1, None)
    assert "unsigned_root" not in created.to_json()


def test_an_org_with_foreign_root_keys_begins_once_their_owners_signed(client: PublishingClient) -> None:
    owners = [PrivateKeySigner.generate() for _ in range(3)]
    created = client.create_org("globex", [owner.public_key.anchor for owner in owners], 2)
    assert created.root_version == 0
    unsigned = created.unsigned_root
    assert unsigned is not None
    assert unsigned.signatures == ()
    assert from_dsse_json(created.to_json()["unsigned_root"]) == unsigned
    document, _ = parse_root(unsigned.payload)
    assert (document.roles.root.threshold, len(document.roles.root.keys)) == (2, 3)
    too_few = sign(PayloadType.ROOT, unsigned.payload, owners[:1])
    with pytest.raises(ServerRefused) as refused:
        client.publish_root("globex", too_few)
    assert refused.value.status == "FAILED_PRECONDITION"
    signed = sign(PayloadType.ROOT, unsigned.payload, owners[:2])
    assert client.publish_root("globex", signed).version == 1
    assert [root.envelope for root in client.roots("globex")] == [signed]


def test_roots_come_oldest_first_and_the_newest_alone(server: PublishingSimulator, client: PublishingClient) -> None:
    envelopes = [client.roots("acme")[0].envelope]
    for version in (2, 3):
        envelopes.append(next_root(server, version))
        client.publish_root("acme", envelopes[-1])
    assert [root.envelope for root in client.roots("acme")] == envelopes
    assert [root.version for root in client.roots("acme", after=1)] == [2, 3]
    assert [root.envelope for root in client.roots("acme", newest_only=True)] == envelopes[-1:]


def test_a_published_root_says_what_became_of_the_bundles(
    server: PublishingSimulator, client: PublishingClient
) -> None:
    published = client.publish(SCOPE, FILES, PublishTerms())
    server.dropped = ["global"]
    answer = client.publish_root("acme", next_root(server, 2))
    assert (answer.version, answer.repeated, answer.dropped) == (2, False, ("global",))
    assert [(name.scope, name.digest) for name in answer.signed_anew] == [(SCOPE, published.revision.digest)]
    assert client.publish_root("acme", client.roots("acme")[-1].envelope).repeated


def test_a_dry_run_of_a_root_leaves_the_old_one(server: PublishingSimulator, client: PublishingClient) -> None:
    assert client.publish_root("acme", next_root(server, 2), dry_run=True).version == 2
    assert [root.version for root in client.roots("acme")] == [1]


def test_the_roots_of_an_unknown_org_are_refused_as_any_call_is(client: PublishingClient) -> None:
    with pytest.raises(ServerRefused) as refused:
        client.roots("nobody")
    assert refused.value.status == "NOT_FOUND"


def test_an_online_key_is_made_for_one_role_of_one_org(server: PublishingSimulator, client: PublishingClient) -> None:
    made = client.create_online_key("acme", "heartbeat")
    assert (made.public_key, made.key_id) == (
        server.org.heartbeat_signer.public_key.anchor,
        server.org.heartbeat_signer.public_key.key_id,
    )
    client.create_online_key("", "bundle")
    assert server.online_keys == [
        pb.CreateOnlineKeyRequest(org="acme", role=pb.ONLINE_ROLE_HEARTBEAT),
        pb.CreateOnlineKeyRequest(role=pb.ONLINE_ROLE_BUNDLE),
    ]


# --- bundles that are signed elsewhere --------------------------------------------------------------------------------


def test_a_bundle_is_prepared_signed_elsewhere_and_published(
    server: PublishingSimulator, client: PublishingClient
) -> None:
    prepared = client.prepare_bundle(SCOPE, FILES, PublishTerms(message="ignored here"))
    assert prepared.current_version == 0
    assert prepared.envelope.signatures == ()
    assert load(prepared.root.payload, Root).org == "acme"
    manifest = load(prepared.envelope.payload, Manifest)
    assert manifest.content is not None
    assert open_content(prepared.content, manifest.content).content.policies[0].id == "a"
    signed = sign(PayloadType.BUNDLE, prepared.envelope.payload, [server.org.bundle_signer])
    published = client.publish_envelope(signed, prepared.content, message="why", idempotency_key="k1")
    assert (published.revision.version, published.repeated, published.dry_run) == (1, False, False)
    assert (published.revision.kind, published.revision.message) == (RevisionKind.PUBLISH, "why")
    assert server.revisions[0].header.idempotency_key == "k1"
    assert client.revision(SCOPE).envelope == signed


def test_a_dry_run_publishes_no_envelope(server: PublishingSimulator, client: PublishingClient) -> None:
    prepared = client.prepare_bundle(SCOPE, FILES, PublishTerms())
    signed = sign(PayloadType.BUNDLE, prepared.envelope.payload, [server.org.bundle_signer])
    assert client.publish_envelope(signed, prepared.content, dry_run=True).dry_run
    assert server.revisions == []


def test_an_envelope_that_hosts_would_refuse_is_refused(client: PublishingClient) -> None:
    prepared = client.prepare_bundle(SCOPE, FILES, PublishTerms())
    signed = sign(PayloadType.BUNDLE, prepared.envelope.payload, [PrivateKeySigner.generate()])
    with pytest.raises(ServerRefused) as refused:
        client.publish_envelope(signed, prepared.content)
    assert refused.value.status == "FAILED_PRECONDITION"


def test_content_of_many_pieces_arrives_whole_in_both_directions(
    server: PublishingSimulator, client: PublishingClient
) -> None:
    policy = '@id("p%d")\nforbid (principal, action, resource); // %s\n'
    files = [PolicyFile("many.cedar", "".join(policy % (i, "x" * 900) for i in range(700)).encode())]
    prepared = client.prepare_bundle(SCOPE, files, PublishTerms())
    assert len(prepared.content) > 2 * MAX_CHUNK_BYTES
    signed = sign(PayloadType.BUNDLE, prepared.envelope.payload, [server.org.bundle_signer])
    assert client.publish_envelope(signed, prepared.content).revision.policy_count == 700


def test_an_answer_without_a_bundle_or_with_too_much_is_none(
    client: PublishingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("akpolicy.client.publishing.MAX_CONTENT_BYTES", 10)
    with pytest.raises(BadAnswer):
        client.prepare_bundle(SCOPE, FILES, PublishTerms())
    monkeypatch.setattr("akpolicy.client.publishing.MAX_CONTENT_BYTES", MIB)
    monkeypatch.setattr(PublishingSimulator, "PrepareBundle", lambda *_: iter(()))
    with (
        PublishingSimulator() as silent,
        PublishingClient(parse_server_url(silent.url), API_KEY) as other,
        pytest.raises(BadAnswer),
    ):
        other.prepare_bundle(SCOPE, FILES, PublishTerms())


# --- publishing, rolling back, freezing -------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_and_changes_nothing(
    server: PublishingSimulator, client: PublishingClient
) -> None:
    published = client.publish(SCOPE, FILES, PublishTerms(dry_run=True, offline_mode=OfflineMode.FAIL_CLOSED))
    assert published.dry_run
    assert published.revision.version == 1
    assert server.revisions == []


def test_a_rollback_names_what_it_restores(server: PublishingSimulator, client: PublishingClient) -> None:
    for number in range(3):
        client.publish(SCOPE, FILES, PublishTerms(message=str(number)))
    answer = client.rollback(SCOPE, 1, expected_version=0, message="back", idempotency_key="k", dry_run=True)
    assert answer.dry_run
    request = server.rollbacks[0]
    assert request == pb.RollbackRequest(
        scope=SCOPE, to_version=1, expected_version=0, message="back", idempotency_key="k", dry_run=True
    )
    assert request.HasField("expected_version")
    revision = client.rollback(SCOPE, 1).revision
    assert not server.rollbacks[1].HasField("expected_version")
    assert (revision.kind, revision.restores_version, revision.version) == (RevisionKind.ROLLBACK, 1, 4)
    content = client.revision(SCOPE)
    assert content.original == client.revision(SCOPE, 1).envelope
    assert "original" in content.to_json()
    assert "original" not in client.revision(SCOPE, 1).to_json()


def test_an_org_is_frozen_once_and_freed_again(client: PublishingClient) -> None:
    frozen = client.set_freeze("acme", frozen=True, message="stolen laptop")
    assert frozen.changed
    assert (frozen.revision.kind, frozen.revision.message) == (RevisionKind.FREEZE, "stolen laptop")
    assert not client.set_freeze("acme", frozen=True).changed
    assert client.set_freeze("acme", frozen=False).revision.kind is RevisionKind.UNFREEZE


def test_a_kind_of_a_later_version_is_unknown() -> None:
    details = pb.RevisionDetails(revision=bundle_pb2.Revision(scope=SCOPE), kind=99)  # type: ignore[arg-type]
    assert RevisionKind.from_proto(details.kind) is RevisionKind.UNKNOWN
    assert {RevisionKind.from_proto(number) for number in pb.RevisionKind.values()} == set(RevisionKind)


def test_what_a_revision_says_for_programs_has_stable_names(client: PublishingClient) -> None:
    revision = client.publish(SCOPE, FILES, PublishTerms(no_rollback=True)).revision
    values = revision.to_json()
    assert (values["kind"], values["restores_version"], values["min_version"]) == ("publish", 0, 1)
