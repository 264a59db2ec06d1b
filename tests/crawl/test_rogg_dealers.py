"""bilaland.is and br.is: end to end over plain HTTP, into S3 and the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.crawl.world import World, keys_of, truth_of, verdict
from tests.dealers.bilaland import SimulatedBilaland
from tests.dealers.br import SimulatedBr

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests import services
    from tests.dealers.cars import Car

DEALERS: dict[str, tuple[type[SimulatedBilaland], str]] = {
    "bilaland": (SimulatedBilaland, "Bilaland"),
    "br": (SimulatedBr, "BR"),
}


@pytest.fixture
def new_dealer(new_world: Callable[..., World]) -> Callable[..., World]:
    def make(spider: str = "bilaland", *, env: dict[str, str] | None = None, **options: Any) -> World:
        return new_world(site=DEALERS[spider][0](**options), spider=spider, env=env)

    return make


def assert_cars(world: World, cars: list[Car]) -> None:
    rows = world.listings()
    assert rows.keys() == {str(car.cid) for car in cars}
    for car in cars:
        truth = truth_of(car, world.site.base_url, world.site.layout) | {"source": DEALERS[world.spider][1]}
        row = rows[str(car.cid)]
        assert {name: row[name] for name in truth} == truth


def addresses(world: World, kind: str) -> list[str]:
    return [asked.path for asked in world.site.served.requests if asked.kind == kind]


@pytest.mark.parametrize("s3", ["rclone"], indirect=True)
@pytest.mark.parametrize("spider", DEALERS)
def test_a_dealer_is_crawled_into_s3_and_the_second_crawl_costs_the_list_only(
    new_dealer: Callable[..., World], s3: services.S3, spider: str
) -> None:
    world = new_dealer(spider, env=s3.env)
    site = world.site
    done = world.crawl()
    assert_cars(world, site.cars)
    images = world.images()
    assert images.keys() == {identity for car in site.cars for identity in car.identities}
    objects = s3.objects()
    for car in site.cars:
        for position, photo in enumerate(car.photos):
            row = images[f"{car.cid}/{photo.p}"]
            assert (row["status"], row["position"]) == ("stored", position)
            assert keys_of(spider).fullmatch(row["key"])
            assert objects[row["key"]] == world.served(car, photo)
    assert len(objects) == 24
    guid = addresses(world, "results")[0].partition("id=")[2]
    pages = [{"id": guid}, {"id": guid, "page": "2"}, {"id": guid, "page": "3"}, {"id": guid, "page": "4"}]
    asked = [dict(parse_qsl(urlsplit(each).query)) for each in addresses(world, "results")]
    assert asked == pages, "the first page without page=, the last one once more"
    assert addresses(world, "home") == ["/?make=-1" if spider == "br" else "/"]
    assert f"{spider}: success. 12 cars (12 new, 0 gone); 24 photos stored (" in verdict(done)

    # Some are sold; everything else costs the list only.
    sold = site.cars[7]
    site.sell(sold.cid)
    site.reset()
    done = world.crawl()
    assert (world.asked("photo"), world.asked("details")) == (
        0,
        2,
    )  # the sold car, and one of the list to compare its page with
    assert "11 cars (0 new, 1 gone); 0 photos stored (0.0 MB), 0 linked, 22 known before" in verdict(done)
    assert not world.listing(sold)["is_active"]
    assert sum(row["is_active"] for row in world.listings().values()) == 11
    assert world.images() == images


def test_addresses_that_have_expired_are_asked_for_on_the_cars_page(new_dealer: Callable[..., World]) -> None:
    world = new_dealer(cars=4, photos=2)
    world.site.fault("photo", ["403", "ok"], each=True)
    world.crawl(details="false")
    assert world.asked("details") == 4, "one visit for each car"
    assert {row["status"] for row in world.images().values()} == {"stored"}
    assert len(world.images()) == 4, "a card shows one photo"
    assert world.asked("photo") == 8


def test_arguments(new_dealer: Callable[..., World]) -> None:
    world = new_dealer(photos=0)
    site = world.site
    done = world.crawl(makes="vw, skoda")
    kept = [car for car in site.cars if car.make in {"Volkswagen", "Škoda"}]
    assert_cars(world, kept)
    assert world.asked("search") == 2
    assert "2 cars (2 new" in verdict(done)
    site.reset()
    world.crawl(limit=6, max_pages=2, details="false")
    assert len(world.listings()) == 6, "the two were among the first six"
    assert (world.asked("results"), world.asked("details")) == (2, 0)
    done = world.crawl(code=4, makes="trabant")
    assert "makes='trabant'" in verdict(done)


@pytest.mark.parametrize("home_as", ["form", "shows"])
def test_br_begins_at_an_address_that_leads_to_the_results_or_shows_them(
    new_dealer: Callable[..., World], home_as: str
) -> None:
    world = new_dealer("br", home_as=home_as, photos=1)
    world.crawl(details="false")
    assert len(world.listings()) == 12
    assert len(world.images()) == 12
    counts = world.site.served.counts
    assert (counts["search"], counts["results"]) == (int(home_as == "form"), 4)
    paths = [asked.path for asked in world.site.served.requests if asked.kind not in {"robots", "photo"}]
    assert paths[0] == "/?make=-1"
    if home_as == "shows":
        return
    # The makes are chosen among the cards: no search is needed.
    world.site.reset()
    done = world.crawl(makes="Toyota,KIA", details="false")
    assert "success. 4 cars (0 new, 0 gone)" in verdict(done)
    assert world.asked("search") == int(home_as == "form")


def test_a_photo_is_one_whatever_site_of_the_platform_shows_it(new_dealer: Callable[..., World]) -> None:
    """An address without a slash, one of another site, one with another dealer's number."""
    world = new_dealer("br", cars=3, photos=1)
    first, second, third = world.site.cars
    base = world.site.base_url
    for car, address in (
        (first, f"{base}CarImage.aspx?s=1&c={first.cid}&p={first.photos[0].p}&w=400"),
        (second, f"carimage.aspx?C={second.cid}&P={second.photos[0].p}"),
        (third, f"//127.0.0.1:{world.site.port}//CarImage.aspx?c={third.cid}&amp;p={third.photos[0].p}"),
    ):
        world.site.set_photo(car.cid, None, src=address)
    world.crawl()
    rows = world.images()
    assert rows.keys() == {identity for car in world.site.cars for identity in car.identities}
    assert {row["status"] for row in rows.values()} == {"stored"}
