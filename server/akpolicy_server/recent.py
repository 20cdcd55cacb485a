"""The views that hosts were given lately, by the digest of their index.

A polling host that enforces just what an index names says so by its digest, instead of naming thousands of scopes, and
gets what is different since. Nothing depends on it: a server that does not remember asks the host to say all.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from akpolicy_server.views import OrgView

# Views share what does not differ, but for the text of the index: up to 3 MiB each, usually some hundred bytes.
MAX_VIEWS_AN_ORG: Final = 8
MAX_ORGS: Final = 256


class RecentViews:
    """Remembers views. Runs on the event loop."""

    def __init__(self) -> None:
        self._views: OrderedDict[str, OrderedDict[str, OrgView]] = OrderedDict()

    def note(self, view: OrgView) -> None:
        """Remember a view, which goes to a host."""
        views = self._views.setdefault(view.org, OrderedDict())
        self._views.move_to_end(view.org)
        views[view.index.digest] = view
        views.move_to_end(view.index.digest)
        if len(views) > MAX_VIEWS_AN_ORG:
            views.popitem(last=False)
        if len(self._views) > MAX_ORGS:
            self._views.popitem(last=False)

    def find(self, org: str, digest: str) -> OrgView | None:
        """Return the view of an org whose index has this digest (hex), if it is remembered."""
        views = self._views.get(org)
        return views.get(digest) if views is not None else None
