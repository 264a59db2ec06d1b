"""The site changes: cars are sold and come back, pages fail, the layout is another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crawl.world import World, last_words, truth_of, verdict
from tests.dealers.bilasolur import SimulatedBilasolur

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.dealers.cars import Car
    from tests.http_server import Request, Response


def active(world: World) -> dict[str, bool]:
    return {name: row["is_active"] for name, row in world.listings().items()}


def drop(world: World, *cars: Car) -> None:
    """They are no longer among the results, and their own pages live on."""
    world.site.cars = [car for car in world.site.cars if car not in cars]


def test_a_list_that_leaves_out_cars_that_are_for_sale_was_not_whole(new_world: Callable[..., World]) -> None:
    world = new_world(cars=30, photos=1)
    world.crawl()
    drop(world, *world.site.cars[:2])
    world.crawl()  # a few move while the list is read
    drop(world, *world.site.cars[:3])
    done = world.crawl(code=3)
    assert "5 cars that the list did not show are for sale by their own pages" in last_words(done)
    assert all(active(world).values())


# ── Sold cars ─────────────────────────────────────────────────────────────────────────────────────


def test_a_car_is_gone_on_its_own_pages_word_only(new_world: Callable[..., World], database_url: str) -> None:
    world = new_world(cars=14, photos=1, database_url=database_url)
    sold, also_sold, alive, broken, silent, closed, elsewhere, *rest = world.site.cars
    world.crawl()
    world.site.sell(sold.cid)
    world.site.sell(also_sold.cid)
    drop(world, alive, broken, silent, closed, elsewhere)
    world.site.fault(f"details:{broken.cid}", ["500"], sticky=True)
    world.site.fault(f"details:{silent.cid}", ["never"], sticky=True)
    world.site.fault(f"details:{closed.cid}", ["maintenance"], sticky=True)
    world.site.fault(f"details:{elsewhere.cid}", [f"redirect:{world.site.base_url}/"], sticky=True)
    before = world.listings()
    world.site.reset()
    done = world.crawl(settings={"DOWNLOAD_TIMEOUT": 1, "RETRY_TIMES": 1})

    assert "success. 7 cars (0 new, 2 gone)" in verdict(done)
    looked_up = {asked.path.partition("cid=")[2][:6] for asked in world.site.served.requests if asked.kind == "details"}
    missing = {str(car.cid) for car in (sold, also_sold, alive, broken, silent, closed, elsewhere)}
    assert missing < looked_up
    assert looked_up - missing == {str(car.cid) for car in rest[-2:]}, "do pages of listed cars show theirs?"
    after = world.listings()
    for car in (sold, also_sold):
        row = after[str(car.cid)]
        assert not row["is_active"]
        assert row["gone_at"] > row["last_seen_at"]
        kept = set(row) - {"is_active", "gone_at"}
        assert {name: row[name] for name in kept} == {name: before[str(car.cid)][name] for name in kept}
    for car in (alive, broken, silent, closed, elsewhere):
        assert after[str(car.cid)] == before[str(car.cid)]
    assert all(after[str(car.cid)]["is_active"] for car in rest)
    assert {row["status"] for row in world.images().values()} == {"stored"}
    assert "Failure" not in done.stderr, "no inner names of Twisted in what people read"
    # What is gone is not asked for again; what was only missing is.
    world.site.clear_faults()
    world.site.reset()
    done = world.crawl(code=3)
    assert world.asked("details") == 5
    assert "(0 new, 0 gone)" in last_words(done)
    assert "5 cars that the list did not show are for sale by their own pages" in last_words(done)


def test_a_sold_car_that_comes_back_is_the_same_row(new_world: Callable[..., World]) -> None:
    world = new_world(cars=4, photos=2)
    car = world.site.cars[0]
    world.crawl()
    row = world.listing(car)
    world.site.sell(car.cid)
    world.crawl()
    assert not world.listing(car)["is_active"]
    world.site.relist(car.cid)
    world.site.reset()
    done = world.crawl()
    back = world.listing(car)
    assert back["id"] == row["id"]
    assert {name: back[name] for name in truth_of(car, "")} == truth_of(car, world.site.base_url)
    assert f"sid={car.sid}" in back["url"]
    assert back["first_seen_at"] == row["first_seen_at"]
    assert len(world.listings()) == 4
    assert (world.asked("details"), world.asked("photo")) == (1, 0)
    assert "(0 new, 0 gone)" in verdict(done)


def test_a_partial_crawl_concludes_nothing(new_world: Callable[..., World]) -> None:
    world = new_world(cars=10, photos=0, per_page=4)
    world.crawl()
    sold = [world.site.cars[0], world.site.cars[9]]
    for car in sold:
        world.site.sell(car.cid)
    world.site.reset()
    world.crawl(limit=3)
    world.crawl(max_pages=1)
    world.crawl(makes="kia")
    assert all(active(world).values())
    assert world.asked("details") == 0


def test_a_missing_result_page_concludes_nothing(new_world: Callable[..., World]) -> None:
    world = new_world(cars=10, photos=0, per_page=4)
    world.crawl()
    world.site.sell(world.site.cars[9].cid)
    world.site.fault("results:2", ["500"], sticky=True)
    done = world.crawl(code=3, settings={"RETRY_TIMES": 1})
    assert all(active(world).values())
    assert "1 result page missing" in last_words(done)


def test_a_site_that_shows_a_fifth_of_its_cars_is_a_failure(new_world: Callable[..., World]) -> None:
    world = new_world(cars=15, photos=1)
    world.crawl()
    for car in world.site.cars[3:]:
        world.site.sell(car.cid)
    world.site.reset()
    done = world.crawl(code=4)
    assert all(active(world).values())
    assert world.asked("details") == 0
    assert "3 of 15 known cars" in last_words(done)
    assert "CRAWL_MIN_SHARE" in last_words(done)
    # Who knows better says so.
    world.crawl(settings={"CRAWL_MIN_SHARE": 0.1})
    assert sum(active(world).values()) == 3


def test_a_number_that_is_given_to_another_car_mixes_no_photos(new_world: Callable[..., World]) -> None:
    world = new_world(cars=5, photos=3)
    old, failing = world.site.cars[0], world.site.cars[0].photos[2]
    world.site.photo_fault(old.cid, failing.p, ["500"], sticky=True)  # work that is left over
    world.crawl(code=3, settings={"RETRY_TIMES": 0})
    before, old_photos = world.listing(old), old.identities
    world.site.clear_faults()
    world.site.set_car(old.cid, make="Tesla", model="Model 3", year=old.year - 3, price=5_100_000, sid=old.sid + 9)
    old.photos.clear()
    for _ in range(2):
        world.site.add_photo(old.cid)
    world.site.reset()
    done = world.crawl()
    after, rows = world.listing(old), world.images_of(old)
    assert (after["id"], after["make"], after["price"]) == (before["id"], "Tesla", 5_100_000)
    assert world.price_changes() == [], "that was another car's price"
    current = [row for row in rows if row["status"] == "stored"]
    assert [(row["identity"], row["position"]) for row in current] == [*zip(old.identities, (0, 1), strict=True)]
    assert {row["identity"]: row["status"] for row in rows if row not in current} == dict.fromkeys(
        old_photos, "superseded"
    )
    assert [bool(row["key"] and world.kept_file(row)) for row in rows if row not in current] == [True, True, False]
    assert world.asked("photo") == 2, "what was left to do was of the other car"
    (line,) = done.lines("has given the id")
    assert f"{old.cid} to another car: Tesla Model 3 {old.year} instead of" in line
    # And the one before may come back.
    world.site.reset()
    assert not world.crawl().lines("has given the id")
    assert world.asked("photo") == 0


# ── Pages that can't be read ──────────────────────────────────────────────────────────────────────


def test_an_unreadable_card_is_counted_and_the_others_are_kept(new_world: Callable[..., World]) -> None:
    world = new_world(cars=9, photos=1, per_page=4, ads_every=1, layout="2019")  # no anchor names the car as well
    bad, garbage, bare, *_ = world.site.cars
    world.site.card_fault(bad.cid, "no-cid")
    world.site.card_fault(garbage.cid, "garbage")
    world.site.card_fault(bare.cid, "bare")
    done = world.crawl(code=3)
    assert set(active(world)) == {str(car.cid) for car in world.site.cars if car is not bad}
    assert [line.partition("WARNING: ")[2] for line in last_words(done).splitlines()[-2:]] == [
        "bilasolur: not kept: 1 card unreadable.",
        "bilasolur: not complete: Result page 1 showed 3 cars where others show 4.",
    ]
    # It is no measure of how many cars there are, but of what cards show it is.
    assert [row["complete"] for row in world.sql("SELECT complete FROM crawl_runs")] == [False]
    assert [row["complete"] for row in world.sql("SELECT complete FROM dealer_fill")] == [True]
    (warning,) = done.lines("A card of ")
    assert "SearchResults.aspx?page=1" in warning
    row = world.listing(garbage)
    assert (row["price"], row["kilometers"]) == (None, None)
    truth = truth_of(garbage, world.site.base_url, "2019")
    on_the_page = ("make", "year", "fuel")
    assert [row[name] for name in on_the_page] == [truth[name] for name in on_the_page], "on the car's own page too"
    # A card that nobody can read may be any of the cars that are missing.
    world.site.card_fault(garbage.cid, "no-cid")
    world.crawl(code=3)
    assert all(active(world).values())


@pytest.mark.parametrize("details", [True, False])
def test_garbage_does_not_overwrite_what_is_known(new_world: Callable[..., World], details: bool) -> None:
    world = new_world(cars=3, photos=2)
    world.crawl()
    car = world.site.cars[0]
    before = world.listing(car)
    if details:
        world.site.fault(f"details:{car.cid}", ["garbage"], sticky=True)
        world.crawl(code=3, settings={"DETAILS_MAX_AGE_DAYS": 0})
    else:
        world.site.card_fault(car.cid, "garbage")
        world.crawl()
    after = world.listing(car)
    changing = {"last_seen_at", "scraped_at", "card_hash", "details_at"}
    changing |= {"horsepower"} if details else set()
    assert {name: after[name] for name in set(after) - changing} == {
        name: before[name] for name in set(before) - changing
    }
    assert {row["status"] for row in world.images_of(car)} == {"stored"}
    assert world.price_changes() == []


def test_another_page_instead_of_the_results_fails_and_names_what_is_missing(new_world: Callable[..., World]) -> None:
    world = new_world(cars=6, photos=1, per_page=3)
    world.crawl()
    before = world.listings()
    for kinds, page in (
        (["results"], "layout"),
        (["results"], "maintenance"),
        (["results"], "login"),
        (["home", "advanced"], "maintenance"),  # either form is a way in
    ):
        world.site.clear_faults()
        for kind in kinds:
            world.site.fault(kind, [page], sticky=True)
        done = world.crawl(code=4)
        assert world.listings() == before
        assert (".sr-item" if "results" in kinds else "form:has([name$='btnSearch'])") in verdict(done)
        assert world.site.base_url in verdict(done)


@pytest.mark.parametrize("trouble", ["down", "500", "nobody there"])
def test_a_site_that_cant_be_reached_is_a_failure(new_world: Callable[..., World], trouble: str) -> None:
    world = new_world(cars=3, photos=1)
    if trouble == "down":
        world.site.down = True
    elif trouble == "500":
        world.site.fault("page", ["500"], sticky=True)
    else:
        world.site.stop()
    done = world.crawl(code=4, settings={"RETRY_TIMES": 1})
    assert "can't be reached" in verdict(done)
    assert world.site.base_url in verdict(done)
    assert world.listings() == {}


def test_endless_paging_stops_at_its_cap(new_world: Callable[..., World]) -> None:
    world = new_world(cars=6, photos=0, per_page=3, endless=True)
    done = world.crawl(code=3, settings={"CRAWL_MAX_PAGES": 4})
    assert world.asked("results") == 4
    assert len(world.listings()) == 12
    assert "1 search stopped by CRAWL_MAX_PAGES" in last_words(done)
    # Nothing is concluded from it.
    world.site.sell(world.site.cars[0].cid)
    world.crawl(code=3, settings={"CRAWL_MAX_PAGES": 4})
    assert active(world)[str(world.site.cars[0].cid)]


def test_an_empty_page_of_results_ends_as_a_failure_but_not_for_one_make(new_world: Callable[..., World]) -> None:
    world = new_world(cars=2, photos=0)  # Toyota and Kia
    world.crawl()
    done = world.crawl(makes="tesla")
    assert "success. 0 cars" in verdict(done)
    for car in world.site.cars:
        world.site.sell(car.cid)
    done = world.crawl(code=4)
    assert "found nothing" in verdict(done)
    assert all(active(world).values())


def test_a_details_page_that_cant_be_read_costs_its_details_only(new_world: Callable[..., World]) -> None:
    pages = ("500", "404", "never", "garbage", "maintenance", "binary", "empty", "login")
    world = new_world(cars=len(pages) + 2, photos=2, layout="2019")
    bad = dict(zip(pages, world.site.cars, strict=False))
    for page, car in bad.items():
        world.site.fault(f"details:{car.cid}", [page], sticky=True)
    done = world.crawl(code=3, settings={"RETRY_TIMES": 1, "DOWNLOAD_TIMEOUT": 1})
    assert f"{len(bad)} details pages unreadable or missing" in last_words(done)
    assert len(done.lines("Details page ")) == len(bad)
    of_the_card = ("url", "make", "model", "year", "price", "kilometers", "fuel", "transmission", "dealer_id")
    for page, car in bad.items():
        assert len([line for line in done.lines("Details page ") if f"cid={car.cid}&" in line]) == 1
        row, truth = world.listing(car), truth_of(car, world.site.base_url, "2019")
        assert {name: row[name] for name in of_the_card} == {name: truth[name] for name in of_the_card}, page
        assert [image["status"] for image in world.images_of(car)] == ["stored", "stored"]
    good = world.site.cars[-1]
    assert world.listing(good)["horsepower"] == good.horsepower
    # The next crawl tries again.
    world.site.clear_faults()
    world.site.reset()
    world.crawl()
    assert (world.asked("details"), world.asked("photo")) == (len(bad), 0)
    for car in world.site.cars:
        truth = truth_of(car, world.site.base_url, "2019")
        assert {name: world.listing(car)[name] for name in truth} == truth


class Misled(SimulatedBilasolur):
    """A site that shows something else instead of a car's own page."""

    instead = ""

    def _details(self, which: str, request: Request) -> Response:
        car = self._all.get(int(which))
        if car is not self.cars[0] or not self.instead:
            return super()._details(which, request)
        if self.instead == "home":
            return self._home(which, request)
        if self.instead == "list":
            return self._result_page(next(iter(self._searches.values())), next(iter(self._searches)), "1")
        photos, car.photos = car.photos, car.photos[:1]
        try:
            return super()._details(which, request)
        finally:
            car.photos = photos


@pytest.mark.parametrize("layout", ["2019", "2026"])
@pytest.mark.parametrize("instead", ["redirect", "home", "list", "fewer-photos"])
def test_what_is_no_own_page_of_a_car_is_not_read_as_one(
    new_world: Callable[..., World], layout: str, instead: str
) -> None:
    world = new_world(site=Misled(cars=4, photos=5, featured=4, layout=layout))
    car = world.site.cars[0]
    if instead == "redirect":
        world.site.fault(f"details:{car.cid}", ["redirect:/"], sticky=True)
    world.site.instead = instead.removeprefix("redirect")
    assert "1 details page unreadable or missing" in last_words(world.crawl(code=3))
    assert world.listing(car)["details_at"] is None
    world.site.clear_faults()
    world.site.instead = ""
    world.crawl()
    assert len(world.images_of(car)) == 5
    assert {row["status"] for row in world.images().values()} == {"stored"}


def test_a_page_that_fails_once_is_tried_again(new_world: Callable[..., World]) -> None:
    world = new_world(cars=8, photos=1, per_page=4)
    first, second, third, *_ = world.site.cars
    world.site.fault("home", ["503"])
    world.site.fault("results:2", ["503:1", "reset"])
    world.site.fault(f"details:{first.cid}", ["503", "500"])
    world.site.fault(f"details:{second.cid}", ["reset"])
    world.site.fault(f"details:{third.cid}", ["half"])
    done = world.crawl()
    assert "success. 8 cars (8 new, 0 gone); 8 photos" in verdict(done)
    for car in world.site.cars:
        truth = truth_of(car, world.site.base_url)
        assert {name: world.listing(car)[name] for name in truth} == truth


def test_a_car_that_is_sold_between_card_and_page_is_kept_until_a_crawl_without_it(
    new_world: Callable[..., World],
) -> None:
    world = new_world(cars=4, photos=1)
    car = world.site.cars[0]
    world.site.fault(f"details:{car.cid}", [f"redirect:{world.site.base_url}/CarDetails.aspx?cid=1"], sticky=True)
    world.crawl(code=None)
    assert world.listing(car)["is_active"]
    world.site.clear_faults()
    world.site.sell(car.cid)
    world.crawl()
    assert not world.listing(car)["is_active"]


def test_another_cars_page_tells_nothing_of_this_one(new_world: Callable[..., World]) -> None:
    world = new_world(cars=4, photos=1)
    mixed_up, led_away, other, fine = world.site.cars
    # The site serves another car's page under the address of the first, and leads from the second to it.
    world.site.page_steps = {"other": ((str(mixed_up.cid), str(other.cid)),)}
    world.site.fault(f"details:{mixed_up.cid}", ["other"], sticky=True)
    address = f"{world.site.base_url}/CarDetails.aspx?bid={other.bid}&cid={other.cid}"
    world.site.fault(f"details:{led_away.cid}", [f"redirect:{address}"], sticky=True)
    done = world.crawl(code=3)
    assert "2 details pages unreadable or missing" in last_words(done)
    assert f"it is the page of the car {other.cid}" in done.stderr
    for car in (mixed_up, led_away):
        row = world.listing(car)
        assert (row["price"], row["details_at"], row["colour"], row["dealer_name"]) == (car.price, None, None, None)
        assert [image["identity"] for image in world.images_of(car)] == car.identities
    assert world.listing(fine)["details_at"]
