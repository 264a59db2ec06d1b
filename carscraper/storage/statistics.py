"""What a bucket holds, counted while its list goes by: memory does not grow with the bucket."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from carscraper.storage.keys import parse_key, parse_thumbnail

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from carscraper.storage.listing import Listed

PHOTO, THUMBNAIL, OTHER = "photo", "thumbnail", "other"
"""The kinds of objects: a photo's key, a thumbnail's, and one that is neither."""


@dataclass(slots=True)
class Count:
    """Objects and their bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """Count one more object."""
        self.objects += 1
        self.bytes += size

    def __add__(self, other: Count) -> Count:
        return Count(self.objects + other.objects, self.bytes + other.bytes)

    @property
    def mean(self) -> float:
        """Bytes of an object on average; 0 where there is none."""
        return self.bytes / self.objects if self.objects else 0.0


@dataclass(slots=True)
class Statistics:
    """The counts of one bucket, or of a part of it."""

    by_kind: dict[str, Count] = field(default_factory=lambda: {kind: Count() for kind in (PHOTO, THUMBNAIL, OTHER)})
    """All objects, by what they are: ``photo``, ``thumbnail``, ``other``."""
    by_class: dict[tuple[str, str], Count] = field(default_factory=dict)
    """All objects, by kind and storage class."""
    by_source: dict[str, Count] = field(default_factory=dict)
    """Photos, by the spider that their key begins with."""
    by_month: dict[str, Count] = field(default_factory=dict)
    """Photos, by the month of their upload in UTC: ``2026-11``."""
    recent: Count = field(default_factory=Count)
    """Photos that were uploaded since the moment that was asked for."""

    @property
    def total(self) -> Count:
        """All objects."""
        return sum(self.by_kind.values(), Count())

    def of_class(self) -> dict[str, Count]:
        """Return all objects by storage class, whatever their kind."""
        found: dict[str, Count] = {}
        for (_, storage_class), count in self.by_class.items():
            found[storage_class] = found.get(storage_class, Count()) + count
        return dict(sorted(found.items()))

    def add(self, each: Listed, prefix: str = "", *, recent_since: datetime | None = None) -> None:
        """Count *each*; *prefix* is ``S3_PREFIX``."""
        parts = parse_key(each.name, prefix)
        kind = PHOTO if parts else THUMBNAIL if parse_thumbnail(each.name, prefix) else OTHER
        self.by_kind[kind].add(each.size)
        self.by_class.setdefault((kind, each.storage_class), Count()).add(each.size)
        if parts:
            self.by_source.setdefault(parts.spider, Count()).add(each.size)
            self.by_month.setdefault(f"{each.modified:%Y-%m}", Count()).add(each.size)
            if recent_since is not None and each.modified >= recent_since:
                self.recent.add(each.size)


def counted(objects: Iterable[Listed], prefix: str = "", *, recent_since: datetime | None = None) -> Statistics:
    """Count *objects*; see :class:`Statistics`."""
    found = Statistics()
    for each in objects:
        found.add(each, prefix, recent_since=recent_since)
    return found
