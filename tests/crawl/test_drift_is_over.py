"""A selector fails and is mended: what a night's pages did not show is read as soon as they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crawl.test_drifts import kept
from tests.crawl.world import World, truth_of, verdict
from tests.dealers.drifts import DRIFTS, Drift, renamed

if TYPE_CHECKING:
    from collections.abc import Callable

HIDDEN = {
    "price-hidden": Drift([renamed("car-price"), renamed("cd-price")]),
    "facts-hidden": Drift([renamed("tech-details")], kinds=frozenset({"results"})),
}


@pytest.mark.parametrize("hidden", HIDDEN)
def test_what_was_unread_for_a_night_is_read_the_next_without_a_visit(
    new_world: Callable[..., World], database_url: str, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DRIFTS, hidden, HIDDEN[hidden])
    world = new_world(cars=20, photos=2, database_url=database_url)
    world.crawl()
    repriced, site = world.site.cars[0], world.site
    site.drift = hidden
    site.change_price(repriced.cid, 1_111_000)
    new = site.car(site.add_car())
    unread = {"price-hidden": {"price": repriced}, "facts-hidden": {}}[hidden]
    world.crawl(code=3)
    for column, car in unread.items():
        assert world.listing(car)[column] != getattr(car, column)
        assert world.listing(new)[column] is None
    site.drift = ""
    site.reset()
    done = world.crawl()
    assert (world.asked("details"), world.asked("photo")) == (0, 0)
    assert f"success. {len(site.cars)} cars" in verdict(done)
    assert "42 known before" in verdict(done), "of all photos of each car, not of those on its card"
    for car in site.cars:
        truth = truth_of(car, site.base_url)
        assert {name: world.listing(car)[name] for name in truth} == truth
    changed = {"price-hidden": 2, "facts-hidden": 0}[hidden]
    assert world.sql("SELECT cars_changed FROM crawl_runs ORDER BY id DESC LIMIT 1")[0]["cars_changed"] == changed
    assert [(row["new_price"]) for row in world.price_changes()] == [1_111_000]
    before = kept(world)
    world.crawl()
    assert kept(world) == before


def test_hashes_of_an_older_version_cost_no_visit(new_world: Callable[..., World]) -> None:
    world = new_world(cars=4, photos=2)
    world.crawl()
    world.sql("UPDATE car_listings SET card_hash = substr(card_hash, 1, 32)")
    before = world.listings()
    world.site.reset()
    world.crawl()
    assert world.asked("details") == 0
    after = world.listings()
    times = {"last_seen_at", "scraped_at"}
    for name, row in after.items():
        assert {column for column in row if row[column] != before[name][column]} <= times
