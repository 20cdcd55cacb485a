"""`akpolicy-server` as a program: options, exit codes, signals, crashes."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import stat
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import grpc
import pytest

from akpolicy import __version__
from akpolicy.client.channel import parse_server_url
from akpolicy.client.publishing import PublishingClient
from akpolicy.client.publishing_types import PublishTerms
from akpolicy.engine.files import PolicyFile
from akpolicy.errors import ServerRefused, ServerUnreachable
from akpolicy.signing import create_key_file, load_key_file
from akpolicy_server.settings import DATABASE_FILE
from tests.integration.server.conftest import Operator, Program, policy, program
from tests.integration.server.judged import JudgedHost, next_root

if TYPE_CHECKING:
    from collections.abc import Callable


# --- options and exit codes -------------------------------------------------------------------------------------------


def test_help_shows_examples_and_version_the_version() -> None:
    for arguments in (["--help"], ["init", "--help"]):
        done = program(*arguments)
        assert done.returncode == 0
        assert "Examples:" in done.stdout
        assert "akpolicy-server init --dir" in done.stdout
    assert program("--version").stdout == f"akpolicy-server {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--nonsense"],
        ["init"],
        ["init", "--dir", "x", "--org", "-bad-"],
        ["init", "--dir", "x", "--listen", "nonsense"],
        ["init", "--dir", "x", "--listen", "0.0.0.0:8180"],
        ["--config", "missing.toml"],
    ],
)
def test_a_wrong_command_line_is_exit_code_two_without_a_traceback(tmp_path: Path, arguments: list[str]) -> None:
    done = program(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "rror" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_configuration_is_exit_code_two_with_every_mistake(config: Path) -> None:
    config.write_text('[server]\ndata_dir = "data"\nlisten = "0.0.0.0:1"\nkeep_alive = 3\n')
    done = program("--config", str(config))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "server.toml:3: server.listen" in done.stderr
    assert "did you mean `keep_alive_seconds`" in done.stderr


def test_a_server_that_was_never_set_up_is_exit_code_one(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text('[server]\ndata_dir = "data"\n')
    done = program("--config", str(config))
    assert done.returncode == 1
    assert "set up a server with `akpolicy-server init" in done.stderr
    assert list(tmp_path.iterdir()) == [config]
    assert "Traceback" not in done.stderr


def test_a_server_without_one_of_its_signing_keys_does_not_start(made: dict[str, object], config: Path) -> None:
    for key in (config.parent / "data" / "keys").iterdir():
        key.chmod(0o644)
    done = program("--config", str(config))
    assert done.returncode == 1
    assert "cannot use the key" in done.stderr
    assert "chmod 600" in done.stderr


def test_a_database_of_another_program_is_refused_and_left_as_it_is(made: dict[str, object], config: Path) -> None:
    database = config.parent / "data" / DATABASE_FILE
    database.unlink()
    with closing(sqlite3.connect(database)) as foreign:
        foreign.execute("CREATE TABLE songs (title TEXT)")
        foreign.commit()
    database.chmod(0o600)
    before = database.read_bytes()
    done = program("--config", str(config))
    assert done.returncode == 1
    assert "is no database of akpolicy-server" in done.stderr
    assert "Traceback" not in done.stderr
    assert database.read_bytes() == before


def test_init_prints_what_to_paste_and_what_to_type(tmp_path: Path) -> None:
    done = program("init", "--dir", str(tmp_path / "server"), "--org", "acme", "--org", "globex")
    assert done.returncode == 0
    assert len(re.findall(r"keys = \[\"ed25519:[A-Za-z0-9_-]{43}=\"\]", done.stdout)) == 2
    assert 'org_id = "globex"' in done.stdout
    assert done.stdout.count("akp_") == 2  # shown once, and in the command to copy
    assert "1-of-1" in done.stdout
    assert f"akpolicy-server --config {tmp_path / 'server' / 'server.toml'}" in done.stdout
    assert "akpolicy apikey create --org acme" in done.stdout
    [file] = re.findall(r"The root key of `acme` is (\S+\.pem)\.", done.stdout)
    assert load_key_file(Path(file)).public_key.anchor in done.stdout
    assert "akpolicy root rotate --org acme --key file:" in done.stdout


def test_init_answers_in_json_for_pipelines(made: dict[str, object], tmp_path: Path) -> None:
    assert set(made) == {"config", "server", "admin_api_key", "orgs"}
    [org] = cast("list[dict[str, str]]", made["orgs"])
    assert org == {"org": "acme", "trust_anchor": org["trust_anchor"], "root_key_file": org["root_key_file"]}
    key = load_key_file(Path(org["root_key_file"]))
    assert key.public_key.anchor == org["trust_anchor"]
    assert stat.S_IMODE((tmp_path / "server" / "server.toml").stat().st_mode) == 0o600


def test_init_does_not_touch_an_installation(made: dict[str, object], tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in (tmp_path / "server").rglob("*") if path.is_file()}
    done = program("init", "--dir", str(tmp_path / "server"), "--org", "globex")
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "server").rglob("*") if path.is_file()} == before


# --- running ----------------------------------------------------------------------------------------------------------


def admin_of(made: dict[str, object], running: Program) -> Operator:
    """Return the platform's admin."""
    return running.operator(str(made["admin_api_key"]))


def test_it_serves_says_where_and_stops_when_asked(
    made: dict[str, object], config: Path, start: Callable[[Path], Program]
) -> None:
    running = start(config)
    assert stat.S_IMODE(running.ready_path.stat().st_mode) == 0o600
    admin = admin_of(made, running)
    stream = running.stream(admin.create_key("acme", "host", "h").secret).hello()
    stream.until_keep_alive()
    running.process.send_signal(signal.SIGTERM)
    code, message = stream.ending()
    assert (code, "come back" in message) == (grpc.StatusCode.UNAVAILABLE, True)
    assert running.process.wait(30) == 0
    assert not running.ready_path.exists()
    events = [line["event"] for line in running.lines()]
    assert events[:2] == [
        "a root key lies on this machine; replace it by one that does not, with `akpolicy root rotate`",
        "listening",
    ]
    assert [event for event in events if event in {"listening", "stopping", "stopped"}] == [
        "listening",
        "stopping",
        "stopped",
    ]
    assert running.lines()[1]["address"] == running.ready["listen"]


def test_an_interrupt_stops_it_too(config: Path, start: Callable[[Path], Program]) -> None:
    assert start(config).end(signal.SIGINT) == 0


def test_a_taken_port_is_said_and_exit_code_one(config: Path) -> None:
    for key in ("listen", "metrics_listen"):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            free = {"listen", "metrics_listen"} - {key}
            config.write_text(f'[server]\ndata_dir = "data"\n{key} = "{address}"\n{free.pop()} = "127.0.0.1:0"\n')
            done = program("--config", str(config))
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(f"error: `{address}` is in use")
        assert "Traceback" not in done.stderr


def test_no_secret_and_no_policy_text_reaches_the_log(
    made: dict[str, object], config: Path, start: Callable[[Path], Program]
) -> None:
    running = start(config)
    admin = admin_of(made, running)
    created = admin.create_key("acme", "publisher")
    publisher = running.operator(created.secret)
    publisher.publish("org/acme", policy("visible-name", comment="top-secret-text"))
    with pytest.raises(grpc.RpcError):
        publisher.publish("org/acme", policy("p", comment="top-secret-text") + "permit (top-secret-text")
    with pytest.raises(grpc.RpcError):
        running.operator(created.secret[:-3] + "xyz").list("org/acme")
    running.end()
    log = running.log_path.read_text()
    for secret in (created.secret, str(made["admin_api_key"])):
        assert secret.split("_", 2)[2][:20] not in log
    assert "top-secret-text" not in log
    outcomes = [(line["method"], line["status"]) for line in running.lines() if line["event"] == "call"]
    # The call without a valid key is counted and not logged: anybody can make such calls.
    assert outcomes == [("CreateApiKey", "OK"), ("Publish", "OK"), ("Publish", "INVALID_ARGUMENT")]


def test_a_dry_run_is_one_in_the_log_whatever_becomes_of_it(
    made: dict[str, object], config: Path, start: Callable[[Path], Program]
) -> None:
    running = start(config)
    good, bad = (PolicyFile("a.cedar", text.encode()) for text in (policy("a"), "permit ("))
    endpoint = parse_server_url(f"http://{running.ready['listen']}")
    with PublishingClient(endpoint, str(made["admin_api_key"])) as client:
        for file, version in ((good, 0), (good, 7), (bad, 0)):
            for dry_run in (True, False):
                with suppress(ServerRefused):
                    client.publish("org/acme", [file], PublishTerms(expected_version=version, dry_run=dry_run))
        for dry_run in (True, False):
            with pytest.raises(ServerRefused):
                client.rollback("org/acme", dry_run=dry_run)
        [root] = client.roots("acme")
        for dry_run in (True, False):
            assert client.publish_root("acme", root.envelope, dry_run=dry_run).repeated
    running.end()
    calls = [line for line in running.lines() if line["event"] == "call" and line["method"] != "GetRoots"]
    assert [(line["method"], line["status"], line["dry_run"]) for line in calls] == [
        (method, status, dry_run)
        for method, status in (
            ("Publish", "OK"),
            ("Publish", "ABORTED"),
            ("Publish", "INVALID_ARGUMENT"),
            ("Rollback", "NOT_FOUND"),
            ("PublishRoot", "OK"),
        )
        for dry_run in (True, False)
    ]
    assert {line["scope"] for line in calls if line["method"] == "Publish"} == {"org/acme"}


def test_keys_that_the_settings_name_sign_too_and_those_that_cannot_be_opened_prevent_the_start(
    made: dict[str, object], config: Path, start: Callable[[Path], Program], tmp_path: Path
) -> None:
    [org] = cast("list[dict[str, str]]", made["orgs"])
    key = create_key_file(tmp_path / "elsewhere.pem").public_key
    settings = config.read_text()
    config.write_text(settings.replace("[server]", f'[server]\nsigners = ["file:{tmp_path / "elsewhere.pem"}"]'))
    running = start(config)
    endpoint = parse_server_url(f"http://{running.ready['listen']}")
    with PublishingClient(endpoint, str(made["admin_api_key"])) as client:
        newest = client.roots("acme")[0].envelope
        fields = json.loads(newest.payload)
        window = next(iter(fields["keys"].values()))
        fields["keys"][key.key_id] = window | {"public_key": key.anchor.removeprefix("ed25519:")}
        for role in (*fields["roles"]["bundle"], *fields["roles"]["rollback"], fields["roles"]["heartbeat"]):
            role["keys"] = [key.key_id]
        owner = load_key_file(Path(org["root_key_file"]))
        client.publish_root("acme", next_root(newest, owner, keys=fields["keys"], roles=fields["roles"]))
        client.publish("org/acme", [PolicyFile("p.cedar", policy("p").encode())], PublishTerms())
        assert [s.key_id for s in client.revision("org/acme").envelope.signatures] == [key.key_id]
    secret = admin_of(made, running).create_key("acme", "host", "h").secret
    assert JudgedHost(running.stream(secret), "acme", [org["trust_anchor"]]).hello().follow().is_content
    running.end()
    for wrong in ("nonsense:x", f"file:{tmp_path / 'missing.pem'}"):
        config.write_text(settings.replace("[server]", f'[server]\nsigners = ["{wrong}"]'))
        done = program("--config", str(config))
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr


# --- crashes ----------------------------------------------------------------------------------------------------------


def test_after_kill_nine_everything_that_was_answered_is_there(
    made: dict[str, object], config: Path, start: Callable[[Path], Program]
) -> None:
    answered: list[tuple[int, str]] = []

    def publish_until_it_dies(running: Program, name: str) -> None:
        admin = admin_of(made, running)
        number = 0
        while True:
            policy_id = f"{name}-{number}"
            try:
                answer = admin.publish("org/acme", policy(policy_id), idempotency_key=policy_id)
            except grpc.RpcError:
                return
            answered.append((answer.revision.revision.version, policy_id))
            number += 1

    for life in range(3):
        running = start(config)
        threads = [
            threading.Thread(target=publish_until_it_dies, args=(running, f"life{life}-{number}"))
            for number in range(3)
        ]
        enough = len(answered) + 10
        for thread in threads:
            thread.start()
        while len(answered) < enough:
            threads[0].join(0.001)
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(30)
        for thread in threads:
            thread.join(30)
        running.ready_path.unlink()
    running = start(config)
    admin = admin_of(made, running)
    for version, policy_id in answered:
        assert [entry.id for entry in admin.get("org/acme", version)[1]] == [policy_id]
    # No gap, though the last publish of each life may have been stored without its answer getting through.
    stored = [details.revision.version for details in admin.list("org/acme", page_size=500).revisions]
    assert stored == list(range(len(stored), 0, -1))
    assert len(stored) >= len(answered)
    # A publisher that lost its answer asks again and learns it.
    last = admin.publish("org/acme", policy(answered[-1][1]), idempotency_key=answered[-1][1])
    assert last.repeated_request
    assert last.revision.revision.version == answered[-1][0]
    assert running.end() == 0


@pytest.mark.slow
def test_after_kill_nine_in_the_midst_of_rotations_every_host_can_follow(
    made: dict[str, object], config: Path, start: Callable[[Path], Program]
) -> None:
    [org] = cast("list[dict[str, str]]", made["orgs"])
    owner = load_key_file(Path(org["root_key_file"]))
    answered: list[tuple[str, int]] = []

    def work_until_it_dies(running: Program, work: Callable[[PublishingClient], tuple[str, int]]) -> None:
        with PublishingClient(parse_server_url(f"http://{running.ready['listen']}"), str(made["admin_api_key"])) as one:
            try:
                while True:
                    answered.append(work(one))
            except ServerUnreachable:
                return

    def rotate(client: PublishingClient) -> tuple[str, int]:
        newest = client.roots("acme", newest_only=True)[0].envelope
        epoch = json.loads(newest.payload)["epoch"]
        return "root", client.publish_root("acme", next_root(newest, owner, epoch=epoch + 1)).version

    def publish(client: PublishingClient) -> tuple[str, int]:
        file = PolicyFile("policies.cedar", policy("p").encode())
        revision = client.publish("org/acme", [file], PublishTerms()).revision
        return f"epoch {revision.epoch}", revision.version

    for _ in range(3):
        running = start(config)
        enough = len(answered) + 12
        threads = [threading.Thread(target=work_until_it_dies, args=(running, work)) for work in (rotate, publish)]
        for thread in threads:
            thread.start()
        while len(answered) < enough:
            threads[0].join(0.001)
        running.end(signal.SIGKILL)
        for thread in threads:
            thread.join(30)
    running = start(config)
    with PublishingClient(parse_server_url(f"http://{running.ready['listen']}"), str(made["admin_api_key"])) as client:
        versions = [root.version for root in client.roots("acme")]
        assert versions == list(range(1, len(versions) + 1))
        stored = {(f"epoch {r.epoch}", r.version) for r in client.history("org/acme", 10_000)}
        assert set(answered) <= stored | {("root", version) for version in versions}
    secret = admin_of(made, running).create_key("acme", "host", "h").secret
    host = JudgedHost(running.stream(secret), "acme", [org["trust_anchor"]]).hello().follow()
    # Root, bundle and heartbeat belong together: what was signed anew was so with the root, or there was no such root.
    assert host.is_content
    assert host.judge.root is not None
    assert host.versions()["org/acme"][0] == host.judge.root.document.epoch
    assert running.end() == 0


def test_orgs_keys_and_revocations_survive_kill_nine(
    made: dict[str, object], config: Path, start: Callable[[Path], Program]
) -> None:
    running = start(config)
    admin = admin_of(made, running)
    anchor = admin.create_org("initech").trust_anchor
    kept, revoked = (admin.create_key("initech", "host", f"h{number}") for number in range(2))
    admin.revoke_key(revoked.key_id)
    admin.publish("org/initech", policy("p"))
    running.end(signal.SIGKILL)
    running = start(config)
    assert anchor.startswith("ed25519:")
    stream = running.stream(kept.secret).hello("initech")
    assert [update.bundle.revision.version for update in stream.updates()] == [1]
    assert running.stream(revoked.secret).hello("initech").ending()[0] is grpc.StatusCode.UNAUTHENTICATED
    stream.call.cancel()
    running.end()
