"""``S3_SSE`` and what an ETag says of the bytes: pure functions."""

from __future__ import annotations

import hashlib
import re


def encryption(sse: str | None) -> tuple[str, str]:
    """Split ``S3_SSE``: S3's name of the algorithm, and the key (or nothing: Amazon's own).

    >>> encryption("AES256"), encryption("aws:kms"), encryption("aws:kms:1234-abcd"), encryption("aws:kms:dsse")
    (('AES256', ''), ('aws:kms', ''), ('aws:kms', '1234-abcd'), ('aws:kms:dsse', ''))
    >>> encryption(None)
    ('', '')
    """
    if not sse or sse in {"AES256", "aws:kms", "aws:kms:dsse"}:
        return sse or "", ""
    return "aws:kms", sse.removeprefix("aws:kms:")


def contradicts(etag: str, sse: str | None, data: bytes) -> bool:
    """Return whether *etag* is an MD5, and not that of *data*.

    Args:
        etag: without its quotes.
        sse: the algorithm that the object was encrypted with, as far as it is known.
        data: what was sent.
    """
    # With a KMS key it has the length of an MD5 and is none.
    if sse not in {None, "", "AES256"} or not re.fullmatch(r"[0-9a-f]{32}", etag):
        return False
    return etag != hashlib.md5(data, usedforsecurity=False).hexdigest()
