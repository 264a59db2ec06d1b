"""Versions of an object, in a bucket that keeps what is replaced or deleted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from carscraper.exceptions import StoreError, StoreRefusedError, StoreUnavailableError
from carscraper.storage import objects
from carscraper.storage.answers import MISSING_FEATURE, Answer, explained_s3
from carscraper.storage.listing import version_pages

if TYPE_CHECKING:
    from datetime import datetime

    from carscraper.storage.client import S3Options


class NoVersionListError(StoreRefusedError):
    """The server does not say which versions there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One version of an object."""

    id: str
    """``null`` for one of before versions were kept."""
    modified: datetime
    """With its zone."""
    size: int | None = None
    """``None``: it says that the object was deleted."""
    storage_class: str = ""
    is_current: bool = False
    """It is what readers get, or, where it says that the object was deleted, don't get."""


def keeps_versions(client: Any, bucket: str) -> bool | None:
    """Return whether the bucket keeps what is deleted as an old version; ``None`` if it does not say."""
    try:
        answer = client.get_bucket_versioning(Bucket=bucket)
    except ClientError as error:
        return False if Answer.of(error).code in MISSING_FEATURE else None
    except BotoCoreError:
        return None
    return answer.get("Status") in {"Enabled", "Suspended"}


def versions_of(client: Any, bucket: str, name: str) -> list[Version]:
    """Return every version of the object *name*, the newest first.

    Raises:
        NoVersionListError: the server has no list of versions; of what it has kept nothing is known.
        StoreError: it refuses, or is away.
    """
    versions: dict[str, Version] = {}
    try:
        for found in version_pages(client, bucket, name):
            versions |= {each["VersionId"]: _version(each) for each in found if each["Key"] == name}
            if any(each["Key"] != name for each in found):
                break  # names come in their order: what begins like this one comes behind it
    except StoreError as error:
        cause = error.__cause__
        if isinstance(cause, ClientError) and Answer.of(cause).code in MISSING_FEATURE:
            raise NoVersionListError(
                f"The server of the bucket {bucket} lists no versions ({Answer.of(cause).words}): ask who runs it."
            ) from error
        raise
    return sorted(versions.values(), key=lambda each: (each.is_current, each.modified), reverse=True)


def _version(entry: dict[str, Any]) -> Version:
    return Version(
        id=entry["VersionId"],
        modified=entry["LastModified"],
        size=entry.get("Size"),
        storage_class=entry.get("StorageClass", ""),
        is_current=bool(entry.get("IsLatest")),
    )


def restore(client: Any, options: S3Options, name: str, version: str, sha256: str) -> None:
    """Make a copy of an old *version* the current one, in the class and encryption of the settings.

    Type, metadata and tags come with it; *sha256* is of its bytes, which the new version must have.

    Raises:
        StoreRefusedError: the server refuses.
        StoreUnavailableError: the server is away or busy, or the copy has other bytes.
    """
    arguments = {key: value for key, value in options.put_arguments.items() if key != "Tagging"}
    with explained_s3(options.bucket, "s3:PutObject and s3:GetObjectVersion"):
        client.copy_object(
            Bucket=options.bucket,
            Key=name,
            CopySource={"Bucket": options.bucket, "Key": name, "VersionId": version},
            **arguments,
        )
    seen = objects.read(client, options.bucket, name)
    if seen is None or seen.sha256 != sha256:
        raise StoreUnavailableError(f"The copy of {name} has not the bytes of the version: try again.")
