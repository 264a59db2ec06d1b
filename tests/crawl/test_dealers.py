"""The dealers whose cars stand as cards on result pages: each crawled end to end, and what may be wrong."""

from __future__ import annotations

import hashlib
import re
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests import services
from tests.crawl.world import (
    DISPLAY_MAKES,
    DRIVETRAINS,
    FUELS,
    TRANSMISSIONS,
    World,
    keys_of,
    last_words,
    make_of,
    model_of,
    verdict,
)
from tests.dealers.brimborg import SimulatedBrimborg
from tests.dealers.hekla import SimulatedHekla
from tests.dealers.islandsbilar import SimulatedIslandsbilar

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.dealers.cars import Car
    from tests.dealers.listing import SimulatedListing


@dataclass(frozen=True, kw_only=True)
class Dealer:
    """A spider, its simulated site, and what the site's cards tell besides make, model, year and price."""

    spider: str
    source: str
    site: type[SimulatedListing]
    tells: frozenset[str]
    photos: int = 1
    """Of a car, as far as its card shows them."""
    models: dict[str, str] = field(default_factory=dict)
    """Models that can't be had from the card's title as people write them."""
    missing: str
    """What the last line names when the layout has changed."""


DEALERS = {
    dealer.spider: dealer
    for dealer in (
        Dealer(
            spider="hekla",
            source="Hekla",
            site=SimulatedHekla,
            tells=frozenset({"kilometers", "fuel"}),
            missing="a[href*='/bilar/notadir-bilar/view/']",
        ),
        Dealer(
            spider="brimborg",
            source="Brimborg",
            site=SimulatedBrimborg,
            tells=frozenset({"kilometers"}),
            missing="a[href*='/notadir-bilar/bill/']",
        ),
        Dealer(
            spider="islandsbilar",
            source="Islandsbilar",
            site=SimulatedIslandsbilar,
            tells=frozenset({"kilometers", "fuel", "transmission", "drivetrain", "price_before_offer"}),
            photos=5,
            models={"EV6 GT-Line": "EV6 GT-LINE", "C 220 d 4MATIC": "C 220 D 4MATIC", "Berlingo Van": "Berlingo VAN"},
            missing="card = '.card' with card_link = \"a[href*='/car/']\"",
        ),
    )
}


def truth_of(dealer: Dealer, site: Any, car: Car) -> dict[str, Any]:
    """The row of ``car_listings`` that a crawl must leave, as far as the site's cards tell."""
    model = dealer.models.get(car.model, model_of(car)[0])
    told = {
        "kilometers": car.kilometers,
        "fuel": FUELS[car.fuel],
        "transmission": TRANSMISSIONS[car.transmission],
        "drivetrain": DRIVETRAINS[car.drivetrain],
        "price_before_offer": car.price_before_offer,
    }
    # Of a fuel that the card does not tell the model's name may.
    named = next((fuel for word, fuel in (("PHEV", "plug-in-hybrid"), ("Hybrid", "hybrid")) if word in model), None)
    told = {name: value if name in dealer.tells else None for name, value in told.items()}
    return told | {
        "fuel": told["fuel"] or named,
        "source": dealer.source,
        "external_id": str(car.cid),
        "url": f"{site.base_url}{site.car_path}{car.cid}",
        "title": f"{DISPLAY_MAKES.get(car.make, car.make)} {model}",
        "make": make_of(car)[0],
        "model": model,
        "display_name": model,
        "year": car.year,
        "registration_month": car.month,
        "price": car.price,
        "price_excludes_vat": None if car.price is None else False,
        "is_active": True,
        "gone_at": None,
    }


def hosts(site: Any) -> dict[str, str]:
    """The environment under which a crawl may fetch photos from the site's other host."""
    assets = getattr(site, "assets", None)
    return {"IMAGES_ALLOWED_HOSTS": f"127.0.0.1:{assets.port}"} if assets else {}


@pytest.fixture
def dealer_world(new_world: Callable[..., World]) -> Callable[..., World]:
    """A world of the dealer's simulated site."""

    def make(name: str, *, env: dict[str, str] | None = None, **options: Any) -> World:
        dealer = DEALERS[name]
        site = dealer.site(**{"photos": dealer.photos} | options)
        world = new_world(site=site, spider=name, env=env)
        world.env |= hosts(site)
        return world

    return make


def active(world: World) -> dict[str, bool]:
    return {name: row["is_active"] for name, row in world.listings().items()}


# ── Every dealer, from its pages to S3 and the database ───────────────────────────────────────────


def assert_first_crawl(world: World, store: services.S3) -> None:
    """Rows, objects, keys and addresses are what the site's cards showed."""
    dealer, site = DEALERS[world.spider], world.site
    rows, images, objects = world.listings(), world.images(), store.objects()
    assert rows.keys() == {str(car.cid) for car in site.cars}
    shown = {site.identity(car, photo): (car, photo) for car in site.cars for photo in site.shown_photos(car)}
    assert images.keys() == shown.keys()
    assert len(objects) == len(images) == len(site.cars) * dealer.photos
    for car in site.cars:
        truth = truth_of(dealer, site, car)
        assert {column: rows[str(car.cid)][column] for column in truth} == truth
        assert rows[str(car.cid)]["image_url"] == images[site.identity(car, car.photos[0])]["url"]
    for identity, (car, photo) in shown.items():
        row = images[identity]
        assert (row["status"], row["source_url"]) == ("stored", site.photo_address(car, photo))
        assert row["position"] == site.shown_photos(car).index(photo)
        width = row["source_url"].partition("w=")[2]
        served = site.photo_bytes(car.cid, photo.p, int(width) if width else None)
        digest = hashlib.sha256(served).hexdigest()
        model = model_of(car)[1]
        assert row["key"] == f"{world.spider}/{car.year}/{make_of(car)[1]}/{model}/{car.cid}_{digest[:12]}.jpg"
        assert keys_of(world.spider).fullmatch(row["key"])
        assert objects[row["key"]] == served
    parameters = {"Bucket": store.bucket, "Key": row["key"]}
    signed = store.client.generate_presigned_url("get_object", Params=parameters)
    assert signed.partition("?")[0] == row["url"]
    with urllib.request.urlopen(signed, timeout=10) as answer:
        assert answer.read() == served


def assert_second_crawl(world: World) -> None:
    """It costs the pages and what is looked up; a car is gone on its own page's word only."""
    site = world.site
    before, images = world.listings(), world.images()
    sold, unlisted, forbidden, broken, _, _, cheaper, *_ = site.cars
    site.sell(sold.cid)
    for car, step in ((unlisted, "ok"), (forbidden, "403"), (broken, "500")):
        site.drop(car.cid)
        site.fault(f"details:{car.cid}", [step], sticky=True)
    site.set_car(cheaper.cid, price=cheaper.price + 100_000, price_before_offer=None)
    for host in (site, getattr(site, "assets", site)):
        host.reset()
    # As a person may write it: the whole address of the list.
    done = world.crawl(base_url=f"{site.base_url}{site.results_path}", settings={"RETRY_TIMES": 0})

    assert "success. 22 cars (0 new, 1 gone); 0 photos stored (0.0 MB), 0 linked" in verdict(done)
    served = site.served
    # The one that is for sale unlisted, and for the one that is gone a listed car, to compare.
    assert served.statuses("details") == {site.sold_as: 1, 200: 2, 403: 1, 500: 1}
    assert {asked.path.partition("?")[0] for asked in served.requests if asked.kind == "results"} == {site.results_path}
    assert served.counts["photo"] + getattr(site, "assets", site).served.counts["photo"] == 0
    after = world.listings()
    assert [name for name, row in after.items() if not row["is_active"]] == [str(sold.cid)]
    assert after[str(sold.cid)]["gone_at"]
    for car in (unlisted, forbidden, broken):
        assert after[str(car.cid)] == before[str(car.cid)]
    assert [change["new_price"] for change in world.price_changes()] == [cheaper.price]
    assert {name: row["url"] for name, row in after.items()} == {name: row["url"] for name, row in before.items()}
    assert world.images() == images


def assert_changes_are_noticed(world: World) -> None:
    """Another layout ends the crawl with the name of what is missing, and nobody is gone."""
    site, missing = world.site, DEALERS[world.spider].missing
    before, images = world.listings(), world.images()
    site.fault("results", ["layout"], sticky=True)
    done = world.crawl(code=4)
    assert missing in verdict(done)
    assert f"{site.base_url}{site.results_path}" in verdict(done)
    assert world.listings() == before
    if "photo-class" in site.page_steps:
        site.fault("results", ["photo-class"], sticky=True)
        assert "img.card__img" in verdict(world.crawl(code=4))
        assert world.listings() == before
    # In the middle a page without cars is no end of the list either; what comes before and after it is kept.
    site.clear_faults()
    site.fault("results:2", ["maintenance"], sticky=True)
    done = world.crawl(code=3)
    assert "not complete: Result page 2" in last_words(done)
    assert missing in last_words(done)
    assert active(world) == {name: row["is_active"] for name, row in before.items()}
    assert world.images() == images


@pytest.mark.parametrize("name", DEALERS)
def test_every_car_and_photo_is_kept_once_and_a_changed_site_costs_nothing_that_is_known(
    name: str, dealer_world: Callable[..., World], rclone_s3: services.S3
) -> None:
    photos = DEALERS[name].photos + 1  # one more than the card shows
    sold_as = 410 if name == "hekla" else 404
    world = dealer_world(name, cars=26, per_page=9, photos=photos, sold_as=sold_as, env=rclone_s3.env)
    done = world.crawl()
    assert_first_crawl(world, rclone_s3)
    assert f"{name}: success. 26 cars (26 new, 0 gone); {26 * (photos - 1)} photos stored" in verdict(done)
    assert len(last_words(done).splitlines()) == 1
    # One that repeats the last, which was not full, is the end.
    assert (world.asked("results"), world.asked("details")) == (4, 0)
    assert_second_crawl(world)
    assert_changes_are_noticed(world)


# ── The end of the list ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("past_end", ["repeat", "empty", "404"])
def test_numbered_pages_end_whatever_comes_after_the_last(past_end: str, dealer_world: Callable[..., World]) -> None:
    world = dealer_world("brimborg", cars=20, per_page=10, photos=0, past_end=past_end)  # two full pages
    done = world.crawl()
    assert "success. 20 cars" in verdict(done), "also those without a photo and a price"
    # After a full page two must say that the list has ended; one that is empty or not there is asked for twice.
    assert world.asked("results") == (4 if past_end == "repeat" else 5)
    if past_end == "404":  # it was a complete crawl: what is missing is looked up
        world.site.sell(world.site.cars[17].cid)
        assert "19 cars (0 new, 1 gone)" in verdict(world.crawl())


def test_a_list_that_a_cap_ends_behind_an_empty_page_is_concluded(dealer_world: Callable[..., World]) -> None:
    """Photos that are due of a car that was not seen are asked for, as by every crawl of the whole list."""
    world = dealer_world("brimborg", cars=21, per_page=10, photos=1, past_end="empty")
    sold = world.site.cars[0]
    world.site.fault("photo", ["404"], sticky=True)
    world.crawl(code=3)
    world.site.clear_faults()
    world.site.sell(sold.cid)  # two full pages are left
    done = world.crawl(code=3, settings={"CRAWL_MAX_PAGES": 3})
    assert "1 search stopped by CRAWL_MAX_PAGES" in last_words(done)
    assert {row["status"] for row in world.images().values()} == {"stored"}


def test_arguments(dealer_world: Callable[..., World]) -> None:
    world = dealer_world("hekla", cars=25, photos=1, per_page=10, ads_every=2)
    site = world.site
    kias = {str(car.cid) for car in site.cars if car.make == "Kia"}
    world.crawl(makes="KIA,Trabant", details="false")
    assert world.listings().keys() == kias
    assert site.max_asked_page == 4
    world.crawl(limit=3)
    assert world.listings().keys() == kias | {str(car.cid) for car in site.cars[:3]}
    site.reset()
    site.sell(site.cars[1].cid)
    world.crawl(max_pages=2)
    assert world.asked("results") == 2
    assert world.listings().keys() == kias | {str(car.cid) for car in site.cars[:21]}
    assert all(active(world).values())
    assert world.asked("details") == 0, "a partial crawl concludes nothing"


# ── Cards and photos that were written to do harm ─────────────────────────────────────────────────


def test_hostile_cards_cost_themselves_at_most(
    dealer_world: Callable[..., World], new_site: Callable[..., Any]
) -> None:
    world = dealer_world("hekla", cars=14, photos=1, per_page=7)
    site = world.site
    inside = new_site(SimulatedHekla(cars=1, photos=1))
    untitled, priceless, long, rich, nameless, foreign, spy, unknown, injected, lazy, twice, *_ = site.cars
    site.set_card(untitled.cid, title="")
    site.set_card(priceless.cid, price="")
    site.set_card(long.cid, title="VW " + "GOLF " * 1000)
    site.set_card(rich.cid, price="Verð: 1.234.567.890.123.456.789.012.345 kr.")
    site.set_card(nameless.cid, link=site.car_path)
    site.set_card(foreign.cid, link=f"{inside.base_url}{site.car_path}{foreign.cid}")
    site.set_photo(spy.cid, None, src=f"{inside.base_url}/media/290003-3000000.jpg")
    site.set_card(unknown.cid, title="TRABANT 601 S")
    site.set_card(injected.cid, title="=cmd|' /C calc'!A0<br>2026-01-01 [x] INFO: forged ../../etc")
    site.set_photo(lazy.cid, None, src="data:image/gif;base64,R0lGODlhAQABAAAAACw=")
    site.set_card(
        twice.cid, photos="".join(f'<img src="/media/{twice.cid}-{twice.photos[0].p}.jpg?w={w}">' for w in (400, 784))
    )
    done = world.crawl(code=3)

    assert "1 card unreadable" in last_words(done)
    # Without a title the line after it is taken for one.
    assert re.search(r", [23] cars of a make that vehicles.toml does not know[.;]", last_words(done))
    assert "1 blocked-address" in last_words(done)
    assert len(done.lines("A card of ")) == 1
    rows = world.listings()
    lost = {str(nameless.cid), str(foreign.cid)}
    assert rows.keys() == {str(car.cid) for car in site.cars} - lost
    assert inside.served.counts == {}
    assert rows[str(untitled.cid)]["year"] == untitled.year
    assert rows[str(untitled.cid)]["price"] == untitled.price
    assert rows[str(priceless.cid)]["price"] is None
    assert rows[str(priceless.cid)]["make"] == make_of(priceless)[0]
    assert len(world.images_of(priceless)) == 1
    assert rows[str(long.cid)]["make"] == "Volkswagen"
    assert len(rows[str(long.cid)]["title"]) <= 300
    assert rows[str(rich.cid)]["price"] is None
    assert rows[str(unknown.cid)]["make"] == "Trabant"
    assert [row["reason"] for row in world.images_of(spy)] == ["blocked-address"]
    assert world.images_of(lazy) == []
    (photo,) = world.images_of(twice)
    assert photo["status"] == "stored"
    assert photo["identity"] == site.identity(twice, twice.photos[0])
    for row in world.images().values():
        assert row["key"] is None or keys_of("hekla").fullmatch(row["key"])
    assert not any(line.startswith("2026-01-01 [x] INFO: forged") for line in done.stderr.splitlines())
    assert all(row["url"].startswith(site.base_url) for row in rows.values())
