"""A new installation works as it is, and touches nothing that exists."""

from __future__ import annotations

import socket
import stat
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from akpolicy.addresses import HostPort
from akpolicy.errors import AddressInUse, StartupError, StateDirUnusable, UsageError
from akpolicy_server.access import Caller, Role
from akpolicy_server.api_keys import ApiKeys
from akpolicy_server.installation import install
from akpolicy_server.listener import check_free
from akpolicy_server.ready_file import ready_file
from akpolicy_server.settings import ServerSettings
from akpolicy_server.store.engine import Database
from tests.simulators.clock import ManualClock

if TYPE_CHECKING:
    from pathlib import Path

LISTEN = HostPort("127.0.0.1", 8180)


def test_the_configuration_loads_and_names_the_database(tmp_path: Path) -> None:
    made = install(tmp_path / "new", ("acme",), listen=LISTEN, metrics_listen=None, clock=ManualClock())
    settings = ServerSettings.load(made.config, env={})
    assert settings.server.listen == LISTEN
    assert settings.server.metrics_listen is None
    with closing(Database(settings.server.resolved_database_url)) as database:
        keys = ApiKeys(database, ManualClock(), on_revoked=lambda _: None)
        caller = keys.authenticate(made.admin_api_key)
    assert caller == Caller(caller.key_id, Role.ADMIN, None)
    assert made.server == "http://127.0.0.1:8180"


def test_everything_is_for_its_owner_alone(tmp_path: Path) -> None:
    install(tmp_path / "new", (), listen=LISTEN, metrics_listen=None, clock=ManualClock())
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*")}
    assert modes == {0o700, 0o600}
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_the_admin_key_is_in_no_file_and_no_repr(tmp_path: Path) -> None:
    made = install(tmp_path / "new", (), listen=LISTEN, metrics_listen=None, clock=ManualClock())
    assert made.admin_api_key not in repr(made)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if made.admin_api_key.encode() in path.read_bytes()]


@pytest.mark.parametrize("existing", ["server.toml", "data"])
def test_an_existing_installation_is_not_touched(tmp_path: Path, existing: str) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / existing).write_text("mine")
    with pytest.raises(StateDirUnusable, match="nothing was changed"):
        install(tmp_path, ("acme",), listen=LISTEN, metrics_listen=None, clock=ManualClock())
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "mine"


def test_a_run_that_was_interrupted_can_be_repeated(tmp_path: Path) -> None:
    directory = tmp_path / "new"
    (directory / ".data-unfinished" / "keys").mkdir(parents=True, mode=0o700)
    directory.chmod(0o700)
    (directory / ".data-unfinished" / "akpolicy.sqlite3").write_bytes(b"half")
    made = install(directory, ("acme",), listen=LISTEN, metrics_listen=None, clock=ManualClock())
    assert sorted(path.name for path in directory.iterdir()) == ["data", "server.toml"]
    assert made.orgs[0].org == "acme"


@pytest.mark.parametrize(
    ("orgs", "listen"),
    [
        (("-bad",), LISTEN),
        (("acme", "acme"), LISTEN),
        ((), HostPort("0.0.0.0", 8180)),
        ((), HostPort("example.com", 1)),
    ],
)
def test_an_impossible_request_makes_nothing(tmp_path: Path, orgs: tuple[str, ...], listen: HostPort) -> None:
    with pytest.raises(UsageError):
        install(tmp_path / "new", orgs, listen=listen, metrics_listen=None, clock=ManualClock())
    assert not (tmp_path / "new").exists()


# --- where it listens -------------------------------------------------------------------------------------------------


def test_a_taken_port_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=f"`127.0.0.1:{port}` is in use"):
            check_free(HostPort("127.0.0.1", port))
    check_free(HostPort("127.0.0.1", port))


@pytest.mark.parametrize("host", ["198.51.100.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_said(host: str) -> None:
    with pytest.raises(StartupError, match=f"`{host}:0`"):
        check_free(HostPort(host, 0))


def test_the_ready_file_is_there_only_while_the_program_serves(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    with ready_file(path, listen=HostPort("127.0.0.1", 1), metrics=None):
        assert '"listen": "127.0.0.1:1", "metrics": null' in path.read_text()
    assert not path.exists()
    with ready_file(None, listen=LISTEN, metrics=None):
        assert not list(tmp_path.iterdir())
    with (
        pytest.raises(StartupError, match="cannot write"),
        ready_file(tmp_path / "missing" / "ready", listen=LISTEN, metrics=None),
    ):
        pass
