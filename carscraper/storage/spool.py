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

from carscraper.exceptions import ConfigurationError, StoreUnavailableError
from carscraper.storage.folder import write_atomically
from carscraper.storage.keys import Upload

logger = logging.getLogger(__name__)


class Spool:
    """The uploads that wait for one store. Several processes may share the folder."""

    def __init__(self, folder: Path, *, location: str, max_bytes: int) -> None:
        """Keep the uploads of *location* (``s3://bucket``) in *folder*."""
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

    def _path(self, name: str, identity: str) -> Path:
        # Two photos of a car with the same bytes are one object but two rows, and each row must hear of it.
        digest = hashlib.sha256(f"{name}\n{identity}".encode()).hexdigest()
        return self._folder / f"{digest[:32]}.upload"

    def try_out(self) -> None:
        """Write, sync and remove a file: the safety net is tried before it is needed.

        Raises:
            ConfigurationError: the folder can't be written.
        """
        path = self._folder / ".tried"
        try:
            write_atomically(path, b"tried")
            path.unlink(missing_ok=True)  # by another process, perhaps
        except OSError as error:
            raise ConfigurationError(
                f"The spool SPOOL_DIR={self._folder.parent} can't be written ({error.strerror}), and photos would be "
                "lost while S3 is away; choose another folder or make it writable."
            ) from error

    def holds(self, name: str, identity: str) -> bool:
        """Return whether the photo *identity* waits here as the object *name*."""
        return self._path(name, identity).exists()

    def waiting(self) -> list[Path]:
        """List the waiting uploads, in an order that says nothing."""
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
        path = self._path(upload.name, str((upload.row or {}).get("identity")))
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
            upload = _parse(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            logger.warning("Spool: %s can't be read (%s); moved aside", path, error)
            self.damaged += 1
            path.rename(path.with_suffix(".damaged"))
            return None
        return upload

    def remove(self, path: Path) -> None:
        """Forget an upload that the store has confirmed."""
        with self._lock:
            self._bytes -= self._size(path)
        path.unlink(missing_ok=True)


def _parse(content: bytes) -> Upload:
    about, _, data = content.partition(b"\n")
    upload = Upload(data=data, **json.loads(about))
    expected = (upload.row or {}).get("sha256")
    if expected and expected != hashlib.sha256(data).hexdigest():
        raise ValueError("other bytes than were put in")
    return upload
