"""``scrapy checkdealers``: a changed page shows as fields that fell against the last good crawl."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy

from carscraper.base_spiders.cards import CardSpider
from carscraper.db import field_coverage as stored
from carscraper.db import schema
from carscraper.db.engine import open_engine
from carscraper.field_coverage import Drop, FieldCoverage, drops, where_read
from carscraper.items import CarImage, CarItem
from carscraper.maintenance.checkdealers import accept_all, check_dealer
from carscraper.spiders.bilaland import BilalandSpider
from carscraper.spiders.bilasolur import BilasolurSpider
from carscraper.spiders.hekla import HeklaSpider
from carscraper.spiders.henry import HenrySpider
from tests import services
from tests.cli.used_cars import CARD, UsedCars
from tests.commands import Said, call
from tests.dealers.bilasolur import SimulatedBilasolur

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

FAST = {"DOWNLOAD_DELAY": 0, "AUTOTHROTTLE_ENABLED": "false", "RETRY_BACKOFF": 0, "RETRY_TIMES": 0, "IMAGES_STORE": ""}
DAY = datetime.fromisoformat("2026-02-01T03:00:00")


# --- real crawls ------------------------------------------------------------------------------------------------


@pytest.fixture
def checkdealers(capsys: pytest.CaptureFixture[str], sqlite_url: str) -> Callable[..., Said]:
    """The command in this process, which is quicker."""

    def run(*words: str, code: int) -> Said:
        return call("checkdealers", *words, settings={"DATABASE_URL": sqlite_url}, capsys=capsys, code=code)

    return run


class Dealer:
    """A dealer, its crawls, and what the command says of them."""

    def __init__(self, name: str, url: str, folder: Path, database_url: str, command: Callable[..., Said]) -> None:
        self.name = name
        self._url = url
        self._folder = folder
        self._database_url = database_url
        self._command = command

    def crawl(self, *, code: int = 0, **arguments: Any) -> services.CompletedCrawl:
        done = services.crawl(
            self.name,
            cwd=self._folder,
            env={"DATABASE_URL": self._database_url},
            settings=FAST,
            spider_arguments={"base_url": self._url} | arguments,
            alone=False,
        )
        assert done.returncode == code, done
        assert "Traceback" not in done.stderr, done
        return done

    def say(self, *words: str, code: int) -> Said:
        return self._command("--sources", self.name, *words, code=code)

    def check(self, *words: str, code: int) -> dict[str, Any]:
        (found,) = json.loads(self.say(*words, "--json", code=code).out)["dealers"]
        return dict(found)


def test_a_changed_page_shows_until_it_is_mended_or_accepted(
    tmp_path: Path, sqlite_url: str, checkdealers: Callable[..., Said]
) -> None:
    with UsedCars(cars=8) as site:
        hekla = Dealer("hekla", site.base_url, tmp_path, sqlite_url, checkdealers)
        hekla.crawl()
        first = hekla.check(code=4)
        assert (first["before"], first["dropped"]) == (None, [])
        assert first["now"]["fields"] == {
            **dict.fromkeys(("readable", "title", "make", "model", "year", "registration_month"), 100.0),
            **dict.fromkeys(("price", "kilometers", "fuel", "photo"), 100.0),
            **dict.fromkeys(("transmission", "drivetrain", "dealer_id"), 0.0),
            "photos_per_car": 1.0,
        }
        assert (first["now"]["cars"], first["now"]["pages"], first["now"]["good"]) == (8, 0, True)

        site.card = CARD.replace("6.290.000 kr.", "hafið samband")
        for _ in range(2):  # a broken crawl is not what the next one is measured by
            hekla.crawl(code=3)
            found = hekla.check(code=3)
            (dropped,) = found["dropped"]
            assert (dropped["field"], dropped["before"], dropped["now"]) == ("price", 100.0, 0.0)
            assert dropped["see"] == "get_price of HeklaSpider in base_spiders/cards.py"
            assert (found["now"]["complete"], found["now"]["good"], found["before"]["good"]) == (True, False, True)
        said = hekla.say(code=3)
        assert "hekla: price fell from 100 % to 0 %: see get_price of HeklaSpider in base_spiders/cards.py" in said.out
        assert "hekla: 0 of 8 cars have price (0 %), at least 85 % are expected: see get_price of Hekla" in said.out
        assert "0 (was 100)" in said.out

        site.card = CARD.replace("notadir-bilar", "annad")  # no link is where it was
        done = hekla.crawl(code=4)
        found = hekla.check(code=3)
        assert (found["now"]["complete"], found["now"]["good"], found["now"]["cars"]) == (False, False, 0)
        assert found["now"]["why"] in done.stderr
        assert "a[href*='/bilar/notadir-bilar/view/']" in found["now"]["why"], "the missing selector is named"
        assert hekla.say("--accept", code=3).out, "a failed crawl is no measure"

        site.card = CARD.replace("12.2023", "2023")
        hekla.crawl(code=3)
        assert [each["field"] for each in hekla.check(code=3)["dropped"]] == ["registration_month"]
        hekla.say("--accept", code=0)
        hekla.crawl()
        assert hekla.check(code=0)["dropped"] == []


def test_a_second_crawl_that_reads_no_details_is_no_change(
    tmp_path: Path, sqlite_url: str, checkdealers: Callable[..., Said]
) -> None:
    """Cards and cars' own pages are counted apart; crawls of a part are compared and never become the measure."""
    with SimulatedBilasolur(cars=12, photos=2) as site:
        bilasolur = Dealer("bilasolur", site.base_url, tmp_path, sqlite_url, checkdealers)
        bilasolur.crawl()
        first = bilasolur.check(code=4)["now"]
        assert (first["cars"], first["pages"], first["good"]) == (12, 12, True)
        assert first["fields"]["page.horsepower"] == 100.0
        assert first["fields"]["page.photos_per_car"] == 2.0
        bilasolur.crawl()
        found = bilasolur.check(code=0)
        assert (found["now"]["cars"], found["now"]["pages"], found["now"]["good"]) == (12, 0, True)
        assert "page.horsepower" not in found["now"]["fields"]
        of_cards = {name: share for name, share in first["fields"].items() if not name.startswith("page.")}
        assert found["now"]["fields"] == of_cards
        bilasolur.crawl(limit=6)
        found = bilasolur.check(code=0)
        assert (found["now"]["cars"], found["now"]["complete"], found["now"]["good"]) == (6, False, False)
        assert (found["before"]["cars"], found["before"]["good"]) == (12, True)
    bilasolur.crawl(code=4)  # away
    assert "can't be reached" in bilasolur.check(code=3)["now"]["why"]


def test_the_command_before_any_crawl(tmp_path: Path, sqlite_url: str) -> None:
    env = {"DATABASE_URL": sqlite_url}
    done = services.run_scrapy("checkdealers", cwd=tmp_path, env=env, alone=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert "run a crawl first" in done.stderr
    done = services.run_scrapy("checkdealers", "--sources", "bmw", cwd=tmp_path, env=env, alone=False)
    assert done.returncode == 4
    assert done.stderr.startswith("--sources names bmw, which is no dealer here; known are ")
    assert services.run_scrapy("database", "upgrade", cwd=tmp_path, env=env, alone=False).returncode == 0
    done = services.run_scrapy("checkdealers", cwd=tmp_path, env=env, alone=False)
    assert done.returncode == 4
    assert "hekla: no crawl yet" in done.stdout
    assert done.stderr == "Nothing to compare: no dealer has a good crawl before its last one.\n"


# --- counting ---------------------------------------------------------------------------------------------------


def car(number: int = 1, **values: Any) -> CarItem:
    return CarItem(source="X", external_id=str(number), url=f"https://x.is/{number}", **values)


def test_what_is_counted() -> None:
    coverage = FieldCoverage()
    photos = [CarImage(identity=f"1/{n}", source_url="u") for n in range(3)]
    coverage.add_card(car(price=0, make="Kia", images=photos))
    coverage.add_card(car(kilometers=0))
    coverage.add_page(car(colour="blár", images=photos))
    shares = coverage.shares()
    assert (shares["price"], shares["make"], shares["kilometers"], shares["year"]) == (50.0, 50.0, 50.0, 0.0)
    assert (shares["photo"], shares["photos_per_car"]) == (50.0, 1.5)
    assert (shares["page.colour"], shares["page.doors"], shares["page.photos_per_car"]) == (100.0, 0.0, 3.0)
    assert FieldCoverage().shares() == {}
    assert FieldCoverage(0, 0, {"unreadable": 3}).shares() == {"readable": 0.0}


FALLEN: list[tuple[FieldCoverage, FieldCoverage, float, list[str]]] = [
    (FieldCoverage(9999, 0, {"price": 9999}), FieldCoverage(9999, 0, {"price": 8010}), 20, []),
    (FieldCoverage(9999, 0, {"price": 9999}), FieldCoverage(9999, 0, {"price": 8010}), 19, ["price"]),
    (FieldCoverage(10, 0, {"price": 10}), FieldCoverage(10, 0, {"price": 5}), 20, []),  # by chance, with so few
    (FieldCoverage(10, 0, {"price": 10}), FieldCoverage(10, 0, {"price": 3}), 20, ["price"]),
    (FieldCoverage(10, 0, {"price": 5}), FieldCoverage(10, 0, {"price": 10}), 20, []),
    (FieldCoverage(5, 0, {"price": 5}), FieldCoverage(5, 0, {}), 20, ["price"]),
    (FieldCoverage(10, 0, {"price": 10}), FieldCoverage(4, 0, {"price": 0}), 20, []),
    (FieldCoverage(9999, 0, {"photos": 99990}), FieldCoverage(9999, 0, {"photos": 70000}), 20, ["photos_per_car"]),
    (FieldCoverage(9999, 0, {"photos": 99990}), FieldCoverage(9999, 0, {"photos": 81000}), 20, []),
    (FieldCoverage(10, 0, {"photos": 100}), FieldCoverage(10, 0, {"photos": 60}), 20, []),
    (FieldCoverage(10, 0, {"photos": 100}), FieldCoverage(10, 0, {"photos": 10}), 20, ["photos_per_car"]),
    (FieldCoverage(10, 10, {"page.doors": 10}), FieldCoverage(10, 0, {}), 20, []),
    (FieldCoverage(10, 10, {"page.doors": 10}), FieldCoverage(10, 9, {"page.doors": 0}), 20, ["page.doors"]),
    (FieldCoverage(10, 0, {}), FieldCoverage(3, 0, {"unreadable": 9}), 20, ["readable"]),
    # What the cards lost and the own pages show did not fall; what only the ledger has did.
    (FieldCoverage(9, 0, {"fuel": 9}), FieldCoverage(9, 9, {"fuel": 0, "scraped": 9, "car.fuel": 9}), 20, []),
    (FieldCoverage(9, 0, {"fuel": 9}), FieldCoverage(9, 0, {"fuel": 0, "scraped": 9, "ledger.fuel": 9}), 20, ["fuel"]),
    (FieldCoverage(9, 0, {"photos": 90}), FieldCoverage(9, 9, {"photos": 9, "scraped": 9, "car.photos": 90}), 20, []),
]


def test_what_fell() -> None:
    for before, now, points, fallen in FALLEN:
        assert [each.name for each in drops(before, now, points)] == fallen, (before, now, points)


# --- what is kept -------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url, timeout=20)
    schema.upgrade(engine)
    yield engine
    engine.dispose()


def test_only_a_good_crawl_is_a_measure(engine: Engine) -> None:
    def save(
        day: int, price: int, *, complete: bool = True, good: bool = True, why: str | None = None, source: str = "Hekla"
    ) -> bool:
        record = stored.Record(
            source=source,
            finished_at=DAY + timedelta(days=day),
            coverage=FieldCoverage(10, 0, {"price": price}),
            complete=complete,
            why=why,
            good=good,
        )
        with engine.begin() as connection:
            fallen = stored.write_coverage(connection, record)
            last = stored.last(connection, source)
        assert last is not None
        assert [each.name for each in fallen] == (["price"] if price in {1, 3} and day != 6 else [])
        return last.good

    assert not save(-1, 10, good=False), "its cars lack what is expected"
    assert save(0, 10)
    assert not save(1, 10, complete=False, why="No form.")
    assert not save(2, 3)
    assert save(3, 9)
    assert not save(4, 1)
    assert save(5, 0, source="Brimborg"), "each dealer has a measure of its own"
    with engine.begin() as connection:
        found = check_dealer(connection, "hekla", HeklaSpider, expected={})
        assert found.now is not None
        assert found.before is not None
        assert (found.now.finished_at, found.before.finished_at) == (DAY + timedelta(days=4), DAY + timedelta(days=3))
        assert [drop for drop, _ in found.fallen] == [Drop("price", 90.0, 10.0)]
        assert accept_all(connection, [found]) == ["hekla"]
    assert save(6, 1), "what was accepted is the measure"
    with engine.begin() as connection:
        assert check_dealer(connection, "x", BilasolurSpider, expected={}).now is None


def test_a_database_that_refuses_at_the_end_costs_the_numbers_only(
    tmp_path: Path, sqlite_url: str, checkdealers: Callable[..., Said]
) -> None:
    with UsedCars(cars=3) as site:
        hekla = Dealer("hekla", site.base_url, tmp_path, sqlite_url, checkdealers)
        hekla.crawl()
        engine = sqlalchemy.create_engine(sqlite_url, poolclass=sqlalchemy.NullPool)
        with engine.begin() as connection:
            # The crawl opens, as the table is there (without it that ends with exit code 4), and can't write to it.
            refuse = "CREATE TRIGGER full BEFORE INSERT ON dealer_fill BEGIN SELECT RAISE(ABORT, 'disk full'); END"
            connection.execute(sqlalchemy.text(refuse))
        done = hekla.crawl()
        (warning,) = done.lines("WARNING: What could be read of the cars is not written")
        assert "disk full" in warning
        assert "3 cars" in done.stderr.splitlines()[-1]


# --- where a field is read ------------------------------------------------------------------------------------------


def test_where_a_field_is_read() -> None:
    places: list[tuple[type, str, str]] = [
        (HeklaSpider, "price", "get_price of HeklaSpider in base_spiders/cards.py"),
        (HeklaSpider, "kilometers", "get_kilometers of HeklaSpider in spiders/hekla.py"),
        (HeklaSpider, "photo", "card_images of HeklaSpider in base_spiders/cards.py, card_images = 'img'"),
        (BilasolurSpider, "price", "get_price of BilasolurSpider in base_spiders/rogg.py, card_price = '.car-price'"),
        (BilasolurSpider, "page.colour", "parse_details of BilasolurSpider in base_spiders/rogg_details.py"),
        (BilasolurSpider, "page.photo", "details_images of BilasolurSpider in base_spiders/rogg_details.py"),
        (BilalandSpider, "fuel", "card_facts = '.sr-item-info .sr-item-wrapper'"),
        (HenrySpider, "price", "read_card of HenrySpider in base_spiders/feed.py"),
        (CardSpider, "no-such-field", "read_card of CardSpider in base_spiders/cards.py"),
    ]
    for spider, field, place in places:
        assert place in where_read(spider, field), (spider, field)
