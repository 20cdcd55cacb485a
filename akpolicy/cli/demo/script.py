"""What the demo does, step by step, and what it found.

Each step uses the public surface only: the publishing RPCs, Authorize on the socket, `/metrics`. A step returns facts;
`report` shows them. Nothing is judged by a clock except what the report says is a time.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from akpolicy.client import PolicyClient, PolicySource
from akpolicy.client.publishing_types import PublishTerms
from akpolicy.engine.files import PolicyFile
from akpolicy.engine.request import request_from_json
from akpolicy.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.cli.demo.stage import Program, Stage
    from akpolicy.client.publishing import PublishingClient
    from akpolicy.decision import Decision
    from akpolicy.engine.request import AuthorizationRequest

DECISIONS_METRIC: Final = "akpolicy_sidecar_decisions_total"
POLICIES: Final = "policies.cedar"
REQUESTS: Final = "requests.jsonl"
DEADLINE_S: Final = 20.0
POLL_S: Final = 0.001
ASK_TIMEOUT_S: Final = 2.0

# The change of step 4: it takes away what request 6 (alice, Exec) was allowed.
CHANGE_ID: Final = "freeze-ml-project"
CHANGE: Final = f"""
@id("{CHANGE_ID}")
forbid (principal, action == AgentKernel::Action::"Exec", resource is AgentKernel::Sandbox)
when {{ resource.name == "ml-project" }};
"""

_pause = threading.Event()


@dataclass(frozen=True, slots=True)
class Example:
    """A request with the decision that its author expects."""

    request: AuthorizationRequest
    expected: str
    policies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for an example."""

    example: Example
    decision: Decision

    @property
    def effect(self) -> str:
        """`allow` or `deny`."""
        return "allow" if self.decision.allowed else "deny"

    @property
    def policies(self) -> tuple[str, ...]:
        """The determining policies by their own ids."""
        return tuple(d.policy_id for d in self.decision.determining)

    @property
    def as_expected(self) -> bool:
        """Whether decision and policies are the expected ones."""
        return self.effect == self.example.expected and set(self.policies) == set(self.example.policies)


@dataclass(slots=True)
class Findings:
    """Everything that the demo found out."""

    answers: list[Answer] = field(default_factory=list)
    flipped: tuple[Answer, Answer] | None = None
    enforced_after_ms: float = 0.0
    offline: list[Answer] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def as_expected(self) -> bool:
        """Whether every step came out as it should."""
        flipped = self.flipped is not None and [a.effect for a in self.flipped] == ["allow", "deny"]
        return (
            bool(self.answers)
            and all(a.as_expected for a in self.answers)
            and flipped
            and bool(self.offline)
            and all(a.as_expected and a.decision.source is PolicySource.CACHE for a in self.offline)
            and sum(self.metrics.values()) >= len(self.answers) + len(self.offline)
        )


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
            with urllib.request.urlopen(f"http://{sidecar.ready['metrics']}/metrics", timeout=ASK_TIMEOUT_S) as page:
                lines = page.read().decode().splitlines()
            for line in lines:
                if line.startswith(DECISIONS_METRIC):
                    series, value = line.rsplit(" ", 1)
                    self.findings.metrics[series] = self.findings.metrics.get(series, 0.0) + float(value)

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
        request = example.request
        client = self._clients[request.principal.org_id]
        decision = client.authorize(
            principal=request.principal, action=request.action, resource=request.resource, context=request.context
        )
        return Answer(example, decision)

    def _wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > deadline:
                raise StartupError(f"{otherwise} after {DEADLINE_S:.0f} s; see the logs in {self._stage.directory}")
            _pause.wait(POLL_S)


def summary(findings: Findings) -> dict[str, Any]:
    """Return the findings as JSON-ready values."""
    return {
        "decisions": [_answer_json(a) for a in findings.answers],
        "update": {
            "enforced_after_ms": round(findings.enforced_after_ms, 1),
            "policy": CHANGE_ID,
            "before": findings.flipped[0].effect if findings.flipped else "",
            "after": findings.flipped[1].effect if findings.flipped else "",
        },
        "offline": {
            "decisions": [_answer_json(a) for a in findings.offline],
            "as_expected": all(a.as_expected for a in findings.offline),
            "source": sorted({a.decision.source.name.lower() for a in findings.offline}),
        },
        "metrics": dict(sorted(findings.metrics.items())),
        "as_expected": findings.as_expected,
    }


def _answer_json(answer: Answer) -> dict[str, Any]:
    return {
        "expected": answer.example.expected,
        "decision": answer.effect,
        "policies": list(answer.policies),
        "reason": answer.decision.reason.name,
        "principal": answer.example.request.principal.id,
        "org": answer.example.request.principal.org_id,
        "action": answer.example.request.action,
        "resource": answer.example.request.resource.id,
    }
