"""A real Prometheus scrapes both programs, and promtool has nothing to say against their metrics."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.e2e import programs
from tests.integration.e2e.programs import DEADLINE_S
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.e2e.world import World


@contextmanager
def prometheus(world: World, targets: dict[str, str]) -> Iterator[str]:
    """Run Prometheus that scrapes these addresses, by job name; yield the URL of its API."""
    scrapes = [{"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()]
    config = world.directory / "prometheus.json"
    # JSON is YAML.
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": scrapes}), encoding="utf-8")
    address = f"127.0.0.1:{programs.free_port()}"
    command = ["prometheus", f"--config.file={config}", f"--web.listen-address={address}"]
    command += [f"--storage.tsdb.path={world.directory / 'tsdb'}", "--log.level=warn"]
    with (world.directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield f"http://{address}/api/v1"
    finally:
        process.kill()
        process.wait(DEADLINE_S)


def query(api: str, expression: str) -> list[dict[str, Any]]:
    """Return the series of an instant query; none while Prometheus is not up."""
    try:
        with urllib.request.urlopen(f"{api}/query?{urllib.parse.urlencode({'query': expression})}") as answer:
            series: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return series
    except urllib.error.URLError:
        return []


@pytest.mark.slow
@pytest.mark.needs_program("prometheus")
def test_prometheus_sees_the_decisions_of_a_sidecar_and_the_publishes_of_the_server(enforcing: World) -> None:
    sidecar = enforcing.sidecars["host-1"]
    assert enforcing.server is not None
    with prometheus(
        enforcing, {"sidecar": sidecar.ready["metrics"], "server": enforcing.server.ready["metrics"]}
    ) as api:
        asked = sidecar.metric("akpolicy_sidecar_decisions_total", effect="allow")
        expression = 'akpolicy_sidecar_decisions_total{job="sidecar",effect="allow",source="live"}'
        [series] = wait_until(lambda: query(api, expression), deadline=DEADLINE_S, what="the decisions in Prometheus")
        assert (series["metric"]["reason"], float(series["value"][1])) == ("permitted", asked)
        expression = 'akpolicy_server_publishes_total{job="server",outcome="published"}'
        [series] = wait_until(lambda: query(api, expression), deadline=DEADLINE_S, what="the publishes in Prometheus")
        assert float(series["value"][1]) == 1
        assert {s["metric"]["job"]: s["value"][1] for s in query(api, "up")} == {"sidecar": "1", "server": "1"}


@pytest.mark.needs_program("promtool")
def test_promtool_finds_nothing_wrong_with_either_programs_metrics(enforcing: World) -> None:
    assert enforcing.server is not None
    for program in (enforcing.server, enforcing.sidecars["host-1"]):
        status, text = program.page("/metrics")
        assert status == 200
        checked = programs.run(["promtool", "check", "metrics"], text=text)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", ""), program.name
