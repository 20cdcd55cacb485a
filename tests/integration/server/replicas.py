"""Several servers of this process on one database."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from akpolicy.clock import SystemClock
from akpolicy_server.installation import install
from akpolicy_server.settings import ServerSettings
from tests.integration.server.conftest import ANY_PORT, LiveServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


@contextmanager
def live_servers(
    directory: Path, database_url: str, count: int = 2, orgs: Iterable[str] = ("acme", "globex"), **changes: Any
) -> Iterator[list[LiveServer]]:
    """Run several new servers on one empty database and with the same keys; `changes` are of `[server]`."""
    made = install(
        directory / "server",
        tuple(orgs),
        listen=ANY_PORT,
        metrics_listen=None,
        clock=SystemClock(),
        database_url=database_url,
    )
    settings = ServerSettings.load(made.config, env={})
    settings = replace(settings, server=replace(settings.server, **changes))
    with ExitStack() as stack:
        yield [stack.enter_context(LiveServer(settings, made)) for _ in range(count)]
