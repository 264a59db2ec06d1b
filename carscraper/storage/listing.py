"""Lists of a bucket, read to their end or not at all: objects, the folders among them, versions.

boto3's paginators take a list for ended where the server says that there is more but gives no token to go on with, as
those do that know version 1 of ListObjects only. Here the end of a list is seen, or ``StoreError`` is raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from carscraper.exceptions import StoreRefusedError
from carscraper.storage.answers import explained_s3
from carscraper.storage.keys import THUMBNAILS_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

_NAMES = (("Contents", "Key"), ("CommonPrefixes", "Prefix"))


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One object, as the list has it."""

    name: str
    size: int
    etag: str
    """Without its quotes."""
    modified: datetime
    """With its zone."""
    storage_class: str


def list_objects(client: Any, bucket: str, prefix: str = "") -> Iterator[ListedObject]:
    """Return every object below *prefix*, page by page: memory stays flat whatever the bucket holds.

    Amazon gives names in the order of their UTF-8 bytes; not every server does.
    """
    for page in _pages(client, bucket, prefix):
        for each in page.get("Contents", ()):
            yield ListedObject(
                name=each["Key"],
                size=each["Size"],
                etag=each.get("ETag", "").strip('"'),
                modified=each["LastModified"],
                storage_class=each.get("StorageClass", "STANDARD"),
            )


def thumbnail_names(client: Any, bucket: str, prefix: str) -> list[str]:
    """Return which thumbnails there are (``small``, …) below *prefix*; raises ``StoreError``."""
    below = f"{prefix}{THUMBNAILS_FOLDER}/"
    pages = _pages(client, bucket, below, Delimiter="/")
    return [each["Prefix"].removeprefix(below).rstrip("/") for page in pages for each in page.get("CommonPrefixes", ())]


def _pages(client: Any, bucket: str, prefix: str, **more: str) -> Iterator[dict[str, Any]]:
    """Return the pages of a list of objects: by token, else behind the last name, else by version 1 of the request."""
    ask: Any = client.list_objects_v2
    where: dict[str, str] = {}
    begins: set[str] = set()
    while True:
        with explained_s3(bucket, "s3:ListBucket"):
            page: dict[str, Any] = ask(Bucket=bucket, Prefix=prefix, **more, **where)
        ends = [page[kind][-1][name] for kind, name in _NAMES if page.get(kind)]
        begin = page["Contents"][0]["Key"] if page.get("Contents") else f"\0{where}"
        if begin in begins:
            if "StartAfter" not in where:
                raise _broken_off(bucket, "begins anew")
            ask, where = client.list_objects, {"Marker": where["StartAfter"]}
            continue
        begins.add(begin)
        yield page
        if not page.get("IsTruncated"):
            return
        last = page.get("NextMarker") or max(ends, key=str.encode, default="")
        if page.get("NextContinuationToken"):
            where = {"ContinuationToken": page["NextContinuationToken"]}
        elif last:
            where = {"Marker" if "Marker" in where else "StartAfter": last}
        else:
            raise _broken_off(bucket, "breaks off")


def version_pages(client: Any, bucket: str, prefix: str) -> Iterator[list[dict[str, Any]]]:
    """Return every version and delete marker below *prefix*, as boto3 gives them, in the lists of S3's pages."""
    where: dict[str, str] = {}
    begins: set[Any] = set()
    while True:
        with explained_s3(bucket, "s3:ListBucketVersions"):
            page = client.list_object_versions(Bucket=bucket, Prefix=prefix, **where)
        found = [each for kind in ("Versions", "DeleteMarkers") for each in page.get(kind, ())]
        mark = (found[0]["Key"], found[0]["VersionId"]) if found else tuple(where.items())
        if mark in begins:
            raise _broken_off(bucket, "begins anew")
        begins.add(mark)
        yield found
        if not page.get("IsTruncated"):
            return
        if page.get("NextKeyMarker"):
            where = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page.get("NextVersionIdMarker", "")}
            where = {name: value for name, value in where.items() if value}
        elif found:  # what is newest comes first; of two in one second either will do, then one comes twice
            ends = [page[kind][-1] for kind in ("Versions", "DeleteMarkers") if page.get(kind)]
            last = max(ends, key=lambda each: (each["Key"].encode(), -each["LastModified"].timestamp()))
            where = {"KeyMarker": last["Key"], "VersionIdMarker": last["VersionId"]}
        else:
            raise _broken_off(bucket, "breaks off")


def _broken_off(bucket: str, how: str) -> StoreRefusedError:
    return StoreRefusedError(
        f"The list of the bucket {bucket} {how} before its end, so what is there is not known: "
        "try again, or ask who runs the server."
    )
