"""A crawler that doesn't run: settings, signals and stats as a real one has them, no engine, no reactor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from scrapy import Spider
from scrapy.crawler import Crawler
from scrapy.settings import Settings
from scrapy.statscollectors import MemoryStatsCollector

import carscraper.settings
from carscraper.addon import CarscraperAddon


def make_settings(**changes: Any) -> Settings:
    """The project's settings with ``-s NAME=value`` for each of *changes*, as components get them."""
    settings = Settings()
    settings.setmodule(carscraper.settings, priority="project")
    settings.setdict(changes, priority="cmdline")
    CarscraperAddon().update_settings(settings)
    return settings


def make_crawler(spider: type[Spider] = Spider, **changes: Any) -> Crawler:
    """A crawler of *spider* whose engine says that it is running."""
    crawler = Crawler(spider, make_settings(**changes))
    crawler.stats = MemoryStatsCollector(crawler)
    crawler.engine = SimpleNamespace(running=True)  # type: ignore[assignment]
    # Ours know their names, and take everything else for an argument.
    crawler.spider = spider.from_crawler(crawler, **({} if getattr(spider, "name", None) else {"name": "test"}))
    return crawler


async def until(happened: Callable[[], object], *, timeout: float = 10) -> None:  # noqa: ASYNC109 - it uses asyncio's
    """Let the others go on until ``happened()``."""
    async with asyncio.timeout(timeout):
        while not happened():  # noqa: ASYNC110 - what happens has no event to wait for
            await asyncio.sleep(0.002)
