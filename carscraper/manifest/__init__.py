"""Reads a *manifest*: the list of photos of an archive that is no dealer. Nothing is held whole in memory.

``docs/backfill.md`` says what a manifest may be. Of a ``.json`` document the arrays are read in which something has an
address (``"tags": ["red"]`` is passed over), at any depth, though not inside another array. Files of a folder come in
the order of their names; names that begin with a dot and what is no regular file are passed over, and counted.

An entry's photo is at its ``image_url``, else at its ``url`` (which may be the lot's page beside the other); what is at
its ``thumb_url`` is a photo, too. The key of the first is its ``key``, else what :func:`key_from_address` makes of the
address.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import posixpath
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

from carscraper.exceptions import ConfigurationError
from carscraper.logs import printable
from carscraper.manifest.formats import ADDRESSES, BUFFER, READERS, UnusableError

if TYPE_CHECKING:
    from collections.abc import Iterator

STRIP_PREFIX: Final = "auctionimages/"
"""What keys lose at their start unless the caller says otherwise."""
MAX_KEY: Final = 900
"""Bytes of UTF-8. S3 takes 1024, of which the prefix and the names of thumbnails have their share."""

UNREADABLE: Final = object()
"""A signal of Scrapy: an ``entry`` of the manifest is no photo."""

_LOT = re.compile(r"lot_.*_images\.(?:jsonl|ndjson|csv|json)(?:\.gz)?", re.IGNORECASE | re.DOTALL)
_SUFFIX = re.compile(r".*\.(jsonl|ndjson|csv|json)(?:\.gz)?", re.IGNORECASE | re.DOTALL)
_MAX_PART: Final = 255  # bytes: no folder takes more
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, and what has no UTF-8
_BAD_SEGMENT = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)")  # of nothing, of one dot or of two


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One photo of a manifest."""

    url: str
    key: str
    """The name below ``S3_PREFIX``; empty when :attr:`problem` says why."""
    problem: str | None = None
    """Why it is no photo, in a few words."""
    where: str = ""
    """The file and the line; in a JSON file, the number of the entry, from 1. Of a broken file its name alone."""
    of_file: bool = False
    """The problem is that of a file, which breaks off or is none that is known."""


class Manifest:
    """The photos of a manifest, in their order; what can't be read, a line or a whole file, is an entry with a problem.

    Reading it raises ``ConfigurationError`` if it is a single file of which nothing can be read.
    """

    def __init__(self, path: Path, *, strip_prefix: str = STRIP_PREFIX, thumbs: bool = True) -> None:
        """See what files there are.

        Args:
            path: of the file, or of the folder.
            strip_prefix: what keys lose at their start.
            thumbs: give what is at a ``thumb_url``, too.

        Raises:
            ConfigurationError: *path* can't be used.
        """
        self.left_alone: Counter[str] = Counter()
        """What there is in the folder that is not read: how many of each kind."""
        self._folder, self._names = _files(path, self.left_alone)
        self._strip_prefix = strip_prefix
        self._thumbs = thumbs
        self.left_out = 0
        """Thumbnails that were not given."""
        self.files_read = 0

    @property
    def files(self) -> int:
        """How many there are."""
        return len(self._names)

    def __iter__(self) -> Iterator[ManifestEntry]:
        """Read it."""
        for element, where in self._elements():
            if isinstance(element, UnusableError):
                yield ManifestEntry("", "", str(element), where, of_file=True)
            elif isinstance(element, ValueError):
                yield ManifestEntry("", "", str(element), where)
            else:
                yield from (_entry(url, key, where, self._strip_prefix) for url, key in self._photos(element))

    def count(self) -> int | None:
        """Return how many entries there are; ``None`` for JSON files, which have to be opened one by one for that."""
        if self.files > 1 and any(_kind(name) == "json" for name in self._names):
            return None
        again = Manifest(self._folder, thumbs=self._thumbs)
        again._names = self._names
        return sum(1 if isinstance(each, Exception) else len(self._photos(each)) for each, _ in again._elements())

    def _elements(self) -> Iterator[tuple[object, str]]:
        is_readable = False
        for name in self._names:
            try:
                with _reading(self._folder / name) as stream:
                    for number, element in READERS[_kind(name)](stream):
                        is_readable = True
                        yield element, f"{printable(name)}:{number}"
            except UnusableError as error:
                if self.files == 1 and not is_readable:
                    _refuse(self._folder / name, str(error))
                yield error, printable(name)
            self.files_read += 1

    def _photos(self, element: object) -> list[tuple[str, object]]:
        """Return the addresses of an entry, each with its key, if one is given; one that is empty if there is none."""
        fields = element if isinstance(element, dict) else {"url": element}
        image, url, thumb = (value.strip() if isinstance(value := fields.get(name), str) else "" for name in ADDRESSES)
        photo, key = image or url, fields.get("key")
        photos = [(photo, key)] if photo or not thumb else []
        if thumb and thumb != photo:
            if self._thumbs:
                photos.append((thumb, None if photo else key))
            else:
                self.left_out += 1
        return photos


# --- addresses and keys -------------------------------------------------------------------------------------


def key_from_address(url: str, *, strip_prefix: str) -> str:
    """Return the key of the photo at *url*: its path, decoded, without *strip_prefix*; a query leaves a digest.

    Several slashes are one.

    >>> key_from_address("https://img.example.com/auctionimages/3483/17/i0178-1.jpg", strip_prefix="auctionimages/")
    '3483/17/i0178-1.jpg'
    >>> key_from_address("https://img.example.com/a%20b.jpg?width=640", strip_prefix="")
    'a b-b8fcb210.jpg'

    Raises ``ValueError``: in a few words, why it has none.
    """
    parts = _split(url)
    try:
        path = re.sub("/+", "/", unquote(parts.path, errors="strict")).removeprefix("/")
    except UnicodeDecodeError:
        raise ValueError("bad key: the address is not in UTF-8") from None
    if prefix := strip_prefix.strip("/"):
        path = path.removeprefix(f"{prefix}/")
    key = clean_key(path)
    if not parts.query:
        return key
    name, extension = posixpath.splitext(key)
    return clean_key(f"{name}-{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}{extension}")


def clean_key(key: str) -> str:
    """Return *key* as it is when it can name an object in a bucket and a file in a folder alike.

    Raises ``ValueError``: ``bad key: `` and why.
    """
    why = ""
    if not key:
        why = "it has no name"
    elif "\\" in key or _UNPRINTABLE.search(key):
        why = "it has a backslash or a control character"
    elif key.endswith("/"):
        why = "it ends with a slash"
    elif _BAD_SEGMENT.search(key):
        why = "a part of it is empty, one dot or two"
    elif len(data := key.encode()) > MAX_KEY:
        why = f"it has more than {MAX_KEY} bytes"
    elif max(map(len, data.split(b"/"))) > _MAX_PART:
        why = f"a part of it has more than {_MAX_PART} bytes"
    if why:
        raise ValueError(f"bad key: {why}")
    return key


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        # A port that is no number is a ValueError when it is asked for.
        is_one = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        is_one = False
    # urlsplit drops line breaks in silence: the address would be another than the one that is written.
    if not is_one or _UNPRINTABLE.search(url):
        raise ValueError("not a web address")
    if "@" in parts.netloc:
        raise ValueError("an address with a user in it")
    return parts


def _entry(url: str, key: object, where: str, strip_prefix: str) -> ManifestEntry:
    if not url:
        return ManifestEntry("", "", "no url", where)
    given = key.strip() if isinstance(key, str) else key
    try:
        if given is None or given == "":
            return ManifestEntry(url, key_from_address(url, strip_prefix=strip_prefix), None, where)
        _split(url)
        if not isinstance(given, str):
            return ManifestEntry(url, "", "bad key: it is no text", where)
        return ManifestEntry(url, clean_key(given), None, where)
    except ValueError as error:
        return ManifestEntry(url, "", str(error), where)


# --- files --------------------------------------------------------------------------------------------------


def _refuse(path: Path | str, what: str) -> NoReturn:
    raise ConfigurationError(f"The manifest {str(path)!r} {what}.") from None


def _kind(name: str) -> str:
    match = _SUFFIX.fullmatch(posixpath.basename(name))
    return match[1].lower() if match else ""


def _files(path: Path, left_alone: Counter[str]) -> tuple[Path, list[str]]:
    """Return a folder and the names of the manifest's files in it; counts what is *left_alone* there.

    Checks at once what can be checked at once.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in it
        _refuse(path, "does not exist; write the path of a file or of a folder")
    except OSError as error:
        _refuse(path, f"can't be read ({error.strerror or error}); name one that can")
    if not path.is_dir():
        if not _kind(path.name):
            _refuse(path, "is none that is known; name a .jsonl, .ndjson, .csv or .json file, or one of these with .gz")
        if not path.is_file():
            _refuse(path, "is no regular file; write what comes out of it to a file, and name that")
        return path.parent, [path.name]
    closed: list[str] = []
    there = [*_below(path, closed, left_alone)]
    for pattern in (_LOT, _SUFFIX):
        if found := {name for name in there if pattern.fullmatch(posixpath.basename(name))}:
            left_alone.update(f"file {_suffix(name)}" for name in there if name not in found)
            return path, sorted([*found, *closed], key=lambda name: name.split("/"))
    _refuse(path, "is a folder without lot_*_images.json, .jsonl, .ndjson, .csv or .json files; name another one")


def _suffix(name: str) -> str:
    suffix = posixpath.splitext(posixpath.basename(name).lower().removesuffix(".gz"))[1]
    return printable(suffix) or "without a suffix"


def _below(path: Path, closed: list[str], left_alone: Counter[str]) -> Iterator[str]:
    """Yield the names of the files below the folder *path*; folders that can't be listed become *closed*."""

    def note(error: OSError) -> None:
        if str(error.filename) == str(path):
            _refuse(path, f"can't be listed ({error.strerror or error}); allow it, or name another one")
        closed.append(os.path.relpath(error.filename, path))

    seen: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(path, onerror=note, followlinks=True):
        about = os.stat(root)  # noqa: PTH116 - os.walk's own texts
        if (about.st_dev, about.st_ino) in seen:  # a link has led here before, perhaps in a ring
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        left_alone.update("hidden folder" for name in folders if name.startswith("."))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(root, path)
        for name in names:
            whole = os.path.join(root, name)  # noqa: PTH118
            if name.startswith("."):
                left_alone["hidden file"] += 1
            elif os.path.isfile(whole) or not os.path.exists(whole):  # noqa: PTH110, PTH113 - a link may lead nowhere
                yield posixpath.normpath(f"{below}/{name}")
            else:
                left_alone["pipe, socket or device"] += 1


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[io.BufferedReader]:
    """Open *path*; whatever stops the reading inside is an UnusableError."""
    try:
        with io.BufferedReader(_open(path), BUFFER) as stream:
            start = stream.peek(3)[:3]
            if not start:
                raise UnusableError("is empty; get it anew")
            if start == b"\xef\xbb\xbf":
                stream.read(3)
            elif start[:2] in {b"\xff\xfe", b"\xfe\xff"}:
                raise UnusableError("is written in UTF-16; save it in UTF-8")
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UnusableError(f"is a broken gzip file ({error}); get it anew") from None
    except OSError as error:
        raise UnusableError(f"can't be read ({error.strerror or error}); allow it, or name another one") from None


def _open(path: Path) -> Any:
    # Read through a buffer of ours in both cases: gzip's own lines are slow.
    return _Unzipped(path) if path.suffix.lower() == ".gz" else path.open("rb", buffering=0)


class _Unzipped(io.RawIOBase):
    """A gzip file that yields all that could be unpacked before it breaks off: with more at once it would be lost."""

    def __init__(self, path: Path) -> None:
        self._file = gzip.open(path)  # noqa: SIM115 - closed with this

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
