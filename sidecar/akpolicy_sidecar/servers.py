"""Which of several policy servers a host turns to.

Rules:

- All of them say the same: they share one database, and nothing is believed because of who said it.
- Each host goes through them in a random order of its own, so that a fleet spreads over all of them, and that of a
  server that is gone over those that are left.
- Whenever a connection has ended, the next one goes to the next server; polls stay with the one that answers.
"""

from __future__ import annotations

from random import SystemRandom
from typing import TYPE_CHECKING

from akpolicy.client.channel import ServerEndpoint, parse_server_url

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from akpolicy.addresses import ServerUrl
    from akpolicy_sidecar.settings import SidecarSection


def endpoints_of(first: ServerUrl, section: SidecarSection) -> list[ServerEndpoint]:
    """Return the configured servers, all of which are shown the same files; raise `ConfigError`."""
    return [
        parse_server_url(
            url,
            allow_plaintext=section.allow_plaintext,
            ca_file=section.ca_file,
            client_cert_file=section.client_cert_file,
            client_key_file=section.client_key_file,
        )
        for url in (first, *section.further_policy_servers)
    ]


class PolicyServers:
    """The servers of a host, in an order of its own; at least one. The watcher's thread alone uses it."""

    def __init__(self, endpoints: Iterable[ServerEndpoint], random: Random | None = None) -> None:
        """Begin with any of them."""
        self._endpoints = list(endpoints)
        (random or SystemRandom()).shuffle(self._endpoints)
        self._turn = 0

    @property
    def current(self) -> ServerEndpoint:
        """The server whose turn it is."""
        return self._endpoints[self._turn]

    def turn(self) -> None:
        """Let it be the next one's turn."""
        self._turn = (self._turn + 1) % len(self._endpoints)
