"""Count how many views the hot cache answered, from the log that ``deploy/nginx.conf`` has nginx write."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_FROM_CACHE = frozenset({"HIT", "STALE", "UPDATING", "REVALIDATED"})
_SHOWN = frozenset({200, 206, 304})


@dataclass(slots=True)
class Hits:
    """Views of photos, by nginx's ``$upstream_cache_status``."""

    views: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    """Bytes that were sent for them."""
    unreadable: int = 0
    """Lines that nginx did not write in this format."""

    @property
    def total(self) -> int:
        """All views."""
        return self.views.total()

    @property
    def hits(self) -> int:
        """Views whose bytes came from the cache."""
        return sum(number for status, number in self.views.items() if status in _FROM_CACHE)

    @property
    def rate(self) -> float | None:
        """The share of the hits, ``None`` without views."""
        return self.hits / self.total if self.total else None

    def count(self, lines: Iterable[bytes]) -> None:
        """Count the lines of one log: a view is a GET that showed a photo (200, 206 or 304)."""
        for line in lines:
            try:
                entry: dict[str, Any] = json.loads(line.decode("utf-8", "replace"))
                is_view = entry["method"] == "GET" and entry["status"] in _SHOWN
                cache, size = str(entry["cache"]), int(entry["bytes"])
            except (ValueError, TypeError, KeyError):
                self.unreadable += bool(line.strip())
                continue
            if is_view and cache:
                self.views[cache] += 1
                self.sizes[cache] += size
