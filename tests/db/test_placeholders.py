"""Bytes that are known, bytes that are a placeholder, and what a car is shown with; over both databases."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event

from carscraper.db import placeholders, schema
from carscraper.db.engine import open_engine
from carscraper.db.rules import PlaceholderRules
from carscraper.items import CarImage, CarItem
from tests.db.ledger import (
    OFF,
    S3,
    SOURCE,
    Ledger,
    car,
    failed,
    images,
    pending,
    sha256,
    stored,
    url_of,
)

if TYPE_CHECKING:
    from pathlib import Path


class TestKnownBytes:
    def ask(self, ledger: Ledger, *asked: tuple[str, str], **rules: Any) -> list[Any]:
        found: list[Any] = ledger.ask(placeholders.known_bytes, list(asked), PlaceholderRules(**rules))
        return found

    def test_a_stored_photo_with_these_bytes_in_the_asked_store(self, ledger: Ledger) -> None:
        for photo in (failed(), pending(), stored(status="pending", reason="spooled")):
            ledger.save(car(images=[dataclasses.replace(photo, source_sha256=sha256("x"))]))
            assert self.ask(ledger, (sha256("x"), S3)) == [None]
        ledger.save(car("1", images=[stored("1/2", "x")]))
        asked = [(sha256("x"), S3), (sha256("x"), "folder"), (sha256("x"), "s3://other"), (sha256("y"), S3)]
        known, *unknown = self.ask(ledger, *asked)
        assert (known.image.key, known.image.url) == (stored("1/2", "x").key, stored("1/2", "x").url)
        assert not known.placeholder
        assert unknown == [None, None, None]
        ledger.save(car("2", images=[stored("2/1", "x", store="folder", key="f.jpg")]))
        assert [each and each.image.key for each in self.ask(ledger, *asked[:2])] == [known.image.key, "f.jpg"]

    def test_a_placeholder_and_its_release(self, ledger: Ledger) -> None:
        ledger.save(car(images=[stored("1/1", "x", status="failed", reason="placeholder")]))
        (known,) = self.ask(ledger, (sha256("x"), S3))
        assert not known.placeholder, "on one car"
        ledger.save(car("2", images=[stored("2/1", "x", status="failed", reason="placeholder")]))
        (known,) = self.ask(ledger, (sha256("x"), S3))
        assert known.placeholder
        (known,) = self.ask(ledger, (sha256("x"), S3), released=frozenset({sha256("x")}))
        assert not known.placeholder
        assert known.image.key == stored("1/1", "x").key, "its object is still there: no upload"
        (known,) = self.ask(ledger, (sha256("x"), S3), families=0)
        assert not known.placeholder


class TestPlaceholders:
    def cars(self, *families: tuple[str, str], content: str = "no photo yet") -> list[CarItem]:
        return [
            car(str(n), make=make, model=model, images=[stored(f"{n}/1", content)])
            for n, (make, model) in enumerate(families)
        ]

    def statuses(self, ledger: Ledger) -> list[tuple[str, str | None]]:
        return [(row.status, row.reason) for row in ledger.rows(images)]

    UNRELATED = (("Kia", "Ceed"), ("Toyota", "Yaris Hybrid"), ("Skoda", "Octavia"))

    @pytest.mark.parametrize("together", [True, False])
    def test_the_same_bytes_on_three_unrelated_cars(self, ledger: Ledger, together: bool) -> None:
        cars = self.cars(*self.UNRELATED)
        cars[0].images.append(stored("0/2", position=1))
        for group in [cars] if together else [[each] for each in cars]:
            ledger.save(*group)
        assert sorted(self.statuses(ledger)) == [*[("failed", "placeholder")] * 3, ("stored", None)], "the earlier too"
        assert all(row.key and row.source_sha256 for row in ledger.rows(images)), "the objects stay"

    @pytest.mark.parametrize(
        "families",
        [
            UNRELATED[:2],
            # One car of a dealer's stock photo, in many trims.
            (("Kia", "Ceed GT"), ("Kia", "Ceed LX"), ("KIA", "ceed"), ("Kia", "Ceed SW 1.6")),
            (("Kia", "Ceed"), ("Kia", "Ceed GT"), ("Kia", "Rio"), ("Kia", "RIO X")),
            ((None, None), (None, None), (None, None)),
        ],
    )
    def test_related_cars_may_share_a_photo(self, ledger: Ledger, families: Any) -> None:
        ledger.save(*self.cars(*families))
        assert set(self.statuses(ledger)) == {("stored", None)}

    @pytest.mark.parametrize(
        "rules", [OFF, PlaceholderRules(families=4), PlaceholderRules(released=frozenset({sha256("no photo yet")}))]
    )
    def test_switched_off_stricter_or_released(self, ledger: Ledger, rules: PlaceholderRules) -> None:
        ledger.save(*self.cars(*self.UNRELATED), rules=rules)
        assert set(self.statuses(ledger)) == {("stored", None)}

    def test_a_car_is_not_shown_with_a_placeholder(self, ledger: Ledger) -> None:
        cars = self.cars(*self.UNRELATED)
        cars[0].images.append(stored("0/2", position=1))
        ledger.save(*cars[:2])
        assert [row.image_url for row in ledger.rows()] == [each.images[0].url for each in cars[:2]]
        ledger.save(cars[2])
        first, second, third = ledger.rows()
        assert first.image_url == cars[0].images[1].url, "its next photo"
        assert second.image_url is None
        assert third.image_url == cars[2].images[0].source_url, "nothing permanent is left"
        ledger.save(*self.cars(*self.UNRELATED)[1:2])
        placeholder_url = cars[1].images[0].url
        assert placeholder_url not in [row.image_url for row in ledger.rows()]


class TestCover:
    TEMPORARY = pending().source_url
    PERMANENT = "https://b.s3.eu-north-1.amazonaws.com/old.jpg"

    CASES: tuple[tuple[str | None, list[CarImage], str | None], ...] = (
        (None, [], None),
        (None, [pending()], TEMPORARY),
        ("https://bilasolur.is/CarImage.aspx?s=1&c=1&p=9&w=400", [pending()], TEMPORARY),
        ("https://bilasolur.isCarImage.aspx?s=16&c=1&p=9&w=784", [pending()], TEMPORARY),
        ("https://bilasolur.is/expired.jpg", [pending()], TEMPORARY),
        ("https://[broken", [pending()], TEMPORARY),
        ("", [pending()], TEMPORARY),
        (
            "https://bilasolur.is/CarImage.aspx?s=1&c=1&p=9&w=400",
            [],
            "https://bilasolur.is/CarImage.aspx?s=1&c=1&p=9&w=400",
        ),
        (PERMANENT, [], PERMANENT),
        (PERMANENT, [pending()], PERMANENT),
        (PERMANENT, [failed()], PERMANENT),
        (PERMANENT, [stored(status="pending", reason="spooled")], PERMANENT),
        (PERMANENT, [stored(url=None, store="folder")], PERMANENT),
        (PERMANENT, [stored()], stored().url),
        (None, [failed("1/1"), stored("1/2", position=1), stored("1/3", position=2)], stored("1/2").url),
        (None, [stored("1/3", position=2), stored("1/2", position=1)], stored("1/2").url),
        (None, [stored(url=None, store="folder")], TEMPORARY),
    )

    def test_what_a_car_is_shown_with(self, ledger: Ledger) -> None:
        for number, (current, _, _) in enumerate(self.CASES):
            ledger.add_legacy(source=SOURCE, external_id=f"{number:02}", url=url_of(f"{number:02}"), image_url=current)
        shown = [[dataclasses.replace(photo) for photo in photos] for _, photos, _ in self.CASES]
        ledger.save(*(car(f"{number:02}", images=photos) for number, photos in enumerate(shown)), rules=OFF)
        for row, (current, photos, expected) in zip(ledger.rows(), self.CASES, strict=True):
            assert row.image_url == expected, (current, photos)

    def test_once_permanent_always_permanent(self, ledger: Ledger) -> None:
        ledger.save(car(images=[stored()]))
        for photos in ([pending()], [failed()], [], [pending("1/2")], [failed("1/2")]):
            ledger.save(car(images=photos))
            assert ledger.row().image_url == stored().url


def test_covers_are_found_by_their_cars(tmp_path: Path) -> None:
    """Not by their status: that would read every photo that was ever stored, for each group of photos."""
    engine = open_engine(f"sqlite:///{tmp_path / 'plan.db'}", timeout=20)
    schema.ensure(engine)
    plans = []
    with engine.begin() as connection:
        event.listen(connection, "before_cursor_execute", lambda *call: plans.append((call[2], call[3])), named=False)
        connection.execute(placeholders._STORED_URLS, {"listing_ids": [1, 2]})
        ((statement, parameters),) = plans
        plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all())
    engine.dispose()
    assert "uq_car_images_listing_id_identity" in plan or "sqlite_autoindex_car_images" in plan, plan
    assert "ix_car_images_status" not in plan
