"""A bounded spool on disk for bytes that the store can't take just now.

The dealer's address may be dead by the time the store is back, so the bytes wait here. One file for each object: a
line of JSON that says what it is, then the bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from dataclasses import asdict
from pathlib import Path

from carscraper.exceptions import StoreUnavailableError
from carscraper.storage.folder import write_atomically
from carscraper.storage.upload import Upload

logger = logging.getLogger(__name__)


class Spool:
    """The uploads that wait for one store. Several processes may share the folder."""

    def __init__(self, folder: Path, *, location: str, max_bytes: int) -> None:
        """Take the uploads of *location* (``s3://bucket``) in *folder*."""
        digest = hashlib.sha256(location.encode()).hexdigest()[:12]
        self._folder = folder / f"uploads-{digest}"
        self.damaged = 0
        """Uploads that this run found unreadable; the next one asks the dealer for them again."""
        self._max_bytes = max_bytes
        self._lock = threading.Lock()  # uploads come from many threads
        self._bytes = sum(self._size(path) for path in self.waiting())

    @staticmethod
    def _size(path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0  # another process was faster

    def waiting(self) -> list[Path]:
        """List the waiting uploads, oldest first."""
        if not self._folder.is_dir():
            return []
        return sorted(self._folder.glob("*.upload"))

    def add(self, upload: Upload) -> None:
        """Keep *upload* on disk; it survives a power cut from here on.

        Raises:
            StoreUnavailableError: the spool is full or can't be written.
        """
        about = asdict(upload)
        data = about.pop("data")
        content = json.dumps(about).encode() + b"\n" + data
        # Two photos of a car with the same bytes are one object but two rows, and each row must hear of it.
        one_row = f"{upload.name}\n{(upload.row or {}).get('identity')}"
        path = self._folder / f"{hashlib.sha256(one_row.encode()).hexdigest()[:32]}.upload"
        growth = len(content) - self._size(path)
        with self._lock:
            if self._bytes + growth > self._max_bytes:
                raise StoreUnavailableError(f"the spool {self._folder} is full (SPOOL_MAX_BYTES)")
            self._bytes += growth
        try:
            write_atomically(path, content)
        except OSError as error:
            with self._lock:
                self._bytes -= growth
            raise StoreUnavailableError(f"the spool {self._folder} can't be written ({error.strerror})") from error

    def read(self, path: Path) -> Upload | None:
        """Read a waiting upload; ``None`` if another process has taken it or the file is damaged."""
        try:
            about, _, data = path.read_bytes().partition(b"\n")
            return Upload(data=data, **json.loads(about))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            logger.warning("Spool: %s can't be read; moved aside", path)
            path.rename(path.with_suffix(".damaged"))
            return None

    def remove(self, path: Path) -> None:
        """Forget an upload that the store has confirmed."""
        with self._lock:
            self._bytes -= self._size(path)
        path.unlink(missing_ok=True)
