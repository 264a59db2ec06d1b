"""Which listings are of one car: each reason, what outweighs it, and what never links two cars."""

from __future__ import annotations

import hashlib
import random
import re
import threading
from datetime import timedelta
from itertools import permutations, product
from typing import TYPE_CHECKING, Any

import pytest
from scrapy.spiderloader import SpiderLoader
from sqlalchemy import delete, event, insert, select, update

from carscraper.base_spiders.rogg_details import RoggDetailsSpider
from carscraper.db import cars as car_rows
from carscraper.db import photos as photo_rows
from carscraper.db import schema, work
from carscraper.db.engine import open_engine
from carscraper.db.models import CarImageRow, CarListing, ImageLikeness, PriceChange
from carscraper.db.rules import PlaceholderRules
from carscraper.dealers import is_aggregator, siblings
from carscraper.items import CarImage, CarItem, GoneCar, utcnow
from carscraper.linking import tables
from carscraper.linking.tables import Linked
from tests.fakes import make_settings
from tests.services import REPO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import ClassVar

    from sqlalchemy import Engine

listings: Any = CarListing.__table__
images: Any = CarImageRow.__table__
likeness: Any = ImageLikeness.__table__
changes: Any = PriceChange.__table__

RULES = PlaceholderRules(families=0)
USUAL: dict[str, Any] = {"make": "Toyota", "model": "RAV4", "year": 2019, "price": 2_990_000, "kilometers": 60_000}


def sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def photo(identity: str, content: str, **changed: Any) -> CarImage:
    known: dict[str, Any] = {
        "status": "stored",
        "attempts": 1,
        "store": "folder",
        "key": f"k/{content}.jpg",
        "url": f"https://img.example.is/{content}.jpg",
        "sha256": sha256(f"kept {content}"),
        "source_sha256": sha256(content),
        "bytes": 1000,
    }
    return CarImage(identity=identity, source_url=f"https://x/{identity}", **known | changed)


def item(where: str, *photos: str, **changed: Any) -> CarItem:
    """A usual car; *where* is ``SOURCE/ID``, *photos* name their bytes."""
    source, external_id = where.split("/")
    shown = [photo(f"{external_id}/{n}", content, position=n) for n, content in enumerate(photos)]
    return CarItem(
        source=source,
        external_id=external_id,
        url=f"https://{source.lower()}.is/{external_id}",
        images=shown,
        **USUAL | changed,
    )


class Market:
    """A database, and short ways to use it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def show(self, where: str, *photos: str, **changed: Any) -> None:
        self.save(item(where, *photos, **changed))

    def save(self, *items: CarItem | GoneCar) -> None:
        with self.engine.begin() as connection:
            car_rows.save(connection, list(items), RULES)

    def gone(self, where: str) -> None:
        source, external_id = where.split("/")
        self.save(GoneCar(source=source, external_id=external_id, url="x"))

    def due(self) -> list[int]:
        with self.engine.begin() as connection:
            return tables.due(connection, 0, 10_000)

    def link(self, *, batch: int = 50) -> Linked:
        linked = unlinked = last = 0
        while True:
            with self.engine.begin() as connection:
                ids = tables.due(connection, last, batch)
                if not ids:
                    return Linked(linked=linked, unlinked=unlinked)
                done = tables.link(connection, ids)
            linked, unlinked, last = linked + done.linked, unlinked + done.unlinked, ids[-1]

    def look(self, **phashes: int | None) -> None:
        """Photos look like this."""
        with self.engine.begin() as connection:
            looks = {sha256(f"kept {name}"): None if bits is None else f"{bits:016x}" for name, bits in phashes.items()}
            tables.save_hashes(connection, looks)

    def to_compare(self, *, location: str = "folder", max_bytes: int = 10**6) -> dict[str, list[str]]:
        with self.engine.begin() as connection:
            found = tables.to_compare(connection, tables.due(connection, 0, 10_000), location, max_bytes)
        names = self.names()
        return {names[row_id]: sorted(each.key[2:-4] for each in photos) for row_id, photos in found.items()}

    def names(self) -> dict[int, str]:
        with self.engine.begin() as connection:
            rows = connection.execute(select(listings.c.id, listings.c.source, listings.c.external_id))
            return {row.id: f"{row.source}/{row.external_id}" for row in rows}

    def links(self) -> dict[str, str]:
        """Listings that point to another one."""
        with self.engine.begin() as connection:
            rows = connection.execute(select(listings.c.id, listings.c.same_as)).all()
        names = self.names()
        return {names[row.id]: names[row.same_as] for row in rows if row.same_as is not None}

    def relinked(self) -> dict[str, str]:
        """The links after linking what is due; and as they stay when all is looked at again."""
        self.link()
        found = self.links()
        assert not set(found) & set(found.values()), "a chain"
        with self.engine.begin() as connection:
            connection.execute(update(listings).values(link_due=True))
        assert self.link() == Linked()
        assert self.links() == found
        assert self.due() == []
        return found


@pytest.fixture
def market(database_url: str) -> Iterator[Market]:
    engine = open_engine(database_url, timeout=20)
    schema.ensure(engine)
    yield Market(engine)
    engine.dispose()


@pytest.fixture
def quick(sqlite_url: str) -> Iterator[Market]:
    """For rules that are Python's, not the database's."""
    engine = open_engine(sqlite_url, timeout=20)
    schema.ensure(engine)
    yield Market(engine)
    engine.dispose()


def test_sites_that_share_ids_are_those_of_the_platform() -> None:
    loader = SpiderLoader.from_settings(make_settings())
    spiders: list[Any] = [loader.load(name) for name in loader.list()]
    assert {spider.source for spider in spiders if issubclass(spider, RoggDetailsSpider)} == siblings("Bilasolur")
    assert [spider.source for spider in spiders if is_aggregator(getattr(spider, "source", ""))] == ["Bilasolur"]


class TestReasons:
    def test_the_same_id_on_the_platform_whatever_else_differs(self, market: Market) -> None:
        market.show("Bilasolur/7", price=1_000_000, year=2001, make="Kia")
        market.show("BR/7")
        market.show("Henry/7", kilometers=5)
        market.show("Hekla/7")  # its ids are its own
        market.show("Bilaland/8")
        assert market.relinked() == {"Bilasolur/7": "BR/7", "Henry/7": "BR/7"}

    def test_the_same_plate(self, market: Market) -> None:
        market.show("Bilasolur/7", registration_plate="AB123", price=1_000_000)
        market.show("Hekla/1", registration_plate="AB123", year=2001)
        market.show("Brimborg/2", registration_plate="AB124")
        assert market.relinked() == {"Bilasolur/7": "Hekla/1"}

    def test_equal_bytes_of_one_photo(self, market: Market) -> None:
        market.show("Bilasolur/7", "front", "side", "rear")
        market.show("Hekla/1", "side")
        market.show("Brimborg/2", "other")
        assert market.relinked() == {"Bilasolur/7": "Hekla/1"}

    def test_photos_that_look_alike(self, market: Market) -> None:
        market.show("Bilasolur/7", "front", "side")
        market.show("Hekla/1", "small side")
        market.show("Hekla/2", "another")
        market.look(front=0x0F0F0F0F0F0F0F0F, side=0xFF00FF00FF00FF00)
        market.look(**{"small side": 0xFF00FF00FF00FF3F, "another": 0x00FF00FF00FF00FF})
        assert market.relinked() == {"Bilasolur/7": "Hekla/1"}

    def test_nine_bits_are_not_alike(self, quick: Market) -> None:
        quick.show("Bilasolur/7", "side")
        quick.show("Hekla/1", "small side")
        quick.look(**{"side": 0, "small side": 0x1FF})
        assert quick.relinked() == {}

    def test_a_spooled_photo_proves_as_much(self, quick: Market) -> None:
        spooled = {"status": "pending", "reason": "spooled"}
        quick.save(CarItem(source="Hekla", external_id="1", url="u", images=[photo("1/0", "side", **spooled)], **USUAL))
        quick.show("Bilasolur/7", "side")
        assert quick.relinked() == {"Bilasolur/7": "Hekla/1"}

    @pytest.mark.parametrize("reason", ["placeholder", "deleted", "http-404"])
    def test_a_photo_that_is_none_proves_nothing(self, quick: Market, reason: str) -> None:
        for where in ("Bilasolur/7", "Hekla/1"):
            none = item(where, "side")
            none.images[0].status, none.images[0].reason = "failed", reason
            quick.save(none)
        assert quick.relinked() == {}


class TestGroups:
    def test_the_dealers_own_is_preferred_and_of_dealers_the_first_seen(self, market: Market) -> None:
        market.show("Bilasolur/7", "a")
        market.show("BR/7", "a")
        market.link()
        assert market.links() == {"Bilasolur/7": "BR/7"}
        market.show("Hekla/1", "a")
        assert market.relinked() == {"Bilasolur/7": "BR/7", "Hekla/1": "BR/7"}
        with market.engine.begin() as connection:
            earlier = update(listings).where(listings.c.source == "Hekla")
            connection.execute(earlier.values(first_seen_at=utcnow() - timedelta(days=9), link_due=True))
        assert market.relinked() == {"Bilasolur/7": "Hekla/1", "BR/7": "Hekla/1"}

    def test_two_groups_become_one(self, market: Market) -> None:
        market.show("Bilasolur/7")
        market.show("BR/7")
        market.show("Hekla/1", registration_plate="AB123")
        market.show("Brimborg/2", registration_plate="AB123")
        market.link()
        assert market.links() == {"Bilasolur/7": "BR/7", "Brimborg/2": "Hekla/1"}
        market.show("Bilasolur/7", registration_plate="AB123")
        assert market.relinked() == {"Bilasolur/7": "BR/7", "Hekla/1": "BR/7", "Brimborg/2": "BR/7"}

    def test_the_order_of_arrival_changes_nothing_but_the_preferred_one(self, quick: Market) -> None:
        for number, order in enumerate(permutations(["Bilasolur/7", "BR/7", "Hekla/1"])):
            with quick.engine.begin() as connection:
                connection.execute(update(listings).values(same_as=None))
                connection.execute(delete(images))
                connection.execute(delete(listings))
            for where in order:
                quick.show(where, f"side {number}")
                quick.link()
            first = next(where for where in order if where != "Bilasolur/7")
            assert quick.relinked() == {where: first for where in order if where != first}

    def test_a_gone_preferred_one_makes_room_and_stays_with_its_car(self, market: Market) -> None:
        for where in ("Bilasolur/7", "BR/7", "Hekla/1"):
            market.show(where, "side")
        market.link()
        market.gone("BR/7")
        assert market.relinked() == {"Bilasolur/7": "Hekla/1", "BR/7": "Hekla/1"}
        market.gone("Hekla/1")
        assert market.relinked() == {"Hekla/1": "Bilasolur/7", "BR/7": "Bilasolur/7"}, "the aggregator's, if no other"
        market.gone("Bilasolur/7")
        assert market.relinked() == {"Hekla/1": "BR/7", "Bilasolur/7": "BR/7"}
        market.show("Hekla/1", "side")
        assert market.relinked() == {"BR/7": "Hekla/1", "Bilasolur/7": "Hekla/1"}

    def test_a_car_listed_anew_takes_the_place_of_the_old_listing(self, market: Market) -> None:
        market.show("Bilasolur/7", "side", registration_plate="AB123")
        market.show("Hekla/1", "side", registration_plate="AB123")
        market.link()
        market.gone("Hekla/1")
        market.show("Hekla/2", "side", registration_plate="AB123")
        assert market.relinked() == {"Bilasolur/7": "Hekla/2"}

    def test_what_has_no_reason_any_more_is_undone(self, market: Market) -> None:
        market.show("Bilasolur/7", "a")
        market.show("BR/7")
        market.show("Hekla/1", "a")
        market.show("Brimborg/2", registration_plate="AB123")
        market.show("Islandsbilar/3", registration_plate="AB123")
        market.link()
        assert len(market.links()) == 3
        market.show("Islandsbilar/3", registration_plate="AB999")
        with market.engine.begin() as connection:
            other = update(listings).where(listings.c.source == "BR").values(external_id="8", link_due=True)
            connection.execute(other)
        assert market.relinked() == {"Bilasolur/7": "Hekla/1"}
        market.show("Hekla/1", "a", kilometers=90_000)
        assert market.relinked() == {}


class TestFacts:
    """Of cars that show the same photo, these must agree."""

    AGREE: ClassVar[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
        "nothing differs": ({}, {}),
        "no price at either": ({"price": None}, {"price": None}),
        "an offer at one": ({"price": 2_790_000, "price_before_offer": 2_990_000}, {}),
        "without VAT at one": ({"price": 2_411_290, "price_excludes_vat": True}, {}),
        "without VAT, and the other does not say": ({"price_excludes_vat": True}, {"price_excludes_vat": False}),
        "in thousands": ({"kilometers": 60_000}, {"kilometers": 60_912}),
        "two per cent": ({"kilometers": 200_000}, {"kilometers": 203_900}),
        "distance at one": ({"kilometers": None}, {}),
        "month at one": ({"registration_month": 5}, {}),
        "model as each writes it": ({"model": "RAV4"}, {"model": "RAV 4 Hybrid GX"}),
    }
    DIFFER: ClassVar[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
        "make": ({"make": "Kia"}, {}),
        "no make": ({"make": None}, {"make": None}),
        "year": ({"year": 2018}, {}),
        "no year": ({"year": None}, {"year": None}),
        "price": ({"price": 2_980_000}, {}),
        "price at one": ({"price": None}, {}),
        "VAT at both": ({"price": 2_411_290, "price_excludes_vat": True}, {"price_excludes_vat": True}),
        "VAT of something else": ({"price": 2_300_000, "price_excludes_vat": True}, {}),
        "distance": ({"kilometers": 200_000}, {"kilometers": 204_500}),
        "month": ({"registration_month": 5}, {"registration_month": 6}),
        "plate": ({"registration_plate": "AB123"}, {"registration_plate": "AB124"}),
    }

    def test_each_fact(self, quick: Market) -> None:
        """Whichever site says which, with the same bytes and with photos that only look alike."""
        quick.look(**{"side": 0xFFFF, "small side": 0xFFFE})
        cases = [(name, facts, {"Bilasolur/7": "Hekla/1"}) for name, facts in self.AGREE.items()]
        cases += [(name, facts, {}) for name, facts in self.DIFFER.items()]
        for (name, facts, expected), (turned, shown) in product(cases, ((1, "side"), (-1, "small side"))):
            with quick.engine.begin() as connection:
                for table in (images, changes, listings):
                    connection.execute(delete(table))
            quick.show("Hekla/1", "side", **facts[::turned][0])
            quick.show("Bilasolur/7", shown, **facts[::turned][1])
            assert quick.relinked() == expected, (name, turned, shown)

    def test_a_price_that_changed_at_one_site_first(self, market: Market) -> None:
        market.show("Hekla/1", "side")
        market.show("Bilasolur/7", "side")
        market.link()
        market.show("Hekla/1", "side", price=2_590_000)
        assert market.relinked() == {"Bilasolur/7": "Hekla/1"}
        with market.engine.begin() as connection:
            connection.execute(update(changes).values(changed_at=utcnow() - timedelta(days=15)))
            connection.execute(update(listings).values(link_due=True))
        assert market.relinked() == {}
        market.show("Bilasolur/7", "side", price=2_590_000)
        assert market.relinked() == {"Bilasolur/7": "Hekla/1"}

    def test_looks_alone_are_not_enough_without_price_and_distance(self, quick: Market) -> None:
        quick.show("Hekla/1", "side", price=None, kilometers=None)
        quick.show("Bilasolur/7", "small side", price=None)
        quick.look(**{"side": 1, "small side": 1})
        assert quick.to_compare() == {}
        assert quick.relinked() == {}

    def test_two_ids_of_the_platform_are_two_cars(self, quick: Market) -> None:
        quick.show("BR/7", "side")
        quick.show("Bilasolur/8", "side")
        assert quick.relinked() == {}


class TestBrochures:
    """New cars that are alike in everything, with the maker's own pictures."""

    NEW: ClassVar[dict[str, Any]] = {"make": "Volkswagen", "year": 2026, "price": 6_990_000, "kilometers": None}

    def test_ten_alike_at_two_sites_are_not_linked(self, market: Market) -> None:
        for number in range(10):
            market.show(f"Hekla/{number}", "brochure", "wheel", **self.NEW)
            market.show(f"Bilasolur/{100 + number}", "brochure", "wheel", **self.NEW)
            market.link()
        assert market.relinked() == {}
        market.look(brochure=5, wheel=6)
        with market.engine.begin() as connection:
            connection.execute(update(listings).values(link_due=True))
        assert market.to_compare() == {}
        assert market.relinked() == {}

    def test_nor_when_each_has_its_own_price(self, quick: Market) -> None:
        for number in range(10):
            for where in (f"Hekla/{number}", f"Bilasolur/{100 + number}"):
                quick.show(where, "brochure", **self.NEW | {"price": 6_000_000 + number})
        assert quick.relinked() == {}

    def test_nor_when_the_second_site_encodes_them_anew(self, quick: Market) -> None:
        for number in range(10):
            quick.show(f"Hekla/{number}", f"brochure {number}", **self.NEW)
            quick.show(f"Bilasolur/{100 + number}", f"small brochure {number}", **self.NEW)
            quick.look(**{f"brochure {number}": 5, f"small brochure {number}": 4})
            quick.link()
        assert quick.relinked() == {}

    def test_ten_here_and_one_there(self, quick: Market) -> None:
        quick.show("Bilasolur/100", "brochure", **self.NEW)
        for number in range(10):
            quick.show(f"Hekla/{number}", "brochure", **self.NEW)
        assert quick.relinked() == {}

    def test_what_only_they_have_links_them(self, quick: Market) -> None:
        for number in range(10):
            quick.show(f"Hekla/{number}", "brochure", f"own {number}", **self.NEW)
            quick.show(f"Bilasolur/{100 + number}", "brochure", f"own {number}", **self.NEW)
        assert quick.relinked() == {f"Bilasolur/{100 + number}": f"Hekla/{number}" for number in range(10)}

    def test_a_link_is_undone_when_it_shows_that_it_was_a_brochure(self, market: Market) -> None:
        market.show("Hekla/1", "brochure", **self.NEW)
        market.show("Bilasolur/7", "brochure", **self.NEW)
        market.link()
        assert market.links() == {"Bilasolur/7": "Hekla/1"}
        market.show("Hekla/2", "brochure", **self.NEW)
        assert market.relinked() == {}
        market.gone("Hekla/2")
        assert market.relinked() == {"Bilasolur/7": "Hekla/1"}

    def test_even_when_dozens_come_at_once(self, quick: Market) -> None:
        quick.show("Hekla/1", "brochure", **self.NEW)
        quick.show("Bilasolur/7", "brochure", **self.NEW)
        quick.link()
        for number in range(60):
            quick.show(f"Brimborg/{number}", "brochure", **self.NEW)
        assert quick.relinked() == {}

    def test_two_cars_of_one_site_are_never_one(self, market: Market) -> None:
        market.show("Hekla/1", "a", registration_plate="AB123")
        market.show("Hekla/2", "a", registration_plate="AB123")
        market.show("Bilasolur/7", "a", registration_plate="AB123")
        market.show("Brimborg/3", "b")
        market.show("Brimborg/4", "c")
        market.show("Islandsbilar/5", "b", "c")
        market.look(b=1, c=1)
        assert market.relinked() == {}

    def test_nor_by_way_of_a_third(self, market: Market) -> None:
        market.show("Hekla/1", "a")
        market.show("Bilasolur/7", "a", "b")
        market.show("Brimborg/3", "b", "c")
        market.show("Hekla/2", "c")
        assert market.relinked() == {}

    def test_a_placeholder_that_is_found_later_undoes_its_links(self, quick: Market) -> None:
        quick.show("Hekla/1", "logo")
        quick.show("Bilasolur/7", "logo")
        assert quick.relinked() == {"Bilasolur/7": "Hekla/1"}
        with quick.engine.begin() as connection:
            others = [item(f"Brimborg/{n}", "logo", make=make) for n, make in enumerate(("Kia", "Ford"))]
            car_rows.save(connection, others, PlaceholderRules(families=3))
        assert quick.relinked() == {}


class TestComparing:
    def test_only_candidates_and_each_photo_once(self, market: Market) -> None:
        market.show("Hekla/1", *(f"h{n}" for n in range(15)))
        market.show("Bilasolur/7", "b1", "b2")
        market.show("Bilasolur/8", "c1", price=1)
        market.show("Brimborg/2", "equal")
        market.show("Islandsbilar/3", "equal", year=2007)
        market.show("Hekla/4", "d1", year=2007)
        shown = [f"h{n}" for n in range(12)]
        expected = {
            "Hekla/1": sorted([*shown, "b1", "b2", "equal"]),
            "Bilasolur/7": sorted([*shown, "b1", "b2", "equal"]),
            "Brimborg/2": sorted([*shown, "b1", "b2", "equal"]),
            "Islandsbilar/3": ["d1", "equal"],
            "Hekla/4": ["d1", "equal"],
        }
        assert market.to_compare() == expected
        assert market.to_compare(location="s3://b") == {}
        assert market.to_compare(max_bytes=999) == {}
        market.look(**dict.fromkeys(shown, 0), b1=None)
        assert market.to_compare()["Hekla/1"] == ["b2", "equal"]

    def test_what_is_linked_is_not_compared(self, quick: Market) -> None:
        quick.show("Hekla/1", "a", "h")
        quick.show("Bilasolur/7", "a", "b")
        quick.show("BR/7", "r")
        assert quick.to_compare() == {}

    def test_a_car_that_waits_for_its_photos_stays_due(self, quick: Market) -> None:
        quick.show("Hekla/1", "h")
        quick.show("Bilasolur/7", "b")
        hekla, bilasolur = quick.due()
        with quick.engine.begin() as connection:
            tables.link(connection, [hekla, bilasolur], frozenset({bilasolur}))
        assert quick.due() == [bilasolur]


class TestDue:
    def test_a_crawl_that_changes_nothing_makes_nothing_due(self, market: Market) -> None:
        market.show("Hekla/1", "a", card_hash="x")
        market.show("Bilasolur/7", "a", registration_plate="AB123")
        market.link()
        market.save(item("Hekla/1", unchanged=True))
        again = item("Bilasolur/7", "a", description="new words", price_excludes_vat=None)
        again.images[0].attempts = 0
        market.save(again)
        assert market.due() == []

    def test_what_may_matter_does(self, quick: Market) -> None:
        changes_ = ({"price": 1}, {"year": 2018}, {"kilometers": 1}, {"registration_plate": "AB124"}, {"make": "Kia"})
        for number, change in enumerate(changes_):
            quick.show(f"Hekla/{number}", "a")
            quick.link()
            again = item(f"Hekla/{number}", "a", **change)
            again.images[0].attempts = 0
            quick.save(again)
            assert len(quick.due()) == 1, change
            quick.link()

    def test_so_does_a_photo_a_departure_and_a_return(self, market: Market) -> None:
        market.show("Hekla/1", "a")
        market.link()
        market.show("Hekla/1", "a", "b")
        assert len(market.due()) == 1
        market.link()
        market.gone("Hekla/1")
        assert len(market.due()) == 1
        market.link()
        market.save(item("Hekla/1", unchanged=True))
        assert len(market.due()) == 1
        market.link()
        with market.engine.begin() as connection:
            assert photo_rows.unspooled(connection, "Hekla", "1", photo("1/0", "a"), RULES)
        assert len(market.due()) == 1

    def test_rows_without_an_id_are_left_alone(self, quick: Market) -> None:
        with quick.engine.begin() as connection:
            connection.execute(insert(listings).values(source="Hekla", url="u", registration_plate="AB123"))
            connection.execute(insert(listings).values(external_id="9", url="v", registration_plate="AB123"))
        quick.show("Bilasolur/7", registration_plate="AB123")
        assert len(quick.due()) == 1
        assert quick.relinked() == {}

    def test_where_there_is_one_site_only_nothing_is_looked_at(self, market: Market) -> None:
        for number in range(5):
            market.show(f"Bilasolur/{number}", "a")
        with market.engine.begin() as connection:
            assert [tables.settle_alone(connection, 3) for _ in range(3)] == [3, 2, 0]
        assert market.due() == []
        market.show("Hekla/1")
        with market.engine.begin() as connection:
            assert tables.settle_alone(connection, 3) is None

    def test_after_the_upgrade_every_car_is_due(self, quick: Market) -> None:
        with quick.engine.begin() as connection:
            connection.execute(insert(listings).values(source="BR", external_id="5", url="u"))
        assert len(quick.due()) == 1


class TestSiblingsPhotos:
    """A photo of another site with the same ids is had already."""

    @staticmethod
    def known(market: Market, *cars: str, siblings: bool = True) -> list[dict[str, Any]]:
        with market.engine.begin() as connection:
            asked = [(where.split("/")[0], where.split("/")[1]) for where in cars]
            return (photo_rows.known_with_siblings if siblings else photo_rows.known)(connection, asked)

    def test_stored_there_is_stored_here(self, market: Market) -> None:
        market.show("Bilasolur/7", "a", "b")
        market.show("Hekla/7", "c")
        market.show("Bilasolur/9", "d")
        br, hekla, both = self.known(market, "BR/7", "Hekla/7", "Bilasolur/9")
        assert {name: (each.image.key, each.due) for name, each in br.items()} == {
            "7/0": ("k/a.jpg", False),
            "7/1": ("k/b.jpg", False),
        }
        assert [each.image.key for each in hekla.values()] == ["k/c.jpg"]
        assert list(both) == ["9/0"]
        assert self.known(market, "BR/7", siblings=False) == [{}]
        with market.engine.begin() as connection:
            (row_id,) = connection.execute(select(listings.c.id).where(listings.c.external_id == "9")).scalars()
            (car,) = work.known_cars(connection, [row_id])
        assert list(car.images) == ["9/0"]

    def test_what_failed_there_is_asked_for_here_and_the_other_way_round(self, quick: Market) -> None:
        broken = item("Bilasolur/7", "a", "b")
        broken.images[0].status, broken.images[0].reason = "failed", "http-404"
        quick.save(broken)
        assert list(self.known(quick, "BR/7")[0]) == ["7/1"]
        mine = item("BR/7", "a", "b")
        mine.images[1].status, mine.images[1].reason = "failed", "truncated"
        quick.save(mine)
        assert {name: each.image.status for name, each in self.known(quick, "BR/7")[0].items()} == {
            "7/0": "stored",
            "7/1": "stored",
        }

    def test_deleted_on_request_holds_for_all(self, quick: Market) -> None:
        quick.show("Henry/7", "a")
        gone = item("Bilasolur/7", "a")
        gone.images[0].status, gone.images[0].reason = "failed", "deleted"
        quick.save(gone)
        assert self.known(quick, "BR/7")[0]["7/0"].image.reason == "deleted"
        assert self.known(quick, "Henry/7")[0]["7/0"].image.status == "stored"

    def test_only_an_identity_of_the_platform(self, quick: Market) -> None:
        other = item("Bilasolur/7", "a")
        other.images[0].identity = "url:abc"
        quick.save(other)
        assert self.known(quick, "BR/7") == [{}]

    def test_it_costs_no_further_question(self, market: Market) -> None:
        def count(cars: list[tuple[str, str]], *, siblings: bool) -> int:
            asked = []
            with market.engine.begin() as connection:
                event.listen(connection, "before_cursor_execute", lambda *_: asked.append(1))
                (photo_rows.known_with_siblings if siblings else photo_rows.known)(connection, cars)
            return len(asked)

        cars = [("BR", str(number)) for number in range(300)]
        assert count(cars, siblings=True) == count(cars, siblings=False) == 1

    @pytest.mark.parametrize("siblings", [False, True])
    def test_sqlite_takes_the_index(self, quick: Market, siblings: bool) -> None:
        plans = []

        def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[3] for row in cursor.fetchall())

        with quick.engine.begin() as connection:
            event.listen(connection, "before_cursor_execute", explain)
            known = photo_rows.known_with_siblings if siblings else photo_rows.known
            known(connection, [("BR", "1"), ("BR", "2")])
        assert not [plan for plan in plans if plan.startswith("SCAN")], plans


def test_what_the_documentation_says_to_ask_for(market: Market) -> None:
    market.show("Bilasolur/7", "a", "b")
    market.show("BR/7", "a", "c", "d")
    market.show("Hekla/1", "e")
    market.show("Hekla/2", "f")
    market.gone("Hekla/2")
    market.link()
    document = (REPO / "docs" / "one-car-many-sites.md").read_text("utf-8")
    with market.engine.begin() as connection:
        answers = [
            connection.exec_driver_sql(each).mappings().all()
            for each in re.findall("```sql(.*?)```", document, re.DOTALL)
        ]
    names = market.names()
    cars, photos, best, offers = answers
    assert sorted(names[row["id"]] for row in cars) == ["BR/7", "Hekla/1"]
    assert sorted(names[row["car_id"]] for row in photos) == ["BR/7"] * 4 + ["Hekla/1", "Hekla/2"]
    assert sorted(names[row["listing_id"]] for row in best) == ["BR/7", "Hekla/1", "Hekla/2"]
    assert sorted((names[row["car_id"]], row["source"]) for row in offers) == [
        ("BR/7", "BR"),
        ("BR/7", "Bilasolur"),
        ("Hekla/1", "Hekla"),
    ]


def test_no_question_reads_a_whole_table(quick: Market) -> None:
    """With 100,000 listings a crawl's end must cost what it costs with 100."""
    for number in range(30):
        quick.show(f"Bilasolur/{number}", f"a{number}", "x", registration_plate=f"AB{number:03}")
        quick.show(f"Hekla/{number}", f"b{number}", f"a{number}")
        quick.show(f"Brimborg/{number}", f"c{number}")
        quick.look(**{f"{kind}{number}": number for kind in "abc"})
    plans = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: Any) -> None:
        if not many and statement.startswith(("SELECT", "UPDATE")):
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend((row[3], statement) for row in cursor.fetchall())

    with quick.engine.begin() as connection:
        event.listen(connection, "before_cursor_execute", explain)
        ids = tables.due(connection, 0, 20)
        tables.to_compare(connection, ids, "folder", 10**6)
        tables.link(connection, ids)
        tables.settle_alone(connection, 5)
    scans = [each for each in plans if each[0].startswith("SCAN") and "car_" in each[0] and "USING" not in each[0]]
    assert scans == []
    assert any("ix_car_listings_make_year" in plan for plan, _ in plans)
    assert any("ix_car_listings_link_due" in plan for plan, _ in plans)
    assert any("ix_car_listings_registration_plate" in plan for plan, _ in plans)
    assert any("ix_car_listings_same_as" in plan for plan, _ in plans)


def test_two_linkings_and_two_writers_at_once(market: Market) -> None:
    """No deadlock that anybody sees, no double link, and nothing is left out."""
    cars = 60
    errors: list[Exception] = []
    finished = threading.Event()

    def write(source: str, seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(3):
            numbers = dice.sample(range(cars), cars)
            for start in range(0, cars, 15):
                own = [item(f"{source}/{number}", f"p{number}") for number in numbers[start : start + 15]]
                run(lambda connection, own=own: car_rows.save(connection, own, RULES))

    def link() -> None:
        while not finished.is_set():
            run(lambda connection: tables.link(connection, tables.due(connection, 0, 20)))

    def run(what: Any) -> None:
        try:
            with market.engine.begin() as connection:
                what(connection)
        except Exception as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=each) for each in (("Bilasolur", 1), ("BR", 2))]
    linkers = [threading.Thread(target=link) for _ in range(2)]
    for thread in writers + linkers:
        thread.start()
    for thread in writers:
        thread.join()
    finished.set()
    for thread in linkers:
        thread.join()
    assert errors == []
    links = market.relinked()
    assert len(links) == cars
    assert all(one.split("/")[1] == other.split("/")[1] for one, other in links.items())
