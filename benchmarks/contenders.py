"""Who is measured, and with which settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

AT_ONCE = 32
"""Photos downloaded at the same time, by everybody."""
TICK = 0.0005
"""Seconds between two requests of stock Scrapy: 2,000 a second, more than it reaches. With none at all Scrapy 2.19
starts whatever is queued at once (it counts a transfer only when its task runs), so that its concurrency would not
hold: it would be a quarter slower and need gigabytes. Ours holds its own concurrency."""

UNTHROTTLED: dict[str, Any] = {
    "AUTOTHROTTLE_ENABLED": "false",
    # Default 16, which would hold pages back while photos are under way.
    "CONCURRENT_REQUESTS": 2 * AT_ONCE,
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Contender:
    """One way to crawl the site."""

    name: str
    """As in the tables."""
    module: str
    """The Scrapy settings it begins with."""
    spider: str
    settings: dict[str, Any] = field(default_factory=dict)
    """What is set on top, ``-s NAME=value``."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """The spider's, ``-a name=value``."""
    database: str | None = None
    """``sqlite`` or ``postgresql``; only ours has one."""
    stores: bool = False
    """It keeps the photos on S3."""
    fetches: bool = True
    """It downloads the photos at the first crawl."""


_OURS = {**UNTHROTTLED, "DOWNLOAD_DELAY": 0, "IMAGES_DOWNLOAD_DELAY": 0, "IMAGES_CONCURRENCY": AT_ONCE}
_PLAIN = {
    **UNTHROTTLED,
    "DOWNLOAD_DELAY": TICK,
    "DOWNLOAD_DELAY_JITTER": 0,
    "CONCURRENT_REQUESTS_PER_DOMAIN": AT_ONCE,
}

OURS = Contender(
    name="carscraper, SQLite",
    module="benchmarks.ours",
    spider="bilasolur",
    settings=_OURS,
    database="sqlite",
    stores=True,
)
OURS_POSTGRESQL = Contender(
    name="carscraper, PostgreSQL",
    module="benchmarks.ours",
    spider="bilasolur",
    settings=_OURS,
    database="postgresql",
    stores=True,
)
STOCK = Contender(
    name="stock ImagesPipeline + S3FilesStore",
    module="benchmarks.plain",
    spider="plain_bilasolur",
    settings={**_PLAIN, "ITEM_PIPELINES": '{"scrapy.pipelines.images.ImagesPipeline": 1}'},
    stores=True,
)
LIMIT = Contender(
    name="download only, nothing kept (the limit)",
    module="benchmarks.plain",
    spider="plain_bilasolur",
    settings={**_PLAIN, "ITEM_PIPELINES": '{"benchmarks.pipelines.DownloadOnlyPipeline": 1}'},
)
PAGES = Contender(
    name="the result pages alone",
    module="benchmarks.plain",
    spider="plain_bilasolur",
    settings=_PLAIN,
    arguments={"details": "false"},
    fetches=False,
)
