"""Which listings are looked at, what their linking asks of the database, and photos that a sibling has."""

from __future__ import annotations

import random
import re
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, insert, select

from carscraper.db import cars as car_rows
from carscraper.db import photos as photo_rows
from carscraper.db import work
from carscraper.linking import tables
from tests.services import REPO

if TYPE_CHECKING:
    pass

from tests.linking.market import RULES, Market, item, listings, photo


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
