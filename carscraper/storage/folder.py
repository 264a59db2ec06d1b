"""Photos in a folder of this machine: ``USE_S3_STORAGE=false``."""

from __future__ import annotations

import os
import stat
import tempfile
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING

from carscraper.exceptions import StoreRefusedError
from carscraper.shortage import cure_of
from carscraper.storage.keys import THUMBNAILS_FOLDER, permanent_url

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from carscraper.storage.keys import Upload


def write_atomically(path: Path, data: bytes) -> None:
    """Write *data* so that *path* either holds all of it, also after a power cut, or does not exist.

    Temporary name in the same folder, fsync, rename, fsync of the folder.

    Raises:
        OSError: the disk is full or the folder not writable; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class FolderStore:
    """Keeps photos below one folder; ``put`` is called from worker threads."""

    location = "folder"

    def __init__(self, root: Path, *, public_url: str | None) -> None:
        self.root = root
        self._public_url = public_url

    def object_name(self, key: str) -> str:
        """Return the name under which *key* is kept: itself."""
        return key

    def url(self, name: str) -> str | None:
        """Return the permanent URL of the object *name*, ``None`` unless ``IMAGES_PUBLIC_URL`` is set."""
        return permanent_url(name, self._public_url) if self._public_url else None

    def holds(self, name: str | None) -> bool:
        """Return whether *name* is there: people move folders, and a look costs nothing."""
        return bool(name) and (self.root / str(name)).is_file()

    def check(self) -> None:
        """See that the folder can be written.

        Raises:
            StoreRefusedError: it cannot.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise StoreRefusedError(
                f"The folder IMAGES_STORE={self.root} can't be written ({error.strerror}); "
                f"{cure_of(error) or 'choose another or mend it'}."
            ) from error

    def put(self, upload: Upload) -> None:
        """Keep the bytes of *upload*; on return they are on the disk.

        Raises:
            StoreRefusedError: the disk is full or not writable.
        """
        try:
            write_atomically(self.root / upload.name, upload.data)
        except OSError as error:
            raise StoreRefusedError(
                f"The folder IMAGES_STORE={self.root} does not take photos ({error.strerror}); "
                f"{cure_of(error) or 'mend it'}."
            ) from error

    def get(self, name: str, *, max_bytes: int) -> bytes | None:
        """Read *name*; ``None`` if it is not there.

        Raises:
            StoreRefusedError: it can't be read, or has more than *max_bytes*.
        """
        path = self.root / name
        try:
            if path.stat().st_size > max_bytes:
                raise StoreRefusedError(f"{path} has more than {max_bytes} bytes")
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreRefusedError(f"{path} can't be read ({error.strerror})") from error

    def size(self, name: str) -> int | None:
        """Return the size of the file *name*; ``None`` if there is none.

        Names come from databases that others have filled: none leads out of the folder, nor does a link in it.
        """
        if not name or "\0" in name or any(part in {"", ".", ".."} for part in name.split("/")):
            return None
        try:
            found = os.lstat(self.root / name)
            inside = (self.root / name).parent.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError, ValueError):
            return None
        return found.st_size if inside and stat.S_ISREG(found.st_mode) else None

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Return the sizes of those of *names* that are there and not empty."""
        return {name: size for name in names if (size := self.size(name))}

    def older_than(self, moment: datetime) -> list[str]:
        """Return the names of all files that were last changed before *moment* (UTC, without a zone)."""
        seconds = moment.replace(tzinfo=UTC).timestamp()
        files = [path for path in self.root.rglob("*") if path.is_file() and path.stat().st_mtime < seconds]
        return [path.relative_to(self.root).as_posix() for path in files]

    def thumbnail_names(self) -> list[str]:
        """Return which thumbnails the folder has (``small``, …)."""
        try:
            return sorted(each.name for each in (self.root / THUMBNAILS_FOLDER).iterdir() if each.is_dir())
        except OSError:
            return []

    def delete(self, name: str) -> None:
        """Remove *name*, if it is there.

        Raises:
            StoreRefusedError: it can't be removed.
        """
        if self.size(name) is None:
            return
        try:
            (self.root / name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreRefusedError(f"{self.root / name} can't be removed ({error.strerror}).") from error

    def close(self) -> None:
        """Nothing to give back."""
