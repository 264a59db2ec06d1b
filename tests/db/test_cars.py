"""The cars' rows over both databases: what a save may change, and what it must never."""

from __future__ import annotations

import dataclasses
import threading
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from carscraper.db import cars as car_rows
from carscraper.db import photos as photo_rows
from carscraper.db import rules
from carscraper.db.opening import Saved
from carscraper.items import CarItem, GoneCar
from tests.db.ledger import (
    FULL,
    OFF,
    SOURCE,
    Ledger,
    car,
    images,
    listings,
    price_changes,
    recently,
    stored,
    url_of,
)

if TYPE_CHECKING:
    pass


class TestCar:
    def test_every_field_is_written(self, ledger: Ledger) -> None:
        assert ledger.save(car(**FULL)) == [Saved(created=True)]
        row = ledger.row()
        assert {name: getattr(row, name) for name in FULL} == FULL
        named = {field.name for field in dataclasses.fields(CarItem)}
        assert named - set(FULL) == {
            *("source", "external_id", "url", "images", "image_urls"),
            *("unchanged", "seen", "gone", "listing_id", "news", "imported", "shows_all"),  # about this run only
        }
        assert (row.source, row.external_id, row.url) == (SOURCE, "1", url_of("1"))
        assert row.is_active
        assert all(map(recently, (row.first_seen_at, row.last_seen_at, row.scraped_at)))

    def test_none_overwrites_nothing(self, ledger: Ledger) -> None:
        ledger.save(car(**FULL))
        assert ledger.save(car()) == [Saved()]
        row = ledger.row()
        kept = FULL | {"card_hash": None}  # but for this: the next crawl reads the details again
        assert {name: getattr(row, name) for name in kept} == kept

    def test_a_card_that_changes_and_changes_back_is_read_again(self, ledger: Ledger) -> None:
        """Between the two its details page did not come: what the second card said is only half written."""
        ledger.save(car(card_hash="first", price=1_000_000))
        ledger.save(car(card_hash=None, price=900_000))
        state = ledger.ask(car_rows.card_states, SOURCE, ["1"])["1"]
        assert not state.shows("first", url_of("1"))

    def test_a_new_value_overwrites(self, ledger: Ledger) -> None:
        ledger.save(car(**FULL))
        ledger.change(listings, first_seen_at=datetime(2020, 1, 1))  # noqa: DTZ001
        changed = {"title": "x", "kilometers": 46_000, "year": 2020, "card_hash": "cd", "colour": "blár"}
        ledger.save(car(**changed))
        row = ledger.row()
        assert {name: getattr(row, name) for name in changed} == changed
        assert row.first_seen_at.year == 2020
        assert recently(row.last_seen_at)

    def test_hostile_text_is_text(self, ledger: Ledger) -> None:
        hostile = "'); DROP TABLE car_listings; --\n%s {0} \\ \U0001f697"
        ledger.save(car(title=hostile, make=hostile, model=hostile * 100))
        assert ledger.row().model == hostile * 100

    def test_what_is_told_of_a_known_car_is_new_or_not(self, ledger: Ledger) -> None:
        ledger.save(car(**FULL))
        later = datetime(2026, 3, 3)  # noqa: DTZ001 - as the tables hold it
        cases: list[tuple[dict[str, Any], bool]] = [
            ({}, False),
            ({"details_at": later}, False),
            ({"card_hash": "cd"}, True),
            ({"kilometers": FULL["kilometers"] + 1}, True),
            ({"kilometers": FULL["kilometers"] + 1}, False),
            ({"kilometers": None, "price": None}, False),
            ({"price_before_offer": 9_000_000}, True),
            ({"images": [stored("1/1")]}, False),
            ({"kilometers": 1, "seen": False}, False),
        ]
        told = dict(FULL)
        for changes, changed in cases:
            told |= {name: value for name, value in changes.items() if value is not None and name != "seen"}
            (saved,) = ledger.save(car(**{**told, **changes}))
            assert saved.changed is changed, changes

    def test_results_are_in_the_items_order(self, ledger: Ledger) -> None:
        ledger.save(car("5", price=1))
        saved = ledger.save(car("9"), car("5", price=2), GoneCar(source=SOURCE, external_id="5", url="u"), car("1"))
        assert saved == [
            Saved(created=True),
            Saved(changed=True, price_changed=True),
            Saved(changed=True),
            Saved(created=True),
        ]

    def test_the_same_car_twice_in_one_group(self, ledger: Ledger) -> None:
        saved = ledger.save(
            car(price=3_000_000, title="old", images=[stored("1/1")]),
            car("2"),
            car(price=2_900_000, images=[stored("1/1"), stored("1/2")]),
        )
        assert saved == [Saved(created=True), Saved(created=True), Saved(changed=True, price_changed=True)]
        row = ledger.row(external_id="1")
        assert (row.price, row.title) == (2_900_000, "old")
        assert [image.identity for image in ledger.rows(images)] == ["1/1", "1/2"]
        assert len(ledger.rows(price_changes)) == 1

    def test_the_same_id_at_two_sources_is_two_cars(self, ledger: Ledger) -> None:
        ledger.save(car(), car(source="BR", url="https://br.is/CarDetails.aspx?cid=1"))
        assert len(ledger.rows()) == 2

    def test_more_cars_than_one_list_of_values_takes(self, ledger: Ledger) -> None:
        cars = [car(str(n), images=[stored(f"{n}/1")]) for n in range(rules._CHUNK * 2 + 5)]
        saved = ledger.save(*cars, rules=OFF)
        assert all(each.created for each in saved)
        assert len(ledger.rows()) == len(ledger.rows(images)) == len(cars)
        ids = [each.external_id for each in cars]
        assert set(ledger.ask(car_rows.card_states, SOURCE, ids)) == set(ids)
        assert all(ledger.ask(photo_rows.known, [(SOURCE, each) for each in ids]))


class TestPrice:
    def test_a_change_is_noted(self, ledger: Ledger) -> None:
        ledger.save(car(price=3_000_000))
        assert ledger.save(car(price=2_800_000)) == [Saved(changed=True, price_changed=True)]
        assert ledger.save(car(price=2_800_000)) == [Saved()]
        change = ledger.row(price_changes)
        assert (change.listing_id, change.old_price, change.new_price) == (ledger.row().id, 3_000_000, 2_800_000)
        assert recently(change.changed_at)

    @pytest.mark.parametrize(("before", "after"), [(None, 3_000_000), (3_000_000, None), (None, None)])
    def test_an_unknown_price_is_no_change(self, ledger: Ledger, before: int | None, after: int | None) -> None:
        ledger.save(car(price=before))
        assert ledger.save(car(price=after)) == [Saved(changed=after is not None)]
        assert ledger.rows(price_changes) == []
        assert ledger.row().price == (after or before)

    def test_an_offer_stays_until_a_price_comes_without_it(self, ledger: Ledger) -> None:
        offer = {"price": 2_800_000, "price_before_offer": 3_000_000, "price_excludes_vat": True}
        ledger.save(car(**offer))
        for seen, left in (({}, (3_000_000, True)), ({"price": 2_800_000}, (None, None))):
            ledger.save(car(**seen))
            row = ledger.row()
            assert (row.price, row.price_before_offer, row.price_excludes_vat) == (2_800_000, *left)

    def test_prices_beyond_32_bits(self, ledger: Ledger) -> None:
        ledger.save(car(price=5_000_000_000))
        ledger.save(car(price=6_000_000_000))
        assert ledger.row(price_changes).new_price == 6_000_000_000


class TestAddress:
    def test_an_old_row_without_an_id_is_adopted(self, ledger: Ledger) -> None:
        old = ledger.add_legacy(
            source=SOURCE, url=url_of("1"), price=3_000_000, description="old", image_url="x", is_active=False
        )
        assert ledger.save(car(price=2_900_000))[0].price_changed
        row = ledger.row()
        assert (row.id, row.external_id, row.description, row.is_active) == (old, "1", "old", True)

    def test_it_follows_the_page_and_an_old_row_without_a_source_is_adopted(self, ledger: Ledger) -> None:
        old = ledger.add_legacy(url=url_of("1"))
        ledger.save(car())
        assert (ledger.row().id, ledger.row().source) == (old, SOURCE)
        ledger.save(car(url=url_of("1") + "2"))
        assert ledger.row().url == url_of("1") + "2"

    def test_an_old_row_of_another_source_is_not(self, ledger: Ledger) -> None:
        ledger.add_legacy(source="Hekla", url=url_of("1"))
        assert ledger.save(car()) == [Saved(created=True)]
        assert [(row.source, row.external_id) for row in ledger.rows()] == [("Hekla", None), (SOURCE, "1")]
        assert ledger.rows()[0].url == url_of("1")

    @pytest.mark.parametrize("together", [True, False])
    def test_two_cars_under_one_address_are_both_kept(self, ledger: Ledger, together: bool) -> None:
        cars = [car("1", url=url_of("x")), car("2", url=url_of("x"))]
        for group in [cars] if together else [[each] for each in cars]:
            ledger.save(*group)
        for again in (["1", "2"], ["2", "1"], ["2"]):
            ledger.save(*(car(each, url=url_of("x")) for each in again))
        rows = ledger.rows()
        assert [(row.external_id, row.url) for row in rows] == [("1", url_of("x")), ("2", f"{url_of('x')}#2")]

    def test_an_address_that_another_car_has_is_not_taken_from_it(self, ledger: Ledger) -> None:
        ledger.save(car("1"), car("2"))
        ledger.save(car("2", url=url_of("1"), title="new"))
        assert [row.url for row in ledger.rows()] == [url_of("1"), url_of("2")]
        assert ledger.row(external_id="2").title == "new"

    def test_two_cars_that_change_addresses_or_want_the_same(self, ledger: Ledger) -> None:
        ledger.save(car("1"), car("2"), car("3"))
        ledger.save(car("1", url=url_of("2")), car("2", url=url_of("1")))
        ledger.save(car("2", url=url_of("new")), car("3", url=url_of("new")))
        urls = [row.url for row in ledger.rows()]
        assert urls[0] == url_of("1")
        assert sorted(urls[1:]) in ([url_of("2"), url_of("new")], [url_of("3"), url_of("new")])


class TestGone:
    def gone(self, external_id: str = "1") -> GoneCar:
        return GoneCar(source=SOURCE, external_id=external_id, url=url_of(external_id))

    def test_gone_and_listed_again(self, ledger: Ledger) -> None:
        ledger.save(car("1", price=3_000_000), car("2"))
        ledger.save(self.gone())
        row = ledger.row(external_id="1")
        assert (row.is_active, row.price) == (False, 3_000_000)
        first = row.gone_at
        assert recently(first)
        assert ledger.row(external_id="2").is_active
        assert ledger.save(self.gone(), self.gone("404"))[1] == Saved(), "an unknown car is no error"
        assert [row.gone_at for row in ledger.rows()] == [first, None], "the first time counts"
        ledger.save(car("1"))
        row = ledger.row(external_id="1")
        assert (row.is_active, row.gone_at) == (True, None)

    def test_active_cars_are_those_with_an_id_that_are_not_gone(self, ledger: Ledger) -> None:
        ledger.save(car("1"), car("2"), car("3"), car("4", source="BR", url="https://br.is/?cid=4"))
        ledger.add_legacy(source=SOURCE, url="https://bilasolur.is/old")
        ledger.save(self.gone("2"))
        with ledger.engine.begin() as connection:
            connection.execute(
                update(listings).where(listings.c.external_id == "3").values(last_seen_at=datetime(2020, 1, 1))  # noqa: DTZ001
            )
        found = ledger.ask(car_rows.active, SOURCE)
        assert [(each.external_id, each.url) for each in found] == [("3", url_of("3")), ("1", url_of("1"))]


def test_two_crawls_save_the_same_cars(ledger: Ledger) -> None:
    def crawl(order: int) -> None:
        for start in range(0, 40, 10):
            group = [car(str(n), images=[stored(f"{n}/{p}") for p in range(3)]) for n in range(start, start + 10)]
            for _ in range(9):  # as the ledger does
                try:
                    ledger.save(*group[::order], rules=OFF)
                except Exception as error:
                    last = error
                else:
                    break
            else:
                errors.append(last)

    errors: list[Exception] = []
    threads = [threading.Thread(target=crawl, args=(order,)) for order in (1, -1, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(ledger.rows()) == 40
    assert len(ledger.rows(images)) == 120
