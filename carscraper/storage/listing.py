"""Read a bucket's list of objects page by page: memory stays flat whatever the bucket holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from carscraper.storage.client import explained
from carscraper.storage.keys import parse_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Listed:
    """One object, as the list has it."""

    name: str
    size: int
    etag: str
    """Without its quotes."""
    modified: datetime
    """With its zone."""
    storage_class: str


def listed(client: Any, bucket: str, prefix: str = "") -> Iterator[Listed]:
    """Return every object below *prefix*, 1,000 for each request.

    Amazon gives names in the order of their UTF-8 bytes; not every server does.

    Raises:
        StoreRefusedError: no such bucket, no right to list it.
        StoreUnavailableError: the server is away or busy.
    """
    pages = iter(client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix))
    while True:
        with explained(bucket, "s3:ListBucket"):
            page = next(pages, None)
        if page is None:
            return
        for each in page.get("Contents", ()):
            yield Listed(
                name=each["Key"],
                size=each["Size"],
                etag=each.get("ETag", "").strip('"'),
                modified=each["LastModified"],
                storage_class=each.get("StorageClass", "STANDARD"),
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which photos are wanted, by the parts of their keys; ``None`` leaves a part open."""

    source: str | None = None
    """The spider's part of the key, a slug."""
    year: int | str | None = None
    """A year, or ``unknown``."""
    make: str | None = None
    """A slug."""

    def _parts(self) -> list[str | None]:
        return [self.source, None if self.year is None else str(self.year), self.make]

    def __bool__(self) -> bool:
        return any(self._parts())

    @property
    def folder(self) -> str:
        """The known parts before the first that is open.

        >>> Selection(source="bilasolur", make="kia").folder, Selection(source="br", year=2019).folder
        ('bilasolur/', 'br/2019/')
        """
        parts = self._parts()
        known = parts[: parts.index(None)] if None in parts else parts
        return "".join(f"{part}/" for part in known)

    def takes(self, name: str, prefix: str) -> bool:
        """Return whether the object *name* is a wanted photo."""
        parts = parse_key(name, prefix)
        if parts is None:
            return False
        have = (parts.spider, str(parts.year or "unknown"), parts.make)
        return all(want in {None, has} for want, has in zip(self._parts(), have, strict=True))


def selected(
    client: Any, bucket: str, prefix: str = "", *, below: str = "", only: Selection | None = None
) -> Iterator[Listed]:
    """Return the objects whose names begin with *below*; with *only*, the photos that it takes.

    Args:
        client: a boto3 client for S3.
        bucket: its name.
        prefix: ``S3_PREFIX``; nothing outside it is returned.
        below: what the names begin with, *prefix* included.
        only: which photos; ``None`` or an open one: every object.

    Raises:
        StoreRefusedError: no such bucket, no right to list it.
        StoreUnavailableError: the server is away or busy.
    """
    start = prefix + only.folder if only else prefix
    if not (start.startswith(below) or below.startswith(start)):
        return
    for each in listed(client, bucket, max(start, below, key=len)):
        if not only or only.takes(each.name, prefix):
            yield each
