"""The command line against a real server: keys come and go, and what hosts are offered stays sound."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.clock import SystemClock
from akpolicy.keys import AnchorSet
from akpolicy.trust import Judge
from tests.integration.e2e.world import World, permit
from tests.simulators.org import ConfiguredAnchor

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path


class Ceremony:
    """A server with two orgs, and an operator who holds their root keys."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.directory = world.directory
        (self.directory / "a.cedar").write_text(permit("a"), encoding="utf-8")
        (self.directory / "b.cedar").write_text(permit("b"), encoding="utf-8")

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return self.world.cli(*arguments)

    def done(self, *arguments: str | Path) -> str:
        """Run a command that must succeed; return what it printed."""
        ended = self.run(*arguments)
        assert ended.returncode == 0, f"{arguments}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    def answer(self, *arguments: str | Path) -> Any:
        return json.loads(self.done(*arguments, "--output", "json"))

    def root(self, org: str = "acme") -> Any:
        return self.answer("root", "show", "--org", org, "--anchor", self.world.anchors[org])

    def keys(self, role: str, org: str = "acme") -> list[str]:
        found: list[str] = next(entry["keys"] for entry in self.root(org)["roles"] if entry["role"] == role)
        return found

    def root_key(self, org: str = "acme") -> str:
        """Return the file of an org's root key, as `init` made it."""
        [key_id] = self.keys("root", org)
        return str(self.directory / "server" / "data" / "keys" / f"{key_id}.pem")

    def new_key(self, name: str) -> tuple[str, str]:
        """Make a key; return its file and its anchor."""
        file = str(self.directory / f"{name}.pem")
        return file, self.answer("keys", "generate", "--out", file)["anchor"]

    def file(self, name: str) -> str:
        return str(self.directory / name)

    def change_root(self, *changes: str, org: str = "acme", keys: tuple[str, ...] = ()) -> str:
        """Propose, sign and publish a root; return what the publish printed."""
        out = self.file(f"{org}-{self.root(org)['version'] + 1}.json")
        self.done("root", "propose", "--org", org, "--anchor", self.world.anchors[org], "--out", out, *changes)
        signers = [option for key in (self.root_key(org), *keys) for option in ("--key", key)]
        self.done("root", "sign", out, *signers, "--yes")
        return self.done("root", "publish", out)

    def as_host(self, org: str = "acme") -> Judge:
        """Return the judge of a host that follows the org's roots from its anchor."""
        judge = Judge(org, AnchorSet.parse([ConfiguredAnchor(self.world.anchors[org])]))
        with self.world.publishing() as client:
            for root in client.roots(org):
                judge.accept_root(judge.judge_root(root.envelope, now()))
        return judge

    def newest(self, scope: str = "org/acme") -> Any:
        with self.world.publishing() as client:
            return client.revision(scope)


def now() -> float:
    return SystemClock().now()


@pytest.fixture
def ceremony() -> Iterator[Ceremony]:
    with World() as world:
        world.init("acme", "globex")
        world.start_server()
        yield Ceremony(world)


@pytest.mark.slow
def test_a_leaked_bundle_key_is_replaced_and_what_it_signed_is_signed_anew(ceremony: Ceremony) -> None:
    ceremony.done("policy", "publish", "a.cedar", "--org", "acme")
    [leaked] = ceremony.keys("bundle:org/acme")
    command = ("root", "revoke", "--org", "acme", leaked[:12], "--key", ceremony.root_key(), "--replace", "--new-epoch")
    revoked = ceremony.answer(*command)
    assert [(entry["scope"], entry["epoch"], entry["version"]) for entry in revoked["signed_anew"]] == [
        ("org/acme", 2, 1)
    ]
    assert revoked["dropped"] == []
    newest = ceremony.newest()
    verified = ceremony.as_host().judge_manifest(newest.envelope, now())
    assert (verified.manifest.epoch, verified.manifest.version) == (2, 1)
    history = ceremony.answer("policy", "history", "--org", "acme")
    assert [entry["kind"] for entry in history] == ["renewal", "publish"]
    repeated = ceremony.answer(*command)
    assert (repeated["key_id"], repeated["version"], repeated["repeated_request"]) == (leaked, 2, True)
    assert ceremony.root()["epoch"] == 2


@pytest.mark.slow
def test_a_leaked_key_of_the_platform_is_replaced_in_every_org(ceremony: Ceremony) -> None:
    ceremony.done("policy", "publish", "a.cedar", "--scope", "global")
    [leaked] = ceremony.keys("bundle:global")
    ceremony.done("root", "revoke", "--org", "acme", leaked, "--key", ceremony.root_key(), "--replace")
    [new] = ceremony.keys("bundle:global")
    anchor = next(key["public_key"] for key in ceremony.root()["keys"] if key["key_id"] == new)
    ceremony.change_root("--revoke", leaked, "--add-key", f"bundle:global={anchor}", org="globex")
    # Signed by both keys while the orgs moved one after the other; hosts are sent what their root knows.
    both = ceremony.newest("global").envelope
    newest = replace(both, signatures=tuple(entry for entry in both.signatures if entry.key_id == new))
    for org in ("acme", "globex"):
        root = ceremony.root(org)
        assert (set(root["revoked"]), ceremony.keys("bundle:global", org)) == ({leaked}, [new])
        assert ceremony.as_host(org).judge_manifest(newest, now()).manifest.scope == "global"


@pytest.mark.slow
def test_keys_of_people_sign_and_the_server_says_what_it_cannot(ceremony: Ceremony) -> None:
    ceremony.done("policy", "publish", "a.cedar", "--org", "acme")
    mine, anchor = ceremony.new_key("mine")
    [servers] = ceremony.keys("bundle:org/acme")
    out = ceremony.file("root.json")
    options = ("--add-key", f"bundle={anchor}", "--revoke", servers, "--out", out)
    ceremony.done("root", "propose", "--org", "acme", "--anchor", ceremony.world.anchors["acme"], *options)
    ceremony.done("root", "sign", out, "--key", ceremony.root_key(), "--yes")
    tried = ceremony.answer("root", "publish", out, "--dry-run")
    assert tried["dropped"] == ["org/acme"]
    assert ceremony.root()["version"] == 1
    published = ceremony.run("root", "publish", out)
    assert "no host enforces org/acme from then on: publish it again" in published.stderr
    refused = ceremony.run("policy", "publish", "b.cedar", "--org", "acme")
    assert (refused.returncode, "(FAILED_PRECONDITION)" in refused.stderr) == (1, True)
    proposal = ceremony.file("bundle.json")
    ceremony.done("policy", "publish", "b.cedar", "--org", "acme", "--unsigned", "--out", proposal)
    ceremony.done("policy", "sign", proposal, "--key", mine, "--yes", "--anchor", ceremony.world.anchors["acme"])
    assert ceremony.answer("policy", "publish", "--envelope", proposal, "--dry-run")["dry_run"] is True
    assert ceremony.answer("policy", "publish", "--envelope", proposal)["version"] == 2
    assert ceremony.answer("policy", "publish", "--envelope", proposal)["repeated_request"] is True
    # The same freeze, whoever signed it.
    assert ceremony.answer("org", "freeze", "acme", "--key", mine)["changed"] is True
    assert ceremony.answer("org", "freeze", "acme")["changed"] is False
    assert ceremony.answer("org", "unfreeze", "acme", "--key", mine)["changed"] is True
    assert ceremony.newest().policies[0].id == "b"
    assert ceremony.answer("org", "unfreeze", "acme")["changed"] is False


@pytest.mark.slow
def test_a_rollback_goes_as_far_as_it_may_and_is_inspected(ceremony: Ceremony) -> None:
    for name in ("a.cedar", "b.cedar"):
        ceremony.done("policy", "publish", name, "--org", "acme")
    tried = ceremony.answer("policy", "rollback", "--org", "acme", "--dry-run")
    assert (tried["restores_version"], tried["dry_run"]) == (1, True)
    assert "with the content of version 1" in ceremony.done("policy", "rollback", "--org", "acme", "-m", "typo")
    assert ceremony.answer("policy", "history", "--org", "acme")[0]["kind"] == "rollback"
    revision, roots = ceremony.file("revision.json"), ceremony.file("roots.json")
    shown = ceremony.done("policy", "show", "--org", "acme", "--output", "json")
    (ceremony.directory / "revision.json").write_text(shown, encoding="utf-8")
    shown = ceremony.done("root", "show", "--org", "acme", "--output", "json")
    (ceremony.directory / "roots.json").write_text(shown, encoding="utf-8")
    said = ceremony.done("inspect", revision, "--root", roots, "--anchor", ceremony.world.anchors["acme"])
    assert "for rollbacks, and version 1 is what it restores" in said
    assert "its content is what it names, and its policies can be enforced" in said
    ceremony.done("policy", "publish", "b.cedar", "--org", "acme", "--no-rollback")
    refused = ceremony.run("policy", "rollback", "--org", "acme", "--to", "1")
    assert (refused.returncode, "(FAILED_PRECONDITION)" in refused.stderr) == (1, True)
    stale = ceremony.run("policy", "rollback", "--org", "acme", "--expected-version", "1")
    assert (stale.returncode, "(ABORTED)" in stale.stderr) == (1, True)


@pytest.mark.slow
def test_an_org_waits_for_its_first_root_and_the_second_of_two_is_told(ceremony: Ceremony) -> None:
    mine, anchor = ceremony.new_key("mine")
    first, again = ceremony.file("first.json"), ceremony.file("again.json")
    ceremony.done("root", "init", "--org", "newco", "--root-key", anchor, "--out", first)
    ceremony.done("root", "init", "--org", "newco", "--root-key", anchor, "--out", again)
    assert (ceremony.directory / "first.json").read_bytes() == (ceremony.directory / "again.json").read_bytes()
    early = ceremony.run("policy", "publish", "a.cedar", "--org", "newco")
    assert (early.returncode, "`akpolicy root publish`" in early.stderr) == (1, True)
    ceremony.done("root", "sign", first, "--key", mine, "--yes")
    ceremony.done("root", "publish", first)
    ceremony.done("policy", "publish", "a.cedar", "--org", "newco")
    for name in ("one", "two"):
        out = ceremony.file(f"{name}.json")
        lifetime = {"one": "10d", "two": "20d"}[name]
        ceremony.done("root", "propose", "--org", "newco", "--anchor", anchor, "--out", out, "--expires", lifetime)
        ceremony.done("root", "sign", out, "--key", mine, "--yes")
    ceremony.done("root", "publish", ceremony.file("one.json"))
    late = ceremony.run("root", "publish", ceremony.file("two.json"))
    assert (late.returncode, "(ABORTED)" in late.stderr) == (1, True)


@pytest.mark.slow
def test_a_server_that_forgets_a_root_is_not_believed(ceremony: Ceremony) -> None:
    """Who moved the root to another key is not led back by a server that sends an old root alone."""
    new, anchor = ceremony.new_key("new")
    ceremony.done("root", "rotate", "--org", "acme", "--key", ceremony.root_key(), "--new-key", new)
    old = ceremony.world.anchors["acme"]
    ceremony.done("root", "rotate", "--org", "acme", "--key", new, "--new-key-file", ceremony.file("third.pem"))
    assert ceremony.answer("root", "show", "--org", "acme", "--anchor", old)["version"] == 3
    assert ceremony.answer("root", "show", "--org", "acme", "--anchor", anchor)["version"] == 3
    stranger = ceremony.new_key("stranger")[1]
    refused = ceremony.run("root", "show", "--org", "acme", "--anchor", stranger)
    assert (refused.returncode, "needed trust anchors" in refused.stderr) == (1, True)
