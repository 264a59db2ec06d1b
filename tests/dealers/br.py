"""A simulated br.is: like bilaland.is, but begun at ``/?make=-1``, which is said to show or to lead to the results.

Both are simulated: ``leads`` (a redirect to ``SearchResults.aspx?id=<GUID>``), ``form`` (a page with the search form)
and ``shows`` (the first cars themselves, on that address).
"""

from __future__ import annotations

from typing import Any

from tests.dealers.bilaland import SimulatedBilaland
from tests.dealers.bilasolur import Search
from tests.http_server import Request, Response


class SimulatedBr(SimulatedBilaland):
    """The site.

    Args:
        home_as: what ``/?make=-1`` does: "leads", "form" or "shows".
        options: bilasolur's.
    """

    def __init__(self, *, home_as: str = "leads", **options: Any) -> None:
        super().__init__(**options)
        self.home_as = home_as

    def classify(self, request: Request) -> tuple[str, str]:
        kind, which = super().classify(request)
        if kind == "home" and self.home_as == "shows" and request.query.get("make") == "-1":
            return "results", request.query.get("page", "")
        return kind, which

    def _home(self, which: str, request: Request) -> Response:
        if self.home_as == "leads" and request.query.get("make") == "-1":
            return self._new_search(None)
        return super()._home(which, request)

    def _results(self, which: str, request: Request) -> Response:
        if request.route == "/":
            return self._result_page(Search(0, None), "", which)
        return super()._results(which, request)
