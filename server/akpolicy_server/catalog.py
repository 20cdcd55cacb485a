"""What is current, in memory: a publish is read from the database once, however many hosts it goes to.

Rules:

- `forget` is called for every announced scope before the hosts' streams hear of it, so that none reads the old.
- Streams that ask for the same thing at the same time wait for one load. A load that began before `forget` is not kept.
- Blobs are kept by digest, the most recently used ones, up to `MAX_BLOB_CACHE_BYTES`.

Runs on the event loop; only the loads run on threads.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from akpolicy.errors import StoreUnavailable
from akpolicy.limits import MIB
from akpolicy_server.store.orgs import roots_after
from akpolicy_server.store.revisions import current_revision, load_blob

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy_server.store.engine import Database
    from akpolicy_server.store.orgs import RootRecord
    from akpolicy_server.store.revisions import RevisionRecord
    from akpolicy_server.threads import Threads

MAX_BLOB_CACHE_BYTES: Final = 64 * MIB


class Catalog:
    """The current revision of each scope, and their content."""

    def __init__(self, database: Database, threads: Threads) -> None:
        self._database = database
        self._threads = threads
        self._current: dict[str, RevisionRecord | None] = {}
        self._blobs: OrderedDict[bytes, bytes] = OrderedDict()
        self._blob_bytes = 0
        self._loads: dict[str | bytes, asyncio.Task[Any]] = {}

    async def roots_after(self, org: str, version: int) -> list[RootRecord]:
        """Return the org's roots newer than `version`, oldest first."""
        return await self._threads.database(self._read, lambda connection: roots_after(connection, org, version))

    async def current(self, scope: str) -> RevisionRecord | None:
        """Return the scope's newest revision; None before the first."""
        if scope not in self._current:
            load = self._load(scope, lambda connection: current_revision(connection, scope))
            revision: RevisionRecord | None = await asyncio.shield(load)
            if self._loads.get(scope) is not load:
                # Forgotten meanwhile, or kept by another waiter.
                return revision
            del self._loads[scope]
            self._current[scope] = revision
        return self._current[scope]

    async def blob(self, digest: bytes) -> bytes:
        """Return a content blob; raise `StoreUnavailable` if the database lacks it."""
        if digest in self._blobs:
            self._blobs.move_to_end(digest)
            return self._blobs[digest]
        load = self._load(digest, lambda connection: load_blob(connection, digest))
        data: bytes | None = await asyncio.shield(load)
        if data is None:
            raise StoreUnavailable(f"the content {digest.hex()} is missing; restore the database from a backup")
        if self._loads.get(digest) is load:
            del self._loads[digest]
            self._keep(digest, data)
        return data

    def known(self) -> dict[str, RevisionRecord | None]:
        """Return what is kept in memory, by scope."""
        return dict(self._current)

    def forget(self, scope: str) -> None:
        """Read the scope anew when it is next asked for."""
        self._current.pop(scope, None)
        self._loads.pop(scope, None)

    def _load(self, key: str | bytes, query: Callable[[Any], Any]) -> asyncio.Task[Any]:
        load = self._loads.get(key)
        # One that failed is not joined: the next caller tries again.
        if load is None or load.done():
            load = asyncio.create_task(self._threads.database(self._read, query))
            self._loads[key] = load
        return load

    def _read(self, query: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - whatever the query returns
        with self._database.read() as connection:
            return query(connection)

    def _keep(self, digest: bytes, data: bytes) -> None:
        self._blobs[digest] = data
        self._blob_bytes += len(data)
        while self._blob_bytes > MAX_BLOB_CACHE_BYTES and len(self._blobs) > 1:
            _, dropped = self._blobs.popitem(last=False)
            self._blob_bytes -= len(dropped)
