"""A whole server on a free port of this machine, in this process or as a program of its own."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import grpc
import pytest

from akpolicy.addresses import HostPort
from akpolicy.client.channel import parse_server_url
from akpolicy.client.publishing import PublishingClient
from akpolicy.clock import SystemClock
from akpolicy.signing import load_key_file
from akpolicy.v1 import distribution_pb2 as dist
from akpolicy.v1 import publishing_pb2 as pub
from akpolicy.v1.distribution_pb2_grpc import DistributionServiceStub
from akpolicy.v1.publishing_pb2_grpc import PublishingServiceStub
from akpolicy_server.app import Serving, serving
from akpolicy_server.installation import Installation, install
from akpolicy_server.settings import ServerSettings
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from akpolicy.signing import PrivateKeySigner

ANY_PORT = HostPort("127.0.0.1", 0)
DEADLINE_S = 30.0
CHUNK_BYTES = 256 * 1024

Metadata = tuple[tuple[str, str], ...]


def bearer(secret: str) -> Metadata:
    """Return the metadata that carries a key, whatever it is."""
    return (("authorization", f"Bearer {secret}"),)


def policy(policy_id: str, *, role: str = "developer", comment: str = "") -> str:
    """Return a valid policy."""
    lines = f"// {comment}\n" if comment else ""
    return (
        f'{lines}@id("{policy_id}")\npermit (principal is AgentKernel::User, action, resource)\n'
        f'when {{ principal.roles.contains("{role}") }};\n'
    )


def large_policies(count: int) -> str:
    """Return policies of about 10 KB each."""
    return "".join(policy(f"large-{number}", comment="x" * 10_000) for number in range(count))


@dataclass
class Operator:
    """Calls with one API key."""

    stub: PublishingServiceStub
    metadata: Metadata

    def publish(
        self, scope: str, text: str | bytes, *, name: str = "policies.cedar", **header: Any
    ) -> pub.PublishResponse:
        """Publish one file."""
        data = text.encode() if isinstance(text, str) else text
        messages = [pub.PublishRequest(header=pub.PublishHeader(scope=scope, **header))]
        messages += [
            pub.PublishRequest(chunk=pub.SourceChunk(name=name, data=data[start : start + CHUNK_BYTES]))
            for start in range(0, len(data), CHUNK_BYTES)
        ]
        return self.stub.Publish(iter(messages), metadata=self.metadata, timeout=DEADLINE_S)

    def validate(self, scope: str, files: dict[str, bytes]) -> pub.ValidateResponse:
        """Validate files."""
        messages = [pub.ValidateRequest(header=pub.ValidateHeader(scope=scope))]
        messages += [pub.ValidateRequest(chunk=pub.SourceChunk(name=name, data=data)) for name, data in files.items()]
        return self.stub.Validate(iter(messages), metadata=self.metadata, timeout=DEADLINE_S)

    def get(self, scope: str, version: int = 0) -> tuple[pub.RevisionDocument, list[pub.Policy]]:
        """Read a revision."""
        request = pub.GetRevisionRequest(scope=scope, version=version)
        first, *rest = self.stub.GetRevision(request, metadata=self.metadata, timeout=DEADLINE_S)
        return first.document, [entry for message in rest for entry in message.policies.policies]

    def list(self, scope: str, **fields: Any) -> pub.ListRevisionsResponse:
        """Read a page of revisions."""
        request = pub.ListRevisionsRequest(scope=scope, **fields)
        return self.stub.ListRevisions(request, metadata=self.metadata, timeout=DEADLINE_S)

    def create_org(self, org: str) -> pub.CreateOrgResponse:
        """Create an org."""
        return self.stub.CreateOrg(pub.CreateOrgRequest(org=org), metadata=self.metadata, timeout=DEADLINE_S)

    def create_key(self, org: str, role: str, host_id: str = "") -> pub.CreateApiKeyResponse:
        """Create an API key."""
        request = pub.CreateApiKeyRequest(
            org=org, role=pub.ApiKeyRole.Value(f"API_KEY_ROLE_{role.upper()}"), host_id=host_id
        )
        return self.stub.CreateApiKey(request, metadata=self.metadata, timeout=DEADLINE_S)

    def revoke_key(self, key_id: str) -> pub.RevokeApiKeyResponse:
        """Revoke an API key."""
        request = pub.RevokeApiKeyRequest(key_id=key_id)
        return self.stub.RevokeApiKey(request, metadata=self.metadata, timeout=DEADLINE_S)


@dataclass
class Update:
    """A bundle as it came over a stream; `content` is empty if the server took it to be held."""

    bundle: dist.BundleUpdate
    chunks: list[dist.BlobChunk] = field(default_factory=list)

    @property
    def content(self) -> bytes:
        """What the chunks make together."""
        return b"".join(chunk.data for chunk in self.chunks)


class Stream:
    """A host's stream, spoken by hand."""

    def __init__(self, stub: DistributionServiceStub, metadata: Metadata) -> None:
        self._send_lock = threading.Condition()
        self._outgoing: list[dist.SubscribeRequest | None] = []
        self.call: Any = stub.Subscribe(self._requests(), metadata=metadata)

    def _requests(self) -> Iterator[dist.SubscribeRequest]:
        while True:
            with self._send_lock:
                self._send_lock.wait_for(lambda: self._outgoing)
                message = self._outgoing.pop(0)
            if message is None:
                return
            yield message

    def send(self, **message: Any) -> None:
        """Send one message."""
        with self._send_lock:
            self._outgoing.append(dist.SubscribeRequest(**message))
            self._send_lock.notify()

    def close(self) -> None:
        """Say that nothing more comes."""
        with self._send_lock:
            self._outgoing.append(None)
            self._send_lock.notify()

    def hello(self, org: str = "acme", **fields: Any) -> Self:
        """Send Hello."""
        values = {"software_version": "0.1.0", "nonce": b"n" * 16} | fields
        self.send(hello=dist.Hello(org=org, **values))
        return self

    def ack(self, update: Update, **fields: Any) -> None:
        """Say that an update is enforced, and nothing else."""
        self.send(ack=dist.Ack(nonce=update.bundle.nonce, enforced=[update.bundle.revision], **fields))

    def next(self) -> tuple[str, Any]:
        """Return the next message and its kind."""
        message = next(self.call)
        kind = message.WhichOneof("message")
        return kind, getattr(message, kind)

    def until_keep_alive(self) -> list[tuple[str, Any]]:
        """Return what comes before the next KeepAlive."""
        return list(itertools.takewhile(lambda message: message[0] != "keep_alive", iter(self.next, None)))

    def updates(self) -> list[Update]:
        """Return the bundles that come before the next KeepAlive, with their chunks."""
        found: list[Update] = []
        for kind, message in self.until_keep_alive():
            if kind == "bundle":
                found.append(Update(message))
            elif kind == "chunk":
                found[-1].chunks.append(message)
        return found

    def next_update(self) -> Update:
        """Return the next bundle, however many KeepAlives come first."""
        while not (found := self.updates()):
            pass
        assert len(found) == 1
        return found[0]

    def ending(self) -> tuple[grpc.StatusCode, str]:
        """Read to the end; return the status."""
        with pytest.raises(grpc.RpcError) as caught:
            for _ in self.call:
                pass
        return caught.value.code(), caught.value.details() or ""


@dataclass
class Connection:
    """A channel to a server, and who made it."""

    channel: grpc.Channel

    def operator(self, secret: str) -> Operator:
        """Return a caller with that key."""
        return Operator(PublishingServiceStub(self.channel), bearer(secret))

    def stream(self, secret: str) -> Stream:
        """Open a stream with that key."""
        return Stream(DistributionServiceStub(self.channel), bearer(secret))


class LiveServer(Connection):
    """A server in this process, on an event loop of its own."""

    def __init__(self, settings: ServerSettings, made: Installation) -> None:
        self._settings = settings
        self.made = made
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(DEADLINE_S)
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        super().__init__(grpc.insecure_channel(str(self.serving.listen)))
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        self.stop()

    def stop(self) -> None:
        """Stop the server and wait for its end."""
        if self._thread.is_alive():
            self.on_loop(self._stop.set)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            async with serving(self._settings, SystemClock()) as self.serving:
                self._started.set()
                await self._stop.wait()
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            self._failure = error
        finally:
            self._started.set()

    serving: Serving

    def on_loop(self, call: Callable[[], object]) -> None:
        """Call something on the server's loop."""
        self._loop.call_soon_threadsafe(call)

    @property
    def admin(self) -> Operator:
        """The platform's admin."""
        return self.operator(self.made.admin_api_key)

    @contextmanager
    def client(self, secret: str = "") -> Iterator[PublishingClient]:
        """Connect the operators' client; as the platform's admin unless another key is given."""
        with PublishingClient(
            parse_server_url(f"http://{self.serving.listen}"), secret or self.made.admin_api_key
        ) as one:
            yield one

    def root_signer(self, org: str = "acme") -> PrivateKeySigner:
        """Return an org's first root key."""
        return load_key_file(self.made.root_key_files[org])

    def host(self, host_id: str = "host-1", org: str = "acme") -> Stream:
        """Open a stream with a new key of that host."""
        return self.stream(self.admin.create_key(org, "host", host_id).secret)


@contextmanager
def live_server(directory: Path, orgs: Iterable[str] = ("acme", "globex"), **changes: Any) -> Iterator[LiveServer]:
    """Run a new server while the block runs; `changes` are of `[server]`."""
    made = install(directory / "server", tuple(orgs), listen=ANY_PORT, metrics_listen=None, clock=SystemClock())
    settings = ServerSettings.load(made.config, env={})
    settings = replace(settings, server=replace(settings.server, **changes))
    with LiveServer(settings, made) as server:
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    """Return a running server of the orgs `acme` and `globex`."""
    with live_server(tmp_path, keep_alive_seconds=0.2) as server:
        yield server


@pytest.fixture
def client(server: LiveServer) -> Iterator[PublishingClient]:
    """Return the operators' client of the platform's admin."""
    with server.client() as connected:
        yield connected


# --- as a program -----------------------------------------------------------------------------------------------------


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `akpolicy-server` to its end."""
    command = [sys.executable, "-m", "akpolicy_server", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False, **options)


class Program(Connection):
    """A running `akpolicy-server`."""

    def __init__(self, config: Path, log: Path) -> None:
        self.ready_path = log.with_suffix(".ready")
        self.log_path = log
        command = [
            sys.executable,
            "-m",
            "akpolicy_server",
            "--config",
            str(config),
            "--ready-file",
            str(self.ready_path),
        ]
        with log.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output)
        wait_until(lambda: self.ready_path.exists() or self.process.poll() is not None, what="the ready file")
        assert self.process.poll() is None, log.read_text()
        self.ready = json.loads(self.ready_path.read_text())
        assert self.ready["pid"] == self.process.pid
        super().__init__(grpc.insecure_channel(self.ready["listen"]))

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(DEADLINE_S)
        self.channel.close()
        if number == signal.SIGKILL:
            os.unlink(self.ready_path)  # noqa: PTH108 - as the next start's owner would
        return code

    def lines(self) -> list[dict[str, Any]]:
        """Return the log."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Path], Program]]:
    """Return what starts a server from a configuration; it is killed at the end of the test."""
    with ExitStack() as stack:

        def run(config: Path) -> Program:
            running = Program(config, tmp_path / "server.log")
            stack.callback(running.process.wait, DEADLINE_S)
            stack.callback(running.process.kill)
            stack.callback(running.channel.close)
            return running

        yield run


@pytest.fixture
def made(tmp_path: Path) -> dict[str, object]:
    """Run `init` for `acme` and return what it says."""
    done = program(
        "init",
        f"--dir={tmp_path / 'server'}",
        "--org=acme",
        "--listen=127.0.0.1:0",
        "--metrics-listen=127.0.0.1:0",
        "--output=json",
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.fixture
def config(made: dict[str, object], tmp_path: Path) -> Path:
    """Return the configuration that `init` made."""
    assert made["config"] == str(tmp_path / "server" / "server.toml")
    return tmp_path / "server" / "server.toml"
