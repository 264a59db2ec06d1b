"""One current row for each picture of a car, whatever ids its site gives to the photos; over both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from sqlalchemy import text, update

from carscraper.db import cars as car_rows
from carscraper.db import photos as photo_rows
from carscraper.db import schema, work
from carscraper.db.engine import open_engine
from carscraper.db.rules import PlaceholderRules
from tests.db.ledger import Ledger, car, failed, images, listings, pending, sha256, stored

if TYPE_CHECKING:
    from carscraper.items import CarImage

RULES = PlaceholderRules()


def page(*photos: CarImage, **changes: Any) -> Any:
    """A car whose own page shows these photos."""
    for position, photo in enumerate(photos):
        photo.position = position
    return car(**{"images": list(photos), "image_urls": [], "shows_all": True, **changes})


def shown(ledger: Ledger) -> list[str]:
    """What everybody asks for: the car's photos."""
    query = "select identity from car_images where listing_id = :car and status = 'stored' order by position"
    car_id = ledger.row().id
    with ledger.engine.begin() as connection:
        return list(connection.execute(text(query), {"car": car_id}).scalars())


def states(ledger: Ledger) -> dict[str, tuple[str, str | None, str | None]]:
    """Of each photo its status, its reason, and what it was superseded by."""
    rows = ledger.rows(images)
    names = {row.id: row.identity for row in rows}
    return {row.identity: (row.status, row.reason, names.get(row.superseded_by)) for row in rows}


def test_new_ids_for_the_same_bytes_have_one_current_row_each(ledger: Ledger) -> None:
    ledger.save(page(stored("1/1", "a"), stored("1/2", "b")))
    before = {row.identity: row for row in ledger.rows(images)}
    (saved,) = ledger.save(page(stored("1/11", "a", key="k/1.jpg"), stored("1/12", "b", key="k/2.jpg")))
    assert saved.superseded == {"1/1", "1/2"}
    assert shown(ledger) == ["1/11", "1/12"]
    assert states(ledger)["1/1"] == ("superseded", None, "1/11")
    assert states(ledger)["1/2"] == ("superseded", None, "1/12")
    for row in ledger.rows(images)[:2]:
        kept = ("store", "key", "url", "sha256", "source_sha256", "bytes", "width", "stored_at", "position")
        assert {name: getattr(row, name) for name in kept} == {
            name: getattr(before[row.identity], name) for name in kept
        }
    # A, B, A: the site shows the old ids again, and each picture is current under one of them.
    ledger.save(page(stored("1/1", "a", attempts=0), stored("1/12", "b", attempts=0)))
    assert shown(ledger) == ["1/1", "1/12"]
    assert states(ledger)["1/11"] == ("superseded", None, "1/1")
    assert states(ledger)["1/2"] == ("superseded", None, "1/12")


def test_the_same_picture_twice_on_a_page_is_one(ledger: Ledger) -> None:
    ledger.save(page(stored("1/1", "a"), stored("1/2", "a"), stored("1/3", "b")))
    assert shown(ledger) == ["1/1", "1/3"]
    assert ledger.row().image_url == ledger.rows(images)[0].url


def test_a_photo_that_was_found_in_the_store_gives_way_to_the_sites_own(ledger: Ledger) -> None:
    """How it was served was not known, so only the stored bytes are the same; two such pairs are one picture."""
    kept = sha256("kept a")
    ledger.save(page(stored("object/1", "x", sha256=kept, source_sha256=kept)))
    ledger.save(page(stored("1/1", "a")))
    assert shown(ledger) == ["1/1"]
    assert states(ledger)["object/1"] == ("superseded", None, "1/1")
    ledger.save(page(stored("1/2", "b", sha256=kept), stored("1/3", "b")))
    assert shown(ledger) == ["1/2"]


def test_superseded_photos_are_known_and_no_work(ledger: Ledger) -> None:
    ledger.save(page(stored("1/1", "a")))
    ledger.save(page(stored("1/11", "a")))
    (known,) = ledger.ask(photo_rows.known, [("Bilasolur", "1")])
    assert not known["1/1"].due
    (row,) = ledger.ask(work.listed_cars, True)
    assert (row.images, row.unsettled, row.due, row.in_folder) == (2, 0, 0, 0)
    assert not ledger.ask(car_rows.card_states, "Bilasolur", ["1"])["1"].images_due


def test_what_was_never_stored_makes_room_for_what_stands_in_its_place(ledger: Ledger) -> None:
    ledger.save(page(stored("1/1", "a"), failed("1/2"), pending("1/3"), failed("1/4"), failed("1/5", "timeout")))
    ledger.save(page(stored("1/11", "a"), stored("1/12", "b"), failed("1/13", "timeout")))
    assert shown(ledger) == ["1/11", "1/12"]
    assert states(ledger) == {
        "1/1": ("superseded", None, "1/11"),
        "1/2": ("superseded", None, "1/12"),
        "1/3": ("pending", None, None),  # what stands in its place may still be stored
        "1/4": ("failed", "off-page", None),  # the page shows fewer photos than before
        "1/5": ("failed", "timeout", None),  # its old address has not answered yet
        "1/11": ("stored", None, None),
        "1/12": ("stored", None, None),
        "1/13": ("failed", "timeout", None),
    }


def test_old_addresses_that_were_tried_keep_their_place(ledger: Ledger) -> None:
    """The page does not show these photos: what a run makes of them changes neither their place nor what is shown."""
    ledger.save(page(failed("1/1"), failed("1/2"), failed("1/3")))
    item = page(stored("1/11", "a"), stored("1/12", "b"))
    tried = [failed(f"1/{number}", "off-page", on_page=False, position=number + 5) for number in (1, 2, 3)]
    item.images += tried
    (saved,) = ledger.save(item)
    assert saved.superseded == {"1/1", "1/2"}
    assert states(ledger)["1/1"] == ("superseded", None, "1/11")
    assert states(ledger)["1/3"] == ("failed", "off-page", None)
    assert ledger.row(images, identity="1/3").position == 2


def test_a_photo_that_the_dealer_takes_off_the_page_is_given_up_by_days(ledger: Ledger) -> None:
    ledger.save(page(stored("1/1", "a"), failed("1/2"), stored("1/3", "c")))
    shows = page(stored("1/1", "a"), stored("1/3", "c"))
    for day in range(3):
        ledger.save(shows)
        row = ledger.row(images, identity="1/2")
        assert (row.status, row.reason, row.superseded_by, row.failed_days) == ("failed", "off-page", None, day)
        assert ledger.ask(photo_rows.known, [("Bilasolur", "1")])[0]["1/2"].due
        with ledger.engine.begin() as connection:  # as the end of a run does
            connection.execute(update(images).where(images.c.identity == "1/2").values(failed_days=day + 1))
    assert not ledger.ask(photo_rows.known, [("Bilasolur", "1")])[0]["1/2"].due
    # Shown again, and this time it comes.
    ledger.save(page(stored("1/1", "a"), stored("1/2", "b"), stored("1/3", "c")))
    assert shown(ledger) == ["1/1", "1/2", "1/3"]
    assert ledger.row(images, identity="1/2").failed_days == 0


@pytest.mark.parametrize("photos", [(), (stored("1/11", "b"),)], ids=["none", "of a card"])
def test_a_page_that_does_not_show_all_takes_nothing_away(ledger: Ledger, photos: tuple[CarImage, ...]) -> None:
    ledger.save(page(failed("1/1"), failed("1/2")))
    ledger.save(page(*photos, shows_all=not photos))
    assert {states(ledger)[each][:2] for each in ("1/1", "1/2")} == {("failed", "http-404")}


def test_deleted_and_spooled_photos_stay_what_they_are(ledger: Ledger) -> None:
    ledger.save(page(failed("1/1", "deleted"), failed("1/2", "placeholder"), pending("1/3", reason="spooled")))
    ledger.save(page(stored("1/11", "a"), stored("1/12", "b"), stored("1/13", "c")))
    assert [row.reason for row in ledger.rows(images)][:3] == ["deleted", None, "spooled"]
    assert [row.status for row in ledger.rows(images)][:3] == ["failed", "superseded", "pending"]


def test_a_photo_that_comes_from_the_spool_supersedes_the_one_before(ledger: Ledger) -> None:
    ledger.save(page(stored("1/1", "a")))
    waiting = stored("1/11", "a", status="pending", reason="spooled")
    ledger.save(page(waiting))
    assert shown(ledger) == ["1/1"]
    assert ledger.ask(photo_rows.unspooled, "Bilasolur", "1", waiting, RULES)
    assert shown(ledger) == ["1/11"]


def test_an_archive_may_hold_the_same_bytes_twice(ledger: Ledger) -> None:
    photos = [stored("1/1", "a", wanted_key="1/1"), stored("1/2", "a", wanted_key="1/2")]
    ledger.save(page(*photos, source="Archive", seen=False))
    assert shown(ledger) == ["1/1", "1/2"]
    assert ledger.ask(photo_rows.unspooled, "Archive", "1", photos[0], RULES)
    assert shown(ledger) == ["1/1", "1/2"]


def test_other_cars_with_the_same_bytes_are_left_alone(ledger: Ledger) -> None:
    ledger.save(page(stored("1/1", "a")), car("2", images=[stored("2/1", "a")]))
    assert {row.status for row in ledger.rows(images)} == {"stored"}
    assert len(ledger.rows(listings)) == 2


def test_an_upgrade_leaves_one_current_row_for_each_picture(database_url: str) -> None:
    engine = open_engine(database_url, timeout=20)
    car_row = text("INSERT INTO car_listings (id, source, external_id) VALUES (:id, :source, '1')")
    photo_row = text(
        "INSERT INTO car_images (id, listing_id, position, identity, source_url, status, source_sha256, first_seen_at) "
        "VALUES (:id, :listing, 0, :photo, '', :status, :content, '2026-01-01')"
    )
    photos = [("a", "stored"), ("a", "failed"), ("a", "stored"), ("b", "stored")]
    with engine.begin() as connection:
        command.upgrade(schema.alembic_config(connection), "0005")
        for number, source in enumerate(("Bilasolur", "Archive"), 1):
            connection.execute(car_row, {"id": number, "source": source})
            for photo, (content, status) in enumerate(photos):
                values = {"id": 10 * number + photo, "listing": number, "photo": str(photo)}
                connection.execute(photo_row, values | {"status": status, "content": content})
    schema.upgrade(engine)
    rows = {row.id: (row.status, row.superseded_by) for row in Ledger(engine).rows(images)}
    assert rows == {
        10: ("superseded", 12),
        11: ("failed", None),
        12: ("stored", None),
        13: ("stored", None),
        20: ("stored", None),
        21: ("failed", None),
        22: ("stored", None),
        23: ("stored", None),
    }
    engine.dispose()


def test_an_upgrade_merges_what_was_found_in_the_store_with_the_sites_own(database_url: str) -> None:
    engine = open_engine(database_url, timeout=20)
    car_row = text("INSERT INTO car_listings (id, source, external_id) VALUES (:id, :source, '1')")
    photo_row = text(
        "INSERT INTO car_images (id, listing_id, position, identity, source_url, status, source_sha256, sha256, store, "
        "superseded_by, first_seen_at) VALUES (:id, :listing, 0, :photo, '', :status, :served, :kept, 's3://b', :by, "
        "'2026-01-01')"
    )
    photos = [
        ("object/a", "stored", "a", "a", None),
        ("1/1", "stored", "served a", "a", None),
        ("object/b", "stored", "b", "b", None),
        ("1/2", "superseded", "b", "b", 2),
        ("1/3", "stored", "served b", "b", None),
        ("object/c", "stored", "c", "c", None),
        ("1/4", "failed", None, "c", None),
    ]
    with engine.begin() as connection:
        command.upgrade(schema.alembic_config(connection), "0007")
        for number, source in enumerate(("Bilasolur", "Archive"), 1):
            connection.execute(car_row, {"id": number, "source": source})
            for place, (photo, status, served, kept, by) in enumerate(photos):
                values = {"id": 10 * number + place, "listing": number, "photo": photo, "served": served, "kept": kept}
                values |= {"status": status, "by": None if by is None else 10 * number + by}
                connection.execute(photo_row, values)
    schema.upgrade(engine)
    rows = {row.id: (row.status, row.superseded_by) for row in Ledger(engine).rows(images)}
    assert {row_id: rows[row_id] for row_id in range(10, 17)} == {
        10: ("superseded", 11),
        11: ("stored", None),
        12: ("superseded", 14),
        13: ("superseded", 14),
        14: ("stored", None),
        15: ("stored", None),
        16: ("failed", None),
    }
    assert [rows[row_id][0] for row_id in range(20, 27)] == [status for _, status, *_ in photos]
    engine.dispose()
