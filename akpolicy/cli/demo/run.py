"""The demo from beginning to end: stage, script, and what is left running."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from akpolicy.cli.demo.script import Script, load_examples, program
from akpolicy.cli.demo.stage import Stage
from akpolicy.cli.output import EXIT_FAILED
from akpolicy.client.channel import parse_server_url
from akpolicy.client.publishing import PublishingClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.cli.demo.findings import Findings


def _end(_signal: int, _frame: object) -> NoReturn:
    sys.exit(EXIT_FAILED)


def run(*, keep: bool, say: Callable[[str], None]) -> tuple[Findings, list[str]]:
    """Play the demo; return what was found and, with `keep`, what can be tried on what runs on."""
    # By default these would leave processes and files behind; ended like this, the stage is cleared.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _end)
    examples = load_examples()
    orgs = tuple(sorted({e.request.principal.org_id for e in examples}))
    with Stage(orgs, keep=keep) as stage:
        say(f"starting a policy server in {stage.directory}")
        stage.init_server()
        server = stage.start_server()
        script = Script(stage, examples, say)
        try:
            with PublishingClient(parse_server_url(f"http://{server.ready['listen']}"), stage.admin_key) as publishing:
                script.start(publishing, server)
                script.ask_all()
                script.change(publishing)
                script.alter_on_the_way(publishing, server)
                script.rotate(publishing, server)
            script.go_offline(server)
            script.read_metrics()
            return script.findings, _notes(stage, script, say) if keep else []
        finally:
            script.close()


def _notes(stage: Stage, script: Script, say: Callable[[str], None]) -> list[str]:
    say("starting the server again")
    server = stage.start_server()
    pids = " ".join(str(p.process.pid) for p in stage.programs if p.process.poll() is None)
    return [
        f"\nStill running in {stage.directory}. Try:",
        *(f"  {command}" for command in script.next_commands()),
        f"  export AKPOLICY_SERVER=http://{server.ready['listen']} AKPOLICY_API_KEY={stage.admin_key}",
        f"  {program()} policy history --org {next(iter(stage.anchors))}",
        f"Stop it: kill {pids}; rm -r {stage.directory}",
    ]
