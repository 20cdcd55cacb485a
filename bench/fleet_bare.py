"""A server that does nothing but send bytes to everyone: what `bench.fleet` compares the real server with.

Rules:

- It listens with the real server's TLS files, connection settings and allocator, and takes the same calls on the same
  message types. Nothing is looked up, signed, stored or answered.
- Each host gets what it is sent as one message, serialized once for all.
- A line on standard input names a size in bytes: that much goes to every host. The line on standard output that answers
  says how many hosts there are. The first line of output says the port.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc

from akpolicy.allocator import CONNECTION_BUFFER_BYTES, map_large_blocks
from akpolicy.v1 import bundle_pb2
from akpolicy.v1 import distribution_pb2 as pb
from akpolicy_server.listener import grpc_options

METHOD = "Subscribe"
SERVICE = "akpolicy.v1.DistributionService"


class Bare:
    """Everyone who is connected, and the bytes that go to all."""

    def __init__(self) -> None:
        self._hosts: set[asyncio.Event] = set()
        self._version = 1
        self._data = b""
        self.prepare(1)

    def __len__(self) -> int:
        return len(self._hosts)

    def prepare(self, size: int) -> None:
        """Make a message of `size` bytes of content, and send it to every host."""
        revision = bundle_pb2.Revision(scope="org/acme", version=self._version)
        bundle = pb.BundleUpdate(revision=revision, nonce=bytes(size))
        self._data = pb.SubscribeResponse(bundle=bundle).SerializeToString()
        self._version += 1
        for news in self._hosts:
            news.set()

    async def subscribe(self, requests: Any, context: Any) -> None:  # noqa: ANN401 - generic handlers are untyped
        """Send the newest message whenever there is one."""
        await anext(requests)
        news = asyncio.Event()
        news.set()
        self._hosts.add(news)
        try:
            while True:
                await news.wait()
                news.clear()
                await context.write(self._data)
        finally:
            self._hosts.discard(news)


async def _main(certificate: bytes, key: bytes) -> None:
    bare = Bare()
    handler = grpc.stream_stream_rpc_method_handler(
        bare.subscribe, request_deserializer=pb.SubscribeRequest.FromString, response_serializer=bytes
    )
    server = grpc.aio.server(options=grpc_options())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    await server.start()
    print(port, flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        bare.prepare(int(line))
        print(len(bare), flush=True)
    await server.stop(None)


if __name__ == "__main__":
    map_large_blocks(CONNECTION_BUFFER_BYTES)
    asyncio.run(_main(Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]).read_bytes()))
