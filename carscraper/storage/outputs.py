"""A run's files on their way to a bucket: multipart where they are large, tagged, and compared before they count."""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlencode

from botocore.exceptions import ClientError

from carscraper.exceptions import StoreError, StoreRefusedError, StoreUnavailableError
from carscraper.storage import readback
from carscraper.storage.client import S3Options, explained, open_client, session
from carscraper.storage.encryption import encryption
from carscraper.storage.keys import normalise_prefix

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from scrapy.settings import BaseSettings

logger = logging.getLogger(__name__)

PART = 8 * 1024**2
"""Bytes; a file of this size or more is sent in parts of it."""
_FIRST_BACKOFF = 1.0  # seconds; doubles with each retry, with jitter
_GRACE = 2.0  # seconds beyond the time-out, for clearing away the parts of a file that was broken off
_NOT_FOUND = 404


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
        """See that there are credentials, before a crawl relies on them. Asks no server but a machine's own role.

        Raises:
            ConfigurationError: there are none.
        """
        session(self.s3)

    def key(self, folder: str, name: str) -> str:
        """Give the key of the file *name* of a run's folder."""
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
    work = _Work(options, open_client(options.s3))
    # A server that sends a byte now and then keeps a call waiting for ever: whoever waits here must not.
    thread = threading.Thread(target=work.run, args=(files,), name="outputs", daemon=True)
    thread.start()
    thread.join(options.timeout + _GRACE)
    done = work.done
    found = Uploaded(urls=list(done.urls), sizes=list(done.sizes), errors=list(done.errors))
    if thread.is_alive():
        found.errors.append(work.too_late())
    return found


class _Work:
    def __init__(self, options: OutputOptions, client: Any) -> None:
        self._options = options
        self._client = client
        self._deadline = time.monotonic() + options.timeout
        self.done = Uploaded()

    def run(self, files: list[OutputFile]) -> None:
        for file in files:
            try:
                size = self._patiently(file)
            except (StoreError, OSError) as error:
                self.done.errors.append(self._said(file, error))
                if isinstance(error, StoreRefusedError) or self._late:
                    return
            except Exception as error:
                # Nobody would hear of it in this thread.
                logger.exception("A mistake in the upload of %s", file.path.name)
                self.done.errors.append(f"{file.path.name}: a mistake of the program ({type(error).__name__}).")
            else:
                self.done.sizes.append(size)
                self.done.urls.append(f"s3://{self._options.s3.bucket}/{file.key}")

    @property
    def _late(self) -> bool:
        return time.monotonic() >= self._deadline

    def too_late(self) -> str:
        return f"The upload took longer than {self._options.timeout:g} s: do it again, or raise S3_OUTPUT_TIMEOUT."

    def _said(self, file: OutputFile, error: Exception) -> str:
        if isinstance(error, OSError):
            return f"{file.path.name} can't be read ({error.strerror or error})."
        sentence = str(error).replace("S3_TAGS", "S3_OUTPUT_TAGS=false")
        if self._options.own_bucket:
            sentence = sentence.replace("AWS_S3_BUCKET", "S3_OUTPUT_BUCKET")
        return sentence

    def _patiently(self, file: OutputFile) -> int:
        """Upload *file* and see that it is there; again, until the time is over or it is of no use."""
        attempt = 0
        while True:
            try:
                return self._put(file)
            except StoreUnavailableError as error:
                failure = error
            if self._late:
                raise StoreUnavailableError(self.too_late()) from failure
            attempt += 1
            if attempt > self._options.retries:
                raise failure
            pause = _FIRST_BACKOFF * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, no secret
            time.sleep(max(0.0, min(pause, self._deadline - time.monotonic())))

    def _put(self, file: OutputFile) -> int:
        from boto3.s3.transfer import TransferConfig  # noqa: PLC0415 - it takes boto3 with it

        bucket = self._options.s3.bucket
        action = "s3:PutObject" + (" and s3:PutObjectTagging" if self._options.client else "")
        # Not in threads of its own: the interpreter would wait for those at its end, however late they are.
        config = TransferConfig(
            multipart_threshold=PART, multipart_chunksize=PART, use_threads=False, preferred_transfer_client="classic"
        )
        with file.path.open("rb") as source:
            sums = _Sums.of(source)
            source.seek(0)
            with explained(bucket, action):
                self._client.upload_fileobj(
                    source, bucket, file.key, ExtraArgs=self._headers(file), Config=config, Callback=self._go_on
                )
        self._compare(file, sums)
        return sums.size

    def _go_on(self, _bytes: int) -> None:
        """Break a transfer off whose time is over; boto3 then clears the parts away that are there."""
        if self._late:
            raise StoreUnavailableError(self.too_late())

    def _headers(self, file: OutputFile) -> dict[str, str]:
        headers = {"ContentType": file.content_type}
        if self._options.client:
            headers["Tagging"] = urlencode({"client": self._options.client, "type": file.kind, "date": file.date})
        kind, key = encryption(self._options.s3.sse)
        if kind:
            headers["ServerSideEncryption"] = kind
        if key:
            headers["SSEKMSKeyId"] = key
        return headers

    def _compare(self, file: OutputFile, sums: _Sums) -> None:
        """See that what S3 has is what was sent: by its size and its ETag; if that is no MD5, by reading it back.

        Raises:
            StoreUnavailableError: it is not, or the server does not answer.
            StoreRefusedError: these credentials may not look.
        """
        bucket = self._options.s3.bucket
        try:
            with explained(bucket, "s3:GetObject"):
                head = self._client.head_object(Bucket=bucket, Key=file.key)
        except StoreRefusedError as error:
            if _status(error.__cause__) == _NOT_FOUND:
                raise StoreUnavailableError(f"{file.path.name} is not in {bucket} after its upload.") from error
            raise
        same = head["ContentLength"] == sums.size
        if same and head["ETag"].strip('"').lower() not in {sums.md5, sums.of_parts}:
            seen = readback.read(self._client, bucket, file.key)
            if seen is not None and seen.problem:
                raise StoreUnavailableError(f"{file.path.name} can't be read back from {bucket}: {seen.problem}.")
            same = seen is not None and seen.sha256 == sums.sha256
        if not same:
            cure = ": if the server does not know tags, set S3_OUTPUT_TAGS=false" if self._options.client else ""
            raise StoreUnavailableError(f"{file.path.name} in {bucket} is not what was sent{cure}.")


def _status(error: BaseException | None) -> int:
    return error.response["ResponseMetadata"].get("HTTPStatusCode", 0) if isinstance(error, ClientError) else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sums:
    """What an object must have."""

    size: int
    md5: str
    of_parts: str
    """The ETag of an upload in parts: the MD5 of the parts' MD5s, and their number."""
    sha256: str

    @classmethod
    def of(cls, source: BinaryIO) -> Self:
        size = 0
        whole, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        parts = []
        while data := source.read(PART):
            size += len(data)
            whole.update(data)
            sha256.update(data)
            parts.append(hashlib.md5(data, usedforsecurity=False).digest())
        of_parts = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
        return cls(size=size, md5=whole.hexdigest(), of_parts=f"{of_parts}-{len(parts)}", sha256=sha256.hexdigest())
