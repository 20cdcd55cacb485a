"""Many hosts in one process, as `bench.fleet` needs them: real gRPC streams over TLS, real heartbeat signatures.

Rules:

- Each host has a connection of its own, as a machine of its own has. It says Hello, verifies the signature of every
  heartbeat, acknowledges every bundle, and comes back like a sidecar: exponential backoff with full jitter, at least as
  long as the server asks for. Policies are not compiled.
- What happened is kept in memory and told when it is asked for: one JSON line on standard output for each line on
  standard input. Times are those of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from akpolicy.client.channel import RETRY_AFTER_METADATA, bearer
from akpolicy.v1 import distribution_pb2 as pb
from akpolicy.v1 import distribution_pb2_grpc
from akpolicy.wire import envelope_from_proto
from akpolicy.wire_distribution import unpacked
from akpolicy_sidecar.watcher import FIRST_BACKOFF_S, MAX_BACKOFF_S, least_pause_s

Stream = Any  # grpc.aio types what a stream's stub returns as a call without messages
# How many connections come about at once in the beginning.
OPENING = 50
# Hosts with such names stop reading once they have the first version.
SLOW = "slow-"
_JITTER = random.SystemRandom()
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))


@dataclass
class Host:
    """One host: what it was told of the scope, and when it connected."""

    host_id: str
    secret: str
    version: int = 0
    reached: dict[int, float] = field(default_factory=dict)
    connected: list[float] = field(default_factory=list)
    attempts: list[float] = field(default_factory=list)
    received_bytes: int = 0
    spread_s: float = 0.0


class Hosts:
    """The hosts of this process."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self._target: str = given["target"]
        self._credentials = grpc.ssl_channel_credentials(Path(given["ca_file"]).read_bytes())
        key = given["heartbeat_key"]
        self._key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)) if key else None
        self.hosts = [Host(host_id, secret) for host_id, secret in given["hosts"]]
        self._opening = asyncio.Semaphore(OPENING)

    async def keep(self, host: Host) -> None:
        """Hold a stream, and come back whenever it ends."""
        attempt = 0
        while True:
            asked_s = None
            host.attempts.append(time.monotonic())
            try:
                async with self._opening if not host.connected else _nothing():
                    channel = grpc.aio.secure_channel(self._target, self._credentials, options=_OPTIONS)
                    call, first = await self._open(channel, host)
                attempt = 0
                await self._listen(call, host, first)
            except grpc.aio.AioRpcError as error:
                for key, value in error.trailing_metadata() or ():
                    if key == RETRY_AFTER_METADATA:
                        asked_s = int(value) / 1000
            finally:
                await channel.close()
            attempt += 1
            pause_s = _JITTER.uniform(0, min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(attempt, 10)))
            await asyncio.sleep(max(pause_s, least_pause_s(asked_s, host.spread_s, _JITTER)))

    async def _open(self, channel: grpc.aio.Channel, host: Host) -> tuple[Stream, pb.SubscribeResponse]:
        stub = distribution_pb2_grpc.DistributionServiceStub(channel)
        call: Stream = stub.Subscribe(metadata=bearer(host.secret))
        hello = pb.Hello(org="acme", software_version="0.1.0", root_version=1, nonce=os.urandom(16), takes_batches=True)
        await call.write(pb.SubscribeRequest(hello=hello))
        first = await call.read()
        if first is grpc.aio.EOF:
            await call.code()
            raise RuntimeError("a stream that ends before it began")
        host.connected.append(time.monotonic())
        return call, first

    async def _listen(self, call: Stream, host: Host, first: pb.SubscribeResponse) -> None:
        message: Any = first
        while message is not grpc.aio.EOF:
            host.received_bytes += message.ByteSize()
            for part in unpacked(iter((message,))):
                await self._take(call, host, part)
            if host.host_id.startswith(SLOW) and host.version >= 1:
                # It never reads again, and does not hang up either.
                await asyncio.Event().wait()
            message = await call.read()

    async def _take(self, call: Stream, host: Host, message: pb.SubscribeResponse) -> None:
        kind = message.WhichOneof("message")
        if kind == "bundle":
            host.version = max(host.version, message.bundle.revision.version)
            if self._key is None:
                # From a bare server, which sends nothing else and takes no answers.
                host.reached.setdefault(host.version, time.monotonic())
                return
            ack = pb.Ack(nonce=message.bundle.nonce, enforced=[message.bundle.revision], root_version=1)
            await call.write(pb.SubscribeRequest(ack=ack))
        elif kind == "heartbeat":
            self._verify(message.heartbeat)
            host.reached.setdefault(host.version, time.monotonic())
        elif kind == "keep_alive":
            host.spread_s = message.keep_alive.spread_ms / 1000

    def _verify(self, update: pb.HeartbeatUpdate) -> None:
        envelope = envelope_from_proto(update.envelope)
        if self._key is not None:
            self._key.verify(envelope.signatures[0].signature, envelope.pae())

    def answer(self, question: str) -> list[float]:
        """Return the moments, or bytes, that a line asks for; it names what, and the version or since when."""
        what, _, value = question.partition(" ")
        if what == "reached":
            version = int(value)
            return [host.reached[version] for host in self.hosts if version in host.reached]
        if what == "connected":
            return [h.connected[-1] for h in self.hosts if h.connected and h.connected[-1] > float(value)]
        if what == "attempts":
            return [moment for host in self.hosts for moment in host.attempts if moment > float(value)]
        return [host.received_bytes for host in self.hosts]


class _nothing:  # noqa: N801 - stands in for a lock
    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        return None


async def _main() -> None:
    hosts = Hosts(json.loads(sys.stdin.readline()))
    tasks = [asyncio.create_task(hosts.keep(host)) for host in hosts.hosts]
    loop = asyncio.get_running_loop()
    while question := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(hosts.answer(question.strip())), flush=True)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(_main())
