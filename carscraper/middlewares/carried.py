"""Requests that carry an item instead of asking for a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scrapy.http import Request, Response

if TYPE_CHECKING:
    from collections.abc import Iterator


class CarriedMiddleware:
    """Answers requests of :func:`carry` at once, before anything is downloaded.

    Scrapy 2.19 does not wait for items that a spider's ``start()`` yields when it is told to stop: the crawl hangs.
    It does for those of a callback, and it bounds how many are under way.
    """

    def process_request(self, request: Request) -> Response | None:
        """Answer a request that carries an item with an empty response; let the others through."""
        return Response(request.url, request=request) if "carried" in request.meta else None


def carry(item: Any) -> Request:
    """Make a request whose only outcome is *item*."""
    return Request(
        "carried://item", callback=_deliver, cb_kwargs={"item": item}, meta={"carried": True}, dont_filter=True
    )


def _deliver(_response: Response, item: Any) -> Iterator[Any]:
    yield item
