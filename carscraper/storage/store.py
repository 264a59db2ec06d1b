"""The images store: S3 or the folder, with retries, a circuit and a spool.

:class:`ImagesFilesStore` is what ``CarImagesPipeline`` hands bytes to. It keeps uploads off the event loop, bounds how
many run at a time and for how long, opens a circuit when the store is away (bytes then go to the spool, one probe a
second), and goes on by itself when the store is back.

What hangs must not hold what rescues: the spool has a thread of its own, and no upload waits in a thread's queue.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from carscraper.exceptions import ConfigurationError, StoreRefusedError, StoreUnavailableError
from carscraper.shortage import Threads
from carscraper.storage.folder import FolderStore
from carscraper.storage.spool import Spool

if TYPE_CHECKING:
    from datetime import datetime

    from scrapy.settings import BaseSettings

    from carscraper.storage.keys import Upload

logger = logging.getLogger(__name__)

_PROBE_EVERY = 1.0  # seconds between two probes of a store that is away
_LAST_CHANCE = 10.0  # seconds at the end of a crawl for a store that is away
_QUIET = 60.0  # seconds after a message that the store is away, before the next one
_SLACK = 1.0  # seconds after its time-out in which an upload may still say itself why it failed


class Backend(Protocol):
    """A place for photos; ``check`` and ``put`` block and are called from worker threads."""

    location: str

    def object_name(self, key: str) -> str: ...
    def url(self, name: str) -> str | None: ...
    def holds(self, name: str | None) -> bool: ...
    def check(self) -> None: ...
    def put(self, upload: Upload) -> None: ...
    def get(self, name: str, *, max_bytes: int) -> bytes | None: ...
    def sizes(self, names: Collection[str]) -> dict[str, int]: ...
    def older_than(self, moment: datetime) -> list[str]: ...
    def delete(self, name: str) -> None: ...
    def close(self) -> None: ...


class ImagesFilesStore:
    """The files store of ``CarImagesPipeline``."""

    def __init__(self, backend: Backend, *, parallel: int, spool: Spool | None, timeout: float | None = None) -> None:
        """Accept plain values.

        Args:
            backend: where the bytes go.
            parallel: uploads at the same time.
            spool: where bytes wait while the backend is away; ``None`` for a backend that can't be away.
            timeout: seconds after which an upload counts as failed though its thread still hangs, and that
                :meth:`close` waits for the spool to empty; ``None`` means no limit.
        """
        self.backend = backend
        self.refused: str | None = None
        """Why the store will take nothing more in this run, once that is known."""
        self.away: str | None = None
        """Why the store takes nothing just now."""
        self._level = logging.WARNING
        self._quiet_until = 0.0
        self._parallel = parallel
        self._executor = Threads(parallel, thread_name_prefix="upload")
        # Uploads wait here and not in the executor's queue: from here they can leave for the spool.
        self._room = asyncio.Semaphore(parallel)
        # A store that refuses is asked once, not by all at the same time: the first upload goes alone.
        self._first = asyncio.Lock()
        self._proven = False
        self._spool = spool
        self._spool_thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._timeout = timeout
        self._drainer: asyncio.Task[None] | None = None
        self._safe: dict[Path, Upload] = {}
        """Out of the spool and confirmed by the backend, the row not written yet."""
        self._last_round = False
        self._closing = False
        self._on_stored: Callable[[Upload], Awaitable[bool]] | None = None

    async def open(self, on_stored: Callable[[Upload], Awaitable[bool]]) -> None:
        """Try the spool, make the one check of the store, and upload what waits in the spool.

        Args:
            on_stored: told of each upload from the spool that is safe now; false means "ask again later".

        Raises:
            ConfigurationError: the store refuses (credentials, bucket, region, folder), or the spool can't be written.
        """
        self._on_stored = on_stored
        if self._spool:
            await self._on_disk(self._spool.try_out)
        try:
            await self._in_thread(self.backend.check)
        except StoreRefusedError as error:
            raise ConfigurationError(str(error)) from None
        except StoreUnavailableError as error:
            self._went_away(str(error))
        if self._spool and self._spool.waiting():
            self._start_draining()

    async def put(self, upload: Upload) -> bool:
        """Keep the bytes of *upload*.

        Returns:
            True once the store has confirmed them; false if they wait in the spool.

        Raises:
            StoreUnavailableError: neither the store nor the spool takes them now.
            StoreRefusedError: the store refuses for good and there is no spool.
        """
        async with self._room:
            if await self._upload(upload):
                return True
        if self._spool is None:
            raise StoreRefusedError(self.refused or self.away or "")
        await self._on_disk(self._spool.add, upload)
        if not self.refused:
            self._start_draining()
        return False

    async def _upload(self, upload: Upload, *, probe: bool = False) -> bool:
        """Return whether the backend has confirmed *upload*; if not, ``away`` or ``refused`` says why."""
        if not self._proven:
            async with self._first:
                if not self._proven:
                    self._proven = await self._send(upload, probe=probe)
                    return self._proven
        return await self._send(upload, probe=probe)

    async def _send(self, upload: Upload, *, probe: bool) -> bool:
        # What waited while the store went away goes on to the spool at once.
        if self.refused or (self.away and not probe):
            return False
        try:
            await self._in_thread(self.backend.put, upload)
        except StoreUnavailableError as error:
            self._went_away(str(error))
        except StoreRefusedError as error:
            self._refuse(str(error))
            if self._spool is None:
                raise
        else:
            return True
        return False

    async def get(self, name: str, *, max_bytes: int) -> bytes | None:
        """Read the object *name* back; ``None`` if it is not there.

        Raises:
            StoreError: the store does not answer or refuses, or the object has more than *max_bytes*.
        """
        async with self._room:
            if self.away:
                raise StoreUnavailableError(self.away)  # at once: bytes may be waiting for this room
            try:
                data: bytes | None = await self._in_thread(lambda: self.backend.get(name, max_bytes=max_bytes))
            except StoreUnavailableError as error:
                self._went_away(str(error))
                if self._spool:
                    self._start_draining()
                raise
        return data

    async def delete(self, name: str) -> None:
        """Remove the object *name*; only rehearsals do, and only what they have put there.

        Raises:
            StoreError: the store does not answer or refuses.
        """
        await self._in_thread(self.backend.delete, name)

    def waiting(self) -> int:
        """Count the uploads in the spool that the backend has not confirmed."""
        if self._spool is None:
            return 0
        return len([path for path in self._spool.waiting() if path not in self._safe])

    def damaged(self) -> int:
        """Count the uploads that could not be read from the spool; their bytes are lost."""
        return self._spool.damaged if self._spool else 0

    def holds(self, name: str, identity: str) -> bool:
        """Return whether the photo *identity* waits in the spool as the object *name*."""
        return self._spool is not None and self._spool.holds(name, identity)

    async def close(self) -> None:
        """Empty the spool if the store lets us, then give everything back."""
        self._last_round = True
        if self._drainer and not self.refused:
            await asyncio.wait({self._drainer}, timeout=_LAST_CHANCE)
            if not self.away and not self.refused:
                await asyncio.wait({self._drainer}, timeout=self._timeout)
        self._closing = True
        if self._drainer:
            self._drainer.cancel()
            await asyncio.wait({self._drainer})
        for threads in (self._executor, self._spool_thread):
            threads.shutdown(wait=False, cancel_futures=True)
        self.backend.close()

    # --- the circuit and the spool ---

    def _went_away(self, why: str) -> None:
        if not self.away:
            now = time.monotonic()  # a store that comes and goes would fill the log
            self._level = logging.WARNING if now >= self._quiet_until else logging.DEBUG
            self._quiet_until = max(self._quiet_until, now + _QUIET * (self._level == logging.WARNING))
            logger.log(self._level, "Store away (%s): photos wait in the spool until it is back", why.rstrip("."))
        self.away = why

    def _came_back(self) -> None:
        if self.away:
            logger.log(self._level, "Store back: uploading what waits in the spool")
            self.away = None

    def _refuse(self, why: str) -> None:
        if not self.refused:
            self.refused = why

    def _start_draining(self) -> None:
        if self._drainer is None or self._drainer.done():
            self._drainer = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        assert self._spool is not None
        while not self._closing and not self.refused:
            before = len(self._safe)
            paths = [path for path in self._spool.waiting() if path not in self._safe]
            if self.away:
                paths = random.sample(
                    paths, min(1, len(paths))
                )  # the probe; not always the same, it might be the cause
            if self.away and not paths:
                await self._look()
            await asyncio.gather(*(self._drain_one(path) for path in paths[: self._parallel]))
            progress = len(self._safe) > before
            await self._tell()
            if not (self.away or self._spool.waiting()) or (self._last_round and not self.waiting()):
                return  # in the last round all cars are written: a row that is not there now will not come
            if self.away or self._safe or not progress:
                await asyncio.sleep(_PROBE_EVERY)

    async def _look(self) -> None:
        """Probe a store for which nothing waits."""
        try:
            await self._in_thread(self.backend.check)
        except StoreUnavailableError as error:
            self._went_away(str(error))
        except StoreRefusedError as error:
            self._refuse(str(error))
        else:
            self._came_back()

    async def _drain_one(self, path: Path) -> None:
        assert self._spool is not None
        try:
            upload = await self._on_disk(self._spool.read, path)
        except OSError as error:
            logger.warning("Spool: %s can't be read (%s); it stays for the next run", path, error)
            return
        if upload is None:
            return
        async with self._room:
            stored = await self._upload(upload, probe=True)
        if stored:
            self._came_back()
            self._safe[path] = replace(upload, data=b"")

    async def _tell(self) -> None:
        assert self._spool is not None
        assert self._on_stored is not None
        for path, upload in list(self._safe.items()):
            if upload.row is None or await self._on_stored(upload):
                await self._on_disk(self._spool.remove, path)
                del self._safe[path]

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method of the backend.

        Raises:
            StoreUnavailableError: it has not returned in time. Its thread is left alone; a second upload does no harm.
        """
        called = asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)
        try:
            return await asyncio.wait_for(called, None if self._timeout is None else self._timeout + _SLACK)
        except TimeoutError:
            raise StoreUnavailableError(f"no answer for {self._timeout:g} s") from None

    async def _on_disk(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method of the spool, which must not wait behind uploads that hang."""
        return await asyncio.get_running_loop().run_in_executor(self._spool_thread, function, *arguments)


def build_store(settings: BaseSettings) -> ImagesFilesStore | None:
    """Make the store that the settings describe; ``None`` when photos are kept nowhere.

    Raises:
        ConfigurationError: a setting is missing or wrong.
    """
    if settings.getbool("USE_S3_STORAGE"):
        return _build_s3(settings)
    folder = settings.get("IMAGES_STORE")
    if not folder:
        return None
    if str(folder).startswith("s3://"):
        raise ConfigurationError(
            f"IMAGES_STORE={folder} is no folder; for S3 set USE_S3_STORAGE=true and AWS_S3_BUCKET instead."
        )
    backend = FolderStore(Path(folder), public_url=settings.get("IMAGES_PUBLIC_URL"))
    return ImagesFilesStore(backend, parallel=4, spool=None)


def _build_s3(settings: BaseSettings) -> ImagesFilesStore:
    # boto3 and obstore take 0.4 s and 40 MB to import: only for those who use them.
    from carscraper.storage.client import S3Options  # noqa: PLC0415
    from carscraper.storage.s3 import S3Store  # noqa: PLC0415

    options = S3Options.from_settings(settings)
    backend = S3Store(options)
    return ImagesFilesStore(
        backend,
        parallel=options.parallel,
        spool=s3_spool(settings, options.store, options.prefix),
        timeout=options.timeout,
    )


def s3_spool(settings: BaseSettings, store: str, prefix: str) -> Spool:
    """Return the spool of what goes to a bucket (``s3://bucket``) below *prefix*: names in it are whole."""
    return Spool(
        Path(settings.get("SPOOL_DIR")),
        location=f"{store}/{prefix}",
        max_bytes=settings.getint("SPOOL_MAX_BYTES"),
    )
