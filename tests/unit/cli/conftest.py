"""The command line in this process, with a clean environment, and the servers it talks to."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from akpolicy.cli import run
from akpolicy.signing import PrivateKeySigner
from tests.simulators.clock import START
from tests.simulators.publishing import API_KEY, PublishingSimulator
from tests.simulators.sidecar import SidecarSimulator
from tests.unit.cli.desk import Desk

if TYPE_CHECKING:
    from _pytest.capture import CaptureFixture

GOOD = '@id("all")\npermit (principal, action, resource);\n'
BAD = '@id("typo")\npermit (principal, action, resource)\nwhen { principal.rolez.contains("x") };\n'


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


class Terminal(io.StringIO):
    """A terminal at which somebody has typed."""

    def isatty(self) -> bool:
        return True


Run = Callable[..., Result]
KeyFile = Callable[[PrivateKeySigner, str], str]


@pytest.fixture
def cli(capsys: CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in [name for name in os.environ if name.startswith("AKPOLICY_")]:
        monkeypatch.delenv(name)

    def command(*arguments: object) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return command


@pytest.fixture
def server(cli: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[PublishingSimulator]:
    with PublishingSimulator() as running:
        monkeypatch.setenv("AKPOLICY_SERVER", running.url)
        monkeypatch.setenv("AKPOLICY_API_KEY", API_KEY)
        yield running


@pytest.fixture
def sidecar(cli: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[SidecarSimulator]:
    with tempfile.TemporaryDirectory(prefix="ak") as directory:
        socket = Path(directory) / "s.sock"
        monkeypatch.setenv("AKPOLICY_SOCKET", str(socket))
        with SidecarSimulator(socket) as running:
            yield running


@pytest.fixture
def key_file(tmp_path: Path) -> Callable[[PrivateKeySigner, str], str]:
    """Return what writes a key to a file and names it as a signer URI."""

    def write(signer: PrivateKeySigner, name: str) -> str:
        path = tmp_path / f"{name}.pem"
        path.touch(mode=0o600)
        path.write_bytes(signer.to_pem())
        return f"file:{path}"

    return write


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.cedar"
    path.write_text(GOOD)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.cedar"
    path.write_text(BAD)
    return path


@pytest.fixture
def desk(cli: Run, tmp_path: Path) -> Desk:
    assert START == 1_800_000_000
    return Desk(cli, tmp_path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "acme.proposal.json"


@pytest.fixture
def key(server: PublishingSimulator, key_file: KeyFile) -> str:
    """The key of acme's bundles, as a signer URI."""
    return key_file(server.org.bundle_signer, "bundle")
