"""The demo's attack: somebody between a host and the server alters a bundle, and makes everything fit that can be.

The host is one of its own, beside those of the other steps, and is gone afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from akpolicy.cli.demo.asking import ASK_TIMEOUT_S, ask, series_of, wait
from akpolicy.cli.demo.findings import Attack
from akpolicy.cli.demo.middleman import ContentSwap, Middleman
from akpolicy.client import PolicyClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.cli.demo.findings import Example
    from akpolicy.cli.demo.stage import Program, Stage
    from akpolicy.client.publishing import PublishingClient

NACKS_METRIC: Final = "akpolicy_server_nacks_total"
OLD: Final = b"forbid (principal, action =="
NEW: Final = b"permit (principal, action =="


def attack(
    stage: Stage, publishing: PublishingClient, server: Program, question: Example, publish: Callable[[], None]
) -> Attack:
    """Have `publish` make a new version, alter it on its way to one host, and see what that host makes of it."""
    org = question.request.principal.org_id
    key = publishing.create_api_key(org=org, role="host", host_id=f"{org}-roaming-host")
    with Middleman(server.ready["listen"]) as between:
        name = f"{org}-roaming"
        sidecar = stage.start_sidecar(org, f"127.0.0.1:{between.port}", key.secret, name=name)
        with PolicyClient(sidecar.ready["socket"], timeout=ASK_TIMEOUT_S) as client:
            wait(client.ready, "the host behind the middleman has no policy", stage.directory)
            before = ask(client, question)
            between.tamper = ContentSwap(OLD, NEW)
            publish()
            wait(lambda: bool(_refusals(server)), "nobody has refused the altered bundle", stage.directory)
            after = ask(client, question)
        sidecar.stop()
    versions = tuple(answer.decision.bundles[-1].version for answer in (before, after))
    return Attack(_refusals(server), (versions[0], versions[1]), before, after)


def _refusals(server: Program) -> str:
    """Return the code of what hosts refused, as the server has heard it; empty if they refused nothing."""
    refused = [series for series, count in series_of(server, NACKS_METRIC).items() if count > 0]
    return ", ".join(series.partition('code="')[2].partition('"')[0] for series in refused)
