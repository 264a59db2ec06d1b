"""Reading a bucket's list of objects, page by page: memory stays flat whatever the bucket holds."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from botocore.exceptions import ClientError

from carscraper.storage.client import explained
from carscraper.storage.keys import parse_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

_HEADS = 8  # at the same time; boto3 keeps 10 connections


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


def listed(client: Any, bucket: str, prefix: str = "", *, start_after: str = "") -> Iterator[Listed]:
    """Give every object below *prefix* whose name comes after *start_after*, 1,000 for each request.

    Amazon gives names in the order of their UTF-8 bytes; not every server does.

    Raises:
        StoreRefusedError: no such bucket, no right to list it.
        StoreUnavailableError: the server is away or busy.
    """
    pages = iter(
        client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix, **({"StartAfter": start_after} if start_after else {})
        )
    )
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


# --- a part of the bucket ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which photos are wanted; ``None`` leaves a part of their keys open."""

    source: str | None = None
    """The spider's part of the key, a slug."""
    year: int | str | None = None
    """A year, or ``unknown``."""
    make: str | None = None
    """A slug."""

    def __bool__(self) -> bool:
        return any(part is not None for part in self._parts())

    def _parts(self) -> tuple[str | None, str | None, str | None]:
        return self.source, None if self.year is None else str(self.year), self.make

    def levels(self) -> list[str | None]:
        """Give the folders below the prefix down to the last that is not open.

        >>> Selection(source="bilasolur", make="kia").levels(), Selection(source="bilasolur").levels()
        (['bilasolur', None, 'kia'], ['bilasolur'])
        """
        levels = list(self._parts())
        while levels and levels[-1] is None:
            levels.pop()
        return levels

    def takes(self, name: str, prefix: str) -> bool:
        """Tell whether the object *name* is a wanted photo."""
        parts = parse_key(name, prefix)
        if parts is None:
            return False
        have = (parts.spider, str(parts.year or "unknown"), parts.make)
        return all(want in {None, has} for want, has in zip(self._parts(), have, strict=True))


def folders(client: Any, bucket: str, prefix: str) -> Iterator[str]:
    """Give the names that end with the next slash after *prefix*: the folders in it, without reading what they hold.

    Raises:
        StoreRefusedError: no such bucket, no right to list it.
        StoreUnavailableError: the server is away or busy.
    """
    pages = iter(client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"))
    while True:
        with explained(bucket, "s3:ListBucket"):
            page = next(pages, None)
        if page is None:
            return
        for each in page.get("CommonPrefixes", ()):
            yield each["Prefix"]


def selected(
    client: Any, bucket: str, prefix: str = "", *, below: str = "", only: Selection | None = None
) -> Iterator[Listed]:
    """Give the objects whose names begin with *below*; with *only*, the photos that it takes.

    No more of the bucket is read than has to be: known parts of the keys go into the listed prefix, and an open part
    before a known one is found by listing folders.

    Args:
        client: a boto3 client for S3.
        bucket: its name.
        prefix: ``S3_PREFIX``; nothing outside it is given.
        below: what the names begin with, *prefix* included.
        only: which photos; ``None`` or an open one: every object.

    Raises:
        StoreRefusedError: no such bucket, no right to list it.
        StoreUnavailableError: the server is away or busy.
    """
    below = below or prefix
    levels = only.levels() if only else []
    for start in _narrowed(client, bucket, prefix, below, levels):
        for each in listed(client, bucket, start):
            if not only or only.takes(each.name, prefix):
                yield each


def _narrowed(client: Any, bucket: str, at: str, below: str, levels: list[str | None]) -> Iterator[str]:
    """Give the prefixes to list: *at*, followed by *levels*, as far as they and *below* agree."""
    if not levels:
        if at.startswith(below) or below.startswith(at):
            yield max(at, below, key=len)
        return
    level, *rest = levels
    if level is not None:
        found: Iterable[str] = [f"{at}{level}/"]
    elif len(below) > len(at) and "/" in below[len(at) :]:
        found = [below[: below.index("/", len(at)) + 1]]  # what was asked for names this folder
    else:
        found = folders(client, bucket, max(at, below, key=len))
    for each in found:
        if each.startswith(below) or below.startswith(each):
            yield from _narrowed(client, bucket, each, below, rest)


# --- what an object carries -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Details:
    """What a HEAD says of an object; ``None`` for what it does not carry."""

    content_type: str | None = None
    source: str | None = None
    external_id: str | None = None
    source_url: str | None = None


def described(
    client: Any, bucket: str, objects: Iterable[Listed], *, threads: int = _HEADS
) -> Iterator[tuple[Listed, Details | None]]:
    """Give each of *objects*, in their order, with what a HEAD says of it; ``None`` if it is gone since.

    At most twice *threads* are asked for ahead.

    Raises:
        StoreRefusedError: no right to read the objects.
        StoreUnavailableError: the server is away or busy.
    """
    waiting: deque[tuple[Listed, Future[Details | None]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="head")
    try:
        for each in objects:
            waiting.append((each, pool.submit(_details, client, bucket, each.name)))
            if len(waiting) >= 2 * threads:
                first, answer = waiting.popleft()
                yield first, answer.result()
        for last, answer in waiting:
            yield last, answer.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _details(client: Any, bucket: str, name: str) -> Details | None:
    with explained(bucket, "s3:GetObject"):
        try:
            head = client.head_object(Bucket=bucket, Key=name)
        except ClientError as error:
            if error.response["ResponseMetadata"].get("HTTPStatusCode") == 404:
                return None
            raise
    carried = {key.lower(): value for key, value in head.get("Metadata", {}).items()}
    return Details(
        content_type=head.get("ContentType"),
        # Letters beyond ASCII travel percent-encoded; an address is one as it is.
        source=unquote(carried["source"]) if "source" in carried else None,
        external_id=unquote(carried["external-id"]) if "external-id" in carried else None,
        source_url=carried.get("source-url"),
    )
