"""What outsiders tried, each as a crawl: whole, or not exit 0, and whole the next night."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.crawl.world import World, last_words, verdict
from tests.dealers.bilasolur import SimulatedBilasolur
from tests.dealers.drifts import DRIFTS, READ, Drift

if TYPE_CHECKING:
    from collections.abc import Callable


def stored(world: World) -> int:
    return world.sql("SELECT count(*) AS n FROM car_images WHERE status = 'stored'")[0]["n"]


def drift(monkeypatch: pytest.MonkeyPatch, world: World, *changes: tuple[str, Any]) -> None:
    monkeypatch.setitem(DRIFTS, "outsider", Drift(changes, READ))
    world.site.drift = "outsider"


def test_an_own_page_that_is_cut_off_is_asked_for_again_and_read_the_next_night(
    new_world: Callable[..., World],
) -> None:
    world = new_world(cars=4, photos=5, layout="2026")
    once, ever = world.site.cars[:2]
    world.site.fault(f"details:{once.cid}", ["half-short"])
    world.site.fault(f"details:{ever.cid}", ["half-short"], sticky=True)
    done = world.crawl(code=3)
    assert "1 details page unreadable or missing" in last_words(done)
    assert len(world.images_of(once)) == 5
    world.site.clear_faults()
    done = world.crawl()
    assert verdict(done).endswith("20 of 20 photos of cars for sale are stored.")
    assert stored(world) == 20


ELSEWHERE = [
    '<a href="{}">Mynd</a>',
    '<div data-bg="{}"></div>',
    "<div style=\"background-image: url('{}')\"></div>",
    '<script>var photos = ["{}"];</script>',
    '<picture><source srcset="{}"></picture>',
]


def test_photos_that_stand_elsewhere_on_the_own_page_are_taken_too(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(cars=len(ELSEWHERE), photos=5, layout="2026")
    forms = {f"c={car.cid}&": form for car, form in zip(world.site.cars, ELSEWHERE, strict=True)}

    def elsewhere(found: re.Match[str]) -> str:
        return next(form.format(found[1]) for car, form in forms.items() if car in found[1])

    drift(monkeypatch, world, (r'<img class="pswp-popup-area cd-car-photo"[^>]*?src="([^"]+)"[^>]*>', elsewhere))
    assert verdict(world.crawl()).endswith("25 of 25 photos of cars for sale are stored.")


def test_a_choice_that_the_form_makes_beforehand_does_not_narrow_the_search(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(cars=12, photos=1, layout="2026")
    make = r'(<option) selected="selected" (value="-1">Allir framleiðendur</option>\s*<option) '
    monkeypatch.setitem(DRIFTS, "outsider", Drift([(make, r'\1 \2 selected="selected" ')]))
    world.site.drift = "outsider"
    world.crawl()
    assert len(world.listings()) == 12


def test_a_small_site_whose_home_shows_all_its_cars_is_crawled(new_world: Callable[..., World]) -> None:
    world = new_world(site=SimulatedBilasolur(cars=3, photos=1, layout="2026"))
    for _ in range(2):
        world.crawl(makes=world.site.cars[0].make)
    assert len(world.listings()) == 1
    world.crawl()
    assert len(world.listings()) == 3


def test_what_the_site_calls_changed_is_read_though_its_card_is_the_same(new_world: Callable[..., World]) -> None:
    world = new_world(cars=4, photos=4, layout="2026")
    world.crawl()
    car = world.site.cars[0]
    world.site.add_photo(car.cid)
    world.site.touch(car.cid)
    world.crawl(changed_days="1")
    assert len(world.images_of(car)) == 5


def test_cards_in_another_markup_beside_known_ones_are_noticed(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(cars=24, photos=0, layout="2026")
    seen: list[Any] = []

    def every_third(found: re.Match[str]) -> str:
        seen.append(found)
        return found[0] if len(seen) % 3 else "<div class='premium-item'>" + found[2].replace("sr-link", "premium-link")

    card = (
        r'(<a class="car-anchor"[^>]*></a>\s*<div class="sr-item[^"]*">)'
        r'(.*?(?=<a class="car-anchor"|<div class="paging"))'
    )
    monkeypatch.setitem(DRIFTS, "outsider", Drift([(card, every_third)], frozenset({"results"})))
    world.site.drift = "outsider"
    done = world.crawl(code=3, details="false")
    assert len(world.listings()) < 24
    assert ": the site has changed." in last_words(done)
