"""The end of a crawl: what is linked, what is compared, and what an outage leaves for the next one."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from scrapy.exceptions import NotConfigured

from carscraper.db import cars as car_rows
from carscraper.db import schema
from carscraper.db.engine import open_engine
from carscraper.db.ledger import Ledger
from carscraper.db.rules import PlaceholderRules
from carscraper.exceptions import DatabaseUnavailableError, StoreUnavailableError
from carscraper.items import CarImage, CarItem
from carscraper.linking import pipeline
from carscraper.linking.pipeline import LinkingPipeline
from carscraper.spiders.bilasolur import BilasolurSpider
from carscraper.state import state_of
from tests.dealers.photos import Look, PhotoFactory
from tests.fakes import make_crawler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scrapy.crawler import Crawler

FACTORY = PhotoFactory(10_000)
WHITE = Look("Hvítur", "Jeppi")
RED_VAN = Look("Rauður", "Sendibíll")


class Ended:
    """A database, a folder of photos, and the ends of crawls."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder / "images"
        self.folder.mkdir()
        self.url = database_url
        self.engine = open_engine(database_url, timeout=20)
        schema.ensure(self.engine)

    def show(self, where: str, *photos: bytes, **changed: Any) -> None:
        source, external_id = where.split("/")
        images = []
        for position, data in enumerate(photos):
            digest = hashlib.sha256(data).hexdigest()
            (self.folder / f"{digest}.jpg").write_bytes(data)
            kept = {"store": "folder", "key": f"{digest}.jpg", "sha256": digest, "source_sha256": digest, "attempts": 1}
            images.append(
                CarImage(
                    identity=f"{external_id}/{position}",
                    source_url="https://x/",
                    position=position,
                    status="stored",
                    bytes=len(data),
                    **kept,
                )
            )
        facts: dict[str, Any] = {"make": "Kia", "year": 2020, "price": 990_000, "kilometers": 9_000}
        car = CarItem(source=source, external_id=external_id, url=f"u{where}", images=images, **facts | changed)
        with self.engine.begin() as connection:
            car_rows.save(connection, [car], PlaceholderRules())

    def crawl_ends(self, **settings: Any) -> dict[str, Any]:
        """Run the pipeline as after a crawl's last car; what it counted."""
        crawler = make_crawler(BilasolurSpider, DATABASE_URL=self.url, IMAGES_STORE=str(self.folder), **settings)
        return asyncio.run(self._close(crawler))

    @staticmethod
    async def _close(crawler: Crawler) -> dict[str, Any]:
        linking = LinkingPipeline.from_crawler(crawler)
        try:
            await linking.close_spider()
        finally:
            Ledger.of(crawler).close()
        prefix = "carscraper/linking/"
        return {
            name.removeprefix(prefix): n for name, n in crawler.stats.get_stats().items() if name.startswith(prefix)
        }

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with self.engine.begin() as connection:
            result = connection.exec_driver_sql(statement)
            return [tuple(row) for row in result] if result.returns_rows else []

    def links(self) -> dict[str, str]:
        join = "SELECT a.source, b.source FROM car_listings a JOIN car_listings b ON b.id = a.same_as"
        return dict(self.sql(join))

    def due(self) -> int:
        return int(self.sql("SELECT count(*) FROM car_listings WHERE link_due")[0][0])


@pytest.fixture
def ended(tmp_path: Path, sqlite_url: str) -> Iterator[Ended]:
    world = Ended(tmp_path, sqlite_url)
    yield world
    world.engine.dispose()


def photo(look: Look, view: int, w: int) -> bytes:
    return b"".join(FACTORY.photo(f"{look}/{view}", look, view, w, "jpeg")[0])


def show_one_car_twice(ended: Ended) -> None:
    ended.show("Bilasolur/7", photo(WHITE, 0, 1280), photo(WHITE, 2, 1280))
    ended.show("Hekla/1", photo(WHITE, 2, 784))
    ended.show("Brimborg/3", photo(RED_VAN, 4, 784))


def test_the_same_photo_in_two_sizes_is_found_and_each_photo_is_decoded_once(
    ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    hash_of = pipeline.perceptual_hash
    monkeypatch.setattr(pipeline, "perceptual_hash", lambda data: decoded.append(data) or hash_of(data))
    show_one_car_twice(ended)
    assert ended.crawl_ends() == {"linked": 1, "unlinked": 0, "compared": 4}
    assert ended.links() == {"Bilasolur": "Hekla"}
    assert ended.due() == 0
    assert ended.crawl_ends() == {}
    ended.sql("UPDATE car_listings SET link_due = 1")
    ended.show("Islandsbilar/4", photo(RED_VAN, 0, 400))
    assert ended.crawl_ends() == {"linked": 0, "unlinked": 0, "compared": 1}
    assert len(decoded) == 5


def test_a_database_that_is_away_costs_nothing(
    ended: Ended, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def away(*_: Any) -> Any:
        raise DatabaseUnavailableError("The database does not answer.")

    show_one_car_twice(ended)
    for question in ("read", "write"):
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, question, away)
            ended.crawl_ends()
        assert ended.due() == 3
        assert "linked by the next crawl" in caplog.text
        caplog.clear()
    assert ended.crawl_ends()["linked"] == 1
    assert caplog.text == ""


def test_without_the_extra_ids_plates_and_equal_photos_link_and_one_sentence_says_what_does_not(
    ended: Ended, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(pipeline, "_BATCH", 1)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "is_installed", lambda: False)
        ended.show("Islandsbilar/4", photo(RED_VAN, 0, 400))
        ended.show("Askja/5", photo(RED_VAN, 0, 400))
        assert ended.crawl_ends() == {"linked": 1, "unlinked": 0, "compared": 0}
        assert "carscraper[linking]" not in caplog.text
        show_one_car_twice(ended)
        assert ended.crawl_ends()["linked"] == 0
        assert caplog.text.count("pip install 'carscraper[linking]'") == 1
        assert ended.due() > 0, "they wait for the extra"
    assert ended.crawl_ends()["linked"] == 1
    assert ended.links() == {"Bilasolur": "Hekla", "Askja": "Islandsbilar"}
    assert ended.due() == 0


def test_a_store_that_is_away_leaves_only_who_waits_for_it(
    ended: Ended, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Away:
        async def get(self, name: str, *, max_bytes: int) -> bytes:
            raise StoreUnavailableError("no answer")

        async def close(self) -> None:
            pass

    show_one_car_twice(ended)
    ended.show("BR/7", photo(WHITE, 0, 1280))
    ended.show("Bilaland/8", photo(WHITE, 1, 1280), year=1999)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "build_store", lambda _: Away())
        assert ended.crawl_ends() == {"linked": 1, "unlinked": 0, "compared": 0}
    assert ended.links() == {"Bilasolur": "BR"}
    assert ended.due() == 4, "the one that nothing agrees with is done"
    assert caplog.text.count("can't be compared now") == 1
    assert ended.crawl_ends()["linked"] == 2
    assert ended.links() == {"Bilasolur": "Hekla", "BR": "Hekla"}
    assert ended.due() == 0


def test_a_crawl_compares_so_many_photos_at_most(ended: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_PHOTOS", 2)
    show_one_car_twice(ended)
    assert ended.crawl_ends()["compared"] == 2
    assert ended.due() == 3
    assert ended.crawl_ends()["compared"] == 2
    assert ended.links() == {"Bilasolur": "Hekla"}
    assert ended.due() == 0


def test_a_photo_that_is_not_there_or_none_stops_nobody(ended: Ended) -> None:
    ended.show("Bilasolur/7", b"no photo")
    ended.show("Hekla/1", photo(WHITE, 2, 784))
    for path in ended.folder.glob("*.jpg"):
        if path.read_bytes() != b"no photo":
            path.unlink()
    assert ended.crawl_ends() == {"linked": 0, "unlinked": 0, "compared": 2}
    assert ended.sql("SELECT phash FROM image_likeness") == [(None,)], "of what is gone nothing is known"
    assert ended.due() == 0


def test_of_one_site_alone_nothing_is_compared(ended: Ended) -> None:
    for number in range(4):
        ended.show(f"Bilasolur/{number}", photo(WHITE, 0, 784))
    assert ended.crawl_ends() == {}
    assert ended.due() == 0


def test_photos_that_are_kept_nowhere_are_not_looked_for(ended: Ended) -> None:
    show_one_car_twice(ended)
    crawler = make_crawler(BilasolurSpider, DATABASE_URL=ended.url, IMAGES_STORE="")
    assert asyncio.run(ended._close(crawler))["compared"] == 0
    assert ended.due() == 0


def test_it_can_be_switched_off(sqlite_url: str) -> None:
    with pytest.raises(NotConfigured):
        LinkingPipeline.from_crawler(make_crawler(BilasolurSpider, DATABASE_URL=sqlite_url, LINK_SAME_CARS="false"))


def test_a_crawl_that_failed_links_nothing(ended: Ended) -> None:
    show_one_car_twice(ended)
    crawler = make_crawler(BilasolurSpider, DATABASE_URL=ended.url, IMAGES_STORE=str(ended.folder))
    state_of(crawler).failed = "No bucket."
    assert asyncio.run(ended._close(crawler)) == {}
    assert ended.due() == 3


def test_a_usual_crawl_imports_no_numpy() -> None:
    code = (
        "import sys, carscraper.linking.pipeline, carscraper.linking.rules\n"
        "assert not {'numpy', 'scipy', 'imagehash'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
