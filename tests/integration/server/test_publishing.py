"""PublishingService over a real connection."""

from __future__ import annotations

import hashlib
import json
import threading
from typing import TYPE_CHECKING

import grpc
import pytest

from akpolicy.errors import TrustError
from akpolicy.keys import AnchorSet, TrustAnchor, parse_anchor
from akpolicy.trust import Judge
from akpolicy.v1 import publishing_pb2 as pub
from akpolicy.wire import envelope_from_proto
from tests.integration.server.conftest import DEADLINE_S, large_policies, policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.server.conftest import LiveServer


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str, list[pub.Problem]]:
    """Return the status, the message and the problems with which a call is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = caught.value
    trailing = [entry.value for entry in error.trailing_metadata() or () if entry.key == "akpolicy-problems-bin"]
    problems = [problem for value in trailing for problem in _problems(value)]
    return error.code(), error.details() or "", problems


def _problems(value: str | bytes) -> list[pub.Problem]:
    assert isinstance(value, bytes)
    return list(pub.PublishFailure.FromString(value).problems)


def test_what_was_published_can_be_listed_and_read(server: LiveServer) -> None:
    first = server.admin.publish("org/acme", policy("a") + policy("b"), message="begin")
    second = server.admin.publish("org/acme", policy("c"))
    assert [first.revision.revision.version, second.revision.revision.version] == [1, 2]
    page = server.admin.list("org/acme", page_size=1)
    assert [details.revision.version for details in page.revisions] == [2]
    rest = server.admin.list("org/acme", page_token=page.next_page_token)
    assert list(rest.revisions) == [first.revision]
    assert (rest.revisions[0].message, rest.next_page_token) == ("begin", "")
    document, policies = server.admin.get("org/acme", version=1)
    assert document.details == first.revision
    assert [entry.id for entry in policies] == ["a", "b"]
    assert document.details.revision.digest == hashlib.sha256(document.envelope.payload).digest()


def test_what_may_not_do_what_its_author_means_is_told_and_published(server: LiveServer) -> None:
    careless = b'@id("p") forbid (principal, action, resource) when { resource has image && resource.image == "x" };'
    found = server.admin.validate("org/acme", {"a.cedar": careless})
    rehearsed, published = (server.admin.publish("org/acme", careless, dry_run=dry_run) for dry_run in (True, False))
    assert not found.problems
    for answer in (found, rehearsed, published):
        assert [(one.code, one.policy_id) for one in answer.warnings] == [("ForbidBehindHas", "p")]
    assert published.revision.revision.version == 1


def test_an_org_made_over_the_wire_is_trusted_by_its_anchor_alone(server: LiveServer) -> None:
    created = server.admin.create_org("initech")
    assert created.root_version == 1
    server.admin.publish("org/initech", policy("p"))
    stream = server.host(org="initech").hello("initech")
    (kind, root), (_, bundle), *_ = stream.until_keep_alive()
    assert kind == "root"
    judge = Judge("initech", AnchorSet((TrustAnchor(parse_anchor(created.trust_anchor)),)))
    judge.trust_root(envelope_from_proto(root.envelope), root_time(root.envelope.payload))
    verified = judge.judge_manifest(envelope_from_proto(bundle.envelope), root_time(root.envelope.payload) + 1)
    assert verified.manifest.scope == "org/initech"
    stranger = Judge("initech", AnchorSet((TrustAnchor(parse_anchor(server.made.orgs[0].trust_anchor)),)))
    with pytest.raises(TrustError):
        stranger.trust_root(envelope_from_proto(root.envelope), root_time(root.envelope.payload))
    stream.call.cancel()


def root_time(payload: bytes) -> float:
    """Return when a root was issued."""
    return float(json.loads(payload)["issued_at"])


@pytest.mark.parametrize(
    ("name", "status", "word"),
    [
        ("acme", grpc.StatusCode.ALREADY_EXISTS, "exists already"),
        ("-bad-", grpc.StatusCode.INVALID_ARGUMENT, "not an org name"),
        ("", grpc.StatusCode.INVALID_ARGUMENT, "not an org name"),
    ],
)
def test_an_org_that_cannot_be_created_is_said(
    server: LiveServer, name: str, status: grpc.StatusCode, word: str
) -> None:
    code, message, _ = refusal(lambda: server.admin.create_org(name))
    assert code is status
    assert word in message


# --- conditions -------------------------------------------------------------------------------------------------------


def test_the_loser_of_two_publishers_learns_the_current_version(server: LiveServer) -> None:
    server.admin.publish("org/acme", policy("p"), expected_version=0)
    code, message, _ = refusal(lambda: server.admin.publish("org/acme", policy("q"), expected_version=0))
    assert code is grpc.StatusCode.ABORTED
    assert "at version 1" in message


def test_a_repeat_is_answered_as_the_first_time(server: LiveServer) -> None:
    first = server.admin.publish("org/acme", policy("p"), idempotency_key="k")
    again = server.admin.publish("org/acme", policy("p"), idempotency_key="k")
    assert again.revision == first.revision
    assert (first.repeated_request, again.repeated_request) == (False, True)
    code, message, _ = refusal(lambda: server.admin.publish("org/acme", policy("q"), idempotency_key="k"))
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert "choose a new key" in message


# --- policies ---------------------------------------------------------------------------------------------------------

GOOD = policy("good")


@pytest.mark.parametrize(
    ("text", "code", "policy_id", "line"),
    [
        (GOOD + '@id("broken")\npermit (principal, action, resource) when { 1 + };\n', "PolicyParseError", "broken", 5),
        (
            GOOD + '@id("wrong")\npermit (principal, action, resource)\nwhen { principal.nam == "x" };\n',
            "PolicyValidationError",
            "wrong",
            0,
        ),
        (GOOD + GOOD, "PolicyIdDuplicate", "good", 4),
        (GOOD + "permit (principal, action, resource);\n", "PolicyIdMissing", "", 4),
        (GOOD + '@id("sl/ash")\npermit (principal, action, resource);\n', "PolicyIdInvalid", "", 4),
        (GOOD + '@id("t")\npermit (principal == ?principal, action, resource);\n', "PolicyTemplate", "t", 5),
        (GOOD + '@id("open")\npermit (principal, action, resource)', "PolicyParseError", "open", 0),
        ("// only a comment\n", "EmptyPolicySet", "", 0),
        ("", "EmptyPolicySet", "", 0),
        (b"\xff\xfe", "PolicyNotUtf8", "", 1),
    ],
)
def test_a_bad_policy_is_refused_with_its_id_and_line(
    server: LiveServer, text: str | bytes, code: str, policy_id: str, line: int
) -> None:
    status, _, problems = refusal(lambda: server.admin.publish("org/acme", text))
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert [(problem.code, problem.policy_id) for problem in problems] == [(code, policy_id)]
    assert problems[0].message
    if line:
        assert problems[0].line == line
    assert not server.admin.list("org/acme").revisions


def test_forty_thousand_brackets_do_not_take_the_server_down(server: LiveServer) -> None:
    deep = '@id("deep") permit (principal, action, resource) when { ' + "(" * 40_000 + "true" + ")" * 40_000 + " };"
    status, _, problems = refusal(lambda: server.admin.publish("org/acme", deep))
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert {problem.code for problem in problems} == {"PolicyTooDeep", "PolicyTooLarge"}
    assert server.admin.publish("org/acme", policy("still-there")).revision.policy_count == 1


def test_a_policy_of_two_megabytes_is_refused(server: LiveServer) -> None:
    huge = f'@id("huge") permit (principal, action, resource) when {{ "{"x" * 2_000_000}" == "" }};'
    status, _, problems = refusal(lambda: server.admin.publish("org/acme", huge))
    assert (status, problems[0].code) == (grpc.StatusCode.INVALID_ARGUMENT, "PolicyTooLarge")


def test_so_many_problems_travel_as_metadata_carries(server: LiveServer) -> None:
    ids = [f"{number}-{'x' * 100}" for number in range(100)]
    text = "".join(f'@id("{each}") permit (principal, action, resource) when {{ ä }};\n' for each in ids)
    status, message, problems = refusal(lambda: server.admin.publish("org/acme", text))
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert ids[0] in message
    assert 5 < len(problems) < 100
    assert len(server.admin.validate("org/acme", {"a.cedar": text.encode()}).problems) == 100


def test_validation_names_every_policy_and_changes_nothing(server: LiveServer) -> None:
    answer = server.admin.validate("org/acme", {"a.cedar": policy("a").encode(), "b.cedar": policy("b").encode()})
    assert list(answer.policy_ids) == ["a", "b"]
    assert not answer.problems
    assert not server.admin.list("org/acme").revisions


def test_policies_larger_than_a_message_travel_in_chunks(server: LiveServer) -> None:
    text = large_policies(500)
    assert len(text) > 5_000_000
    answer = server.admin.publish("org/acme", text)
    assert answer.revision.policy_count == 500
    _, policies = server.admin.get("org/acme")
    # Comments belong to their policy and come back with it.
    assert "".join(entry.text for entry in policies).replace("\n", "") == text.replace("\n", "")


# --- reach ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", ["", "nonsense", "akp_0000000000000000_" + "A" * 43])
def test_a_wrong_key_opens_nothing(server: LiveServer, secret: str) -> None:
    code, message, _ = refusal(lambda: server.operator(secret).list("org/acme"))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert secret == "" or secret not in message


def test_a_call_without_a_key_is_unauthenticated(server: LiveServer) -> None:
    operator = server.operator("x")
    operator.metadata = ()
    assert refusal(lambda: operator.list("org/acme"))[0] is grpc.StatusCode.UNAUTHENTICATED


def test_a_hosts_key_cannot_publish(server: LiveServer) -> None:
    host = server.operator(server.admin.create_key("acme", "host", "host-1").secret)
    for call in (
        lambda: host.publish("org/acme", policy("p")),
        lambda: host.validate("org/acme", {}),
        lambda: host.list("org/acme"),
        lambda: host.get("org/acme"),
        lambda: host.create_org("mine"),
        lambda: host.create_key("acme", "admin"),
    ):
        assert refusal(call)[0] is grpc.StatusCode.PERMISSION_DENIED


def test_nobody_uploads_what_he_may_not_publish(server: LiveServer) -> None:
    host = server.operator(server.admin.create_key("acme", "host", "host-1").secret)
    refused = threading.Event()

    def endless() -> Iterator[pub.PublishRequest]:
        yield pub.PublishRequest(header=pub.PublishHeader(scope="org/acme"))
        refused.wait(DEADLINE_S)

    call = host.stub.Publish.future(endless(), metadata=host.metadata, timeout=DEADLINE_S)
    assert refusal(call.result)[0] is grpc.StatusCode.PERMISSION_DENIED
    refused.set()


def test_another_orgs_key_reaches_nothing_and_cannot_tell_whether_there_is_something(server: LiveServer) -> None:
    server.admin.publish("org/globex", policy("p"))
    acme = server.operator(server.admin.create_key("acme", "admin").secret)
    for scope in ("org/globex", "org/nobody", "global"):
        for call in (
            lambda scope=scope: acme.publish(scope, policy("p")),
            lambda scope=scope: acme.list(scope),
            lambda scope=scope: acme.get(scope),
            lambda scope=scope: acme.validate(scope, {"a.cedar": b""}),
        ):
            assert refusal(call)[0] is grpc.StatusCode.PERMISSION_DENIED


def test_an_unknown_org_is_not_found_by_the_platform(server: LiveServer) -> None:
    for call in (
        lambda: server.admin.publish("org/nobody", policy("p")),
        lambda: server.admin.list("org/nobody"),
        lambda: server.admin.get("org/nobody"),
        lambda: server.admin.create_key("nobody", "publisher"),
        lambda: server.admin.get("org/acme"),
        lambda: server.admin.revoke_key("0" * 16),
    ):
        assert refusal(call)[0] is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("scope", ["org/acme/team/red", "org/acme/user/alice", "org/acme/user/okta%2Falice"])
def test_teams_and_users_have_layers_of_their_own(server: LiveServer, scope: str) -> None:
    published = server.admin.publish(scope, policy("p")).revision
    assert (published.revision.scope, published.revision.version) == (scope, 1)
    assert [p.id for p in server.admin.get(scope)[1]] == ["p"]


def test_another_spelling_of_a_user_is_refused(server: LiveServer) -> None:
    code, message, _ = refusal(lambda: server.admin.publish("org/acme/user/local%2Falice", policy("p")))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "`org/acme/user/local%2Falice` is not a scope" in message


def test_a_revoked_key_opens_nothing_any_more(server: LiveServer) -> None:
    created = server.admin.create_key("acme", "publisher")
    publisher = server.operator(created.secret)
    publisher.publish("org/acme", policy("p"))
    first = server.admin.revoke_key(created.key_id)
    assert refusal(lambda: publisher.list("org/acme"))[0] is grpc.StatusCode.UNAUTHENTICATED
    assert server.admin.revoke_key(created.key_id) == first


@pytest.mark.parametrize("role", [0, 99])
def test_a_key_needs_a_role(server: LiveServer, role: int) -> None:
    request = pub.CreateApiKeyRequest(org="acme", role=role)  # type: ignore[arg-type]
    admin = server.admin
    code, _, _ = refusal(lambda: admin.stub.CreateApiKey(request, metadata=admin.metadata, timeout=DEADLINE_S))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_messages_beyond_four_megabytes_are_refused_as_grpc_does_by_default(server: LiveServer) -> None:
    code, _, _ = refusal(
        lambda: server.admin.stub.Publish(
            iter([pub.PublishRequest(chunk=pub.SourceChunk(name="a", data=b"x" * 5_000_000))]),
            metadata=server.admin.metadata,
            timeout=DEADLINE_S,
        )
    )
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
