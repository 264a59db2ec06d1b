"""Reading a bucket's list of objects, page by page: memory stays flat whatever the bucket holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from carscraper.storage.client import explained

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
