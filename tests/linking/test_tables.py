"""Which listings are of one car: each reason, what outweighs it, and what never links two cars."""

from __future__ import annotations

from datetime import timedelta
from itertools import permutations, product
from typing import TYPE_CHECKING, Any

import pytest
from scrapy.spiderloader import SpiderLoader
from sqlalchemy import delete, update

from carscraper.base_spiders.rogg_details import RoggDetailsSpider
from carscraper.db import cars as car_rows
from carscraper.db.rules import PlaceholderRules
from carscraper.dealers import is_aggregator, siblings
from carscraper.items import CarItem, utcnow
from tests.fakes import make_settings
from tests.linking.market import USUAL, Market, changes, images, item, listings, photo

if TYPE_CHECKING:
    from typing import ClassVar


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
