"""Blocking work off the event loop.

Rules:

- Three pools: short database work; policy work, in which Cedar may take seconds; and signing by itself, for which a key
  service may take its time. A big upload cannot keep others from being authenticated, nor a slow key from either.
- Work that began is never abandoned: if its caller goes away it still ends as it would have, and `close` waits for it.
"""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

DATABASE_THREADS: Final = 4
POLICY_THREADS: Final = 2
SIGNING_THREADS: Final = 4

P = ParamSpec("P")
R = TypeVar("R")


class Threads:
    """The server's threads."""

    def __init__(self) -> None:
        self._database = ThreadPoolExecutor(DATABASE_THREADS, thread_name_prefix="database")
        self._policies = ThreadPoolExecutor(POLICY_THREADS, thread_name_prefix="policies")
        self._signing = ThreadPoolExecutor(SIGNING_THREADS, thread_name_prefix="signing")

    async def database(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run short work that waits for the database."""
        return await _run(self._database, work, *args, **kwargs)

    async def policies(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run work that parses policies."""
        return await _run(self._policies, work, *args, **kwargs)

    async def signing(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run work that signs without being asked to: heartbeats, renewals."""
        return await _run(self._signing, work, *args, **kwargs)

    def close(self) -> None:
        """Wait for what runs; take no more."""
        self._signing.shutdown()
        self._policies.shutdown()
        self._database.shutdown()


async def _run(pool: ThreadPoolExecutor, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    # What is logged there belongs to the same call.
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(pool, lambda: context.run(work, *args, **kwargs))
