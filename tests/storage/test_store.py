"""The store's patience: the circuit, the probe, the spool that empties itself, and the settings it is built from."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.exceptions import ConfigurationError, StoreRefusedError, StoreUnavailableError
from carscraper.storage import store as store_module
from carscraper.storage.keys import Upload
from carscraper.storage.spool import Spool
from carscraper.storage.store import ImagesFilesStore, build_store
from tests.fakes import make_settings, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_PROBE_EVERY", 0.02)
    monkeypatch.setattr(store_module, "_LAST_CHANCE", 0.3)


class FakeBackend:
    """A store that is away or refuses as it is told."""

    location = "s3://car-photos"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.trouble: Exception | None = None
        self.tries = self.reads = 0
        self.parallel = 0
        self.most_parallel = 0
        self.pause = 0.0
        self.closed = False
        self._lock = threading.Lock()

    def object_name(self, key: str) -> str:
        return key

    def url(self, name: str) -> str:
        return f"https://x/{name}"

    def holds(self, name: str | None) -> bool:
        return name in self.objects

    def check(self) -> None:
        if self.trouble:
            raise self.trouble

    def put(self, upload: Upload) -> None:
        with self._lock:
            self.tries += 1
            self.parallel += 1
            self.most_parallel = max(self.parallel, self.most_parallel)
        time.sleep(self.pause)
        with self._lock:
            self.parallel -= 1
            if self.trouble:
                raise self.trouble
            self.objects[upload.name] = upload.data

    def get(self, name: str, *, max_bytes: int) -> bytes | None:
        self.reads += 1
        self.check()
        return self.objects.get(name)

    def close(self) -> None:
        self.closed = True


def upload(number: int = 1) -> Upload:
    row: dict[str, str | int | None] = {"source": "Bilasolur", "external_id": "1", "identity": f"1/{number}"}
    return Upload(name=f"{number}.jpg", data=b"photo %d" % number, content_type="image/jpeg", row=row)


AWAY = StoreUnavailableError("SlowDown")
NO = StoreRefusedError("The key is wrong: check AWS_ACCESS_KEY_ID.")


class World:
    """A store over a fake backend, and what the ledger was told."""

    def __init__(self, folder: Path, *, parallel: int = 4, max_bytes: int = 10**6) -> None:
        self.backend = FakeBackend()
        self.spool = Spool(folder, location=self.backend.location, max_bytes=max_bytes)
        self.store = ImagesFilesStore(self.backend, parallel=parallel, spool=self.spool, timeout=2)
        self.told: list[str] = []
        self.rows_are_there = True

    async def on_stored(self, item: Upload) -> bool:
        self.told.append(item.name)
        return self.rows_are_there

    def run(self, what: Callable[[], Awaitable[Any]]) -> Any:
        async def go() -> Any:
            await self.store.open(self.on_stored)
            try:
                return await what()
            finally:
                await self.store.close()

        return asyncio.run(asyncio.wait_for(go(), 20))

    async def until_empty(self) -> None:
        await until(lambda: not self.store.waiting())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_uploads_are_off_the_event_loop_and_bounded(world: World) -> None:
    async def many() -> float:
        pending = asyncio.gather(*(world.store.put(upload(n)) for n in range(20)))
        longest = last = 0.0
        while not pending.done():
            last = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - last)
        await pending
        return longest

    world.backend.pause = 0.05
    assert world.run(many) < 0.04
    assert world.backend.most_parallel == 4
    assert len(world.backend.objects) == 20


def test_away_then_back(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> list[bool]:
        world.backend.trouble = AWAY
        results = [await world.store.put(upload(n)) for n in range(5)]
        assert world.store.away == "SlowDown"
        assert world.store.waiting() == 5
        assert world.backend.tries <= 3, "the circuit is open: only the first and probes get through"
        world.backend.trouble = None
        await world.until_empty()
        assert world.store.away is None
        world.backend.trouble = AWAY  # again at once: that fills no log
        await world.store.put(upload(9))
        world.backend.trouble = None
        await world.until_empty()
        return [*results, await world.store.put(upload(9))]

    assert world.run(story) == [False] * 5 + [True]
    assert sorted(world.backend.objects) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "9.jpg"]
    assert sorted(world.told) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "9.jpg"]
    assert [record.message.split(" (")[0] for record in caplog.records if record.levelname == "WARNING"] == [
        "Store away",
        "Store back: uploading what waits in the spool",
    ], "one message for the going and one for the coming, not one for each photo"


def test_one_probe_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> int:
        world.backend.trouble = AWAY
        for n in range(10):
            await world.store.put(upload(n))
        before = world.backend.tries
        await asyncio.sleep(0.35)
        return world.backend.tries - before

    monkeypatch.setattr(store_module, "_PROBE_EVERY", 0.1)
    assert 2 <= world.run(story) <= 5
    assert world.backend.most_parallel == 1


def test_what_hangs_holds_neither_the_spool_nor_those_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten uploads, two at a time, each hanging for longer than it may."""

    async def story() -> tuple[list[bool], float]:
        started = time.monotonic()
        results = await asyncio.gather(*(world.store.put(upload(n)) for n in range(10)))
        return results, time.monotonic() - started

    monkeypatch.setattr(store_module, "_SLACK", 0.0)
    world = World(tmp_path, parallel=2)
    world.backend.pause = 1.5
    world.store._timeout = 0.5
    results, seconds = world.run(story)
    assert results == [False] * 10
    assert seconds < 1.2, "the others waited for a time-out of their own"
    assert world.store.waiting() == 10
    assert world.store.away == "no answer for 0.5 s"


def test_reading_from_a_store_that_is_away_ends_at_once(world: World) -> None:
    """And it is tried again though nothing waits for it."""

    async def story() -> None:
        world.backend.trouble = AWAY
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                await world.store.get("1.jpg", max_bytes=10)
        assert world.backend.reads == 1
        world.backend.trouble = None
        await until(lambda: world.store.away is None)
        assert await world.store.get("1.jpg", max_bytes=10) is None

    world.run(story)
    assert world.backend.reads == 2


def test_still_away_at_the_end_the_bytes_wait_for_the_next_run(world: World, tmp_path: Path) -> None:
    async def story() -> bool:
        world.backend.trouble = AWAY
        stored: bool = await world.store.put(upload())
        return stored

    assert world.run(story) is False
    assert world.store.waiting() == 1
    later = World(tmp_path)
    later.run(later.until_empty)
    assert later.backend.objects == {"1.jpg": b"photo 1"}
    assert later.told == ["1.jpg"]
    assert later.spool.waiting() == []


def test_away_at_the_start_is_not_the_users_mistake(world: World) -> None:
    async def story() -> bool:
        world.backend.trouble = None
        stored: bool = await world.store.put(upload())
        await world.until_empty()
        return stored

    world.backend.trouble = AWAY
    assert world.run(story) is False
    assert world.backend.objects == {"1.jpg": b"photo 1"}


def test_refused_at_the_start_is(world: World) -> None:
    world.backend.trouble = NO
    with pytest.raises(ConfigurationError, match="AWS_ACCESS_KEY_ID"):
        world.run(lambda: world.store.put(upload()))


def test_refused_in_the_middle_is_said_once_and_loses_nothing(world: World) -> None:
    async def story() -> list[bool]:
        assert await world.store.put(upload(1))
        world.backend.trouble = NO
        return [await world.store.put(upload(n)) for n in range(2, 6)]

    assert world.run(story) == [False] * 4
    assert world.store.refused == str(NO)
    assert world.backend.tries == 2, "after the first refusal nothing more is tried"
    assert world.store.waiting() == 4


def test_refused_while_the_spool_is_emptied(world: World) -> None:
    async def story() -> None:
        world.backend.trouble = AWAY
        await world.store.put(upload())
        world.backend.trouble = NO
        await until(lambda: world.store.refused)

    world.run(story)
    assert world.store.waiting() == 1


def test_a_full_spool_is_an_error_of_that_photo(tmp_path: Path) -> None:
    async def story() -> None:
        world.backend.trouble = AWAY
        await world.store.put(upload(1))
        with pytest.raises(StoreUnavailableError, match="SPOOL_MAX_BYTES"):
            await world.store.put(upload(2))

    world = World(tmp_path, max_bytes=250)
    world.run(story)
    assert world.store.waiting() == 1


def test_a_row_that_is_not_there_yet_is_asked_for_again(world: World) -> None:
    async def story() -> None:
        world.rows_are_there = False
        world.backend.trouble = AWAY
        await world.store.put(upload())
        world.backend.trouble = None
        await until(lambda: len(world.told) >= 3)
        assert len(world.spool.waiting()) == 1, "the bytes stay until the row is written"
        world.rows_are_there = True
        await until(lambda: not world.spool.waiting())

    world.run(story)
    assert world.backend.tries - len(world.backend.objects) <= 2, "the bytes are not uploaded again for it"


def test_a_thumbnail_has_no_row(world: World) -> None:
    async def story() -> None:
        world.backend.trouble = AWAY
        await world.store.put(Upload(name="thumbnails/small/1.jpg", data=b"x", content_type="image/jpeg"))
        world.backend.trouble = None
        await world.until_empty()

    world.run(story)
    assert world.told == []
    assert list(world.backend.objects) == ["thumbnails/small/1.jpg"]


def test_a_damaged_file_does_not_stop_the_others(world: World) -> None:
    async def story() -> None:
        world.backend.trouble = AWAY
        for n in range(3):
            await world.store.put(upload(n))
        world.spool.waiting()[0].write_bytes(b"damaged")
        world.backend.trouble = None
        await world.until_empty()

    world.run(story)
    assert len(world.backend.objects) == 2


def test_a_file_that_cant_be_read_does_not_stop_the_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        world.backend.trouble = AWAY
        for n in range(3):
            await world.store.put(upload(n))
        bad = world.spool.waiting()[0]
        read = world.spool.read

        def reading(path: Path) -> Upload | None:
            if path == bad:
                raise OSError(errno.EIO, "Input/output error")
            return read(path)

        monkeypatch.setattr(world.spool, "read", reading)
        world.backend.trouble = None
        await until(lambda: world.store.waiting() == 1)

    world.run(story)
    assert len(world.backend.objects) == 2
    assert len(world.spool.waiting()) == 1


def test_without_a_spool_trouble_is_the_callers(tmp_path: Path) -> None:
    async def story() -> None:
        await store.open(on_stored)
        backend.trouble = NO
        with pytest.raises(StoreRefusedError, match="key is wrong"):
            await store.put(upload())
        await store.close()

    async def on_stored(_: Upload) -> bool:
        return True

    backend = FakeBackend()
    store = ImagesFilesStore(backend, parallel=1, spool=None)
    asyncio.run(story())
    assert store.waiting() == 0


def test_it_is_built_with_every_setting(tmp_path: Path) -> None:
    store = build_store(
        make_settings(
            USE_S3_STORAGE="true",
            AWS_S3_BUCKET="car-photos",
            AWS_ACCESS_KEY_ID="AKID",
            AWS_SECRET_ACCESS_KEY="hunter2",
            AWS_SESSION_TOKEN="token",
            AWS_ENDPOINT_URL="http://127.0.0.1:9000/",
            S3_PREFIX="/cars//",
            S3_TAGS='{"project": 1}',
            S3_MAX_RETRIES="2",
            S3_UPLOAD_TIMEOUT="7",
            SPOOL_DIR=str(tmp_path),
        )
    )
    assert store
    options: Any = store.backend._options  # type: ignore[attr-defined]
    assert (options.access_key, options.secret_key, options.session_token) == ("AKID", "hunter2", "token")
    assert type(options.secret_key) is str, "what is sent must be the value, not its stars"
    assert options.tags == (("project", "1"),)
    assert (options.retries, options.timeout) == (2, 7.0)
    assert store.backend.object_name("a.jpg") == "cars/a.jpg"
    assert store.backend.url("cars/a.jpg") == "http://127.0.0.1:9000/car-photos/cars/a.jpg"
    assert store.backend.location == "s3://car-photos"
    asyncio.run(store.close())
