"""Remove objects of a bucket, with their old versions if that is asked, and files of the image folder."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from carscraper.exceptions import StoreRefusedError
from carscraper.storage.client import explained
from carscraper.storage.keys import THUMBNAILS

if TYPE_CHECKING:
    from pathlib import Path

_NO_SUCH_CALL = {"NotImplemented", "MethodNotAllowed", "501", "405"}


# --- the bucket -------------------------------------------------------------------------------------------------


def thumbnail_names(client: Any, bucket: str, prefix: str) -> list[str]:
    """Return which thumbnails there are (``small``, …) below *prefix*.

    Raises:
        StoreError: S3 refuses or is away.
    """
    below = f"{prefix}{THUMBNAILS}/"
    with explained(bucket, "s3:ListBucket"):
        pages = list(client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=below, Delimiter="/"))
    return [each["Prefix"].removeprefix(below).rstrip("/") for page in pages for each in page.get("CommonPrefixes", ())]


def keeps_versions(client: Any, bucket: str) -> bool | None:
    """Return whether the bucket keeps what is deleted as an old version; ``None`` if it does not say."""
    try:
        answer = client.get_bucket_versioning(Bucket=bucket)
    except (ClientError, BotoCoreError):
        return None
    return answer.get("Status") in {"Enabled", "Suspended"}


def versions_of(client: Any, bucket: str, name: str) -> list[str]:
    """Return the id of every version of the object *name*, delete markers too; none where no versions are kept.

    Raises:
        StoreError: S3 refuses or is away.
    """
    versions: list[str] = []
    with explained(bucket, "s3:ListBucketVersions"):
        try:
            for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=name):
                found = [each for kind in ("Versions", "DeleteMarkers") for each in page.get(kind, ())]
                versions += [each["VersionId"] for each in found if each["Key"] == name]
                if any(each["Key"] != name for each in found):
                    break  # names come in their order: what begins like this one comes behind it
        except ClientError as error:
            if error.response["Error"].get("Code", "") not in _NO_SUCH_CALL:
                raise
    return versions


def remove(client: Any, bucket: str, name: str, versions: list[str]) -> bool:
    """Remove the object *name*, or these *versions* of it for good; return whether an old version stays.

    Raises:
        StoreError: S3 refuses or is away.
    """
    for version in versions:
        with explained(bucket, "s3:DeleteObjectVersion"):
            client.delete_object(Bucket=bucket, Key=name, VersionId=version)
    if versions:
        return False
    with explained(bucket, "s3:DeleteObject"):
        return bool(client.delete_object(Bucket=bucket, Key=name).get("DeleteMarker"))


# --- the folder -------------------------------------------------------------------------------------------------


def file_size(root: Path, name: str) -> int | None:
    """Return the size of the file *name* below *root*; ``None`` if there is none.

    Names come from databases that others have filled: none leads out of the folder, nor does a link in it.
    """
    if not name or "\0" in name or any(part in {"", ".", ".."} for part in name.split("/")):
        return None
    try:
        found = os.lstat(root / name)
        inside = (root / name).parent.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):
        return None
    return found.st_size if inside and stat.S_ISREG(found.st_mode) else None


def thumbnails_in(root: Path) -> list[str]:
    """Return which thumbnails the folder has (``small``, …)."""
    try:
        return sorted(each.name for each in (root / THUMBNAILS).iterdir() if each.is_dir())
    except OSError:
        return []


def remove_file(root: Path, name: str) -> None:
    """Remove the file *name* below *root*, if it is there.

    Raises:
        StoreRefusedError: it can't be removed.
    """
    if file_size(root, name) is None:
        return
    try:
        (root / name).unlink(missing_ok=True)
    except OSError as error:
        raise StoreRefusedError(f"{root / name} can't be removed ({error.strerror}).") from error
