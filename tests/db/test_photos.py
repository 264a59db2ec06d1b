"""The photos' rows over both databases: no downgrade, and what is due."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.db import cars as car_rows
from carscraper.db import photos as photo_rows
from carscraper.db.opening import Saved
from carscraper.db.rules import DECIDED_HERE, FINAL_BY_DAYS, PlaceholderRules, RetryRules
from carscraper.items import CarImage, GoneCar
from carscraper.spiders.backfill import BackfillSpider
from tests.db.ledger import (
    FULL,
    OFF,
    SOURCE,
    Ledger,
    car,
    failed,
    images,
    now,
    pending,
    recently,
    sha256,
    stored,
    url_of,
)

if TYPE_CHECKING:
    pass


def outcome(row: Any) -> tuple[Any, ...]:
    return row.status, row.reason, row.store, row.key, row.url, row.source_sha256


BEFORE: dict[str, CarImage] = {
    "stored": stored(),
    "stored in a folder": stored(store="folder", key="a.jpg", url=None),
    "failed for good": failed(reason="http-404"),
    "failed for now": failed(reason="timeout"),
    "placeholder": stored(status="failed", reason="placeholder"),
    "pending": pending(),
    "spooled": stored(status="pending", reason="spooled"),
    "store error": pending(reason="store-error", attempts=1),
}
AFTER: dict[str, CarImage] = {
    "stored": stored(content="new"),
    "stored in a folder": stored(content="new", store="folder", key="b.jpg", url=None),
    "failed": failed(reason="http-403"),
    "failed, not tried": failed(reason="bad-address", attempts=0),
    "pending": pending(),
    "spooled": stored(content="new", status="pending", reason="spooled"),
    "store error": pending(reason="store-error", attempts=1),
}
# What becomes of the row: "old" keeps everything, "new" takes everything, "bytes" keeps what describes the bytes.
MATRIX = {
    "stored": {"stored": "old", "stored in a folder": "new"} | dict.fromkeys(list(AFTER)[2:], "old"),
    "stored in a folder": {"stored": "new", "stored in a folder": "old"} | dict.fromkeys(list(AFTER)[2:], "old"),
    **{
        name: {
            "stored": "new",
            "stored in a folder": "new",
            "failed": "bytes",
            "failed, not tried": "old",
            "pending": "old",
            "spooled": "new",
            "store error": "bytes",
        }
        for name in list(BEFORE)[2:]
    },
}


class TestPhoto:
    def test_a_photo_is_never_downgraded(self, ledger: Ledger) -> None:
        cases = [(before, after) for before in BEFORE for after in AFTER]
        identities = [f"1/{number}" for number in range(len(cases))]
        olds = [
            dataclasses.replace(BEFORE[before], identity=name)
            for (before, _), name in zip(cases, identities, strict=True)
        ]
        news = [
            dataclasses.replace(AFTER[after], identity=name) for (_, after), name in zip(cases, identities, strict=True)
        ]
        # Each on a car of its own: of the same bytes on one car only one row would stay current.
        ledger.save(*(car(f"{number:03}", images=[old]) for number, old in enumerate(olds)), rules=OFF)
        earlier = ledger.rows(images)
        ledger.save(*(car(f"{number:03}", images=[new]) for number, new in enumerate(news)), rules=OFF)
        later = ledger.rows(images)
        for case, old, new, was, row in zip(cases, olds, news, earlier, later, strict=True):
            expected = {
                "old": outcome(old),
                "new": outcome(new),
                "bytes": (new.status, new.reason, *outcome(old)[2:]),
            }[MATRIX[case[0]][case[1]]]
            assert outcome(row) == expected, case
            assert row.first_seen_at == was.first_seen_at
            assert (row.stored_at is None) == (row.status != "stored"), case
            assert row.stored_at == was.stored_at or expected != outcome(old), case

    def test_every_field_is_written(self, ledger: Ledger) -> None:
        photo = stored(position=3)
        ledger.save(car(images=[photo]))
        row = ledger.row(images)
        expected = dataclasses.asdict(photo)
        for name in ("wanted_key", "may_link", "insist", "on_page", "seen_at"):  # about this run only
            del expected[name]
        assert {name: getattr(row, name) for name in expected} == expected
        assert all(map(recently, (row.first_seen_at, row.last_attempt_at, row.stored_at)))
        assert row.listing_id == ledger.row().id

    def test_attempts_of_all_runs_are_counted(self, ledger: Ledger) -> None:
        ledger.save(car(images=[pending()]))
        assert ledger.row(images).last_attempt_at is None
        for attempts in (1, 2, 1, 0):
            ledger.save(car(images=[failed(reason="timeout", attempts=attempts)]))
        assert ledger.row(images).attempts == 4

    def test_each_identity_of_each_car_has_one_row_that_stays(self, ledger: Ledger) -> None:
        ledger.save(car("1", images=[pending("9/9"), stored("9/9", position=1)]), car("2", images=[stored("9/9")]))
        ledger.save(car("1"), car("2", images=[stored("9/8")]))
        assert [row.identity for row in ledger.rows(images)] == ["9/9", "9/9", "9/8"]

    def test_the_newest_address_and_place_are_kept(self, ledger: Ledger) -> None:
        ledger.save(car(images=[stored()]))
        ledger.save(car(images=[pending(source_url="https://bilasolur.is/new", position=5)]))
        row = ledger.row(images)
        assert (row.source_url, row.position, row.status) == ("https://bilasolur.is/new", 5, "stored")
        assert row.key == stored().key


class TestDue:
    def test_which_photos_are_tried_again(self, ledger: Ledger) -> None:
        cases: list[tuple[CarImage, bool]] = [
            (stored(), False),
            (pending(), True),
            (pending(reason="store-error"), True),
            (stored(status="pending", reason="spooled"), False),
            *((failed(reason=reason), False) for reason in sorted(DECIDED_HERE - {"car-gone"})),
            *((failed(reason=reason), True) for reason in sorted(FINAL_BY_DAYS)),
            *((failed(reason=reason), True) for reason in ("timeout", "http-403", "http-503", "error")),
            *((failed(reason="timeout", attempts=attempts), True) for attempts in (3, 4, 400)),
        ]
        ids = [f"{number:02}" for number in range(len(cases))]
        photos = [dataclasses.replace(photo, identity="photo") for photo, _ in cases]
        ledger.save(*(car(each, images=[photo]) for each, photo in zip(ids, photos, strict=True)), rules=OFF)
        for hours_ago in (0, 100):
            ledger.change(images, last_attempt_at=now() - timedelta(hours=hours_ago))
            states = ledger.ask(car_rows.card_states, SOURCE, ids)
            known = ledger.ask(photo_rows.known, [(SOURCE, each) for each in ids])
            for car_id, (photo, due), found in zip(ids, cases, known, strict=True):
                case = (photo.status, photo.reason, photo.attempts, hours_ago)
                assert (states[car_id].images_due, found["photo"].due) == (due, due), case

    def test_a_gone_cars_photos_are_due_once_it_is_listed_again(self, ledger: Ledger) -> None:
        """The list shows the car, so its page is read; the pipeline ends the verdict when it sees the photo there."""
        ledger.save(car(images=[failed(reason="car-gone")]))
        (known,) = ledger.ask(photo_rows.known, [(SOURCE, "1")])
        assert ledger.ask(car_rows.card_states, SOURCE, ["1"])["1"].images_due
        assert not known["1/1"].due

    @pytest.mark.parametrize(
        ("attempts", "hours_ago", "due"),
        [(3, 0, True), (4, 0, False), (4, 19, False), (4, 23.8, True), (400, 25, True)],
    )
    def test_a_backfill_pauses(self, ledger: Ledger, attempts: int, hours_ago: float, due: bool) -> None:
        ledger.save(car(images=[failed(reason="http-404", attempts=attempts)], card_hash="ab"))
        ledger.change(images, last_attempt_at=now() - timedelta(hours=hours_ago))
        retry = RetryRules(pause=BackfillSpider.retry_pause)
        (known,) = ledger.ask(photo_rows.known, [(SOURCE, "1")], retry)
        assert known["1/1"].due is due

    @pytest.mark.parametrize(("days", "due"), [(0, True), (2, True), (3, False), (9, False)])
    def test_nobody_asks_again_for_what_is_final(self, ledger: Ledger, days: int, due: bool) -> None:
        ledger.save(car(images=[failed(reason="http-404")], card_hash="ab"))
        ledger.change(images, failed_days=days)
        assert ledger.ask(car_rows.card_states, SOURCE, ["1"])["1"].images_due is due
        more = RetryRules(final_after=10)
        assert ledger.ask(car_rows.card_states, SOURCE, ["1"], more)["1"].images_due

    def test_one_due_photo_makes_the_car_due(self, ledger: Ledger) -> None:
        ledger.save(
            car("1", images=[stored("1/1"), failed("1/2", "timeout")]), car("2", images=[stored("2/1")]), car("3")
        )
        states = ledger.ask(car_rows.card_states, SOURCE, ["1", "2", "3", "404"])
        assert {name: state.images_due for name, state in states.items()} == {"1": True, "2": False, "3": False}

    def test_which_fields_are_known(self, ledger: Ledger) -> None:
        ledger.save(car("1", images=[stored("1/1")], make="Kia", kilometers=0), car("2", fuel="petrol", model="Rio"))
        states = ledger.ask(car_rows.card_states, SOURCE, ["1", "2"])
        assert states["1"].fields == {"photo", "make", "kilometers"}
        assert states["2"].fields == {"fuel"}

    def test_a_gone_car_is_as_good_as_new(self, ledger: Ledger) -> None:
        ledger.save(car(), GoneCar(source=SOURCE, external_id="1", url=url_of("1")))
        assert ledger.ask(car_rows.card_states, SOURCE, ["1"]) == {}

    def test_known_images_come_in_the_order_of_the_question(self, ledger: Ledger) -> None:
        ledger.save(*(car(str(n), images=[stored(f"{n}/1")]) for n in range(3)), car("3", source="BR"))
        asked = [(SOURCE, "2"), (SOURCE, "404"), (SOURCE, "0"), (SOURCE, "3"), ("BR", "3"), (SOURCE, "2")]
        found = ledger.ask(photo_rows.known, asked)
        assert [list(each) for each in found] == [["2/1"], [], ["0/1"], [], [], ["2/1"]]
        assert found[0]["2/1"].image == stored("2/1")
        assert ledger.ask(car_rows.card_states, SOURCE, ["3"]) == {}, "another source's"


class TestOpened:
    def test_a_car_is_read_again_until_it_is_closed(self, ledger: Ledger) -> None:
        item = car(card_hash="ab", details_at=FULL["details_at"], images=[pending("1/1"), pending("1/2", position=1)])
        (opened,) = ledger.ask(car_rows.open_cars, [item], OFF)
        assert [row.status for row in ledger.rows(images)] == ["pending", "pending"], "what was seen has a row"
        assert ledger.row().image_url == item.images[0].source_url
        outcomes = [stored("1/1"), failed("1/2", position=1)]
        for image in outcomes:
            assert not ledger.ask(car_rows.card_states, SOURCE, ["1"])["1"].shows("ab", item.url)
            ledger.ask(photo_rows.write, [(opened.listing_id, image)], OFF)
        assert [outcome(row) for row in ledger.rows(images)] == [outcome(image) for image in outcomes]
        assert [row.attempts for row in ledger.rows(images)] == [1, 1]
        assert (ledger.row().image_url, ledger.row().details_at) == (stored("1/1").url, None)
        item = dataclasses.replace(item, listing_id=opened.listing_id, images=outcomes)
        assert ledger.save(item) == [Saved()]
        assert ledger.ask(car_rows.card_states, SOURCE, ["1"])["1"].shows("ab", item.url)
        assert ledger.row().details_at == FULL["details_at"]
        assert [row.attempts for row in ledger.rows(images)] == [1, 1], "closing writes no photo"

    def test_photos_leave_with_what_is_known_of_them(self, ledger: Ledger) -> None:
        ledger.save(car(images=[stored("1/1"), failed("1/2", "timeout"), failed("1/3", "bad-address")]))
        shown = [pending(each) for each in ("1/1", "1/3", "1/4")]
        (opened,) = ledger.ask(car_rows.open_cars, [car(images=shown)], OFF)
        assert {each.identity: (each.status, each.on_page) for each in opened.images} == {
            "1/1": ("stored", True),
            "1/3": ("failed", True),
            "1/4": ("pending", True),
            "1/2": ("pending", False),  # due, and the page does not show it
        }
        assert opened.images[0].key == stored("1/1").key
        assert opened.known == {"1/1", "1/2", "1/3"}
        assert [image.status for image in shown] == ["pending"] * 3, "a transaction may be repeated"


class TestImageStored:
    def test_a_photo_from_the_spool(self, ledger: Ledger) -> None:
        ledger.save(car(images=[stored(status="pending", reason="spooled"), pending("1/2", position=1)]))
        assert ledger.ask(photo_rows.unspooled, SOURCE, "1", stored(attempts=0), OFF)
        row, other = ledger.rows(images)
        assert outcome(row) == outcome(stored())
        assert recently(row.stored_at)
        assert row.attempts == 1
        assert other.status == "pending"
        assert ledger.row().image_url == stored().url

    @pytest.mark.parametrize("external_id", ["1", "404"])
    def test_a_row_that_is_not_there_yet(self, ledger: Ledger, external_id: str) -> None:
        ledger.save(car())
        assert not ledger.ask(photo_rows.unspooled, SOURCE, external_id, stored(attempts=0), OFF)

    def test_a_stored_photo_stays_as_it_is(self, ledger: Ledger) -> None:
        ledger.save(car(images=[stored()]))
        assert ledger.ask(photo_rows.unspooled, SOURCE, "1", stored(content="other", attempts=0), OFF)
        assert outcome(ledger.row(images)) == outcome(stored())

    def test_a_placeholder_is_one_out_of_the_spool_too(self, ledger: Ledger) -> None:
        spooled = {"status": "pending", "reason": "spooled"}
        for number, make in enumerate(("Kia", "Volvo", "Ford")):
            photo = stored(f"{number}/1", "no photo yet", **spooled)
            ledger.save(car(str(number), make=make, model="X", images=[photo]))
        for _ in range(2):
            for number in range(3):
                photo = stored(f"{number}/1", "no photo yet", attempts=0)
                assert ledger.ask(photo_rows.unspooled, SOURCE, str(number), photo, PlaceholderRules())
            assert {row.reason for row in ledger.rows(images)} == {"placeholder"}
        for row in ledger.rows():
            assert "img.example.is" not in (row.image_url or "")
        released = PlaceholderRules(released=frozenset({sha256("no photo yet")}))
        assert ledger.ask(photo_rows.unspooled, SOURCE, "0", stored("0/1", "no photo yet", attempts=0), released)
        assert ledger.row(images, status="stored").identity == "0/1"


class TestSaveImages:
    def test_bytes_that_only_wait_replace_no_stored_photo(self, ledger: Ledger) -> None:
        (saved,) = ledger.save(car(images=[stored(store="folder", url=None)]))
        waiting = stored(status="pending", reason="spooled")
        ledger.ask(photo_rows.write, [(saved.listing_id, waiting)], OFF)
        assert ledger.row(images).store == "folder"
        assert ledger.row(images).status == "stored"
        ledger.ask(photo_rows.write, [(saved.listing_id, stored())], OFF)
        assert outcome(ledger.row(images)) == outcome(stored())
