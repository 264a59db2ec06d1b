"""Items: typed, keyword-only, unknown is None."""

from __future__ import annotations

import ast
from dataclasses import MISSING, fields
from typing import Any

import pytest
from itemadapter import ItemAdapter

from carscraper.items import CarImage, CarItem, GoneCar
from tests.services import REPO

CLASSES: list[type[Any]] = [CarItem, CarImage, GoneCar]
NEEDED = {
    CarItem: {"source": "Bilasolur", "external_id": "1", "url": "https://bilasolur.is/CarDetails.aspx?cid=1"},
    CarImage: {"identity": "1/2", "source_url": "https://bilasolur.is/CarImage.aspx?c=1&p=2"},
    GoneCar: {"source": "Bilasolur", "external_id": "1", "url": "https://bilasolur.is/CarDetails.aspx?cid=1"},
}
# Their names and types say it all.
PLAIN = {
    *("title", "make", "model", "year", "kilometers", "fuel", "transmission", "drivetrain", "colour", "body", "doors"),
    *("seats", "horsepower", "dealer_id", "dealer_name", "description", "display_make", "display_name", "bytes"),
    *("height", "content_type"),
}


@pytest.mark.parametrize("item", CLASSES)
def test_keyword_only_and_nothing_unknown(item: type[Any]) -> None:
    item(**NEEDED[item])
    with pytest.raises(TypeError):
        item(*NEEDED[item].values())
    with pytest.raises(TypeError):
        item(**NEEDED[item], speed=1)
    with pytest.raises(AttributeError):
        item(**NEEDED[item]).speed = 1


def test_unknown_is_none() -> None:
    car = CarItem(**NEEDED[CarItem])  # type: ignore[arg-type]
    for field in fields(CarItem):
        if field.name not in {*NEEDED[CarItem], "unchanged", "shows_all", "seen", "imported", "gone"}:
            assert getattr(car, field.name) in (None, [])


def test_two_cars_share_no_list() -> None:
    for field in fields(CarItem):
        assert field.default is MISSING or not isinstance(field.default, list | dict)
    one, other = (CarItem(**NEEDED[CarItem]) for _ in range(2))  # type: ignore[arg-type]
    one.image_urls.append("x")
    assert other.image_urls == []


@pytest.mark.parametrize("item", CLASSES)
def test_scrapy_takes_it_for_an_item(item: type[Any]) -> None:
    assert ItemAdapter.is_item(item(**NEEDED[item]))
    assert list(ItemAdapter(item(**NEEDED[item])))[:2] == list(NEEDED[item])[:2]


def test_scrapys_names_for_photos() -> None:
    assert {"image_urls", "images"} <= {field.name for field in fields(CarItem)}


@pytest.mark.parametrize("item", [CarItem, CarImage])
def test_fields_that_need_one_have_a_docstring(item: type[Any]) -> None:
    tree = ast.parse((REPO / "carscraper" / "items.py").read_text("utf-8"))
    (node,) = [each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == item.__name__]
    documented = set()
    for field, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(following, ast.Expr):
            documented.add(ast.unparse(field.target))
    assert {field.name for field in fields(item)} - documented <= PLAIN
