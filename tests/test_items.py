"""Items: what their fields mean is written where their names and types do not say it."""

from __future__ import annotations

import ast
from dataclasses import fields
from typing import Any

import pytest

from carscraper.items import CarImage, CarItem
from tests.services import REPO

# Their names and types say it all.
PLAIN = {
    *("title", "make", "model", "year", "kilometers", "fuel", "transmission", "drivetrain", "colour", "body", "doors"),
    *("seats", "horsepower", "dealer_id", "dealer_name", "description", "display_make", "display_name", "bytes"),
    *("height", "content_type"),
}


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
