"""What cannot be done with roots, keys, foreign signatures, rollbacks and freezes, and with which status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from akpolicy.client.publishing_types import PublishTerms
from akpolicy.envelope import PayloadType
from akpolicy.errors import ServerRefused
from akpolicy.signing import PrivateKeySigner
from akpolicy.v1 import publishing_pb2 as pub
from tests.integration.server.conftest import DEADLINE_S, policy
from tests.integration.server.judged import files, next_root, root_fields
from tests.integration.server.test_publishing import refusal
from tests.simulators.org import sign

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.client.publishing import PublishingClient
    from tests.integration.server.conftest import LiveServer

ACME = "org/acme"


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
