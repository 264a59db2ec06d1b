"""Tombstones: rows of deleted photos, which no crawl that is under way and none that comes brings back."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, select, update

from carscraper.db import cars as car_rows
from carscraper.db import photos as photo_rows
from carscraper.db import placeholders, removal, schema, work
from carscraper.db.engine import open_engine
from carscraper.db.models import CarImageRow, CarListing
from carscraper.db.placeholders import KnownBytes
from carscraper.db.rules import DECIDED_HERE, PlaceholderRules
from carscraper.items import CarImage, CarItem

if TYPE_CHECKING:
    from sqlalchemy import Engine

images: Any = CarImageRow.__table__
listings: Any = CarListing.__table__
S3 = "s3://car-photos"
RULES = PlaceholderRules()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def photo(identity: str, content: str | None = None, **changes: Any) -> CarImage:
    served = content or identity
    known: dict[str, Any] = {
        "source_url": f"https://bilasolur.is/CarImage.aspx?p={identity}",
        "position": int(identity.rpartition("/")[2]),
        "status": "stored",
        "attempts": 1,
        "store": S3,
        "key": f"k/{served}.jpg",
        "url": f"https://img.example.is/k/{served}.jpg",
        "sha256": sha256(f"kept {served}"),
        "source_sha256": sha256(served),
        "bytes": 9,
    }
    return CarImage(**{"identity": identity, **known, **changes})


def car(number: str, *photos: CarImage) -> CarItem:
    url = f"https://bilasolur.is/CarDetails.aspx?cid={number}"
    return CarItem(source="Bilasolur", external_id=number, url=url, make=number, images=list(photos))


def save(engine: Engine, *cars: CarItem) -> list[int]:
    with engine.begin() as connection:
        return [each.listing_id or 0 for each in car_rows.save(connection, list(cars), RULES)]


def delete(engine: Engine, *keys: str, cars: tuple[int, ...] = ()) -> list[removal.Row]:
    with engine.begin() as connection:
        return removal.mark_deleted(connection, keys, cars, lambda _: None)


def row(engine: Engine, identity: str) -> Any:
    with engine.begin() as connection:
        return connection.execute(select(images).where(images.c.identity == identity)).one()


def cover(engine: Engine, number: str) -> Any:
    with engine.begin() as connection:
        return connection.scalar(select(listings.c.image_url).where(listings.c.external_id == number))


def test_no_crawl_that_had_it_in_hand_writes_over_a_tombstone(engine: Engine) -> None:
    (listing,) = save(engine, car("1", photo("1/0"), photo("1/1", status="pending", key=None, url=None, store=None)))
    delete(engine, cars=(listing,))
    late = photo("1/0", position=5, source_url="https://bilasolur.is/new")
    with engine.begin() as connection:
        photo_rows.write(connection, [(listing, late), (listing, photo("1/1"))], RULES)
    assert [row(engine, f"1/{n}").reason for n in (0, 1)] == ["deleted", "deleted"]
    assert cover(engine, "1") is None
    save(engine, car("1", late, photo("1/1"), photo("1/2", status="failed", reason="timeout", url=None)))
    kept = row(engine, "1/0")
    assert (kept.status, kept.reason, kept.url, kept.key) == ("failed", "deleted", None, "k/1/0.jpg")
    assert (kept.position, kept.source_url) == (5, "https://bilasolur.is/new"), "where the dealer shows it may change"
    assert row(engine, "1/2").reason == "timeout"


def test_the_cover_is_never_the_temporary_address_of_a_deleted_photo(engine: Engine) -> None:
    first, second = (photo(f"1/{n}", url=None, store="folder") for n in (0, 1))
    (listing,) = save(engine, car("1", first, second))
    assert cover(engine, "1") == first.source_url
    delete(engine, first.key or "")
    assert cover(engine, "1") is None
    gone = photo("1/0", status="failed", reason="deleted", key=None, url=None, attempts=0)
    save(engine, car("1", gone, second))
    assert cover(engine, "1") == second.source_url
    delete(engine, cars=(listing,))
    save(engine, car("1", gone, photo("1/1", status="failed", reason="deleted", key=None, url=None, attempts=0)))
    assert cover(engine, "1") is None


def test_a_cover_that_is_another_photos_stays(engine: Engine) -> None:
    save(engine, car("1", photo("1/0"), photo("1/1")), car("2", photo("2/0")))
    delete(engine, "k/1/1.jpg")
    assert cover(engine, "1") == "https://img.example.is/k/1/0.jpg"
    assert cover(engine, "2") == "https://img.example.is/k/2/0.jpg"
    delete(engine, "k/1/0.jpg")
    assert cover(engine, "1") is None
    assert cover(engine, "2") == "https://img.example.is/k/2/0.jpg"


def test_an_old_spelling_of_the_permanent_url_is_the_photos_too(engine: Engine) -> None:
    save(engine, car("1", photo("1/0"), photo("1/1")))
    with engine.begin() as connection:
        connection.execute(update(listings).values(image_url="http://s3.amazonaws.com/b/k/1/0.jpg"))
        removal.mark_deleted(connection, ["k/1/0.jpg"], (), lambda url: url.partition("/b/")[2] or None)
    assert cover(engine, "1") == "https://img.example.is/k/1/1.jpg"


def test_deleted_bytes_are_known(engine: Engine) -> None:
    save(engine, car("1", photo("1/0", "x")), car("2", photo("2/0", "x")), car("3", photo("3/0", "y")))
    asked = [(sha256("x"), S3), (sha256("y"), S3), (sha256("z"), S3)]
    for finish in (False, True):
        delete(engine, "k/x.jpg")
        with engine.begin() as connection:
            if finish:
                removal.clear_keys(connection, ["k/x.jpg"], lambda _: None)
            found = placeholders.known_bytes(connection, asked, RULES)
            assert found[0] == KnownBytes(image=None, placeholder=False, deleted=True)
            assert found[1]
            assert not found[1].deleted
            assert found[2] is None
    assert [row(engine, f"{n}/0").key for n in (1, 2, 3)] == [None, None, "k/y.jpg"]


def test_the_hash_of_bytes_that_were_let_go_stays_with_the_new_tombstone(engine: Engine) -> None:
    (listing,) = save(engine, car("1", CarImage(identity="1/0", source_url="https://d/0")))
    let_go = CarImage(
        identity="1/0",
        source_url="https://d/0",
        status="failed",
        reason="deleted",
        attempts=1,
        source_sha256=sha256("x"),
    )
    save(engine, car("1", let_go))
    found = row(engine, "1/0")
    assert (found.reason, found.source_sha256, found.key) == ("deleted", sha256("x"), None)
    with engine.begin() as connection:
        assert [each.identity for each in removal.tombstones_of(connection, [listing])] == ["1/0"]


def test_it_is_no_work_for_anybody(engine: Engine) -> None:
    assert "deleted" in DECIDED_HERE
    (listing,) = save(engine, car("1", photo("1/0"), photo("1/1")))
    delete(engine, cars=(listing,))
    with engine.begin() as connection:
        (found,) = work.listed_cars(connection, include_inactive=True)
        assert (found.images, found.unsettled, found.due) == (2, 0, 0)
        (archived,) = work.archived(connection, "Bilasolur", [("1", "1/0")]).values()
        assert (archived.status, archived.due) == ("failed", False)
        assert removal.unfinished(connection) == ["k/1/0.jpg", "k/1/1.jpg"]
        removal.clear_keys(connection, ["k/1/0.jpg"], lambda _: None)
        assert removal.unfinished(connection) == ["k/1/1.jpg"]
        ids = [each.row_id for each in removal.rows_of_cars(connection, [listing])]
        assert removal.undelete(connection, ids) == 1, "only what is finished"
        assert car_rows.card_states(connection, "Bilasolur", ["1"])["1"].images_due
    assert row(engine, "1/0").source_sha256 is None


def test_photos_are_found_by_their_keys_and_cars(sqlite_url: str) -> None:
    """However many rows there are: SQLite's plans name an index for each table."""
    engine = open_engine(sqlite_url, timeout=20)
    schema.ensure(engine)
    statements: list[tuple[str, Any]] = []
    event.listen(
        engine,
        "before_cursor_execute",
        lambda _c, _cursor, statement, parameters, _x, _m: statements.append((statement, parameters)),
    )
    (listing,) = save(engine, car("1", photo("1/0")))
    statements.clear()
    delete(engine, "k/1/0.jpg", cars=(listing,))
    with engine.begin() as connection:
        removal.clear_keys(connection, ["k/1/0.jpg"], lambda _: None)
        removal.kept_elsewhere(connection, [sha256("1/0")], [])
        placeholders.known_bytes(connection, [(sha256("1/0"), S3)], RULES)
        asked = [one for one in statements if one[0].startswith(("SELECT", "UPDATE"))]
        assert len(asked) > 10
        for statement, parameters in asked:
            values = parameters[0] if isinstance(parameters, list) else parameters
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
            assert not [step for *_, step in plan if step.startswith("SCAN car_")], statement
    engine.dispose()
