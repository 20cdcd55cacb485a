"""A host goes through its servers in an order of its own, and leaves out none."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from akpolicy.client.channel import parse_server_url
from akpolicy_sidecar.servers import PolicyServers


def _servers(count: int, seed: int) -> PolicyServers:
    urls = [f"http://127.0.0.1:{8000 + number}" for number in range(count)]
    return PolicyServers([parse_server_url(url) for url in urls], random.Random(seed))


@given(count=st.integers(1, 8), seed=st.integers(0, 1000))
def test_each_has_its_turn_once_a_round(count: int, seed: int) -> None:
    servers = _servers(count, seed)
    rounds = []
    for _ in range(2):
        one = []
        for _ in range(count):
            one.append(servers.current.target)
            servers.turn()
        rounds.append(one)
    assert rounds[0] == rounds[1]
    assert len(set(rounds[0])) == count


def test_hosts_begin_with_different_ones() -> None:
    first = Counter(_servers(3, seed).current.target for seed in range(300))
    assert len(first) == 3
    assert min(first.values()) > 60
