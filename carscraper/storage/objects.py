"""Objects of a bucket by boto3, which takes every key as it is: look, read, put, remove, sign.

obstore, which crawls put with, tidies names up (``a//b`` becomes ``a/b``). Crawls make names that need no tidying;
a person may type any.
What asks S3 raises ``StoreError`` where S3 refuses or is away.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, EndpointConnectionError

from carscraper.exceptions import StoreRefusedError, StoreUnavailableError
from carscraper.storage.answers import DENIED, FIXES, Answer, NotS3Error, explained_s3, failure, silent
from carscraper.storage.client import contradicts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Executor
    from datetime import datetime

    from carscraper.storage.client import S3Options
    from carscraper.storage.keys import Upload

T = TypeVar("T")
R = TypeVar("R")

MAX_BYTES = 1024**3
"""One object is held in memory."""
MAX_EXPIRES = timedelta(days=7)
"""A signature of version 4 lives no longer."""
MAX_DELETES = 1_000
"""Names in one request."""
THREADS = 10
"""Objects under way at the same time; boto3 keeps as many connections."""
_PIECE = 256 * 1024  # bytes read at a time
_ABSENT = frozenset({"NoSuchKey", "NotFound", "404"})
_OF_ONE_OBJECT = frozenset({"KMS.NotFoundException", "KMS.DisabledException"})  # encrypted with a key of its own


# --- many at once -----------------------------------------------------------------------------------------------


def in_order(pool: Executor, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Return ``function(item)`` of each item, in their order, worked out in *pool*; few items are taken ahead."""
    source = iter(items)
    waiting = deque(pool.submit(function, item) for item in islice(source, 2 * THREADS))
    try:
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(source, 1))
            yield result
    finally:
        for future in waiting:
            future.cancel()


def in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut *items* into lists of at most *size*.

    >>> list(in_groups(range(5), 2))
    [[0, 1], [2, 3], [4]]
    """
    source = iter(items)
    while group := list(islice(source, size)):
        yield group


# --- look and read ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """An object that is there."""

    size: int = 0
    modified: datetime | None = None
    """With its zone."""
    etag: str = ""
    """Without its quotes."""
    sse: str | None = None
    """``AES256``, ``aws:kms``, …; ``None`` if the server names none."""
    content_type: str = ""
    metadata: dict[str, str] | None = None
    """Names in lower case."""
    sha256: str | None = None
    """Hexadecimal; ``None`` if the bytes were not asked for."""
    data: bytes | None = None
    problem: str | None = None
    """Why it can't be read: a few words. Then nothing else is known."""


def head(client: Any, bucket: str, name: str) -> Seen | None:
    """Ask for the object *name*; ``None`` if it is not there.

    Raises:
        StoreRefusedError: the server will not say. (Without s3:ListBucket that is also its answer for what is
            not there.)
        StoreUnavailableError: the server is away or busy.
    """
    with explained_s3(bucket, "s3:GetObject"):
        try:
            answer = client.head_object(Bucket=bucket, Key=name)
        except ClientError as error:
            said = Answer.of(error)
            if said.status == 404:
                return None
            if not said.passing:  # the answer to a HEAD has no body; that to a listing says why
                with explained_s3(bucket, "s3:ListBucket"):
                    client.list_objects_v2(Bucket=bucket, Prefix=name, MaxKeys=1)
            if said.status == 400:
                raise StoreRefusedError(f"The server does not take {name!r} as a key (400): choose another.") from error
            raise
    return _seen(answer, answer["ContentLength"])


def get(client: Any, bucket: str, name: str) -> Seen | None:
    """Read the object *name* with its bytes; ``None`` if it is not there.

    Raises:
        StoreRefusedError: the server refuses, or it has more than ``MAX_BYTES``.
        StoreUnavailableError: the server is away or busy, or the connection broke.
    """
    with explained_s3(bucket, "s3:GetObject"):
        found = _read(client, bucket, name, MAX_BYTES)
    if found and found.problem:
        raise StoreRefusedError(f"{name} has {found.size} bytes: read it by the address that presign gives.")
    return found


def look(client: Any, bucket: str, name: str) -> Seen | None:
    """Ask for the object *name* among many: what concerns it alone is its ``problem``; ``None`` if it is not there."""
    try:
        answer = client.head_object(Bucket=bucket, Key=name)
    except ClientError as error:
        said = Answer.of(error)
        if said.code in _ABSENT or said.status == 404:
            return None
        if said.status >= 500:
            raise failure(said, bucket, "s3:GetObject") from error
        return Seen(problem=_problem(said, bucket))
    except BotoCoreError as error:
        raise silent(error) from error
    return _seen(answer, answer["ContentLength"])


def read(
    client: Any, bucket: str, name: str, *, max_bytes: int | None = None, version: str | None = None
) -> Seen | None:
    """Read the object *name* for its SHA-256, in pieces; else as :func:`look`.

    Args:
        client: a boto3 client for S3, which many threads may share.
        bucket: its name.
        name: the object's.
        max_bytes: with it, its bytes are given too, unless there are more of them.
        version: an old version of it.
    """
    try:
        return _read(client, bucket, name, max_bytes, version)
    except ClientError as error:
        said = Answer.of(error)
        return Seen(problem=str(said.status) if said.status >= 500 else _problem(said, bucket))
    except (EndpointConnectionError, ConnectTimeoutError, NotS3Error) as error:
        raise silent(error) from error
    except BotoCoreError as error:
        return Seen(problem=f"it breaks off ({type(error).__name__})")


def _read(client: Any, bucket: str, name: str, max_bytes: int | None, version: str | None = None) -> Seen | None:
    digest, size, pieces = hashlib.sha256(), 0, []
    try:
        answer = client.get_object(Bucket=bucket, Key=name, **({"VersionId": version} if version else {}))
    except ClientError as error:
        if Answer.of(error).code in _ABSENT:
            return None
        raise
    if max_bytes is not None and answer["ContentLength"] > max_bytes:
        answer["Body"].close()
        return Seen(size=answer["ContentLength"], problem=f"more than {max_bytes} bytes")
    for piece in answer["Body"].iter_chunks(_PIECE):
        digest.update(piece)
        size += len(piece)
        if max_bytes is not None:
            pieces.append(piece)
    return _seen(answer, size, sha256=digest.hexdigest(), data=b"".join(pieces) if max_bytes is not None else None)


def _seen(answer: dict[str, Any], size: int, **read: Any) -> Seen:
    return Seen(
        size=size,
        modified=answer["LastModified"],
        etag=answer.get("ETag", "").strip('"').lower(),
        sse=answer.get("ServerSideEncryption"),
        content_type=answer.get("ContentType", ""),
        metadata={str(key).lower(): value for key, value in answer.get("Metadata", {}).items()},
        **read,
    )


def _problem(said: Answer, bucket: str) -> str:
    """Return why this object can't be read; raise what concerns all of them."""
    if said.code in FIXES and said.code not in _OF_ONE_OBJECT:
        raise failure(said, bucket, "s3:GetObject")
    return said.code


def is_denied(error: StoreRefusedError) -> bool:
    """Return whether *error* came of a missing right, not of wrong credentials or a missing bucket."""
    return isinstance(error.__cause__, ClientError) and Answer.of(error.__cause__).code in DENIED


# --- put --------------------------------------------------------------------------------------------------------


def put(client: Any, options: S3Options, upload: Upload, *, replace: bool, cache_control: str | None) -> None:
    """Put one object; on return the server has confirmed the bytes.

    The request is signed over the SHA-256 of the bytes, which the server checks; where the ETag is no MD5 of them, they
    are read back. Encryption, storage class and tags are those of the settings.

    Args:
        client: of the bucket's server.
        options: the bucket and how objects are put there.
        upload: the object.
        replace: an object of that name may be there. If not, it is the server that looks, where it knows how.
        cache_control: a header.

    Raises:
        StoreRefusedError: the server refuses, or there is another object of that name.
        StoreUnavailableError: the server is away or busy, or has other bytes.
    """
    condition = {} if replace else {"IfNoneMatch": "*"}
    caching = {"CacheControl": cache_control} if cache_control else {}
    with explained_s3(options.bucket, "s3:PutObject"):
        try:
            answer = client.put_object(
                Bucket=options.bucket,
                Key=upload.name,
                Body=upload.data,
                ContentType=upload.content_type,
                **options.put_arguments,
                **caching,
                **condition,
            )
        except ClientError as error:
            code = Answer.of(error).code if condition else ""
            if code == "NotImplemented":  # the condition, or what the settings ask for: then it says so again
                return put(client, options, upload, replace=True, cache_control=cache_control)
            if code not in {"PreconditionFailed", "412"}:
                raise
            there = get(client, options.bucket, upload.name)  # put by ourselves, if our first answer was lost
            if there is None or there.data != upload.data:
                raise StoreRefusedError(
                    f"{upload.name} is there already, with other bytes: nothing was replaced."
                ) from error
            return None
    if contradicts(answer.get("ETag", "").strip('"').lower(), answer.get("ServerSideEncryption"), upload.data):
        _read_back(client, options.bucket, upload)
    return None


def _read_back(client: Any, bucket: str, upload: Upload) -> None:
    """Distinguish damaged bytes from a server whose ETags look like an MD5 and are none."""
    try:
        there = get(client, bucket, upload.name)
    except StoreRefusedError as error:
        if is_denied(error):
            return  # these credentials may only put; the signed payload stands
        raise
    if there is None or there.data != upload.data:
        raise StoreUnavailableError(f"What the server has of {upload.name} is not what was put: put it again.")


def same_again(client: Any, bucket: str, name: str, seen: Seen) -> bool:
    """Return whether the bytes of *seen*, which its ETag contradicts, come once more: then it is no MD5."""
    again = read(client, bucket, name)
    return again is not None and again.sha256 == seen.sha256


def presign(
    client: Any, bucket: str, name: str, *, expires: timedelta, put: bool = False, content_type: str | None = None
) -> str:
    """Return an address that opens *name* for a while to whoever has it; nothing is asked of the server.

    It *expires* after ``MAX_EXPIRES`` at most, with credentials of a role sooner; one to *put* may say what
    *content_type* the writer must name.
    """
    parameters = {"Bucket": bucket, "Key": name} | ({"ContentType": content_type} if put and content_type else {})
    with explained_s3(bucket, "s3:PutObject" if put else "s3:GetObject"):
        address: str = client.generate_presigned_url(
            "put_object" if put else "get_object",
            Params=parameters,
            ExpiresIn=int(expires.total_seconds()),
            HttpMethod="PUT" if put else "GET",
        )
    return address


def presign_post(
    client: Any, bucket: str, name: str, *, expires: timedelta, content_type: str, max_bytes: int
) -> tuple[str, dict[str, str]]:
    """Return where a browser's form may send one object, and the form's fields; nothing is asked of the server.

    The server takes it with this *content_type* and 1 to *max_bytes* bytes only, until it *expires*.
    """
    with explained_s3(bucket, "s3:PutObject"):
        found = client.generate_presigned_post(
            bucket,
            name,
            Fields={"Content-Type": content_type},
            Conditions=[{"Content-Type": content_type}, ["content-length-range", 1, max_bytes]],
            ExpiresIn=int(expires.total_seconds()),
        )
    return found["url"], found["fields"]


# --- remove -----------------------------------------------------------------------------------------------------


def remove(client: Any, bucket: str, name: str, versions: list[str]) -> bool:
    """Remove the object *name*, or these *versions* of it for good; return whether an old version stays."""
    for version in versions:
        with explained_s3(bucket, "s3:DeleteObjectVersion"):
            client.delete_object(Bucket=bucket, Key=name, VersionId=version)
    if versions:
        return False
    with explained_s3(bucket, "s3:DeleteObject"):
        return bool(client.delete_object(Bucket=bucket, Key=name).get("DeleteMarker"))


def remove_many(client: Any, bucket: str, names: Sequence[str]) -> dict[str, str]:
    """Remove at most ``MAX_DELETES`` objects; return those that are still there, each with the reason."""
    if not names:
        return {}
    with explained_s3(bucket, "s3:DeleteObject"):
        answer = client.delete_objects(
            Bucket=bucket, Delete={"Objects": [{"Key": name} for name in names], "Quiet": True}
        )
    return {each["Key"]: each.get("Code", "refused") for each in answer.get("Errors", ())}


def still_there(client: Any, bucket: str, name: str) -> str | None:
    """Look for an object that the server says it has deleted; return why it may be there, ``None`` if it is gone."""
    seen = look(client, bucket, name)
    if seen is None or seen.problem:
        return None
    return "the server said that it is deleted, and has it: retention or a cache may hold it"
