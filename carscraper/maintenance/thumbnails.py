"""Thumbnails of photos that are in the bucket already.

What asks S3 raises ``StoreError`` where S3 refuses or is away.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from carscraper.exceptions import ImageRejectedError
from carscraper.images.thumbnails import thumbnail
from carscraper.maintenance import register
from carscraper.maintenance.register import ObjectOutcome
from carscraper.storage import objects
from carscraper.storage.keys import IMMUTABLE, Upload, parse_key, parse_thumbnail, thumbnail_key
from carscraper.storage.listing import list_objects
from carscraper.storage.objects import THREADS, in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from carscraper.storage.client import S3Options

MADE = "made"
"""What became of a thumbnail, beside the words of :mod:`register`."""


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Finds and makes those of *sizes*: name, and box in pixels."""

    client: Any
    options: S3Options
    sizes: Mapping[str, tuple[int, int]]
    max_pixels: int
    """Of a photo that one is made of."""

    def missing(self, photos: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Return the name of each thumbnail that one of *photos* does not have, and the photo's.

        The thumbnails of one dealer and year are in memory at a time.
        """
        prefix = self.options.prefix
        for folder, names in groupby(photos, lambda name: "/".join(name[len(prefix) :].split("/")[:2])):
            there: set[str] = set()
            for size in self.sizes:
                below = f"{prefix}{thumbnail_key(size, folder)}/"
                there |= {each.name for each in list_objects(self.client, self.options.bucket, below)}
            for photo in names:
                wanted = (prefix + thumbnail_key(size, photo[len(prefix) :]) for size in self.sizes)
                yield from ((name, photo) for name in wanted if name not in there)

    def make_all(self, missing: Iterable[tuple[str, str]]) -> Iterator[ObjectOutcome]:
        """Make what is *missing*, several at a time; return what became of each."""
        with ThreadPoolExecutor(THREADS, thread_name_prefix="thumbnails") as pool:
            yield from in_order(pool, lambda pair: self.make(*pair), missing)

    def make(self, name: str, photo: str) -> ObjectOutcome:
        """Make the thumbnail *name* of *photo*."""
        size, _ = parse_thumbnail(name, self.options.prefix) or ("", "")
        seen = objects.read(self.client, self.options.bucket, photo, max_bytes=objects.MAX_BYTES)
        if seen is None:
            return ObjectOutcome(name, register.GONE, f"the bucket lists {photo} and does not have it")
        if seen.data is None:
            return ObjectOutcome(name, register.UNREADABLE, seen.problem or "")
        parts = parse_key(photo, self.options.prefix)
        if parts and not str(seen.sha256).startswith(parts.hash):
            return ObjectOutcome(name, register.OTHER_BYTES, f"the SHA-256 of {photo} is not that of its name")
        try:
            data = thumbnail(seen.data, self.sizes[size], max_pixels=self.max_pixels)
        except ImageRejectedError as error:
            return ObjectOutcome(name, register.NO_PHOTO, str(error))
        upload = Upload(name=name, data=data, content_type="image/jpeg")
        objects.put(self.client, self.options, upload, replace=True, cache_control=IMMUTABLE)
        return ObjectOutcome(name, MADE)
