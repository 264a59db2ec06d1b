"""Read many objects of the bucket into a folder, each checked; what is there already is not asked for again.

What asks S3 raises ``StoreError`` where S3 refuses or is away.
"""

from __future__ import annotations

import errno
import hashlib
import posixpath
import tempfile
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carscraper.exceptions import ConfigurationError, StoreUnavailableError
from carscraper.storage import objects
from carscraper.storage.client import contradicts
from carscraper.storage.folder import write_atomically
from carscraper.storage.keys import parse_key
from carscraper.storage.objects import THREADS, in_groups, in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from carscraper.storage.client import S3Options

LEDGER, NAME, SERVER = "ledger", "name", "server"
"""What said how the bytes should be: the ledger's SHA-256, the one in the object's name, or the server's MD5."""
_GROUP = 500  # names that the ledger is asked for at once
_MAX_BYTES = objects.MAX_BYTES // THREADS
_OF_THIS_NAME = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ, errno.EINVAL}
_MOST_IN_A_ROW = 2 * THREADS  # objects that a server in trouble is asked for in vain


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """What came of one object."""

    name: str
    bytes: int = 0
    was_there: bool = False
    """The folder had it, with these bytes."""
    checked: str = ""
    """By what; empty: nothing says how the bytes should be."""
    read_twice: bool = False
    """Its ETag is not the MD5 of its bytes, which came twice."""
    problem: str = ""
    """Why the folder does not have it."""
    refused: bool = False
    """The server did not give it."""


def file_names(folder: Path) -> Callable[[str], str]:
    """Return what gives the name of the file that a key becomes in *folder*: equal for keys that share one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".Case-", dir=folder) as file:
            path = Path(file.name)
            by_case = not path.with_name(path.name.swapcase()).exists()
    except OSError:
        by_case = True  # nothing can be written there, as the first object says
    if by_case:
        return posixpath.normpath
    return lambda name: unicodedata.normalize("NFC", posixpath.normpath(name).casefold())


@dataclass(frozen=True, slots=True)
class Fetch:
    """Reads objects into *folder*, each under its whole name."""

    client: Any
    options: S3Options
    folder: Path
    hashes: Callable[[Iterable[str]], dict[str, set[str]]]
    """Looks up the SHA-256 that the ledger has for names."""
    replace: bool = False
    """A file with other bytes is replaced."""

    def run(self, wanted: Iterable[tuple[str, str]]) -> Iterator[Fetched]:
        """Read the objects *wanted* (name, and ETag or nothing), in their order; few of them are in memory at a time.

        Raises:
            ConfigurationError: the folder can't be written.
        """
        in_vain = 0
        with ThreadPoolExecutor(THREADS, thread_name_prefix="fetch") as pool:
            for found in in_order(pool, self._fetch, self._with_hashes(wanted)):
                in_vain = in_vain + 1 if found.refused else 0
                if in_vain == _MOST_IN_A_ROW:
                    raise StoreUnavailableError(
                        f"S3 gave none of {in_vain} objects in a row ({found.problem}): try again later; "
                        "`scrapy storage get KEY` says more of one."
                    )
                yield found

    def _with_hashes(self, wanted: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, set[str]]]:
        for group in in_groups(wanted, _GROUP):
            known = self.hashes([name for name, _ in group])
            yield from ((name, etag, known.get(name, set())) for name, etag in group)

    def _fetch(self, wanted: tuple[str, str, set[str]]) -> Fetched:
        name, etag, hashes = wanted
        path = self.folder / name
        try:
            there = path.read_bytes() if path.exists() else None
            checked = self._fits(name, there, etag, hashes) if there is not None else None
            if there is not None and checked:
                return Fetched(name=name, bytes=len(there), was_there=True, checked=checked)
            seen = objects.read(self.client, self.options.bucket, name, max_bytes=_MAX_BYTES)
            if seen is None:
                return Fetched(name=name, problem="the bucket does not have it")
            if seen.data is None:
                return Fetched(name=name, problem=seen.problem or "", refused=not seen.size)
            checked = self._fits(name, seen.data, seen.etag, hashes)
            if checked is None:
                whose = "the ledger's" if hashes else "that of its name"
                return Fetched(name=name, problem=f"its SHA-256 is not {whose}")
            doubted = not checked and contradicts(seen.etag, seen.sse, seen.data)
            if doubted and not objects.same_again(self.client, self.options.bucket, name, seen):
                return Fetched(
                    name=name, problem="its bytes do not fit the server's checksum, and came otherwise twice"
                )
            if there is not None and there != seen.data and not self.replace:
                return Fetched(name=name, problem="a file with other bytes is there (--force replaces it)")
            if there != seen.data:
                write_atomically(path, seen.data)
        except OSError as error:
            if error.errno in _OF_THIS_NAME:
                return Fetched(name=name, problem=f"no file can have this name here ({error.strerror})")
            raise ConfigurationError(
                f"{self.folder} can't be written ({error.strerror}); once it can, the same command goes on from here."
            ) from error
        was_there = there == seen.data
        return Fetched(name=name, bytes=len(seen.data), was_there=was_there, checked=checked, read_twice=doubted)

    def _fits(self, name: str, data: bytes, etag: str, hashes: set[str]) -> str | None:
        """Return what says that *data* is right: nothing can (empty), or something says otherwise (``None``)."""
        sha256 = hashlib.sha256(data).hexdigest()
        if hashes:
            return LEDGER if sha256 in hashes else None
        if parts := parse_key(name, self.options.prefix):
            return NAME if sha256.startswith(parts.hash) else None
        return SERVER if etag == hashlib.md5(data, usedforsecurity=False).hexdigest() else ""
