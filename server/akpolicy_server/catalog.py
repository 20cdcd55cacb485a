"""What is current, in memory: a publish is read from the database once, however many hosts it goes to.

Rules:

- `forget` is called for every announced scope before the hosts' streams hear of it, so that none reads the old.
- Streams that ask for the same thing at the same time wait for one load. A load that began before `forget` is not kept.
- A load is kept or dropped when it ends, whether or not anybody waits for it still.
- Blobs are kept by digest, the most recently used ones, up to `MAX_BLOB_CACHE_BYTES`.

Runs on the event loop; only the loads run on threads.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial
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
        if scope in self._current:
            return self._current[scope]
        load = self._load(
            scope,
            lambda connection: current_revision(connection, scope),
            lambda found: self._keep_current(scope, found),
        )
        revision: RevisionRecord | None = await asyncio.shield(load)
        return revision

    async def blob(self, digest: bytes) -> bytes:
        """Return a content blob; raise `StoreUnavailable` if the database lacks it."""
        if digest in self._blobs:
            self._blobs.move_to_end(digest)
            return self._blobs[digest]
        load = self._load(digest, lambda connection: load_blob(connection, digest), partial(self._keep_blob, digest))
        data: bytes | None = await asyncio.shield(load)
        if data is None:
            raise StoreUnavailable(f"the content {digest.hex()} is missing; restore the database from a backup")
        return data

    def known(self) -> dict[str, RevisionRecord | None]:
        """Return what is kept in memory, by scope."""
        return dict(self._current)

    def forget(self, scope: str) -> None:
        """Read the scope anew when it is next asked for."""
        self._current.pop(scope, None)
        self._loads.pop(scope, None)

    def _load(self, key: str | bytes, query: Callable[[Any], Any], keep: Callable[[Any], None]) -> asyncio.Task[Any]:
        load = self._loads.get(key)
        if load is None:
            load = asyncio.create_task(self._threads.database(self._read, query))
            self._loads[key] = load
            # Settled by the load itself: whoever waited for it may have left, and a failed one must not be joined.
            load.add_done_callback(partial(self._settle, key, keep))
        return load

    def _settle(self, key: str | bytes, keep: Callable[[Any], None], load: asyncio.Task[Any]) -> None:
        if self._loads.get(key) is not load:
            # Forgotten meanwhile.
            return
        del self._loads[key]
        if not load.cancelled() and load.exception() is None:
            keep(load.result())

    def _read(self, query: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - whatever the query returns
        with self._database.read() as connection:
            return query(connection)

    def _keep_current(self, scope: str, revision: RevisionRecord | None) -> None:
        self._current[scope] = revision

    def _keep_blob(self, digest: bytes, data: bytes | None) -> None:
        if data is None:
            return
        self._blobs[digest] = data
        self._blob_bytes += len(data)
        while self._blob_bytes > MAX_BLOB_CACHE_BYTES and len(self._blobs) > 1:
            _, dropped = self._blobs.popitem(last=False)
            self._blob_bytes -= len(dropped)
