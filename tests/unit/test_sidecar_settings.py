"""The sidecar's settings: agentkernel's keys, defaults that fit the host, and what is refused."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from akpolicy.addresses import HostPort
from akpolicy.errors import ConfigError
from akpolicy_sidecar.default_paths import default_socket, default_state_dir
from akpolicy_sidecar.settings import AnchorEntry, SidecarSettings

if TYPE_CHECKING:
    from pathlib import Path


def anchor(seed: int) -> str:
    key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32).public_key()
    return "ed25519:" + base64.b64encode(key.public_bytes_raw()).decode()


ENTERPRISE = """[enterprise]
enabled = true
policy_server = "https://policy.example.com"
org_id = "acme"
api_key_env = "ACME_KEY"
"""
ANCHORS = f'[enterprise.trust_anchors]\nkeys = ["{anchor(1)}"]\n'
ENV = {"ACME_KEY": "hunter2", "HOME": "/home/kim"}


def load(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> SidecarSettings:
    path = tmp_path / "sidecar.toml"
    # What a test leaves out is not its subject; at the end it moves no line.
    path.write_text(text if "[enterprise" in text else text + "[enterprise]\nenabled = false\n")
    return SidecarSettings.load(path, env=ENV if env is None else env)


def problems_of(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, env)
    assert "hunter2" not in str(caught.value)
    return [problem.replace(f"{tmp_path}/sidecar.toml:", "") for problem in caught.value.problems]


def test_the_keys_of_an_agentkernel_host_are_accepted_as_they_are(tmp_path: Path) -> None:
    text = (
        ENTERPRISE
        + 'offline_mode = "fail_closed"\ncache_max_age_hours = 12\ndefault_roles = ["developer"]\n'
        + 'jwks_url = "https://id.example.com/jwks.json"\n'
        + ANCHORS
    )
    settings = load(tmp_path, text)
    enterprise = settings.enterprise
    assert (enterprise.enabled, enterprise.org_id, enterprise.offline_mode) == (True, "acme", "fail_closed")
    assert enterprise.policy_server is not None
    assert enterprise.policy_server.target == "policy.example.com:443"
    assert enterprise.api_key_env is not None
    assert enterprise.api_key_env.reveal() == "hunter2"
    assert (enterprise.cache_max_age_hours, enterprise.default_roles) == (12, ("developer",))
    assert len(enterprise.trust_anchors.parse().anchors) == 1
    assert "hunter2" not in repr(settings)


def test_the_defaults_of_agentkernel_hold(tmp_path: Path) -> None:
    enterprise = load(tmp_path, ENTERPRISE + ANCHORS).enterprise
    assert (enterprise.offline_mode, enterprise.cache_max_age_hours) == ("cached_with_expiry", 24)
    assert (enterprise.default_roles, enterprise.jwks_url) == ((), "")


def test_a_file_without_enterprise_is_a_mistake_and_not_a_disabled_sidecar(tmp_path: Path) -> None:
    (tmp_path / "sidecar.toml").write_text('[sidecar]\nstate_dir = "state"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="enterprise: is missing"):
        SidecarSettings.load(tmp_path / "sidecar.toml", env={})


@pytest.mark.parametrize("text", ["[enterprise]\nenabled = false\n", '[enterprise]\napi_key_env = "NOT_SET"\n'])
def test_a_disabled_sidecar_needs_nothing(tmp_path: Path, text: str) -> None:
    assert not load(tmp_path, text).enterprise.enabled


def test_an_enabled_sidecar_needs_server_org_key_and_anchors(tmp_path: Path) -> None:
    keys = [problem.split(": ")[1] for problem in problems_of(tmp_path, "[enterprise]\nenabled = true\n")]
    assert keys == [
        "enterprise.api_key_env",
        "enterprise.org_id",
        "enterprise.policy_server",
        "enterprise.trust_anchors.keys",
    ]


CERTIFICATE = '[sidecar]\nclient_cert_file = "host.crt"\nclient_key_file = "host.pem"\n'
WITHOUT_KEY = ENTERPRISE.replace('api_key_env = "ACME_KEY"', "")


def test_a_client_certificate_with_a_private_key_takes_the_place_of_an_api_key(tmp_path: Path) -> None:
    (tmp_path / "host.crt").touch()
    key = tmp_path / "host.pem"
    key.touch(mode=0o600)
    assert load(tmp_path, WITHOUT_KEY + ANCHORS + CERTIFICATE).enterprise.lacks_api_key
    key.chmod(0o604)
    (problem,) = problems_of(tmp_path, WITHOUT_KEY + ANCHORS + CERTIFICATE)
    assert "sidecar.client_key_file: others have access to the client key" in problem
    # With an API key it is the channel's alone, and its mode is the operator's to keep.
    assert not load(tmp_path, ENTERPRISE + ANCHORS + CERTIFICATE).enterprise.lacks_api_key


@pytest.mark.parametrize("env", [{}, {"ACME_KEY": ""}])
def test_a_missing_api_key_names_its_variable(tmp_path: Path, env: dict[str, str]) -> None:
    (problem,) = problems_of(tmp_path, ENTERPRISE + ANCHORS, env | {"HOME": "/h"})
    assert problem.startswith("5: enterprise.api_key_env: environment variable `ACME_KEY` is not set")


KEY_FILE = ENTERPRISE.replace('api_key_env = "ACME_KEY"', 'api_key_file = "host.key"')


def key_file(tmp_path: Path, content: bytes = b"akp_hunter2\n", mode: int = 0o600) -> Path:
    path = tmp_path / "host.key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_an_api_key_may_be_in_a_private_file_beside_the_settings(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    enterprise = load(tmp_path, KEY_FILE + ANCHORS, {"HOME": "/h"}).enterprise
    assert (enterprise.api_key_env, enterprise.api_key_file) == (None, path)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"akp_hunter2", 0o640, "mode 0640"),
        (b"", 0o600, "holds no API key"),
        (b"two hunter2", 0o600, "holds no API key"),
        (b"hunter2\xff", 0o600, "holds no API key"),
        (b"hunter2" * 1000, 0o600, "more than 4096"),
    ],
    ids=["readable by others", "empty", "two words", "no text", "too long"],
)
def test_a_file_that_holds_no_private_api_key_is_refused_with_its_line(
    tmp_path: Path, content: bytes, mode: int, said: str
) -> None:
    key_file(tmp_path, content, mode)
    (problem,) = problems_of(tmp_path, KEY_FILE + ANCHORS)
    assert problem.startswith("5: enterprise.api_key_file: ")
    assert said in problem


def test_a_missing_api_key_file_and_a_link_to_one_are_refused(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, KEY_FILE + ANCHORS)
    assert problem.startswith(f"5: enterprise.api_key_file: the API key file cannot be used: `{tmp_path}/host.key` is")
    key_file(tmp_path).rename(tmp_path / "elsewhere")
    (tmp_path / "host.key").symlink_to("elsewhere")
    (problem,) = problems_of(tmp_path, KEY_FILE + ANCHORS)
    assert "is a symbolic link" in problem


def test_an_api_key_is_in_the_environment_or_in_a_file_and_not_in_both(tmp_path: Path) -> None:
    key_file(tmp_path)
    (problem,) = problems_of(tmp_path, ENTERPRISE + 'api_key_file = "host.key"\n' + ANCHORS)
    assert problem == "6: enterprise.api_key_file: stands beside api_key_env; keep one of the two"
    (problem,) = problems_of(tmp_path, ENTERPRISE.replace('api_key_env = "ACME_KEY"\n', "") + ANCHORS)
    assert "enterprise.api_key_env: is missing; `enabled = true` needs it, or api_key_file, or client_cert" in problem


def test_an_unknown_offline_mode_is_no_silent_default(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, ENTERPRISE + 'offline_mode = "fail_open"\n' + ANCHORS)
    assert problem.startswith("6: enterprise.offline_mode: must be one of `fail_closed`, ")
    assert problem.endswith("(got `fail_open`)")


def test_a_key_id_is_no_anchor(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, ENTERPRISE + f'[enterprise.trust_anchors]\nkeys = ["{"ab" * 32}"]\n')
    assert problem.startswith("7: enterprise.trust_anchors.keys: ")
    assert "key id" in problem


def test_more_signatures_than_anchors_cannot_be_demanded(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, ENTERPRISE + ANCHORS + "threshold = 2\n")
    assert "threshold 2" in problem


def test_anchors_may_be_tables_with_validity(tmp_path: Path) -> None:
    text = ENTERPRISE + (
        f'[[enterprise.trust_anchors.keys]]\nkey = "{anchor(1)}"\nvalid_until = 2030-01-01T00:00:00+01:00\n'
        f'[[enterprise.trust_anchors.keys]]\nkey = "{anchor(2)}"\nvalid_from = 1700000000\n'
    )
    assert load(tmp_path, text).enterprise.trust_anchors.keys == (
        AnchorEntry(anchor(1), None, 1_893_452_400),
        AnchorEntry(anchor(2), 1_700_000_000, None),
    )


@pytest.mark.parametrize("moment", ["2030-01-01", "2030-01-01T00:00:00", "12:00:00", "true", "-1", "1.5", '"tomorrow"'])
def test_a_validity_without_offset_is_refused(tmp_path: Path, moment: str) -> None:
    text = ENTERPRISE + f'[[enterprise.trust_anchors.keys]]\nkey = "{anchor(1)}"\nvalid_from = {moment}\n'
    (problem,) = problems_of(tmp_path, text)
    assert problem.startswith("8: enterprise.trust_anchors.keys[0].valid_from: must be a date and time with an offset")


def test_plaintext_to_another_machine_must_be_asked_for(tmp_path: Path) -> None:
    text = ENTERPRISE.replace("https://", "http://") + ANCHORS
    (problem,) = problems_of(tmp_path, text)
    assert problem.startswith("3: enterprise.policy_server: `http://policy.example.com:80` is plaintext")
    server = load(tmp_path, text + "[sidecar]\nallow_plaintext = true\n").enterprise.policy_server
    assert server is not None
    assert not server.secure


def test_plaintext_to_this_machine_needs_no_consent(tmp_path: Path) -> None:
    text = ENTERPRISE.replace("https://policy.example.com", "http://127.0.0.1:8180") + ANCHORS
    assert load(tmp_path, text).enterprise.enabled


def test_a_client_certificate_needs_its_key(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").touch()
    (problem,) = problems_of(tmp_path, '[sidecar]\nclient_cert_file = "cert.pem"\n')
    assert problem == "2: sidecar.client_cert_file: is of no use without client_key_file"


def test_runtimes_on_other_machines_must_show_a_certificate(tmp_path: Path) -> None:
    for name in ("host.crt", "host.key", "runtimes.crt"):
        (tmp_path / name).touch()
    text = '[sidecar.tcp]\nlisten = "0.0.0.0:8183"\ncert_file = "host.crt"\nkey_file = "host.key"\n'
    (problem,) = problems_of(tmp_path, text)
    assert problem.startswith("2: sidecar.tcp.listen: `0.0.0.0:8183` lets every machine ask")
    assert load(tmp_path, text + 'client_ca_file = "runtimes.crt"\n').sidecar.tcp is not None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('identity = "verified"', "not available in this version"),
        ('metrics_listen = "0.0.0.0:8182"', "metrics_allow_remote"),
        ("worker_threads = 65", "must be at most 64"),
        ('socket_mode = "0o660"', "octal"),
        ("state_dir = 1", "must be a string"),
        ('tcp = { listen = "127.0.0.1:1" }', "cert_file: is missing"),
    ],
)
def test_a_wrong_setting_of_the_sidecar_is_refused_with_its_line(tmp_path: Path, line: str, expected: str) -> None:
    problems = problems_of(tmp_path, f"[sidecar]\n{line}\n")
    assert problems[0].startswith("2: sidecar.")
    assert expected in problems[0]


def test_files_are_kept_below_the_state_directory_unless_said_otherwise(tmp_path: Path) -> None:
    sidecar = load(tmp_path, '[sidecar]\nstate_dir = "state"\nsocket = "s.sock"\n').sidecar
    assert (sidecar.state_dir, sidecar.socket) == (tmp_path / "state", tmp_path / "s.sock")
    assert sidecar.audit_log == str(tmp_path / "state" / "audit.jsonl")
    assert (sidecar.socket_mode, sidecar.metrics_listen) == (0o660, HostPort("127.0.0.1", 8182))


@pytest.mark.parametrize("target", ["-", "off"])
def test_the_audit_log_can_go_to_standard_output_or_nowhere(tmp_path: Path, target: str) -> None:
    assert load(tmp_path, f'[sidecar]\naudit_log = "{target}"\n').sidecar.audit_log == target


def test_state_goes_to_the_system_directory_only_where_it_can_be_written(tmp_path: Path) -> None:
    usable, absent = tmp_path / "lib", tmp_path / "no" / "such" / "place"
    env = {"HOME": "/home/kim"}
    assert default_state_dir(env, system_dir=usable) == usable
    assert str(default_state_dir(env, system_dir=absent)) == "/home/kim/.local/state/akpolicy"
    assert str(default_state_dir(env | {"XDG_STATE_HOME": "/s"}, system_dir=absent)) == "/s/akpolicy"
    assert str(default_state_dir(env | {"XDG_STATE_HOME": "s"}, system_dir=absent)) == "/home/kim/.local/state/akpolicy"


def test_the_socket_goes_to_the_first_runtime_directory_there_is(tmp_path: Path) -> None:
    state, usable, absent = tmp_path / "state", tmp_path / "run", tmp_path / "no" / "such" / "place"
    user = {"XDG_RUNTIME_DIR": "/run/user/7"}
    systemd = user | {"RUNTIME_DIRECTORY": "/run/a:/run/b"}
    assert str(default_socket(systemd, state, system_dir=usable)) == "/run/a/sidecar.sock"
    assert default_socket(user, state, system_dir=usable) == usable / "sidecar.sock"
    assert str(default_socket(user, state, system_dir=absent)) == "/run/user/7/akpolicy/sidecar.sock"
    assert default_socket({}, state, system_dir=absent) == state / "run" / "sidecar.sock"
