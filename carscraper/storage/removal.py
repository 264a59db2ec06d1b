"""Taking objects out of a bucket, with their old versions if that is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from carscraper.storage.client import explained
from carscraper.storage.keys import THUMBNAILS

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOT_THERE = {"404", "NoSuchKey", "NotFound"}
_HIDDEN = {"403", "AccessDenied", "Forbidden"}
_NO_SUCH_CALL = {"NotImplemented", "MethodNotAllowed", "501", "405"}


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object; a delete marker is one without bytes."""

    name: str
    id: str
    bytes: int
    is_marker: bool


def thumbnail_names(client: Any, bucket: str, prefix: str) -> list[str]:
    """List which thumbnails there are (``small``, …) below *prefix*.

    Raises:
        StoreError: S3 refuses or is away.
    """
    below = f"{prefix}{THUMBNAILS}/"
    pages = iter(client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=below, Delimiter="/"))
    names: list[str] = []
    while True:
        with explained(bucket, "s3:ListBucket"):
            page = next(pages, None)
        if page is None:
            return names
        names += [each["Prefix"].removeprefix(below).rstrip("/") for each in page.get("CommonPrefixes", ())]


def size_of(client: Any, bucket: str, name: str) -> int | None:
    """Give the size of the object *name*: ``None`` if it is not there, -1 if S3 does not tell.

    Without ``s3:ListBucket`` S3 answers 403 for what is not there.

    Raises:
        StoreError: S3 refuses or is away.
    """
    with explained(bucket, "s3:GetObject"):
        try:
            found: int = client.head_object(Bucket=bucket, Key=name)["ContentLength"]
        except ClientError as error:
            code = error.response["Error"].get("Code", "")
            if code in _NOT_THERE:
                return None
            if code in _HIDDEN:
                return -1
            raise
    return found


def keeps_versions(client: Any, bucket: str) -> bool | None:
    """Tell whether the bucket keeps what is deleted as an old version; ``None`` if it does not say."""
    try:
        answer = client.get_bucket_versioning(Bucket=bucket)
    except (ClientError, BotoCoreError):
        return None
    return answer.get("Status") in {"Enabled", "Suspended"}


def versions_of(client: Any, bucket: str, name: str) -> Iterator[Version]:
    """Give every version of the object *name*, delete markers too; none on a server that keeps no versions.

    Raises:
        StoreError: S3 refuses or is away.
    """
    pages = iter(client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=name))
    while True:
        with explained(bucket, "s3:ListBucketVersions"):
            try:
                page = next(pages, None)
            except ClientError as error:
                if error.response["Error"].get("Code", "") in _NO_SUCH_CALL:
                    return
                raise
        if page is None:
            return
        found = [
            Version(each["Key"], each["VersionId"], each.get("Size", 0), kind == "DeleteMarkers")
            for kind in ("Versions", "DeleteMarkers")
            for each in page.get(kind, ())
        ]
        yield from (each for each in found if each.name == name)
        if any(each.name != name for each in found):
            return  # names come in their order: what begins like this one comes behind it


def remove(client: Any, bucket: str, name: str) -> bool:
    """Remove the object *name*, if it is there; tell whether an old version of it stays.

    Raises:
        StoreError: S3 refuses or is away.
    """
    with explained(bucket, "s3:DeleteObject"):
        return bool(client.delete_object(Bucket=bucket, Key=name).get("DeleteMarker"))


def remove_version(client: Any, bucket: str, version: Version) -> None:
    """Remove one version for good.

    Raises:
        StoreError: S3 refuses or is away.
    """
    with explained(bucket, "s3:DeleteObjectVersion"):
        client.delete_object(Bucket=bucket, Key=version.name, VersionId=version.id)
