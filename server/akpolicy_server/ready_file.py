"""The ready file: where a program that just started serves, for whoever started it."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from akpolicy.durable import write_atomic
from akpolicy.errors import CacheWriteFailed, StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from akpolicy.addresses import HostPort


@contextmanager
def ready_file(
    path: Path | None,
    *,
    listen: HostPort,
    metrics: HostPort | None,
    rest: HostPort | None = None,
    hosts: HostPort | None = None,
    hosts_rest: HostPort | None = None,
) -> Iterator[None]:
    """Write the file (0600, atomically) while the block runs, unless `path` is None; raise `StartupError`."""
    if path is None:
        yield
        return
    content: dict[str, object] = {
        "listen": str(listen),
        "metrics": str(metrics) if metrics else None,
        "rest": str(rest) if rest else None,
        "pid": os.getpid(),
    }
    if hosts is not None:
        content["hosts"] = str(hosts)
    if hosts_rest is not None:
        content["hosts_rest"] = str(hosts_rest)
    try:
        write_atomic(path, json.dumps(content).encode("ascii") + b"\n")
    except CacheWriteFailed as error:
        raise StartupError(error.message) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
