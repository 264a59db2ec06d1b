"""Whether what is made of photos and runs, and whose SHA-256 nobody keeps, can be opened: thumbnails and outputs."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from carscraper.exceptions import ImageRejectedError
from carscraper.images.thumbnails import thumbnail
from carscraper.maintenance.policies import PICTURES
from carscraper.storage import objects

if TYPE_CHECKING:
    from carscraper.storage.objects import Seen

_TINY = (16, 16)  # pixels: to this a thumbnail is reduced to see that it can be decoded


def read_whole(client: Any, bucket: str, name: str) -> Seen | None:
    """Read a thumbnail or a run's output; what is wrong with its bytes is its ``problem``."""
    seen = objects.read(client, bucket, name, max_bytes=objects.MAX_BYTES)
    if seen is None or seen.data is None:
        return seen
    problem = None
    try:
        if name.endswith(".gz"):
            gzip.decompress(seen.data)
        elif name.endswith(tuple(PICTURES)):
            thumbnail(seen.data, _TINY)
        elif not seen.data:
            problem = "it is empty"
    except (ImageRejectedError, OSError, EOFError, zlib.error) as error:
        problem = str(error)
    return replace(seen, data=None, problem=problem)
