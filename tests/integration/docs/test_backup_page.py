"""docs/operations/backup.md, typed as it stands there: a backup, a restore, and the way to hosts that follow again."""

from __future__ import annotations

import json
import shlex
import shutil
from typing import TYPE_CHECKING, Final

import pytest

from akpolicy import errors
from tests.integration.docs.pages import blocks, read, typed
from tests.integration.e2e import programs
from tests.integration.e2e.world import World, permit
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = read("docs/operations/backup.md")
BACKUP, RESTORE, HOSTS, EPOCH, PRUNE = (typed(block) for block in blocks(PAGE, "console"))


def type_in(world: World, command: str) -> str:
    """Run a command as an operator's shell does who answers every question with yes; return what it prints."""
    command = command.replace("$ANCHOR", world.anchors["acme"])
    words = shlex.split(command)
    if words[1:3] == ["root", "sign"]:
        words.append("--yes")
    env = {"AKPOLICY_SERVER": world.url, "AKPOLICY_API_KEY": world.admin_key}
    done = programs.run(words, env, cwd=world.directory)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def enforcing() -> Iterator[World]:
    """A server and a host that enforces version 1."""
    with World() as world:
        world.init()
        world.start_server()
        world.publish(permit("first"))
        world.start_sidecar()
        world.wait_decided_by("first")
        yield world


@pytest.mark.slow
def test_the_commands_of_the_page_lead_from_a_backup_to_hosts_that_follow(enforcing: World) -> None:
    assert enforcing.server is not None
    (enforcing.directory / "policies.cedar").write_text(permit("after"), encoding="utf-8")
    root = json.loads(type_in(enforcing, "akpolicy root show --org acme --output json"))
    [key_id] = next(entry["keys"] for entry in root["roles"] if entry["role"] == "root")
    shutil.copy(enforcing.server_dir / "data" / "keys" / f"{key_id}.pem", enforcing.directory / "root.pem")

    assert "checked" in type_in(enforcing, *BACKUP)
    enforcing.publish(permit("since"))
    enforcing.wait_decided_by("since")
    enforcing.server.stop()
    assert "raise the epoch" in type_in(enforcing, *RESTORE)
    enforcing.start_server()
    wait_until(lambda: "Rollback" in type_in(enforcing, *HOSTS), what="the refusal in the list of hosts")
    for command in EPOCH:
        type_in(enforcing, command)

    assert enforcing.wait_decided_by("after").bundles[0].epoch == 2
    enforcing.server_tables["server.retention"] = {"days": 30}
    programs.write_toml(enforcing.server_dir / "server.toml", enforcing.server_tables)
    for command, words in zip(PRUNE, ("would go", "gone"), strict=True):
        assert f"0 revisions of 0 scopes {words}" in type_in(enforcing, command)


def test_the_errors_that_the_page_names_exist() -> None:
    named = {"RollbackDetected", "HeartbeatRollback", "RootRollback", "Equivocation"}
    assert all(f"`{name}`" in PAGE and hasattr(errors, name) for name in named)
