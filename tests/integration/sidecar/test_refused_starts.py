"""Starts that must fail, each with a message that says what to do."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.integration.sidecar.process import PERMIT, Sidecar
from tests.simulators.certificates import AuthoritySimulator

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulators.policy_server import PolicyServerSimulator

CONFIGURATION = 2
STARTUP = 1


def refused(sidecar: Sidecar, code: int, *fragments: str) -> None:
    """Expect a start to fail with this exit code and these words, and without a traceback."""
    exit_code, said = sidecar.refuse()

    assert exit_code == code, said
    assert "error: " in said
    assert "Traceback" not in said
    for fragment in fragments:
        assert fragment in said
    assert not sidecar.ready_file.exists()


def test_a_missing_environment_variable(sidecar: Sidecar) -> None:
    sidecar.env = {}
    refused(sidecar, CONFIGURATION, "`AKPOLICY_TEST_KEY` is not set")


def test_an_age_recipient_as_anchor(sidecar: Sidecar) -> None:
    sidecar.anchors["keys"] = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]
    refused(sidecar, CONFIGURATION, "age (X25519)", "ed25519:<base64>")


def test_an_anchor_of_zeros(sidecar: Sidecar) -> None:
    sidecar.anchors["keys"] = ["ed25519:" + "A" * 43 + "="]
    refused(sidecar, CONFIGURATION, "low order")


def test_an_unknown_offline_mode(sidecar: Sidecar) -> None:
    sidecar.enterprise["offline_mode"] = "fail_open"
    refused(sidecar, CONFIGURATION, "offline_mode", "fail_closed")


def test_an_unknown_key(sidecar: Sidecar) -> None:
    sidecar.sidecar["sockett"] = "x"
    refused(sidecar, CONFIGURATION, "sockett", "did you mean `socket`")


def test_a_missing_settings_file(tmp_path: Path) -> None:
    done = run("--config", str(tmp_path / "none.toml"))

    assert done.returncode == CONFIGURATION
    assert done.stderr.startswith("error: cannot read the configuration")


def test_a_socket_that_is_served(sidecar: Sidecar, tmp_path: Path) -> None:
    sidecar.socket.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(sidecar.socket))
        live.listen()
        refused(sidecar, STARTUP, "served by another process")
        assert sidecar.socket.exists()


def test_a_socket_path_that_is_too_long(sidecar: Sidecar, tmp_path: Path) -> None:
    sidecar.sidecar["socket"] = str(tmp_path / ("s" * 120))
    refused(sidecar, STARTUP, "more than 106")


def test_a_socket_below_a_regular_file(sidecar: Sidecar, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    sidecar.sidecar["socket"] = str(tmp_path / "file" / "sidecar.sock")
    refused(sidecar, STARTUP, "cannot create the socket")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_socket_in_a_directory_that_is_not_writable(sidecar: Sidecar, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    sidecar.sidecar["socket"] = str(tmp_path / "locked" / "sidecar.sock")
    refused(sidecar, STARTUP, "cannot create the socket")


def test_a_file_where_the_socket_should_be_is_not_removed(sidecar: Sidecar) -> None:
    sidecar.socket.parent.mkdir()
    sidecar.socket.write_text("precious")
    refused(sidecar, STARTUP, "is no socket")
    assert sidecar.socket.read_text() == "precious"


def test_an_unknown_socket_group(sidecar: Sidecar) -> None:
    sidecar.sidecar["socket_group"] = "no-such-group-anywhere"
    refused(sidecar, STARTUP, "no-such-group-anywhere")


def test_a_metrics_port_in_use(sidecar: Sidecar) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        sidecar.sidecar["metrics_listen"] = f"127.0.0.1:{taken.getsockname()[1]}"
        refused(sidecar, STARTUP, "is in use")


def test_a_tcp_port_in_use(sidecar: Sidecar, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        sidecar.serve_tcp(AuthoritySimulator(tmp_path).issue("host"), port=taken.getsockname()[1])
        refused(sidecar, STARTUP, "is in use")


def test_a_key_that_is_not_that_of_the_listeners_certificate(sidecar: Sidecar, tmp_path: Path) -> None:
    authority = AuthoritySimulator(tmp_path)
    host, other = authority.issue("host"), authority.issue("other")
    other.key.rename(host.key)
    sidecar.serve_tcp(host)
    refused(sidecar, CONFIGURATION, f"key `{host.key}` is not the key of certificate `{host.certificate}`")


def test_an_api_key_file_that_others_can_read(sidecar: Sidecar, tmp_path: Path) -> None:
    key = tmp_path / "api.key"
    key.write_text("a-key")
    key.chmod(0o644)
    del sidecar.enterprise["api_key_env"]
    sidecar.enterprise["api_key_file"] = str(key)
    refused(sidecar, CONFIGURATION, "enterprise.api_key_file", "mode 0644", "chmod 600")


def test_a_state_directory_of_another_sidecar(sidecar: Sidecar, tmp_path: Path) -> None:
    sidecar.start()
    second = Sidecar(tmp_path / "second", sidecar.enterprise["policy_server"], sidecar.anchors["keys"][0])
    second.directory.mkdir()
    second.sidecar["state_dir"] = str(sidecar.state)

    refused(second, STARTUP, "in use by another sidecar")


def test_a_state_directory_of_another_org(sidecar: Sidecar, server: PolicyServerSimulator) -> None:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")
    sidecar.stop()
    sidecar.enterprise["org_id"] = "other"

    refused(sidecar, STARTUP, "belongs to the org `acme`, not to `other`")


def test_a_state_directory_that_others_can_read(sidecar: Sidecar) -> None:
    sidecar.state.mkdir()
    sidecar.state.chmod(0o755)

    refused(sidecar, STARTUP, "mode 0755", "chmod 700")


# --- what is fine -----------------------------------------------------------------------------------------------------


def test_not_enabled_is_said_and_is_no_error(sidecar: Sidecar) -> None:
    sidecar.enterprise = {"enabled": False}
    sidecar.anchors = {}

    code, said = sidecar.refuse()

    assert code == 0
    assert "enabled = false" in said


def test_a_stale_socket_is_replaced(sidecar: Sidecar) -> None:
    sidecar.socket.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(sidecar.socket))

    sidecar.start().ask()


def test_the_socket_has_the_configured_mode(sidecar: Sidecar) -> None:
    sidecar.sidecar["socket_mode"] = "0600"
    sidecar.start()

    assert stat.S_IMODE(sidecar.socket.stat().st_mode) == 0o600


def test_the_socket_is_for_owner_and_group_by_default(sidecar: Sidecar) -> None:
    sidecar.start()

    assert stat.S_IMODE(sidecar.socket.stat().st_mode) == 0o660


def test_a_socket_path_with_special_characters_works(sidecar: Sidecar, tmp_path: Path) -> None:
    path = tmp_path / "a b%20c" / "s.sock"
    sidecar.sidecar["socket"] = str(path)
    sidecar.start()

    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))


def test_jwks_url_is_answered_with_a_warning(sidecar: Sidecar) -> None:
    sidecar.enterprise["jwks_url"] = "https://login.example/keys"
    sidecar.start()

    assert "verified identities are not available" in sidecar.output()


def test_help_has_examples_and_version_is_printed() -> None:
    assert "akpolicy-sidecar --config" in run("--help").stdout
    assert run("--version").stdout.startswith("akpolicy-sidecar ")
    assert run().returncode == CONFIGURATION


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "akpolicy_sidecar", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
