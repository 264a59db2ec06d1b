"""The first station: text that can be written, numbers that can be true, cars that say which they are."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scrapy.exceptions import DropItem

from carscraper.items import CarImage, CarItem, GoneCar
from carscraper.pipelines.validate import ValidatePipeline
from tests.fakes import make_crawler

TEXT_FIELDS = [field.name for field in fields(CarItem) if "str" in str(field.type) and "list" not in str(field.type)]
NEEDED = {"source": "Bilasolur", "external_id": "1", "url": "https://bilasolur.is/CarDetails.aspx?cid=1"}


class World:
    def __init__(self) -> None:
        self.crawler = make_crawler()
        self.pipeline = ValidatePipeline.from_crawler(self.crawler)

    def clean(self, **changes: Any) -> CarItem:
        item = self.pipeline.process_item(CarItem(**{**NEEDED, **changes}))
        assert isinstance(item, CarItem)
        return item


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("name", TEXT_FIELDS)
@pytest.mark.parametrize(
    ("text", "clean"), [("a\x00b", "ab"), ("a\ud800b", "ab"), ("  a \n\t b\xa0", "a b"), ("a\u200bb\x1b", "ab")]
)
def test_text_is_what_a_database_and_a_log_can_hold(world: World, name: str, text: str, clean: str) -> None:
    assert getattr(world.clean(**{name: text}), name) == clean


@pytest.mark.parametrize("name", sorted(set(TEXT_FIELDS) - set(NEEDED)))
def test_nothing_is_none(world: World, name: str) -> None:
    assert getattr(world.clean(**{name: " \x00\n"}), name) is None


def test_makes_that_nobody_knows_pass_and_are_counted(world: World) -> None:
    known = [world.clean(make=make, model="X") for make in ("Skoda", "Alfa Romeo", None)]
    unknown = [world.clean(make=make, model="601") for make in ("Trabant", "=cmd|calc")]
    world.clean(make="Wartburg", seen=False)  # of a backfill: not seen on its site
    assert [item.make for item in [*known, *unknown]] == ["Skoda", "Alfa Romeo", None, "Trabant", "=cmd|calc"]
    assert world.crawler.stats.get_value("carscraper/makes/unknown") == 2


def test_long_text_is_cut(world: World) -> None:
    item = world.clean(title="x" * 5000, description="y" * 50_000, url="https://x/" + "z" * 5000)
    assert len(item.title or "") == 300
    assert len(item.description or "") == 20_000
    assert len(item.url) == 2000


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("year", [1900, 2026, 2100], [0, -1, 1899, 2101, 10**30]),
        ("registration_month", [1, 12], [0, 13]),
        ("price", [1, 10**10], [0, -5, 10**10 + 1, 10**30]),
        ("price_before_offer", [1, 10**10], [0, 10**10 + 1]),
        ("kilometers", [0, 5_000_000], [-1, 5_000_001]),
        ("doors", [1, 9], [0, 10]),
        ("seats", [1, 99], [0, 100]),
        ("horsepower", [1, 5000], [0, 5001]),
        ("city_consumption", [0.1, 100], [0.0, 100.1, float("inf"), float("nan")]),
    ],
)
def test_numbers_that_cannot_be_true_are_unknown(world: World, name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert getattr(world.clean(**{name: value}), name) == value
    for value in bad:
        assert getattr(world.clean(**{name: value}), name) is None
    assert world.crawler.stats.get_value(f"carscraper/implausible/{name}") == len(bad)


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("value", ["", " ", "\x00", None])
def test_a_car_that_does_not_say_which_it_is_is_dropped(world: World, name: str, value: str | None) -> None:
    with pytest.raises(DropItem, match="without source, id or address"):
        world.clean(**{name: value})
    assert world.crawler.stats.get_value("carscraper/cars/failed") == 1


def test_photos_and_the_rest_pass_untouched(world: World) -> None:
    images = [CarImage(identity="1/2", source_url="https://bilasolur.is/CarImage.aspx?c=1&p=2")]
    item = world.clean(images=images, image_urls=["x"], price_excludes_vat=True, card_hash="ab")
    assert (item.images, item.image_urls) == (images, ["x"])
    assert item.price_excludes_vat is True


def test_a_gone_car_passes(world: World) -> None:
    gone = GoneCar(**NEEDED)
    assert world.pipeline.process_item(gone) is gone


@given(text=st.text(alphabet=st.characters(), max_size=200), number=st.integers() | st.floats())
def test_no_page_makes_an_error(text: str, number: float) -> None:
    item = World().clean(
        **dict.fromkeys(set(TEXT_FIELDS) - set(NEEDED), text),
        **dict.fromkeys(["price", "doors", "city_consumption"], number),
    )
    for name in TEXT_FIELDS:
        value = getattr(item, name)
        assert value is None or (value.encode() and "\x00" not in value and len(value) <= 20_000)
