"""What a dealer's answer, or its failing to come, says of a photo."""

from __future__ import annotations

import re

from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadTimeoutError,
    IgnoreRequest,
    ResponseDataLossError,
    UnsupportedURLSchemeError,
)

from carscraper.exceptions import BlockedAddressError, RobotsUnreachableError
from carscraper.items import Reason


def is_whole_range(content_range: bytes | None) -> bool:
    """Return whether a 206 answer has all of it, as far as it says.

    >>> [is_whole_range(each) for each in (b"bytes 0-9/10", b"bytes 0-9/*", None, b"bytes 0-8/10", b"bytes 1-9/10")]
    [True, True, True, False, False]
    """
    found = re.fullmatch(rb"\s*bytes\s+(\d+)-(\d+)/(\d+|\*)\s*", content_range or b"", re.IGNORECASE)
    if found is None:
        return True  # the bytes will tell
    first, last, size = found.groups()
    return int(first) == 0 and (size == b"*" or int(last) + 1 == int(size))


def reason_of(error: BaseException) -> str:
    """Return the :class:`Reason` for which nothing came."""
    if isinstance(error, BlockedAddressError):
        return Reason.BLOCKED_ADDRESS
    if isinstance(error, DownloadTimeoutError):
        return Reason.TIMEOUT
    if isinstance(error, DownloadCancelledError) or (
        isinstance(error, IgnoreRequest) and "DOWNLOAD_MAXSIZE" in str(error)
    ):
        return Reason.TOO_LARGE
    if isinstance(error, RobotsUnreachableError):
        return Reason.ROBOTS_UNREACHABLE
    if isinstance(error, IgnoreRequest):
        return Reason.ROBOTS_TXT if "robots.txt" in str(error) else Reason.IGNORED
    if isinstance(error, ResponseDataLossError):
        return Reason.TRUNCATED
    if isinstance(error, CannotResolveHostError):
        return Reason.HOST_UNKNOWN
    if isinstance(error, UnsupportedURLSchemeError | ValueError):
        return Reason.BAD_ADDRESS
    if isinstance(error, OSError) or type(error).__module__.startswith(("scrapy.", "twisted.")):
        return Reason.UNREACHABLE
    return Reason.ERROR
