"""What a crawl has cost, told by the crawl itself: one small file at its end."""

from __future__ import annotations

import json
import re
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrapy import signals

if TYPE_CHECKING:
    from typing import Self

    from scrapy.crawler import Crawler


def peak_memory() -> int:
    """Give the most memory this process ever had resident, in bytes.

    The kernel's high-water mark; ``ru_maxrss`` would begin with the size of the process that forked.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found
    return int(found[1]) * 1024


def cpu_seconds() -> float:
    """Give the user and system time of this process and all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Meter:
    """Notes time and CPU when the spider is open (imports and pipelines are done) and when all is kept."""

    def __init__(self, crawler: Crawler, path: Path) -> None:
        """Take the file to write."""
        self._stats = crawler.stats
        self._path = path
        self._told: dict[str, Any] = {}
        crawler.signals.connect(self.spider_opened, signal=signals.spider_opened)
        crawler.signals.connect(self.spider_closed, signal=signals.spider_closed)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Read ``BENCHMARK_RESULT``, the file's name."""
        return cls(crawler, Path(crawler.settings["BENCHMARK_RESULT"]))

    def spider_opened(self) -> None:
        """Start-up ends here."""
        self._told |= {"opened_at": time.monotonic(), "opened_cpu": cpu_seconds()}

    def spider_closed(self, reason: str) -> None:
        """Every item has left the pipelines, which are closed."""
        stats = {name: value for name, value in self._stats.get_stats().items() if isinstance(value, int | float | str)}
        self._told |= {
            "closed_at": time.monotonic(),
            "closed_cpu": cpu_seconds(),
            "peak_memory": peak_memory(),
            "reason": reason,
            "stats": stats,
        }
        self._path.write_text(json.dumps(self._told), encoding="utf-8")
