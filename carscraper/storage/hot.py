"""The folder ``IMAGES_STORE`` as a tier beside S3: safe paths, and walking it without holding it in memory."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from carscraper.exceptions import StoreRefusedError
from carscraper.storage.keys import THUMBNAILS

if TYPE_CHECKING:
    from collections.abc import Iterator

_PART = ".part-"  # what storage.folder calls a file that is being written


@dataclass(frozen=True, slots=True)
class LocalFile:
    """One file of the folder."""

    name: str
    """Below the folder, with ``/``: the key of the photo that it holds."""
    size: int
    modified: float
    """Seconds since 1970: when it was stored or promoted."""

    @property
    def is_thumbnail(self) -> bool:
        """It is below ``thumbnails/``."""
        return self.name.startswith(f"{THUMBNAILS}/") or f"/{THUMBNAILS}/" in self.name


def _can_be_below(name: str) -> bool:
    return bool(name) and "\0" not in name and not any(part in {"", ".", ".."} for part in name.split("/"))


def local_path(root: Path, name: str) -> Path | None:
    """Give where the photo *name* would lie below *root*; ``None`` for a name that can be no file there.

    Names come from databases and buckets that others have filled: none leads out of the folder.
    """
    if not _can_be_below(name):
        return None
    path = root / name
    try:
        inside = path.parent.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):
        return None
    return path if inside else None


def look(root: Path, name: str) -> LocalFile | None:
    """Give the file of *name* below *root*, ``None`` if there is none."""
    if not _can_be_below(name):
        return None
    try:
        found = os.lstat(f"{root}/{name}")  # for every view: a path object costs more than the look
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode) or local_path(root, name) is None:
        return None
    return LocalFile(name, found.st_size, found.st_mtime)


def thumbnails_in(root: Path) -> list[str]:
    """List which thumbnails the folder has (``small``, …)."""
    with suppress(OSError):
        return sorted(each.name for each in (root / THUMBNAILS).iterdir() if each.is_dir())
    return []


def files(root: Path) -> Iterator[LocalFile]:
    """Give every file below *root* in an order that says nothing; those that are being written are left out.

    Links to other folders are not followed.

    Raises:
        StoreRefusedError: a folder can't be read.
    """
    folders = [(root, "")]
    while folders:
        folder, prefix = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            folders.append((Path(entry.path), f"{prefix}{entry.name}/"))
                        elif entry.is_file() and not entry.name.startswith(_PART):
                            found = entry.stat()
                            yield LocalFile(prefix + entry.name, found.st_size, found.st_mtime)
                    except FileNotFoundError:
                        continue  # it has just left
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreRefusedError(f"The folder {folder} can't be read ({error.strerror}).") from error


def remove(root: Path, name: str) -> bool:
    """Remove the file of *name* below *root*; tell whether there was one.

    Raises:
        StoreRefusedError: it can't be removed.
    """
    path = local_path(root, name)
    if path is None:
        return False
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StoreRefusedError(f"{path} can't be removed ({error.strerror}).") from error
    return True
