"""Whether what nobody keeps a SHA-256 of can be opened: thumbnails, outputs, photos that were entered unread."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from carscraper.exceptions import ImageRejectedError
from carscraper.images.inspection import inspect
from carscraper.images.metadata import with_end
from carscraper.images.thumbnails import thumbnail
from carscraper.items import Reason
from carscraper.maintenance.policies import PICTURES
from carscraper.storage import objects

if TYPE_CHECKING:
    from collections.abc import Callable

    from carscraper.storage.objects import Seen

_ANY = {"min_width": 0, "min_height": 0, "max_pixels": 2**62, "max_bytes": objects.MAX_BYTES}
_TINY = (16, 16)  # pixels: to this a thumbnail is reduced to see that it can be decoded


def read_whole(client: Any, bucket: str, name: str) -> Seen | None:
    """Read a thumbnail or a run's output; what is wrong with its bytes is its ``problem``."""

    def look(data: bytes) -> str | None:
        try:
            if name.endswith(".gz"):
                gzip.decompress(data)
            elif name.endswith(tuple(PICTURES)):
                thumbnail(data, _TINY)
            elif not data:
                return "it is empty"
        except (ImageRejectedError, OSError, EOFError, zlib.error) as error:
            return str(error)
        return None

    return _read(client, bucket, name, look)


def read_photo(client: Any, bucket: str, name: str) -> Seen | None:
    """Read a photo whose row has no SHA-256; that the bytes are none, or not a whole one, is its ``problem``."""
    return _read(client, bucket, name, _not_a_photo)


def _not_a_photo(data: bytes) -> str | None:
    try:
        try:
            inspect(data, **_ANY)
        except ImageRejectedError as error:
            if error.reason != Reason.TRUNCATED:
                raise
            with_end(data)  # it may only lack its end marker
    except ImageRejectedError as error:
        return None if error.reason == Reason.TOO_LARGE else str(error)
    return None


def _read(client: Any, bucket: str, name: str, look: Callable[[bytes], str | None]) -> Seen | None:
    seen = objects.read(client, bucket, name, max_bytes=objects.MAX_BYTES)
    return seen if seen is None or seen.data is None else replace(seen, data=None, problem=look(seen.data))
