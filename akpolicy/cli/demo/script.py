"""What the demo does, step by step.

Each step uses the public surface only: the publishing RPCs, Authorize on the socket, `/metrics`, commands. A step
returns facts (`findings`); `report` shows them. Nothing is judged by a clock except what the report says is a time.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from akpolicy.cli.demo.asking import ASK_TIMEOUT_S, ask, series_of, wait
from akpolicy.cli.demo.attack import attack
from akpolicy.cli.demo.findings import CHANGE_ID, Answer, Example, Findings
from akpolicy.cli.demo.rotation import RotationStep
from akpolicy.client import PolicyClient, PolicySource
from akpolicy.client.publishing_types import PublishTerms
from akpolicy.engine.files import PolicyFile
from akpolicy.engine.request import request_from_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.cli.demo.stage import Program, Stage
    from akpolicy.client.publishing import PublishingClient

DECISIONS_METRIC: Final = "akpolicy_sidecar_decisions_total"
POLICIES: Final = "policies.cedar"
REQUESTS: Final = "requests.jsonl"

# The change of step 4: it takes away what request 6 (alice, Exec) was allowed.
CHANGE: Final = f"""
@id("{CHANGE_ID}")
forbid (principal, action == AgentKernel::Action::"Exec", resource is AgentKernel::Sandbox)
when {{ resource.name == "ml-project" }};
"""

# The same again with a remark, so that there is a new version.
REVIEWED: Final = CHANGE.replace("when {", "// reviewed by a second person\nwhen {")


def load_examples() -> list[Example]:
    """Return the packaged example requests."""
    lines = files("akpolicy").joinpath("examples", REQUESTS).read_text(encoding="utf-8").splitlines()
    raw = [json.loads(line) for line in lines]
    return [Example(request_from_json(r), r["expect"], tuple(r["by"])) for r in raw]


def load_policies() -> str:
    """Return the packaged example policies."""
    return files("akpolicy").joinpath("examples", POLICIES).read_text(encoding="utf-8")


def program() -> str:
    """Return how to call this command line from here: by its name if that is this very program, else by its path."""
    beside = Path(sys.executable).parent / "akpolicy"
    found = shutil.which("akpolicy")
    return "akpolicy" if found and Path(found) == beside else str(beside)


def publish(publishing: PublishingClient, org: str, text: str, message: str) -> None:
    """Publish `text` as the whole policy of an org."""
    publishing.publish(f"org/{org}", [PolicyFile(POLICIES, text.encode())], PublishTerms(message=message))


class Script:
    """The steps of the demo on a stage."""

    def __init__(self, stage: Stage, examples: list[Example], say: Callable[[str], None]) -> None:
        """Take the stage, the questions, and where to announce each step."""
        self._stage = stage
        self._examples = examples
        self._say = say
        self._sidecars: dict[str, Program] = {}
        self._clients: dict[str, PolicyClient] = {}
        self.findings = Findings()

    def start(self, publishing: PublishingClient, server: Program) -> None:
        """Publish the example policies for each org and start its sidecar."""
        for org in self._stage.anchors:
            self._say(f"publishing {POLICIES} for {org}, starting its sidecar")
            publish(publishing, org, load_policies(), "the example policies")
            key = publishing.create_api_key(org=org, role="host", host_id=f"{org}-demo-host")
            sidecar = self._stage.start_sidecar(org, server.ready["listen"], key.secret)
            self._sidecars[org] = sidecar
            self._clients[org] = PolicyClient(sidecar.ready["socket"], timeout=ASK_TIMEOUT_S)
            self._wait(self._clients[org].ready, f"the sidecar of {org} has no policy")

    def ask_all(self) -> None:
        """Ask every example question."""
        self._say(f"asking {len(self._examples)} questions on the sidecars' sockets")
        self.findings.answers = [self._ask(example) for example in self._examples]

    def change(self, publishing: PublishingClient) -> None:
        """Publish a change that flips one decision, and time it from the call to the first decision by it."""
        index = next(i for i, e in enumerate(self._examples) if e.request.action == "Exec" and e.expected == "allow")
        example, before = self._examples[index], self.findings.answers[index]
        org = example.request.principal.org_id
        self._say(f"publishing {CHANGE_ID} for {org}")
        began = time.monotonic()
        publish(publishing, org, load_policies() + CHANGE, "freeze the ml project")
        self._wait(lambda: self._ask(example).effect != before.effect, "the change is not enforced")
        self.findings.enforced_after_ms = (time.monotonic() - began) * 1000
        flipped = Example(example.request, "deny", (CHANGE_ID,))
        self._examples[index] = flipped
        self.findings.flipped = (before, self._ask(flipped))

    def alter_on_the_way(self, publishing: PublishingClient, server: Program) -> None:
        """Publish a version, and alter it on its way to one more host of the org."""
        question = self._changed()
        org = question.request.principal.org_id
        self._say(f"starting one more host of {org} behind a middleman, who alters the next version")
        self.findings.attack = attack(
            self._stage,
            publishing,
            server,
            question,
            lambda: publish(publishing, org, load_policies() + REVIEWED, "reviewed"),
        )

    def rotate(self, publishing: PublishingClient, server: Program) -> None:
        """Replace the root key of an org while its host is asked."""
        org = self._changed().request.principal.org_id
        allowed = (e for e in self._examples if e.request.principal.org_id == org and e.expected == "allow")
        step = RotationStep(self._stage, self._sidecars[org], self._clients[org], next(allowed))
        command = step.command(program())
        self._say(f"rotating: {' '.join(command)}")
        self.findings.rotation = step.play(
            command, server, lambda: publish(publishing, org, load_policies() + CHANGE, "under the new root")
        )

    def _changed(self) -> Example:
        return next(example for example in self._examples if example.policies == (CHANGE_ID,))

    def go_offline(self, server: Program) -> None:
        """Kill the server, wait until the sidecars noticed, and ask everything again."""
        self._say("killing the server (SIGKILL), asking again")
        server.kill()
        for org in self._clients:
            probe = next(e for e in self._examples if e.request.principal.org_id == org)
            self._wait(partial(self._is_on_cache, probe), "the loss went unnoticed")
        self.findings.offline = [self._ask(example) for example in self._examples]

    def read_metrics(self) -> None:
        """Add up the sidecars' decision counters, by their labels."""
        self._say("reading the sidecars' metrics")
        for sidecar in self._sidecars.values():
            for series, value in series_of(sidecar, DECISIONS_METRIC).items():
                self.findings.metrics[series] = self.findings.metrics.get(series, 0.0) + value

    def close(self) -> None:
        """Close the clients."""
        for client in self._clients.values():
            client.close()

    def next_commands(self) -> list[str]:
        """Return commands that work on the running stage."""
        org, sidecar = next(iter(self._sidecars.items()))
        question = "--action Create --resource my-sandbox --attr agent_type=claude --attr runtime=python"
        return [
            f"{program()} authorize --socket {sidecar.ready['socket']} --principal alice --org {org} --role developer "
            + question,
            f"curl -s http://{sidecar.ready['metrics']}/metrics | grep decisions_total",
            f"tail -n 3 {self._stage.directory / org / 'audit.jsonl'}",
        ]

    def _is_on_cache(self, example: Example) -> bool:
        return self._ask(example).decision.source is PolicySource.CACHE

    def _ask(self, example: Example) -> Answer:
        return ask(self._clients[example.request.principal.org_id], example)

    def _wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        wait(condition, otherwise, self._stage.directory)
