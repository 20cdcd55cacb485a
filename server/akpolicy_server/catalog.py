"""What is current, in memory: a publish is read from the database once, however many hosts it goes to.

Rules:

- Of each org the whole view is kept (`views`), so that a stream sends what belongs together. The next view is read from
  the one before: what did not change is not read again.
- `forget` is called for every announced org before the hosts' streams hear of it, so that none reads the old.
- Streams that ask for the same thing at the same time wait for one load. A load that began before `forget` is not kept.
- A load is kept or dropped when it ends, whether or not anybody waits for it still.
- Blobs are kept by digest, the most recently used ones, up to `MAX_BLOB_CACHE_BYTES`.

Runs on the event loop; only the loads run on threads.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

from akpolicy.errors import StoreUnavailable
from akpolicy.limits import MIB
from akpolicy_server.store.blobs import load_blob
from akpolicy_server.store.roots import roots_after
from akpolicy_server.views import OrgView, read_view

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy_server.store.engine import Database
    from akpolicy_server.store.roots import RootRecord
    from akpolicy_server.threads import Threads

MAX_BLOB_CACHE_BYTES: Final = 64 * MIB


class Catalog:
    """What is current for each org, and the content of revisions."""

    def __init__(self, database: Database, threads: Threads) -> None:
        self._database = database
        self._threads = threads
        self._views: dict[str, OrgView] = {}
        # The last one of each org, current or not.
        self._last: dict[str, OrgView] = {}
        self._blobs: OrderedDict[bytes, bytes] = OrderedDict()
        self._blob_bytes = 0
        self._loads: dict[str | bytes, asyncio.Task[Any]] = {}
        # When the last load of each org's view began, in the loop's time.
        self._begun: dict[str, float] = {}

    async def roots_between(self, org: str, after: int, upto: int) -> list[RootRecord]:
        """Return the org's roots newer than `after`, up to the version `upto`, oldest first."""
        if after >= upto:
            return []
        found = await self._threads.database(self._read, lambda connection: list(roots_after(connection, org, after)))
        return [root for root in found if root.version <= upto]

    async def view(self, org: str) -> OrgView:
        """Return what is current for an org; raise `OrgNotFound` or `RootNotFound`."""
        if org in self._views:
            return self._views[org]
        before = self._last.get(org)
        load = self._load(org, lambda connection: read_view(connection, org, before), partial(self._keep_view, org))
        view: OrgView = await asyncio.shield(load)
        return view

    async def view_as_of(self, org: str, moment: float) -> OrgView:
        """Return what was current for an org at a moment of the loop's time, or later; raise as `view`."""
        while self._begun.get(org, -inf) < moment:
            load = self._loads.get(org)
            if load is None:
                self._views.pop(org, None)
                break
            # It began before. Whoever is the first to go on begins the one for all who wait here.
            await asyncio.wait([load])
        return await self.view(org)

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

    def known(self) -> dict[str, int]:
        """Return the generation of each org that is kept in memory."""
        return {org: view.seq for org, view in self._views.items()}

    def forget(self, org: str) -> None:
        """Read the org anew when it is next asked for."""
        self._views.pop(org, None)
        self._loads.pop(org, None)

    def begin_anew(self) -> None:
        """Read everything anew, whole: the database may be another one than before."""
        self._views.clear()
        self._last.clear()
        self._loads.clear()

    def _load(self, key: str | bytes, query: Callable[[Any], Any], keep: Callable[[Any], None]) -> asyncio.Task[Any]:
        load = self._loads.get(key)
        if load is None:
            load = asyncio.create_task(self._threads.database(self._read, query))
            self._loads[key] = load
            if isinstance(key, str):
                self._begun[key] = asyncio.get_running_loop().time()
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

    def _keep_view(self, org: str, view: OrgView) -> None:
        self._views[org] = self._last[org] = view

    def _keep_blob(self, digest: bytes, data: bytes | None) -> None:
        if data is None:
            return
        self._blobs[digest] = data
        self._blob_bytes += len(data)
        while self._blob_bytes > MAX_BLOB_CACHE_BYTES and len(self._blobs) > 1:
            _, dropped = self._blobs.popitem(last=False)
            self._blob_bytes -= len(dropped)
