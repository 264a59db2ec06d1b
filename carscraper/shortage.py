"""What this machine runs short of: open files, threads, memory, room on a disk.

Nothing of that is a dealer's fault or a photo's, so no photo fails of it: the crawl ends with one sentence, and what it
did not get to waits for the next one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from carscraper.exceptions import CarscraperError

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORTAGE = "shortage"
"""Scrapy's reason for the end of a crawl that this machine had not enough for."""

_THREADS = -1
_MEMORY = "give the crawl more memory (MemoryMax=, ulimit -v), or lower IMAGES_MAX_IN_FLIGHT"
_CURES = {
    errno.EMFILE: "raise the limit of open files (ulimit -n, LimitNOFILE=), or lower IMAGES_CONCURRENCY and "
    "S3_MAX_PARALLEL_UPLOADS",
    errno.ENFILE: "raise the machine's limit of open files (sysctl fs.file-max)",
    errno.ENOMEM: _MEMORY,
    errno.ENOBUFS: _MEMORY,
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or raise the quota",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f, LimitFSIZE=)",
    errno.EROFS: "mount that disk writable",
    errno.EIO: "look at that disk, the system's log (dmesg) says more",
    _THREADS: "raise the limit of threads and processes (ulimit -u, TasksMax=)",
}
_NO_THREAD = "can't start new thread"


def cure_of(error: BaseException) -> str | None:
    """Return what ends the shortage that *error* comes from; ``None`` if it comes from none.

    >>> cure_of(OSError(errno.ENOSPC, "No space left on device")), cure_of(ConnectionRefusedError(111, "refused"))
    ('make room there', None)
    """
    return next((_cure(number) for each in _causes(error) if (number := _number(each)) in _CURES), None)


def shortage_of(error: BaseException | None) -> str | None:
    """Return what this machine runs short of, as a sentence with its cure, if that is where *error* comes from.

    >>> shortage_of(OSError(errno.EROFS, "Read-only file system", "/x"))
    'A limit of this machine is reached (Read-only file system: /x); mount that disk writable.'
    >>> shortage_of(TimeoutError())
    """
    for each in _causes(error):
        number = _number(each)
        if number not in _CURES:
            continue
        cure = _cure(number)
        if isinstance(error, CarscraperError):
            said = str(error)[:1].upper() + str(error)[1:].rstrip(".")  # it names the folder
            return f"{said}." if cure in said else f"{said}; {cure}."
        what = _NO_THREAD if number == _THREADS else os.strerror(number)
        name = None if number in {errno.EMFILE, errno.ENFILE} else getattr(each, "filename", None)
        return f"A limit of this machine is reached ({what}{f': {name}' if name else ''}); {cure}."
    return None


def _cure(number: int) -> str:
    """Return what mends the shortage; a thread fails of the address space, too, where that is limited."""
    if number == _THREADS and resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return f"{_CURES[number]}, or give the crawl more memory (ulimit -v)"
    return _CURES[number]


def no_more_files() -> OSError | None:
    """Return why no file can be opened just now, if that is so.

    Libraries do not say it: for the resolver a host is unknown then, for SQLite its file can't be opened.
    """
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield *error* and what it comes from, in whatever way a library keeps that."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, None if each.__suppress_context__ else each.__context__]
        waiting += [getattr(each, name, None) for name in ("orig", "os_error")]  # SQLAlchemy's, aiohttp's
        waiting += [reason.value for reason in getattr(each, "reasons", None) or ()]  # Twisted's


def _number(error: BaseException) -> int | None:
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, RuntimeError) and _NO_THREAD in str(error):
        return _THREADS
    if isinstance(error, ssl.SSLError):  # its numbers are OpenSSL's
        return None
    if isinstance(error, OSError):
        return error.errno
    number = getattr(error, "osError", None)  # Twisted's ConnectError
    if isinstance(number, int):
        return number
    said = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__module__.startswith("obstore") else None
    return int(said[1]) if said else None


# --- doing with less ---

_FILES = 65_536  # many times what a crawl has open; more would only cost programs that close all that might be open


def raise_limit_of_files() -> None:
    """Let this process open as many files as its user may: the usual limit is a fraction of that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class Threads(ThreadPoolExecutor):
    """Threads that make do with fewer of them where the machine gives no more."""

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:  # the work is in the queue by now
            if not self._threads:
                raise
