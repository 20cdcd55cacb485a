"""Bundles signed away from the server, dry runs, rollbacks and freezes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from akpolicy.envelope import PayloadType
from akpolicy.freeze import FREEZE_POLICY, FREEZE_POLICY_ID
from akpolicy.proposal import make_proposal, parse_proposal
from akpolicy.signing import PrivateKeySigner
from akpolicy.strict_json import dump
from akpolicy.trust import Judge
from tests.simulators.org import delegation, sign
from tests.simulators.publishing import RootChain
from tests.unit.cli.conftest import GOOD

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from tests.simulators.publishing import PublishingSimulator
    from tests.unit.cli.conftest import KeyFile, Run

LACKING = (grpc.StatusCode.FAILED_PRECONDITION, "1 of 1 keys must sign `org/acme`, this server holds 0")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "acme.proposal.json"


@pytest.fixture
def key(server: PublishingSimulator, key_file: KeyFile) -> str:
    """The key of acme's bundles, as a signer URI."""
    return key_file(server.org.bundle_signer, "bundle")


def prepare(cli: Run, good: Path, out: Path, *options: object) -> None:
    result = cli("policy", "publish", good, "--org", "acme", "--unsigned", "--out", out, *options)
    assert result.code == 0, result.err


def two_must_sign(server: PublishingSimulator, **role: Any) -> PrivateKeySigner:
    """Give acme a root by which two keys sign its bundles; return the second one."""
    second = PrivateKeySigner.generate()
    document = server.org.root_document(signers=[second])
    document["roles"]["bundle"] = [delegation("org/acme", server.org.bundle_signer, second, **{"threshold": 2, **role})]
    chain = RootChain(Judge("acme", server.org.anchors))
    chain.add(sign(PayloadType.ROOT, dump(document), [server.org.root_signer]), server.org.clock.now())
    server.roots["acme"] = chain
    return second


# --- unsigned, sign, envelope -----------------------------------------------------------------------------------------


def test_a_bundle_is_prepared_signed_by_two_and_published(
    cli: Run, server: PublishingSimulator, good: Path, out: Path, key: str, key_file: KeyFile
) -> None:
    second = key_file(two_must_sign(server), "second")
    prepare(cli, good, out)
    assert server.revisions == []
    first = cli("policy", "sign", out, "--key", key, "--yes")
    assert first.code == 0, first.err
    assert "bundles of org/acme: 1 of 2: waiting for" in first.out
    assert f"akpolicy policy sign {out} --key URI" in first.err
    early = cli("policy", "publish", "--envelope", out)
    assert early.code == 1
    assert "1 of 2 needed keys signed" in early.err
    assert json.loads(cli("policy", "sign", out, "--key", second, "--yes", "--output", "json").out)["complete"] is True
    dry = cli("policy", "publish", "--envelope", out, "--dry-run")
    assert dry.out.startswith("would publish org/acme version 1")
    assert server.revisions == []
    done = cli("policy", "publish", "--envelope", out, "--message", "by hand", "--idempotency-key", "k3")
    assert done.code == 0, done.err
    [revision] = server.revisions
    assert (revision.header.message, revision.header.idempotency_key) == ("by hand", "k3")
    assert revision.policies[0].text == GOOD.strip()


def test_what_is_signed_is_shown_with_scope_version_expiry_and_policies(
    cli: Run, server: PublishingSimulator, good: Path, out: Path, key: str
) -> None:
    prepare(cli, good, out)
    shown = cli("policy", "sign", out, "--key", key, "--yes").err
    for fact in (
        "bundle of org/acme, version 1",
        "(in 30 days)",
        "  permit  all",
        "cached_with_expiry, at most 24 hours",
    ):
        assert fact in shown
    assert "root version 1 of acme, which came with the file, was not verified" in shown


def test_the_root_in_the_file_can_be_verified(
    cli: Run, server: PublishingSimulator, good: Path, out: Path, key: str
) -> None:
    prepare(cli, good, out)
    assert cli("policy", "sign", out, "--key", key, "--yes", "--anchor", server.org.anchor).code == 0
    other = PrivateKeySigner.generate().public_key.anchor
    assert cli("policy", "sign", out, "--key", key, "--yes", "--anchor", other).code == 1


def test_policies_that_hosts_could_not_enforce_are_not_signed(
    cli: Run, server: PublishingSimulator, tmp_path: Path, out: Path, key: str
) -> None:
    envelope, blob = server.org.bundle_envelope(
        "org/acme", {"typo": "permit (principal, action, resource) when { x };"}
    )
    proposal = make_proposal(replace(envelope, signatures=()), root=server.org.root_envelope(), content=blob)
    out.write_bytes(proposal.to_bytes())
    result = cli("policy", "sign", out, "--key", key, "--yes")
    assert result.code == 1
    assert "PolicyParseError" in result.err
    assert parse_proposal(out.read_bytes()).envelope.signatures == ()


def test_a_permit_where_only_forbids_are_allowed_is_not_signed(
    cli: Run, server: PublishingSimulator, good: Path, out: Path, key: str
) -> None:
    two_must_sign(server, grants=False)
    prepare(cli, good, out)
    result = cli("policy", "sign", out, "--key", key, "--yes")
    assert result.code == 1
    assert "may only forbid" in result.err


def test_content_that_was_exchanged_on_the_way_is_refused(
    cli: Run, server: PublishingSimulator, good: Path, out: Path, key: str
) -> None:
    prepare(cli, good, out)
    out.write_bytes(out.read_bytes().replace(b"resource);", b"resource) ;"))
    result = cli("policy", "sign", out, "--key", key, "--yes")
    assert result.code == 1
    assert "the manifest says" in result.err


def test_refused_policies_prepare_nothing(cli: Run, server: PublishingSimulator, bad: Path, out: Path) -> None:
    result = cli("policy", "publish", bad, "--org", "acme", "--unsigned", "--out", out)
    assert result.code == 1
    assert "PolicyValidationError" in result.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--unsigned"], "`--unsigned` and `--out FILE` go together"),
        (["--out", "x"], "`--unsigned` and `--out FILE` go together"),
        (["--envelope", "x"], "give no files, scope or terms"),
        (["--unsigned", "--out", "x", "--dry-run"], "leave out `--dry-run`"),
        (["--unsigned", "--out", "x", "--message", "why"], "give it with `policy publish --envelope`"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(
    cli: Run, server: PublishingSimulator, good: Path, options: list[str], said: str
) -> None:
    result = cli("policy", "publish", good, "--org", "acme", *options)
    assert result.code == 2
    assert said in result.err


@pytest.mark.parametrize("options", [["--org", "acme"], ["--lifetime", "1d"], ["--expected-version", "1"]])
def test_a_signed_bundle_takes_no_terms(cli: Run, server: PublishingSimulator, options: list[str]) -> None:
    result = cli("policy", "publish", "--envelope", "x", *options)
    assert result.code == 2
    assert "give no files, scope or terms" in result.err


def test_a_root_is_no_bundle(cli: Run, server: PublishingSimulator, out: Path) -> None:
    cli("root", "propose", "--org", "acme", "--trust-server", "--out", out)
    for command in (["policy", "sign", out, "--key", "file:x"], ["policy", "publish", "--envelope", out]):
        result = cli(*command)
        assert result.code == 2
        assert "is the proposal of a root" in result.err


# --- dry run ----------------------------------------------------------------------------------------------------------


def test_a_dry_run_of_a_publish_stores_nothing(cli: Run, server: PublishingSimulator, good: Path) -> None:
    result = cli("policy", "publish", good, "--org", "acme", "--dry-run")
    assert result.out.startswith("would publish org/acme version 1\n")
    assert "nothing was stored" in result.err
    assert server.revisions == []
    answer = json.loads(cli("policy", "publish", good, "--org", "acme", "--dry-run", "--output", "json").out)
    assert answer["dry_run"] is True


# --- rollback ---------------------------------------------------------------------------------------------------------


def test_a_rollback_publishes_what_was_before(
    cli: Run, server: PublishingSimulator, good: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.cedar"
    other.write_text('@id("other")\nforbid (principal, action, resource);\n')
    cli("policy", "publish", good, "--org", "acme")
    cli("policy", "publish", other, "--org", "acme")
    result = cli("policy", "rollback", "--org", "acme", "--message", "locked out", "--expected-version", 2)
    assert result.code == 0, result.err
    assert result.out.startswith("published org/acme version 3, with the content of version 1\n")
    [request] = server.rollbacks
    assert (request.to_version, request.expected_version, request.message) == (0, 2, "locked out")
    assert len(request.idempotency_key) == 32
    listed = cli("policy", "history", "--org", "acme").out.splitlines()
    assert listed[1].split()[:4] == ["3", "rollback", "to", "1"]
    [newest, *_] = json.loads(cli("policy", "history", "--org", "acme", "--output", "json").out)
    assert (newest["kind"], newest["restores_version"]) == ("rollback", 1)


def test_a_rollback_can_be_tried(cli: Run, server: PublishingSimulator, good: Path) -> None:
    for _ in range(2):
        cli("policy", "publish", good, "--org", "acme")
    result = cli("policy", "rollback", "--org", "acme", "--to", 1, "--dry-run", "--output", "json")
    assert json.loads(result.out)["dry_run"] is True
    assert len(server.revisions) == 2


def test_a_rollback_to_nothing_is_refused(cli: Run, server: PublishingSimulator) -> None:
    result = cli("policy", "rollback", "--org", "acme", "--to", 7)
    assert result.code == 1
    assert "(NOT_FOUND)" in result.err


# --- freeze -----------------------------------------------------------------------------------------------------------


def test_an_org_is_frozen_and_freed_by_the_server(cli: Run, server: PublishingSimulator, good: Path) -> None:
    cli("policy", "publish", good, "--org", "acme")
    frozen = cli("org", "freeze", "acme", "-m", "leak")
    assert frozen.out.startswith("acme is frozen: every host denies everything\nversion  2\n")
    assert cli("org", "freeze", "acme").out.startswith("acme is already frozen")
    answer = json.loads(cli("org", "unfreeze", "acme", "--output", "json").out)
    assert (answer["frozen"], answer["changed"], answer["revision"]["kind"]) == (False, True, "unfreeze")
    assert cli("org", "unfreeze", "acme").out.startswith("acme is already not frozen")


@pytest.fixture
def without_keys(server: PublishingSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server lack the keys of the org."""

    def refuse(_: object, context: grpc.ServicerContext) -> None:
        context.abort(*LACKING)

    monkeypatch.setattr(server, "SetFreeze", refuse)
    server.__exit__()
    server.__enter__()
    monkeypatch.setenv("AKPOLICY_SERVER", server.url)


def sign_and_publish(cli: Run, good: Path, out: Path, key: str) -> None:
    prepare(cli, good, out, "--offline-mode", "fail_closed")
    assert cli("policy", "sign", out, "--key", key, "--yes").code == 0
    assert cli("policy", "publish", "--envelope", out).code == 0


def test_an_org_whose_keys_are_elsewhere_is_frozen_with_them(
    cli: Run, server: PublishingSimulator, without_keys: None, good: Path, out: Path, key: str
) -> None:
    sign_and_publish(cli, good, out, key)
    refused = cli("org", "freeze", "acme")
    assert refused.code == 1
    assert "give yours: `--key URI`" in refused.err
    frozen = cli("org", "freeze", "acme", "--key", key, "--message", "leak")
    assert frozen.code == 0, frozen.err
    assert frozen.out.startswith("acme is frozen")
    newest = server.revisions[-1]
    assert [(policy.id, policy.text) for policy in newest.policies] == [(FREEZE_POLICY_ID, FREEZE_POLICY)]
    assert newest.header.message == "leak"
    assert cli("org", "freeze", "acme", "--key", key).out.startswith("acme is already frozen")
    assert len(server.revisions) == 2
    freed = cli("org", "unfreeze", "acme", "--key", key)
    assert freed.code == 0, freed.err
    assert [(policy.id, policy.text) for policy in server.revisions[-1].policies] == [("all", GOOD.strip())]
    assert cli("org", "unfreeze", "acme", "--key", key).out.startswith("acme is already not frozen")
    assert len(server.revisions) == 3


def test_a_freeze_that_nobody_here_signed_is_not_ended_with_these_keys(
    cli: Run, server: PublishingSimulator, without_keys: None, good: Path, out: Path, key: str, key_file: KeyFile
) -> None:
    """What came before the freeze must have been signed by one of the keys that are to sign it again."""
    sign_and_publish(cli, good, out, key)
    assert cli("org", "freeze", "acme", "--key", key).code == 0
    other = key_file(PrivateKeySigner.generate(), "other")
    result = cli("org", "unfreeze", "acme", "--key", other)
    assert result.code == 1
    assert "none of these keys signed version 1" in result.err
    assert len(server.revisions) == 2


def test_other_policies_than_were_signed_are_not_signed_again(
    cli: Run, server: PublishingSimulator, without_keys: None, good: Path, out: Path, key: str
) -> None:
    sign_and_publish(cli, good, out, key)
    assert cli("org", "freeze", "acme", "--key", key).code == 0
    server.revisions[0].policies[0] = type(server.revisions[0].policies[0])(
        "all", GOOD.strip().replace("permit", "forbid"), "content", 1
    )
    result = cli("org", "unfreeze", "acme", "--key", key)
    assert result.code == 1
    assert "not those that were signed" in result.err
    assert len(server.revisions) == 2


def test_a_freeze_that_the_server_prepared_otherwise_is_not_signed(
    cli: Run,
    server: PublishingSimulator,
    without_keys: None,
    good: Path,
    out: Path,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sign_and_publish(cli, good, out, key)
    kept = server.revisions[0].policies

    def other(messages: Any, context: grpc.ServicerContext) -> Any:
        header = next(messages).header
        list(messages)
        return header, kept

    monkeypatch.setattr(server, "_receive", other)
    result = cli("org", "freeze", "acme", "--key", key)
    assert result.code == 1
    assert "prepared other policies" in result.err
    assert len(server.revisions) == 1


def test_one_key_of_two_does_not_freeze(
    cli: Run, server: PublishingSimulator, without_keys: None, good: Path, out: Path, key: str, key_file: KeyFile
) -> None:
    second = key_file(two_must_sign(server), "second")
    prepare(cli, good, out)
    assert cli("policy", "sign", out, "--key", key, "--key", second, "--yes").code == 0
    assert cli("policy", "publish", "--envelope", out).code == 0
    result = cli("org", "freeze", "acme", "--key", key)
    assert result.code == 1
    assert "bundles of org/acme: 1 of 2: waiting for" in result.err
    assert len(server.revisions) == 1
    assert cli("org", "freeze", "acme", "--key", key, "--key", second).code == 0
