"""REST, over real connections: everything that a host needs, as signed JSON, and what it says in return."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

import pytest

from akpolicy.bundle import Content, Manifest
from akpolicy.envelope import from_dsse_json
from akpolicy.heartbeat import Heartbeat
from akpolicy.keys import AnchorSet, TrustAnchor, parse_anchor
from akpolicy.strict_json import load
from akpolicy.trust import Judge
from tests.integration.server.conftest import ANY_PORT, large_policies, live_server, policy
from tests.integration.server.test_fleet import host_when, own, status_when
from tests.simulators.http_host import HttpHost
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.server.conftest import LiveServer

OWN = "org/acme"
BUNDLES = "/v1/orgs/acme/bundles"
NONCE = "00112233445566778899aabbccddeeff"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with live_server(tmp_path, rest_listen=ANY_PORT, max_streams_per_host=2) as running:
        yield running


@pytest.fixture
def host(server: LiveServer) -> HttpHost:
    return HttpHost(str(server.serving.rest_listen), server.admin.create_key("acme", "host", "host-1").secret)


def test_what_comes_leads_from_the_anchor_to_the_policies(server: LiveServer, host: HttpHost) -> None:
    server.admin.publish("global", policy("everywhere"))
    server.admin.publish(OWN, policy("ours"))
    answer = host.get(BUNDLES)
    found = answer.json
    assert answer.status == 200
    assert answer.headers["content-length"] == str(len(answer.body))
    anchor = next(org.trust_anchor for org in server.made.orgs if org.org == "acme")
    judge = Judge("acme", AnchorSet((TrustAnchor(parse_anchor(anchor)),)))
    (root,) = found["roots"]
    now = server.serving.reports.now_us() / 1e6
    judge.begin_walk()
    judge.trust_root(from_dsse_json(root["envelope"]), now)
    for entry in found["bundles"]:
        verified = judge.judge_manifest(from_dsse_json(entry["envelope"]), now)
        blob = host.get(f"/v1/orgs/acme/blobs/{entry['content']['digest']}")
        assert blob.headers["content-type"] == "application/octet-stream"
        assert len(blob.body) == entry["content"]["size"]
        assert judge.judge_content(verified, blob.body).manifest.scope == entry["scope"]
    heartbeat = from_dsse_json(host.get(f"/v1/orgs/acme/heartbeat?nonce={NONCE}").json)
    index = host.get(f"/v1/orgs/acme/blobs/{found['index']['digest']}").body
    assert index == found["index"]["text"].encode()
    verified_heartbeat = judge.judge_heartbeat(heartbeat, index, now, nonce=NONCE)
    assert [line.scope for line in verified_heartbeat.index.in_order] == ["global", OWN]


def test_the_etag_is_the_digest_of_what_is_served_and_saves_the_transfer(server: LiveServer, host: HttpHost) -> None:
    server.admin.publish(OWN, policy("one"))
    first = host.get(BUNDLES)
    tag = first.headers["etag"]
    assert tag == f'"{hashlib.sha256(first.body).hexdigest()}"'
    for tags in (tag, f'"other", W/{tag}', "*"):
        again = host.get(BUNDLES, If_None_Match=tags)
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert host.get(BUNDLES, If_None_Match='"other"').status == 200
    server.admin.publish(OWN, policy("two"))
    wait_until(lambda: host.get(BUNDLES, If_None_Match=tag).status == 200, what="the new version")
    # With newer roots left out it is another document.
    less = host.get(f"{BUNDLES}?root_version=1")
    assert less.json["roots"] == []
    assert less.headers["etag"] not in (tag, host.get(BUNDLES).headers["etag"])


def test_a_host_may_ask_for_some_scopes_alone(server: LiveServer, host: HttpHost) -> None:
    for scope in ("global", OWN, "org/acme/team/red"):
        server.admin.publish(scope, policy("one"))
    some = host.get(f"{BUNDLES}?scope=org/acme/team/red&scope=global&scope=org/globex").json
    assert [entry["scope"] for entry in some["bundles"]] == ["global", "org/acme/team/red"]
    assert some["index"] is None
    too_many = host.get(BUNDLES + "?" + "&".join(["scope=global"] * 101))
    assert (too_many.status, too_many.code) == (400, "InvalidField")


def test_a_rollback_comes_with_what_it_restores(server: LiveServer, host: HttpHost) -> None:
    server.admin.publish(OWN, policy("one"))
    server.admin.publish(OWN, policy("two"))
    with server.client() as client:
        client.rollback(OWN, 1)
    wait_until(lambda: host.get(BUNDLES).json["bundles"][0]["original"], what="the rollback")
    (entry,) = host.get(BUNDLES).json["bundles"]
    assert entry["version"] == 3
    original = load(from_dsse_json(entry["original"]).payload, Manifest)
    assert (original.version, original.content and original.content.digest) == (1, entry["content"]["digest"])


def test_large_content_comes_whole_and_by_its_digest_alone(server: LiveServer, host: HttpHost) -> None:
    server.admin.publish(OWN, large_policies(120))
    (entry,) = host.get(BUNDLES).json["bundles"]
    path = f"/v1/orgs/acme/blobs/{entry['content']['digest']}"
    blob = host.get(path)
    assert hashlib.sha256(blob.body).hexdigest() == entry["content"]["digest"]
    assert len(load(blob.body, Content).policies) == 120
    assert host.get(path, If_None_Match=blob.headers["etag"]).status == 304
    assert host.call("HEAD", path).headers["content-length"] == str(len(blob.body))
    # Another org's content is not there, nor is what nobody has.
    server.admin.publish("org/globex", policy("secret"))
    other = HttpHost(host.address, server.admin.create_key("globex", "host", "host-1").secret)
    (theirs,) = other.get("/v1/orgs/globex/bundles").json["bundles"]
    for digest in (theirs["content"]["digest"], "0" * 64):
        missing = host.get(f"/v1/orgs/acme/blobs/{digest}")
        assert (missing.status, missing.code) == (404, "BlobNotFound")
    assert host.get("/v1/orgs/acme/blobs/" + entry["content"]["digest"].upper()).status == 400


def test_a_heartbeat_answers_the_nonce_and_is_never_cached(server: LiveServer, host: HttpHost) -> None:
    server.admin.publish(OWN, policy("one"))
    answer = host.get(f"/v1/orgs/acme/heartbeat?nonce={NONCE}")
    assert answer.headers["cache-control"] == "no-store"
    payload = base64.b64decode(answer.json["payload"])
    assert load(payload, Heartbeat).nonce == NONCE
    for wrong in ("", "00", NONCE.upper(), NONCE + "00", "zz" * 16):
        assert host.get(f"/v1/orgs/acme/heartbeat?nonce={wrong}").status == 400


def test_a_report_shows_in_the_fleet(server: LiveServer, host: HttpHost) -> None:
    server.admin.publish(OWN, policy("one"))
    (entry,) = host.get(BUNDLES).json["bundles"]
    said = {name: entry[name] for name in ("scope", "epoch", "version", "digest")}
    refused = {"scope": OWN, "epoch": 1, "version": 1, "code": "SignatureInvalid", "policy_id": "one"}
    with server.client() as client:
        assert host.report(refused=[refused], root_version=1).status == 204
        shown = host_when(client, "host-1", lambda h: h.refusals)
        assert (shown.update_mode, shown.connected, shown.root_version) == ("poll", True, 1)
        assert host.report(enforced=[said], complete=True, poll_interval_ms=30_000).status == 204
        status = status_when(client, lambda s: own(s).hosts_current == 1)
        assert (own(status).hosts_refusing, status.hosts_connected) == (0, 1)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "InvalidField"),
        (b'{"software_version":"1","unknown":1}', 400, "InvalidField"),
        (b'{"software_version":"1","root_version":-1}', 400, "InvalidField"),
        (b'{"software_version":"1","ended":["org/globex"]}', 400, "InvalidField"),
        (b'{"software_version":"1","enforced":[{"scope":"global","epoch":1,"version":1,"digest":"zz"}]}', 400, ""),
        (b" " * (1024 * 1024 + 1), 413, "BodyTooLarge"),
    ],
)
def test_a_report_out_of_bounds_is_refused(host: HttpHost, body: bytes, status: int, code: str) -> None:
    answer = host.call("POST", "/v1/orgs/acme/reports", body)
    assert (answer.status, answer.code) == (status, code or "InvalidField")


def test_who_may_not_subscribe_may_not_ask(server: LiveServer, host: HttpHost) -> None:
    server.admin.publish(OWN, policy("one"))
    paths = [BUNDLES, f"/v1/orgs/acme/blobs/{'0' * 64}", f"/v1/orgs/acme/heartbeat?nonce={NONCE}"]
    for path in paths:
        nobody = HttpHost(host.address).get(path)
        assert (nobody.status, nobody.code) == (401, "Unauthenticated")
        assert nobody.headers["www-authenticate"] == "Bearer"
        for secret in ("akp_" + "0" * 16 + "_" + "A" * 43, "nonsense"):
            assert HttpHost(host.address, secret).get(path).status == 401
        admin = HttpHost(host.address, server.made.admin_api_key).get(path)
        assert (admin.status, admin.code) == (403, "PermissionDenied")
        other = host.get(path.replace("acme", "globex"))
        assert (other.status, other.code) == (403, "PermissionDenied")
    assert host.report("globex").status == 403


def test_a_revoked_key_is_refused_at_once(server: LiveServer) -> None:
    key = server.admin.create_key("acme", "host", "host-1")
    host = HttpHost(str(server.serving.rest_listen), key.secret)
    assert host.get(BUNDLES).status == 200
    server.admin.revoke_key(key.key_id)
    assert host.get(BUNDLES).status == 401


def test_a_host_has_so_many_calls_at_once_as_it_has_streams(server: LiveServer, host: HttpHost) -> None:
    streams = [server.stream(host.secret).hello() for _ in range(2)]
    for stream in streams:
        stream.next()
    answer = host.get(BUNDLES)
    assert (answer.status, answer.code) == (429, "TooManyStreams")
    assert "retry-after" in answer.headers
    for stream in streams:
        stream.call.cancel()
    wait_until(lambda: host.get(BUNDLES).status == 200, what="room")


def test_unknown_paths_and_methods_are_told_in_json(host: HttpHost) -> None:
    assert (host.get("/v2").status, host.get("/v2").code) == (404, "NotFound")
    wrong = host.call("DELETE", BUNDLES)
    assert (wrong.status, wrong.code) == (405, "MethodNotAllowed")


def test_the_calls_are_described_for_programs_and_people(server: LiveServer, host: HttpHost) -> None:
    described = host.get("/v1/openapi.json").json
    assert described["openapi"] == "3.1.0"
    calls = {(path, method) for path, methods in described["paths"].items() for method in methods}
    assert calls == {
        (BUNDLES.replace("acme", "{org}"), "get"),
        ("/v1/orgs/{org}/blobs/{digest}", "get"),
        ("/v1/orgs/{org}/heartbeat", "get"),
        ("/v1/orgs/{org}/reports", "post"),
        ("/v1/policies", "get"),
    }
    kinds = {name: scheme["type"] for name, scheme in described["components"]["securitySchemes"].items()}
    assert kinds == {"hostKey": "http", "hostCertificate": "mutualTLS"}
    assert described["security"] == [{name: []} for name in kinds]
    assert described["paths"]["/v1/policies"]["get"]["security"] == [{"hostKey": []}]
    page = host.get("/v1/docs")
    assert b"mutual TLS" in page.body
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert all(path.encode() in page.body for path, _ in calls)
    assert b"<script" not in page.body
