"""The demo's rotation: an org's root key is replaced by the operator's one command, while a host goes on deciding."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING, Final

from akpolicy.cli.demo.asking import ask, series_of, wait
from akpolicy.cli.demo.findings import Rotation
from akpolicy.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.cli.demo.findings import Answer, Example
    from akpolicy.cli.demo.stage import Program, Stage
    from akpolicy.client import PolicyClient

ROOT_METRIC: Final = "akpolicy_sidecar_root_version"


class RotationStep:
    """Rotates while it asks one question all the time."""

    def __init__(self, stage: Stage, sidecar: Program, client: PolicyClient, question: Example) -> None:
        """Watch this sidecar, by a question that it allows."""
        self._stage = stage
        self._sidecar = sidecar
        self._client = client
        self._question = question
        self._answers: list[Answer] = []

    def command(self, program: str) -> list[str]:
        """Return what an operator types; `program` is how the command line is called."""
        org = self._question.request.principal.org_id
        key, new_key = self._stage.root_key_files[org], self._stage.directory / f"{org}-root.pem"
        return [program, "root", "rotate", "--org", org, "--key", str(key), "--new-key-file", str(new_key)]

    def play(self, command: list[str], server: Program, publish: Callable[[], None]) -> Rotation:
        """Run the command, wait until the host has followed, and publish once more."""
        before, began = self._root_version(), time.monotonic()
        environment = {
            **os.environ,
            "AKPOLICY_SERVER": f"http://{server.ready['listen']}",
            "AKPOLICY_API_KEY": self._stage.admin_key,
        }
        with subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
        ) as rotating:
            self._wait(lambda: rotating.poll() is not None, "`akpolicy root rotate` has not ended")
            complaint = rotating.stderr.read() if rotating.stderr else b""
        if rotating.returncode != 0:
            raise StartupError(f"`akpolicy root rotate` failed:\n{complaint.decode(errors='replace')}")
        self._wait(lambda: self._root_version() > before, "the host has not followed the new root")
        followed_after_ms = (time.monotonic() - began) * 1000
        version = self._bundle_version()
        publish()
        self._wait(lambda: self._bundle_version() > version, "the host takes nothing under the new root")
        return Rotation(
            root=(before, self._root_version()),
            followed_after_ms=followed_after_ms,
            decisions=len(self._answers),
            refused=sum(not answer.as_expected for answer in self._answers),
            bundle_after=self._bundle_version(),
        )

    def _wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        def fulfilled() -> bool:
            self._answers.append(ask(self._client, self._question))
            return condition()

        wait(fulfilled, otherwise, self._stage.directory)

    def _root_version(self) -> int:
        return int(sum(series_of(self._sidecar, ROOT_METRIC).values()))

    def _bundle_version(self) -> int:
        return max((bundle.version for bundle in self._answers[-1].decision.bundles), default=0)
