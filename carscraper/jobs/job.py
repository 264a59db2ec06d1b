"""What waits in the queue: one crawl."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from carscraper.exceptions import ConfigurationError
from carscraper.logs import cleaned

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Self

TASK = "crawl"
"""The task's name in the queue."""
BACKFILL = "backfill"
"""The spider, and the queue of its shards."""
CRAWLS = "crawls"
"""The queue of all others; they go first where a worker serves both."""
PRIORITIES = {CRAWLS: 10}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One ``scrapy crawl``."""

    spider: str
    arguments: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, args: Mapping[str, Any]) -> Self:
        """Read what the queue has of it."""
        return cls(
            spider=str(args.get("spider", "")),
            arguments={str(name): str(value) for name, value in (args.get("arguments") or {}).items()},
            settings={str(name): str(value) for name, value in (args.get("settings") or {}).items()},
        )

    def args(self) -> dict[str, Any]:
        """Give what the queue keeps of it."""
        return {"spider": self.spider, "arguments": self.arguments, "settings": self.settings}

    @property
    def queueing_lock(self) -> str:
        """Name it: the same crawl does not wait twice."""
        text = json.dumps([self.arguments, self.settings], sort_keys=True)
        return f"{self.spider} {hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def lock(self, source: str | None) -> str:
        """Name what runs only once at a time: a dealer's crawl, whatever its arguments; else the same crawl."""
        return f"source {source}" if source else self.queueing_lock

    @property
    def queue(self) -> str:
        """Name the queue in which it waits unless another is named."""
        return BACKFILL if self.spider == BACKFILL else CRAWLS

    def __str__(self) -> str:
        """Describe it in a line.

        >>> str(Job(spider="br", arguments={"base_url": "http://a:b@h/"}, settings={"LOG_LEVEL": "DEBUG"}))
        'br base_url=http://***@h/ -s LOG_LEVEL=DEBUG'
        """
        words = [self.spider, *(f"{name}={value}" for name, value in self.arguments.items())]
        words += [f"-s {name}={value}" for name, value in self.settings.items()]
        return cleaned(" ".join(words))


def pairs(given: Iterable[str], option: str) -> dict[str, str]:
    """Read what was given as ``NAME=VALUE``.

    Raises:
        ConfigurationError: it is something else.
    """
    found = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z]\w*", name):
            raise ConfigurationError(f"{option} {cleaned(each)} can't be read; write NAME=VALUE.")
        found[name] = value
    return found


def shards(count: int, arguments: Mapping[str, str]) -> list[Job]:
    """Part a backfill into *count* jobs, each with its share of the cars.

    >>> [job.arguments for job in shards(2, {"limit": "0"})]
    [{'limit': '0', 'shard': '1/2'}, {'limit': '0', 'shard': '2/2'}]
    """
    return [
        Job(spider=BACKFILL, arguments={**arguments, "shard": f"{number}/{count}"}) for number in range(1, count + 1)
    ]
