"""The upload of a run's files to a bucket: by boto3, with its retries, in parts where they are large, and tagged."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from carscraper.exceptions import StoreError, StoreRefusedError, StoreUnavailableError
from carscraper.storage.client import S3Options, explained, open_client, session
from carscraper.storage.encryption import encryption
from carscraper.storage.keys import normalise_prefix

if TYPE_CHECKING:
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

    def check(self) -> None:
        """Look for credentials before a crawl relies on them. Asks no server but a machine's own role.

        Raises:
            ConfigurationError: there are none.
        """
        session(self.s3)

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
    """Sentences."""


def upload(options: OutputOptions, files: list[OutputFile]) -> Uploaded:
    """Upload *files*, one after the other; blocks for ``options.timeout`` seconds at most, and two for clearing up.

    What goes wrong with S3 or a file is in ``errors``; nothing of it is raised.

    Raises:
        ConfigurationError: the credentials can't be read.
    """
    work = _Upload(options)
    # A server that sends a byte now and then keeps a call waiting for ever: whoever waits here must not.
    thread = threading.Thread(target=work.run, args=(files,), name="outputs", daemon=True)
    thread.start()
    thread.join(options.timeout + _GRACE)
    done = work.done
    found = Uploaded(urls=list(done.urls), sizes=list(done.sizes), errors=list(done.errors))
    if thread.is_alive():
        found.errors.append(work.too_late)
    return found


class _Upload:
    def __init__(self, options: OutputOptions) -> None:
        self._options = options
        self._client = open_client(options.s3, attempts=options.retries + 1)
        self._deadline = time.monotonic() + options.timeout
        self.done = Uploaded()
        self.too_late = f"The upload took longer than {options.timeout:g} s: do it again, or raise S3_OUTPUT_TIMEOUT."

    def run(self, files: list[OutputFile]) -> None:
        for file in files:
            try:
                size = self._put(file)
            except OSError as error:
                self.done.errors.append(f"{file.path.name} can't be read ({error.strerror or error}).")
            except StoreError as error:
                self.done.errors.append(self._said(error))
                if isinstance(error, StoreRefusedError) or time.monotonic() >= self._deadline:
                    return
            else:
                self.done.sizes.append(size)
                self.done.urls.append(f"s3://{self._options.s3.bucket}/{file.key}")

    def _said(self, error: StoreError) -> str:
        sentence = str(error).replace("S3_TAGS", "S3_OUTPUT_TAGS=false")
        return sentence.replace("AWS_S3_BUCKET", "S3_OUTPUT_BUCKET") if self._options.own_bucket else sentence

    def _put(self, file: OutputFile) -> int:
        """Upload *file* and look whether all of it is there; return its size."""
        from boto3.s3.transfer import TransferConfig  # noqa: PLC0415 - it takes boto3 with it

        bucket = self._options.s3.bucket
        action = "s3:PutObject" + (" and s3:PutObjectTagging" if self._options.client else "")
        # Not in threads of its own: the interpreter would wait for those at its end, however late they are.
        config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, use_threads=False)
        size = file.path.stat().st_size
        with file.path.open("rb") as source, explained(bucket, action):
            self._client.upload_fileobj(
                source, bucket, file.key, ExtraArgs=self._headers(file), Config=config, Callback=self._go_on
            )
        with explained(bucket, "s3:GetObject"):
            head = self._client.head_object(Bucket=bucket, Key=file.key)
        if head["ContentLength"] != size:
            cure = ": if the server does not know tags, set S3_OUTPUT_TAGS=false" if self._options.client else ""
            raise StoreUnavailableError(f"{file.path.name} in {bucket} is not what was sent{cure}.")
        return size

    def _go_on(self, _bytes: int) -> None:
        """Break a transfer off whose time is over; boto3 then removes the parts that are there."""
        if time.monotonic() >= self._deadline:
            raise StoreUnavailableError(self.too_late)

    def _headers(self, file: OutputFile) -> dict[str, str]:
        headers = {"ContentType": file.content_type}
        if self._options.client:
            headers["Tagging"] = urlencode({"client": self._options.client, "type": file.kind, "date": file.date})
        kind, key = encryption(self._options.s3.sse)
        return headers | {
            name: value for name, value in (("ServerSideEncryption", kind), ("SSEKMSKeyId", key)) if value
        }
