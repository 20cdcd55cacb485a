"""What `akpolicy-server check` says of expiries, clock, files and disk."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from akpolicy_server import machine_check
from akpolicy_server.audience import trusted
from akpolicy_server.first_root import DAY_S
from akpolicy_server.installation import CONFIG_FILE
from akpolicy_server.machine_check import _of_roles, concerns_of_machine
from akpolicy_server.settings import DATABASE_FILE, ServerSettings
from akpolicy_server.store.roots import newest_roots
from tests.unit.server.conftest import order, policy

if TYPE_CHECKING:
    from pathlib import Path

    from akpolicy_server.key_check import Concern
    from tests.unit.server.conftest import Core


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "server" / "data"


def concerns(core: Core, data_dir: Path) -> list[Concern]:
    settings = ServerSettings.load(data_dir.parent / CONFIG_FILE, env={})
    with core.database.read() as connection:
        return list(concerns_of_machine(settings, connection, core.clock.now()))


def messages(core: Core, data_dir: Path) -> str:
    return "\n".join(concern.message for concern in concerns(core, data_dir))


def publish(core: Core) -> None:
    core.publisher.publish(core.admin, order("org/acme", policy("p")))


def test_a_server_in_order_has_none(core: Core, data_dir: Path) -> None:
    publish(core)

    assert concerns(core, data_dir) == []


def test_policies_that_are_not_renewed_are_named_with_their_org(core: Core, data_dir: Path) -> None:
    publish(core)
    core.clock.advance(22 * DAY_S)
    assert concerns(core, data_dir) == []

    core.clock.advance(DAY_S)
    [late] = concerns(core, data_dir)
    assert (late.org, "`org/acme` expire at" in late.message) == ("acme", True)

    core.clock.advance(30 * DAY_S)
    assert "`org/acme` expired at" in messages(core, data_dir)


def test_a_clock_behind_what_was_signed_is_said(core: Core, data_dir: Path) -> None:
    publish(core)
    now = core.clock.now()
    core.clock.set_wall(now - 30)
    assert concerns(core, data_dir) == []

    core.clock.set_wall(now - 90)
    assert "seconds after the time of this machine's clock" in messages(core, data_dir)


def test_a_database_that_others_can_read_is_said(core: Core, data_dir: Path) -> None:
    (data_dir / DATABASE_FILE).chmod(0o640)

    [concern] = concerns(core, data_dir)

    assert f"`{data_dir / DATABASE_FILE}` has mode 0640" in concern.message


def test_a_disk_that_is_nearly_full_is_said(core: Core, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(data_dir).free
    monkeypatch.setattr(machine_check, "LEAST_FREE_BYTES", 4 * free)

    assert "make room" in messages(core, data_dir)


def test_a_role_that_runs_out_of_keys_before_the_root_is_said(core: Core) -> None:
    with core.database.read() as connection:
        root = next(trusted(record).document for record in newest_roots(connection))
    assert root.roles.heartbeat is not None
    now = core.clock.now()
    [key_id] = root.roles.heartbeat.keys

    def with_end(valid_until: float) -> list[Concern]:
        ending = root.keys[key_id].model_copy(update={"valid_until": int(valid_until)})
        keys = {**root.keys, key_id: ending}
        return list(_of_roles(root.model_copy(update={"keys": keys}), now))

    assert with_end(now + 31 * DAY_S) == []
    assert "heartbeat runs out of valid keys at" in with_end(now + 10 * DAY_S)[0].message
    assert "heartbeat has too few valid keys" in with_end(now - 1)[0].message
