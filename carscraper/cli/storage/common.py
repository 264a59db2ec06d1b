"""What ``audit`` and ``discover`` share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from scrapy.spiderloader import get_spider_loader

from carscraper.cli.console import printable
from carscraper.maintenance.register import Dealer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from carscraper.cli.verb import Context


def dealers(context: Context) -> dict[str, Dealer]:
    """Return the dealers by their spiders' names, which their keys begin with."""
    loader = get_spider_loader(context.settings)
    found = {}
    for name in loader.list():
        spider: Any = loader.load(name)
        if source := getattr(spider, "source", None):
            found[name] = Dealer(source=source, identity=_identity(spider, context))
    return found


def _identity(spider: Any, context: Context) -> Any:
    def identity(address: str, external_id: str) -> str | None:
        dealer = spider.__new__(spider)  # no crawl: only its rules of photos' addresses are asked
        dealer.settings = context.settings
        image = dealer.image(lambda url: url, address, external_id)
        return image.identity if image else None

    return identity


def result(context: Context, name: str, data: dict[str, Any], lines: Iterable[str]) -> None:
    """Print one more line of JSON, *data* under *name*, or *lines*."""
    if context.console.as_json:
        context.console.line(json.dumps({name: data}, ensure_ascii=False))
        return
    for line in lines:
        context.console.line(printable(line))
