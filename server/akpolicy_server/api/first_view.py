"""The view that a stream begins with: never older than what its host has.

Rules:

- What is kept in memory may be older than what the host was sent by another server, whose notice is late. A host that
  names another index, or a newer root, than the view in memory gets one that was read after its Hello came.
- Streams that ask at once share the read; hosts that have what is in memory cost none.
- If what is stored is older than what the host has, it is sent all the same: the host refuses it and says so, which is
  how a database that was restored from an old backup is noticed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from akpolicy_server.api.greeting import Greeting
    from akpolicy_server.catalog import Catalog
    from akpolicy_server.views import OrgView


async def first_view(catalog: Catalog, org: str, greeting: Greeting) -> OrgView:
    """Return what is current for a host that just said Hello; raise `OrgNotFound` or `RootNotFound`."""
    moment = asyncio.get_running_loop().time()
    view = await catalog.view(org)
    return view if _is_known_to(greeting, view) else await catalog.view_as_of(org, moment)


def _is_known_to(greeting: Greeting, view: OrgView) -> bool:
    """Whether the host has this view, or has nothing at all."""
    if greeting.root_version > view.root.document.version:
        return False
    return greeting.index_digest.hex() == view.index.digest if greeting.index_digest else not greeting.enforced
