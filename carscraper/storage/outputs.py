"""The upload of a run's files to a bucket: by boto3, with its retries, in parts where they are large, and tagged."""

from __future__ import annotations

import math
import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from carscraper.exceptions import ConfigurationError, StoreError, StoreRefusedError, StoreUnavailableError
from carscraper.storage.answers import Answer, explained_s3
from carscraper.storage.client import S3Options, open_client
from carscraper.storage.keys import normalise_prefix
from carscraper.storage.s3 import S3Store
from carscraper.storage.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

    from scrapy.settings import BaseSettings

PART = 8 * 1024**2
"""Bytes; a file of this size or more is sent in parts of it."""
_GRACE = 2.0  # seconds beyond the time-out, for removing the parts of a file that was broken off


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputOptions:
    """Where outputs go, and how hard it is tried."""

    s3: S3Options
    prefix: str
    client: str | None = None
    """The tag ``client``; ``None``: no tags at all."""
    timeout: float = 300
    """Seconds for all files with all retries."""
    retries: int = 3
    """Of each file."""
    own_bucket: bool = False
    """The bucket is ``S3_OUTPUT_BUCKET``'s, not that of the photos."""

    @classmethod
    def from_settings(cls, settings: BaseSettings) -> Self:
        """Read the ``S3_OUTPUT_…`` settings.

        Raises:
            ConfigurationError: no bucket is named.
        """
        own = settings.get("S3_OUTPUT_BUCKET")
        return cls(
            s3=S3Options.from_settings(settings, bucket=own),
            prefix=normalise_prefix(settings.get("S3_OUTPUT_PREFIX")),
            client=settings.get("S3_OUTPUT_CLIENT") if settings.getbool("S3_OUTPUT_TAGS") else None,
            timeout=settings.getfloat("S3_OUTPUT_TIMEOUT"),
            retries=settings.getint("S3_OUTPUT_RETRIES"),
            own_bucket=bool(own),
        )

    def check(self) -> str | None:
        """Ask the bucket whether it is there, before a crawl relies on it; return why it does not answer just now.

        Raises:
            ConfigurationError: it is not there or refuses, or there are no credentials.
        """
        try:
            S3Store(self.s3).check()
        except StoreUnavailableError as error:
            return self.explain(error)
        except StoreRefusedError as error:
            raise ConfigurationError(self.explain(error)) from None
        return None

    def explain(self, error: StoreError) -> str:
        """Return what *error* says, with the names of the settings that outputs have, and no object's address."""
        said = re.sub(r'"(https?://[^/"]+)[^"]*"', r'"\1"', str(error)).replace("S3_TAGS", "S3_OUTPUT_TAGS=false")
        return said.replace("AWS_S3_BUCKET", "S3_OUTPUT_BUCKET") if self.own_bucket else said

    def key(self, folder: str, name: str) -> str:
        """Return the key of the file *name* of a run's folder."""
        return f"{self.prefix}{folder}/{name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputFile:
    """One file of a run, which nobody writes to any more."""

    path: Path
    key: str
    kind: str
    """The tag ``type``: ``items`` or ``log``."""
    date: str
    """The tag ``date``: ``2026-11-21``."""
    content_type: str


@dataclass(kw_only=True, slots=True)
class Uploaded:
    """What came of an upload."""

    urls: list[str] = field(default_factory=list)
    """``s3://bucket/key`` of each file that is there and is what was sent."""
    sizes: list[int] = field(default_factory=list)
    """Their bytes."""
    errors: list[str] = field(default_factory=list)
    """Sentences, each behind the names of its files."""


def upload_files(options: OutputOptions, files: list[OutputFile]) -> Uploaded:
    """Upload *files*, one after the other; blocks for ``options.timeout`` seconds at most, and two for clearing up.

    What goes wrong with S3 or a file is in ``errors``; nothing of it is raised.

    Raises:
        ConfigurationError: the credentials can't be read.
    """
    done = Uploaded()
    problems: dict[str, list[str]] = {}
    too_late = f"The upload took longer than {options.timeout:g} s: do it again, or raise S3_OUTPUT_TIMEOUT."
    client = open_client(options.s3, attempts=options.retries + 1)
    _take_turns(client)
    end = time.monotonic() + options.timeout
    waiting = [file.path.name for file in files]

    def go_on(_bytes: int) -> None:
        """Break a transfer off whose time is over; boto3 then removes the parts that are there."""
        if time.monotonic() >= end:
            raise StoreUnavailableError(too_late)

    def run() -> None:
        for file in files:
            said, over = "", False
            try:
                done.sizes.append(_put(client, options, file, go_on))
                done.urls.append(f"s3://{options.s3.bucket}/{file.key}")
            except OSError as error:
                said = f"It can't be read ({error.strerror or error})."
            except StoreError as error:
                said, over = options.explain(error), isinstance(error, StoreRefusedError) or time.monotonic() >= end
            names = waiting[:] if over else waiting[:1]  # what ends the upload is said of all that is left
            del waiting[: len(names)]
            if said:
                problems.setdefault(said, []).extend(names)
            if over:
                return

    # A server that sends a byte now and then keeps a call waiting for ever: whoever waits here must not.
    thread = threading.Thread(target=run, name="outputs", daemon=True)
    thread.start()
    thread.join(options.timeout + _GRACE)
    if waiting:
        problems.setdefault(too_late, []).extend(waiting)
    errors = [f"{' and '.join(names)}: {said}" for said, names in problems.items()]
    return Uploaded(urls=list(done.urls), sizes=list(done.sizes), errors=errors)


def _take_turns(client: Any) -> None:
    """Have *client* ask a server that is away once a second at most, whatever boto3's own pauses are."""
    turns = Turns(0)

    def wait(**_: Any) -> None:
        turns.take(math.inf, probe=True)

    def look(response_dict: Any, parsed_response: Any, exception: Any, **_: Any) -> None:
        code = (parsed_response or {}).get("Error", {}).get("Code", "")
        if exception or Answer(response_dict["status_code"], code).passing:
            turns.failed("")
        else:
            turns.worked()

    client.meta.events.register("before-send.s3", wait)
    client.meta.events.register("response-received.s3", look)


def _put(client: Any, options: OutputOptions, file: OutputFile, go_on: Callable[[int], None]) -> int:
    """Upload *file* and look whether all of it is there; return its size."""
    from boto3.s3.transfer import TransferConfig  # noqa: PLC0415 - it takes boto3 with it

    bucket, size = options.s3.bucket, file.path.stat().st_size
    headers = {"ContentType": file.content_type, **options.s3.sse_arguments}
    if options.client:
        headers["Tagging"] = urlencode({"client": options.client, "type": file.kind, "date": file.date})
    # Not in threads of its own: the interpreter would wait for those at its end, however late they are.
    config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, use_threads=False)
    action = "s3:PutObject" + (" and s3:PutObjectTagging" if options.client else "")
    with file.path.open("rb") as source, explained_s3(bucket, action):
        client.upload_fileobj(source, bucket, file.key, ExtraArgs=headers, Config=config, Callback=go_on)
    with explained_s3(bucket, "s3:GetObject"):
        there = client.head_object(Bucket=bucket, Key=file.key)
    if there["ContentLength"] != size:
        cure = ": if the server does not know tags, set S3_OUTPUT_TAGS=false" if options.client else ""
        raise StoreUnavailableError(f"What is in {bucket} is not what was sent{cure}.")
    return size
