"""Pages whose encoding is not declared, or declared wrongly: names and keys are right all the same."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.crawl.world import World

MODELS = ("Þór Ðan", "Ægir", "Mött Öxi", "Ísbjörn")
SLUGS = ("thor-dan", "aegir", "mott-oxi", "isbjorn")


@pytest.mark.parametrize("step", ["windows-1252:", "windows-1252:utf-8", "declared:iso-8859-1", "declared:utf-16"])
def test_names_and_keys_do_not_depend_on_what_a_page_says_of_its_encoding(
    new_world: Callable[..., World], step: str
) -> None:
    world = new_world(cars=4, photos=1)
    for car, model in zip(world.site.cars, MODELS, strict=True):
        car.make, car.model = "Škoda", model
        car.dealer_name, car.description = "Bílasala Þórðar Æ.", "Góður bíll – „eins og nýr“, 3 ára ábyrgð."
    for kind in ("home", "results", "details"):
        world.site.fault(kind, [step], sticky=True)
    world.crawl()
    keys = [row["key"] for row in world.images().values()]
    for car, model, slug in zip(world.site.cars, MODELS, SLUGS, strict=True):
        row = world.listing(car)
        assert (row["make"], row["model"], row["display_make"]) == ("Skoda", model, "Škoda")
        assert (row["dealer_name"], row["description"]) == (car.dealer_name, car.description)
        assert [key for key in keys if re.fullmatch(rf"bilasolur/\d+/skoda/{slug}/\d+_[0-9a-f]{{12}}\.jpg", key)]
