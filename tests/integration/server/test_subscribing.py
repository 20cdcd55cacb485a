"""DistributionService over a real connection: what a host gets, in which order, and when it ends."""

from __future__ import annotations

import hashlib
import itertools
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from akpolicy.limits import MAX_CHUNK_BYTES
from akpolicy.v1 import bundle_pb2
from akpolicy.v1 import distribution_pb2 as dist
from akpolicy_server import fanout
from akpolicy_server.fanout import MIN_SPREAD_S
from akpolicy_server.store.engine import Database
from akpolicy_server.store.hosts import HostKey, HostNack, enforced_by, find_host, refused_by
from akpolicy_server.store.tables import api_keys
from tests.integration.server.conftest import large_policies, live_server, policy
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.server.conftest import LiveServer, Stream, Update

HOST = HostKey("acme", "host-1")


def test_a_new_host_gets_roots_then_layers_with_content_then_keep_alive(server: LiveServer) -> None:
    server.admin.publish("org/acme", policy("own"))
    server.admin.publish("global", policy("everyone"))
    server.admin.publish("org/globex", policy("foreign"))
    stream = server.host().hello()
    messages = stream.until_keep_alive()
    assert [kind for kind, _ in messages] == ["root", "bundle", "chunk", "bundle", "chunk", "heartbeat"]
    assert [m.revision.scope for kind, m in messages if kind == "bundle"] == ["global", "org/acme"]
    assert messages[0][1].version == 1
    stream.call.cancel()


def test_a_host_without_anything_to_get_hears_that_the_server_is_there(server: LiveServer) -> None:
    stream = server.host().hello(root_version=1)
    assert stream.next()[0] == "heartbeat"
    for _ in range(3):
        kind, keep_alive = stream.next()
        assert (kind, keep_alive.interval_ms) == ("keep_alive", 200)
    stream.call.cancel()


def test_content_comes_in_chunks_in_order_without_gaps(server: LiveServer) -> None:
    server.admin.publish("org/acme", large_policies(90))
    stream = server.host().hello()
    (update,) = stream.updates()
    sizes = [len(chunk.data) for chunk in update.chunks]
    assert len(sizes) > 3
    assert max(sizes) <= MAX_CHUNK_BYTES
    assert [chunk.offset for chunk in update.chunks] == [sum(sizes[:index]) for index in range(len(sizes))]
    assert {chunk.digest for chunk in update.chunks} == {hashlib.sha256(update.content).digest()}
    assert update.bundle.content_size == len(update.content)
    stream.call.cancel()


def test_held_content_is_not_sent_again(server: LiveServer) -> None:
    server.admin.publish("org/acme", policy("p"))
    first = server.host("a").hello()
    (update,) = first.updates()
    second = server.host("b").hello(held_blobs=[update.chunks[0].digest])
    (held,) = second.updates()
    assert held.bundle.envelope == update.bundle.envelope
    assert (held.bundle.content_size, held.chunks) == (0, [])
    first.call.cancel()
    second.call.cancel()


def test_what_a_host_enforces_is_not_sent_again(server: LiveServer) -> None:
    published = server.admin.publish("org/acme", policy("p"))
    stream = server.host().hello(root_version=1, enforced=[published.revision.revision])
    assert stream.updates() == []
    stream.call.cancel()


@pytest.mark.parametrize("change", [{"digest": b"x" * 32}, {"epoch": 2}, {"version": 7}])
def test_a_host_that_enforces_something_else_gets_the_current_revision(
    server: LiveServer, change: dict[str, Any]
) -> None:
    current = server.admin.publish("org/acme", policy("p")).revision.revision
    other = bundle_pb2.Revision()
    other.CopyFrom(current)
    for name, value in change.items():
        setattr(other, name, value)
    stream = server.host().hello(enforced=[other])
    assert [update.bundle.revision for update in stream.updates()] == [current]
    stream.call.cancel()


def test_every_connected_host_of_the_org_gets_a_publish_and_no_other_org_does(server: LiveServer) -> None:
    streams = [server.host(f"host-{number}").hello(root_version=1) for number in range(2)]
    foreign = server.host("host-0", org="globex").hello("globex", root_version=1)
    for stream in (*streams, foreign):
        assert stream.updates() == []
    revision = server.admin.publish("org/acme", policy("p")).revision.revision
    assert [stream.next_update().bundle.revision for stream in streams] == [revision, revision]
    everyone = server.admin.publish("global", policy("g")).revision.revision
    assert [stream.next_update().bundle.revision for stream in (*streams, foreign)] == [everyone] * 3
    for stream in (*streams, foreign):
        stream.call.cancel()


def test_the_latest_of_many_publishes_always_arrives(server: LiveServer) -> None:
    stream = server.host().hello(root_version=1)
    stream.until_keep_alive()
    publishers = [
        threading.Thread(target=server.admin.publish, args=("org/acme", policy(f"p{number}"))) for number in range(8)
    ]
    for thread in publishers:
        thread.start()
    seen: list[int] = []
    while not seen or seen[-1] < 8:
        for update in stream.updates():
            seen.append(update.bundle.revision.version)
            stream.ack(update)
    for thread in publishers:
        thread.join()
    assert seen == sorted(set(seen))
    stream.call.cancel()


def test_content_that_was_acknowledged_is_not_sent_again_with_the_next_version(server: LiveServer) -> None:
    server.admin.publish("org/acme", policy("p"))
    stream = server.host().hello()
    (update,) = stream.updates()
    stream.ack(update)
    _reported(server, [("org/acme", 1)])
    server.admin.publish("org/acme", policy("p"))
    renewed = stream.next_update()
    assert (renewed.bundle.revision.version, renewed.bundle.content_size, renewed.chunks) == (2, 0, [])
    server.admin.publish("org/acme", policy("q"))
    assert stream.next_update().content
    stream.call.cancel()


# --- answers ----------------------------------------------------------------------------------------------------------


def _reported(server: LiveServer, enforced: list[tuple[str, int]]) -> None:
    def arrived() -> bool:
        with server.serving.database.read() as connection:
            return [(revision.scope, revision.version) for revision in enforced_by(connection, HOST)] == enforced

    wait_until(arrived, what=f"{enforced} in the database")


def test_an_ack_is_recorded_as_what_the_host_enforces(server: LiveServer) -> None:
    server.admin.publish("org/acme", policy("p"))
    stream = server.host().hello(software_version="0.1.7")
    (update,) = stream.updates()
    _reported(server, [])
    stream.ack(update)
    _reported(server, [("org/acme", 1)])
    with server.serving.database.read() as connection:
        host = find_host(connection, HOST)
    assert host is not None
    assert host.software_version == "0.1.7"
    stream.call.cancel()


def test_a_nack_is_recorded_with_its_reason_until_an_update_takes_effect(server: LiveServer) -> None:
    server.admin.publish("org/acme", policy("p"))
    stream = server.host().hello()
    (update,) = stream.updates()
    stream.send(
        nack=dist.Nack(nonce=update.bundle.nonce, code="PolicyParseError", detail="line 3", policy_id="p", enforced=[])
    )

    def refusals() -> list[HostNack]:
        with server.serving.database.read() as connection:
            return refused_by(connection, HOST)

    assert wait_until(refusals) == [HostNack("org/acme", 1, 1, "PolicyParseError", "line 3", "p")]
    server.admin.publish("org/acme", policy("q"))
    stream.ack(stream.next_update())
    wait_until(lambda: not refusals())
    stream.call.cancel()


def _answer(stream: Stream, update: Update, nonce: bytes) -> None:
    stream.send(ack=dist.Ack(nonce=nonce, enforced=[update.bundle.revision]))


def test_an_answer_to_nothing_that_was_sent_ends_the_stream(server: LiveServer) -> None:
    server.admin.publish("org/acme", policy("p"))
    other = server.host("other").hello()
    (foreign,) = other.updates()
    for nonces in ([b"x" * 16], [foreign.bundle.nonce], None):
        stream = server.host().hello()
        (update,) = stream.updates()
        for nonce in nonces or [update.bundle.nonce, update.bundle.nonce]:
            _answer(stream, update, nonce)
        code, message = stream.ending()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "nonce" in message
    other.call.cancel()


@pytest.mark.parametrize(
    "fields",
    [
        {"code": ""},
        {"code": "a b"},
        {"code": "x" * 65},
        {"code": "ok", "policy_id": "x" * 129},
        {"code": "ok", "enforced": [bundle_pb2.Revision(scope="org/globex", version=1, digest=b"d" * 32)]},
    ],
)
def test_an_answer_out_of_bounds_ends_the_stream(server: LiveServer, fields: dict[str, Any]) -> None:
    server.admin.publish("org/acme", policy("p"))
    stream = server.host().hello()
    (update,) = stream.updates()
    stream.send(nack=dist.Nack(nonce=update.bundle.nonce, **fields))
    assert stream.ending()[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_host_that_never_answers_gets_only_so_many_updates_and_no_keep_alive(server: LiveServer) -> None:
    stream = server.host().hello(root_version=1)
    stream.until_keep_alive()
    updates = []
    for number in range(16):
        server.admin.publish("org/acme", policy(f"p{number}"))
        updates.append(stream.next_update())
    server.admin.publish("org/acme", policy("held-back"))
    # One answer makes room for one update; it is the newest.
    stream.ack(updates[0])
    held_back = stream.next_update()
    assert held_back.bundle.revision.version == 17
    stream.call.cancel()


# --- how streams begin and end ----------------------------------------------------------------------------------------


def test_hello_comes_first_and_once(server: LiveServer) -> None:
    stream = server.host("a")
    stream.send(ack=dist.Ack(nonce=b"n" * 16))
    assert stream.ending() == (grpc.StatusCode.INVALID_ARGUMENT, "the first message must be Hello")
    for _ in range(20):
        # The server is in the midst of its first message when it hears the second Hello.
        assert server.host("b").hello().hello().ending()[0] is grpc.StatusCode.INVALID_ARGUMENT
    silent = server.host("c")
    silent.close()
    assert silent.ending()[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_host_that_says_nothing_is_not_waited_for(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("akpolicy_server.api.distribution.HELLO_TIMEOUT_S", 0.05)
    code, message = server.host().ending()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "no Hello within" in message


@pytest.mark.parametrize("fields", [{"nonce": b""}, {"software_version": ""}, {"held_blobs": [b"short"]}])
def test_a_hello_out_of_bounds_ends_the_stream(server: LiveServer, fields: dict[str, Any]) -> None:
    assert server.host().hello(**fields).ending()[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_only_a_hosts_key_of_that_org_subscribes(server: LiveServer) -> None:
    publisher = server.admin.create_key("acme", "publisher").secret
    for stream in (
        server.stream(server.made.admin_api_key).hello(),
        server.stream(publisher).hello(),
        server.host(org="globex").hello("acme"),
    ):
        assert stream.ending()[0] is grpc.StatusCode.PERMISSION_DENIED
    assert server.stream("nonsense").hello().ending()[0] is grpc.StatusCode.UNAUTHENTICATED


def test_a_host_cannot_speak_for_another(server: LiveServer) -> None:
    server.admin.publish("org/acme", policy("p"))
    stream = server.host("host-2").hello()
    (update,) = stream.updates()
    stream.ack(update)

    def recorded() -> bool:
        with server.serving.database.read() as connection:
            return bool(enforced_by(connection, HostKey("acme", "host-2")))

    wait_until(recorded)
    with server.serving.database.read() as connection:
        assert find_host(connection, HOST) is None
    stream.call.cancel()


def test_revoking_a_key_ends_its_streams_and_no_others(server: LiveServer) -> None:
    created = server.admin.create_key("acme", "host", "host-1")
    doomed = server.stream(created.secret).hello()
    other = server.host("host-2").hello()
    doomed.until_keep_alive()
    other.until_keep_alive()
    server.admin.revoke_key(created.key_id)
    assert doomed.ending() == (grpc.StatusCode.UNAUTHENTICATED, "the API key was revoked")
    assert other.next()[0] == "keep_alive"
    assert server.stream(created.secret).hello().ending()[0] is grpc.StatusCode.UNAUTHENTICATED
    other.call.cancel()


def test_a_revoked_key_ends_a_stream_that_nobody_reads(server: LiveServer) -> None:
    server.admin.publish("org/acme", large_policies(900))
    created = server.admin.create_key("acme", "host", "host-1")
    stream = server.stream(created.secret).hello()
    wait_until(lambda: len(server.serving.fanout) == 1)
    server.admin.revoke_key(created.key_id)
    wait_until(lambda: len(server.serving.fanout) == 0)
    # What was on its way is all that still comes.
    assert stream.ending()[0] is grpc.StatusCode.UNAUTHENTICATED


def test_the_newest_streams_of_a_host_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "PLACE_S", 0.0)
    with live_server(tmp_path, max_streams_per_host=2, keep_alive_seconds=0.2) as server:
        secret = server.admin.create_key("acme", "host", "host-1").secret
        streams = []
        for _ in range(3):
            streams.append(server.stream(secret).hello())
            streams[-1].until_keep_alive()
        code, message = streams[0].ending()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "took this one's place" in message
        for stream in streams[1:]:
            stream.until_keep_alive()
            stream.call.cancel()


def test_an_old_stream_ends_with_a_request_for_another(tmp_path: Path) -> None:
    with live_server(tmp_path, stream_age_seconds=0.5, keep_alive_seconds=0.2) as server:
        stream = server.host().hello()
        assert stream.ending() == (grpc.StatusCode.UNAVAILABLE, "the stream is old; open another one")
        told = {entry.key: entry.value for entry in stream.call.trailing_metadata()}
        assert told["akpolicy-reopen"] == "1"
        assert 0 <= int(told["akpolicy-retry-after-ms"]) <= 500


def test_a_host_that_closes_its_side_is_let_go(server: LiveServer) -> None:
    stream = server.host().hello()
    stream.until_keep_alive()
    stream.close()
    assert all(message.WhichOneof("message") == "keep_alive" for message in stream.call)
    assert stream.call.code() is grpc.StatusCode.OK
    wait_until(lambda: len(server.serving.fanout) == 0)


def test_what_another_process_stored_arrives_with_the_next_sweep(server: LiveServer) -> None:
    created = server.admin.create_key("acme", "host", "host-1")
    stream = server.stream(created.secret).hello()
    stream.until_keep_alive()
    url = f"sqlite:///{server.made.config.parent / 'data' / 'akpolicy.sqlite3'}"
    with closing(Database(url)) as database, database.write() as connection:
        connection.execute(api_keys.update().where(api_keys.c.key_id == created.key_id).values(revoked_at_us=1))
    assert stream.ending()[0] is grpc.StatusCode.UNAUTHENTICATED


def test_when_the_server_stops_streams_are_told_to_come_back(tmp_path: Path) -> None:
    with live_server(tmp_path, keep_alive_seconds=0.2, shutdown_grace_seconds=1.0) as server:
        stream = server.host().hello()
        stream.until_keep_alive()
        server.stop()
        code, message = stream.ending()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "come back" in message
    asked = dict(stream.call.trailing_metadata())["akpolicy-retry-after-ms"]
    assert 0 <= int(asked) <= MIN_SPREAD_S * 1000


def test_a_host_that_takes_batches_gets_a_change_as_one_message(server: LiveServer) -> None:
    stream = server.host().hello(takes_batches=True)
    kinds = [_kinds(stream.next())]
    while kinds[-1][-1:] != ["keep_alive"]:
        kinds.append(_kinds(stream.next()))
    assert list(itertools.chain(*kinds)) == ["root", "heartbeat", "keep_alive"]

    server.admin.publish("org/acme", policy("p"))
    while (came := _kinds(stream.next())) == ["keep_alive"]:
        pass
    assert came == ["bundle", "chunk", "heartbeat", "keep_alive"]
    stream.call.cancel()


def _kinds(message: tuple[str, Any]) -> list[str]:
    kind, content = message
    return [part.WhichOneof("message") for part in content.messages] if kind == "batch" else [kind]
