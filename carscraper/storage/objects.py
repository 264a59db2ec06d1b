"""Single objects as a person names them: look, read, put, presign; by boto3, which takes every key as it is.

obstore, which crawls put with, tidies names up (``a//b`` becomes ``a/b``). Crawls make names that need no tidying;
a person may type any.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from botocore.exceptions import BotoCoreError, ClientError

from carscraper.exceptions import StoreRefusedError, StoreUnavailableError
from carscraper.storage.client import explain, explained
from carscraper.storage.encryption import contradicts, encryption

if TYPE_CHECKING:
    from carscraper.storage.client import S3Options
    from carscraper.storage.upload import Upload

MAX_BYTES = 1024**3
"""One object is held in memory."""
MAX_EXPIRES = timedelta(days=7)
"""A signature of version 4 lives no longer."""
_LONGEST_KEY = 1024  # bytes of UTF-8


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What the server says about an object."""

    size: int
    content_type: str
    etag: str
    """Without its quotes."""
    sse: str | None
    """``AES256``, ``aws:kms``, …; ``None`` if the server names none."""


def problem_with_key(key: str, *, new: bool = False) -> str | None:
    """Return why *key* can be no object's name, ``None`` if it can.

    Args:
        key: the object's whole name in the bucket.
        new: it shall be made: what S3 takes but addresses, lists or folders can't hold is refused too.

    >>> problem_with_key("cars/þ + 100%.jpg", new=True), problem_with_key("a/../b.jpg", new=True)
    (None, "has a part '..', which browsers take out of an address")
    """
    try:
        length = len(key.encode("utf-8"))
    except UnicodeEncodeError:
        return "is not UTF-8"
    if not key:
        return "is empty"
    if length > _LONGEST_KEY:
        return f"has {length} bytes; S3 takes {_LONGEST_KEY}"
    if "\0" in key:
        return "holds a NUL"
    if new:
        dots = [part for part in key.split("/") if part in {".", ".."}]
        if dots:
            return f"has a part {dots[0]!r}, which browsers take out of an address"
        if re.search(r"[\x00-\x1f\x7f]", key):
            return "holds a control character"
        if key.endswith("/"):
            return "ends with a slash, which marks a folder"
    return None


def head(client: Any, bucket: str, name: str) -> Head | None:
    """Ask for the object *name*; ``None`` if it is not there.

    Raises:
        StoreRefusedError: the server will not say. (Without s3:ListBucket that is also its answer for what is
            not there.)
        StoreUnavailableError: the server is away or busy.
    """
    try:
        with explained(bucket, "s3:GetObject"):
            answer = client.head_object(Bucket=bucket, Key=name)
    except StoreRefusedError as error:
        status = _status(error)
        if status == 404:
            return None
        # The answer to a HEAD has no body; that to a listing says why.
        with explained(bucket, "s3:ListBucket"):
            client.list_objects_v2(Bucket=bucket, Prefix=name, MaxKeys=1)
        if status == 400:
            raise StoreRefusedError(f"The server does not take {name!r} as a key (400): choose another.") from error
        raise
    return _head(answer)


def is_denied(error: StoreRefusedError) -> bool:
    """Return whether *error* came of a missing right, not of wrong credentials or a missing bucket."""
    cause = error.__cause__
    code = cause.response["Error"].get("Code") if isinstance(cause, ClientError) else None
    return code in {"AccessDenied", "Forbidden", "403"}


def _status(error: StoreRefusedError) -> int:
    cause = error.__cause__
    return int(cause.response["ResponseMetadata"]["HTTPStatusCode"]) if isinstance(cause, ClientError) else 0


def _head(answer: dict[str, Any]) -> Head:
    return Head(
        size=answer["ContentLength"],
        content_type=answer.get("ContentType", ""),
        etag=answer.get("ETag", "").strip('"').lower(),
        sse=answer.get("ServerSideEncryption"),
    )


def get(client: Any, bucket: str, name: str) -> tuple[Head, bytes] | None:
    """Read the object *name*; ``None`` if it is not there.

    Raises:
        StoreRefusedError: the server refuses, or it has more than ``MAX_BYTES``.
        StoreUnavailableError: the server is away or busy, or the connection broke.
    """
    with explained(bucket, "s3:GetObject"):
        try:
            answer = client.get_object(Bucket=bucket, Key=name)
        except client.exceptions.NoSuchKey:
            return None
    found = _head(answer)
    if found.size > MAX_BYTES:
        answer["Body"].close()
        raise StoreRefusedError(f"{name} has {found.size} bytes: read it by the address that presign gives.")
    with explained(bucket, "s3:GetObject"):
        return found, answer["Body"].read()


def put(client: Any, options: S3Options, upload: Upload, *, replace: bool, cache_control: str | None) -> None:
    """Put one object; on return the server has confirmed the bytes.

    The request is signed over the SHA-256 of the bytes, which the server checks; where the ETag is an MD5, it is
    compared too. Encryption, storage class and tags are those of the settings.

    Args:
        client: of the bucket's server.
        options: the bucket and how objects are put there.
        upload: the object.
        replace: an object of that name may be there. If not, it is the server that looks, where it knows how.
        cache_control: the header of that name.

    Raises:
        StoreRefusedError: the server refuses, or there is another object of that name.
        StoreUnavailableError: the server is away or busy, or confirmed other bytes.
    """
    arguments = _arguments(options, upload, cache_control)
    condition = {} if replace else {"IfNoneMatch": "*"}
    try:
        answer = client.put_object(**arguments, **condition)
    except ClientError as error:
        code = error.response["Error"].get("Code", "")
        if condition and code == "NotImplemented":  # the condition, or what the settings ask for: then it says so again
            put(client, options, upload, replace=True, cache_control=cache_control)
            return
        if condition and code in {"PreconditionFailed", "412"}:
            _adopt(client, options.bucket, upload)
            return
        raise explain(error, options.bucket, "s3:PutObject") from error
    except BotoCoreError as error:
        raise StoreUnavailableError(f"S3 does not answer ({type(error).__name__}).") from error
    if contradicts(answer.get("ETag", "").strip('"').lower(), answer.get("ServerSideEncryption"), upload.data):
        raise StoreUnavailableError(f"The server's checksum of {upload.name} is not that of the bytes: put it again.")


def _adopt(client: Any, bucket: str, upload: Upload) -> None:
    """It is there already: by ourselves, if the answer to our first try was lost."""
    there = get(client, bucket, upload.name)
    if there is None or there[1] != upload.data:
        raise StoreRefusedError(f"{upload.name} is there already, with other bytes: nothing was replaced.")


def _arguments(options: S3Options, upload: Upload, cache_control: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "Bucket": options.bucket,
        "Key": upload.name,
        "Body": upload.data,
        "ContentType": upload.content_type,
        **sse_arguments(options.sse),
    }
    if cache_control:
        found["CacheControl"] = cache_control
    if options.storage_class:
        found["StorageClass"] = options.storage_class
    if options.tags:
        found["Tagging"] = urlencode(options.tags)
    return found


def sse_arguments(sse: str | None) -> dict[str, str]:
    """Return ``S3_SSE`` as boto3's arguments of a put.

    >>> sse_arguments("aws:kms:1234-abcd"), sse_arguments("AES256"), sse_arguments(None)
    ({'ServerSideEncryption': 'aws:kms', 'SSEKMSKeyId': '1234-abcd'}, {'ServerSideEncryption': 'AES256'}, {})
    """
    kind, key = encryption(sse)
    arguments = {"ServerSideEncryption": kind, "SSEKMSKeyId": key}
    return {name: value for name, value in arguments.items() if value}


def presign(
    client: Any, bucket: str, name: str, *, expires: timedelta, put: bool = False, content_type: str | None = None
) -> str:
    """Return an address that opens *name* for a while to whoever has it; nothing is asked of the server.

    Args:
        client: of the bucket's server.
        bucket: its name.
        name: the object's, which need not be there.
        expires: at most ``MAX_EXPIRES``; credentials of a role end it sooner.
        put: for writing instead of reading.
        content_type: what a writer must say about its bytes.
    """
    parameters = {"Bucket": bucket, "Key": name}
    if put and content_type:
        parameters["ContentType"] = content_type
    with explained(bucket, "s3:PutObject" if put else "s3:GetObject"):
        address: str = client.generate_presigned_url(
            "put_object" if put else "get_object",
            Params=parameters,
            ExpiresIn=int(expires.total_seconds()),
            HttpMethod="PUT" if put else "GET",
        )
    return address
