"""Bundles signed away from the server, dry runs and rollbacks."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from akpolicy.engine.source import PolicyText
from akpolicy.envelope import PayloadType
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


# --- a server that prepares something else ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "changes", "wrong"),
    [
        ((), {"version": 7}, "with version 7 after version 0"),
        (("--expected-version", "0"), {"version": 2}, "with version 2 after version 0"),
        (("--offline-mode", "fail_closed"), {"offline": {"mode": "cached_indefinite", "max_age_s": 86_400}}, "mode"),
        (("--offline-max-age", "1h"), {"offline": {"mode": "cached_with_expiry", "max_age_s": 7200}}, "7200 seconds"),
        (("--lifetime", "1d"), {"expires_at": 1_900_000_000}, "with a lifetime of"),
    ],
)
def test_other_terms_than_were_asked_for_are_not_written(
    cli: Run,
    server: PublishingSimulator,
    good: Path,
    out: Path,
    options: tuple[str, ...],
    changes: dict[str, Any],
    wrong: str,
) -> None:
    server.prepared_otherwise = changes
    result = cli("policy", "publish", good, "--org", "acme", "--unsigned", "--out", out, *options)
    assert result.code == 1
    assert "which was not asked for; do not sign it" in result.err
    assert wrong in result.err
    assert not out.exists()


def test_other_policies_than_the_files_have_are_not_written(
    cli: Run, server: PublishingSimulator, good: Path, out: Path
) -> None:
    server.policies_instead = [PolicyText("all", GOOD.strip().replace("action,", "action, "), "content", 1)]
    result = cli("policy", "publish", good, "--org", "acme", "--unsigned", "--out", out)
    assert result.code == 1
    assert "prepared other policies for `org/acme` than it was given" in result.err
    assert not out.exists()
