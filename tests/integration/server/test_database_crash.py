"""PostgreSQL is killed and comes back while servers and hosts go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from tests.integration.server.conftest import policy
from tests.integration.server.replicas import live_servers
from tests.simulators.postgresql import PostgreSQL
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.server.conftest import LiveServer

ACME = "org/acme"


def _hears(server: LiveServer) -> bool:
    return b"akpolicy_server_hearing 1.0" in server.serving.metrics.expose()[1]


def test_what_was_acknowledged_is_there_and_publishing_goes_on_without_a_restart(tmp_path: Path) -> None:
    with PostgreSQL() as running, live_servers(tmp_path, running.new_database(), keep_alive_seconds=0.5) as servers:
        one, two = servers
        host = two.host().hello()
        host.updates()
        one.admin.publish(ACME, policy("first"))
        host.ack(host.next_update())
        running.kill()
        with pytest.raises(grpc.RpcError) as refused:
            one.admin.publish(ACME, policy("lost"))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        # The stream stands meanwhile.
        assert host.updates() == []
        running.start()
        wait_until(lambda: all(map(_hears, servers)), what="servers that hear each other again")
        published = one.admin.publish(ACME, policy("second")).revision.revision
        assert published.version == 2
        assert host.next_update().bundle.revision == published
        assert [entry.id for entry in two.admin.get(ACME, 1)[1]] == ["first"]
