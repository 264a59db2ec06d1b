"""Look at objects, read them back, and remove them in batches.

One object that can't be read is a finding; what concerns all of them (no right, no bucket) is raised.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, EndpointConnectionError

from carscraper.storage.client import FIXES, explain, explained, silent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

MAX_DELETES = 1_000
"""Names in one request."""
_PIECE = 256 * 1024  # bytes read at a time
_ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})
_OF_ONE_OBJECT = frozenset({"KMS.NotFoundException", "KMS.DisabledException"})  # encrypted with a key of its own


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What came of looking at an object that is there."""

    size: int = 0
    modified: datetime | None = None
    """With its zone."""
    sha256: str | None = None
    """Hexadecimal; ``None`` if the bytes were not asked for."""
    data: bytes | None = None
    content_type: str | None = None
    metadata: dict[str, str] | None = None
    """Names in lower case."""
    problem: str | None = None
    """Why it can't be read: a few words."""


def look(client: Any, bucket: str, name: str) -> Seen | None:
    """Ask for the head of the object *name*; ``None`` if it is not there.

    Raises:
        StoreRefusedError: the server refuses, whatever the object.
        StoreUnavailableError: it is away or busy.
    """
    try:
        answer = client.head_object(Bucket=bucket, Key=name)
    except ClientError as error:
        code, status = _code(error)
        if code in _ABSENT or status == 404:
            return None
        if status >= 500:
            raise explain(error, bucket, "s3:GetObject") from error
        return Seen(problem=_problem(error, bucket))
    except BotoCoreError as error:
        raise silent(error) from error
    return _seen(answer, answer["ContentLength"])


def read(client: Any, bucket: str, name: str, *, max_bytes: int | None = None) -> Seen | None:
    """Read the object *name* for its SHA-256; ``None`` if it is not there. In pieces, so that its size is no matter.

    Args:
        client: a boto3 client for S3, which many threads may share.
        bucket: its name.
        name: the object's.
        max_bytes: with it, its bytes are given too, unless there are more of them.

    Raises:
        StoreRefusedError: the server refuses, whatever the object.
        StoreUnavailableError: it is away.
    """
    digest = hashlib.sha256()
    pieces: list[bytes] = []
    size = 0
    try:
        answer = client.get_object(Bucket=bucket, Key=name)
        if max_bytes is not None and answer["ContentLength"] > max_bytes:
            answer["Body"].close()
            return Seen(size=answer["ContentLength"], problem=f"more than {max_bytes} bytes")
        for piece in answer["Body"].iter_chunks(_PIECE):
            digest.update(piece)
            size += len(piece)
            if max_bytes is not None:
                pieces.append(piece)
    except ClientError as error:
        code, status = _code(error)
        if code in _ABSENT:
            return None
        return Seen(problem=str(status) if status >= 500 else _problem(error, bucket))
    except (EndpointConnectionError, ConnectTimeoutError) as error:
        raise silent(error) from error
    except BotoCoreError as error:
        return Seen(problem=f"it breaks off ({type(error).__name__})")
    return _seen(answer, size, sha256=digest.hexdigest(), data=b"".join(pieces) if max_bytes is not None else None)


def _seen(answer: dict[str, Any], size: int, **read: Any) -> Seen:
    metadata = {str(key).lower(): value for key, value in answer.get("Metadata", {}).items()}
    content_type = answer.get("ContentType")
    return Seen(size=size, modified=answer["LastModified"], content_type=content_type, metadata=metadata, **read)


def delete(client: Any, bucket: str, names: Sequence[str]) -> dict[str, str]:
    """Remove at most ``MAX_DELETES`` objects; give those that are still there, each with the reason.

    Raises:
        StoreRefusedError: the server refuses all of it.
        StoreUnavailableError: it is away or busy.
    """
    assert len(names) <= MAX_DELETES
    if not names:
        return {}
    with explained(bucket, "s3:DeleteObject"):
        answer = client.delete_objects(
            Bucket=bucket, Delete={"Objects": [{"Key": name} for name in names], "Quiet": True}
        )
    return {each["Key"]: each.get("Code", "refused") for each in answer.get("Errors", ())}


def _code(error: ClientError) -> tuple[str, int]:
    return error.response["Error"].get("Code", ""), error.response["ResponseMetadata"].get("HTTPStatusCode", 0)


def _problem(error: ClientError, bucket: str) -> str:
    """Say why this object can't be read; raise what concerns all of them."""
    code, _ = _code(error)
    if code in FIXES and code not in _OF_ONE_OBJECT:
        raise explain(error, bucket, "s3:GetObject") from error
    return code
