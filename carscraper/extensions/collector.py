"""Python's garbage collector at a crawl's pace."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from scrapy import signals

if TYPE_CHECKING:
    from typing import Self

    from scrapy.crawler import Crawler

# Default (700, 10, 10): a photo makes hundreds of objects and few cycles, so that most rounds find nothing.
_THRESHOLDS = (10_000, 5, 5)


class CalmCollector:
    """Collects less often, and leaves alone what was there before the crawl.

    Modules and classes make up most of the objects and are never garbage; going through them again and again took an
    eighth of the CPU for each photo (measured with ``make bench``), for 3 MB less memory. What is heavy and part of a
    cycle, parsed pages, is let go of where it is made: ``base_spiders.base.forget_tree``.
    """

    def __init__(self, crawler: Crawler) -> None:
        """Take the crawler."""
        crawler.signals.connect(self.spider_opened, signal=signals.spider_opened)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """No settings."""
        return cls(crawler)

    def spider_opened(self) -> None:
        """Change the collector of the whole process."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_THRESHOLDS)
