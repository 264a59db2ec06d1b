"""The ways into the list: the form at home, the advanced one, what changed lately, and one car by its number."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING, Any

from scrapy.http import HtmlResponse

from carscraper.spiders.bilasolur import BilasolurSpider
from tests.crawl.world import World, verdict
from tests.dealers.bilasolur import SimulatedBilasolur
from tests.fakes import make_crawler

if TYPE_CHECKING:
    from collections.abc import Callable

    from scrapy import Request


def test_changed_days_reads_what_changed_and_concludes_nothing_of_the_others(new_world: Callable[..., World]) -> None:
    world = new_world(cars=20, photos=1, layout="2026")
    world.crawl()
    sold, changed, *_ = world.site.cars[5:]
    world.site.sell(sold.cid)
    world.site.change_price(changed.cid, 1_230_000)
    world.site.touch(changed.cid)
    changed_lately = [car for car in world.site.cars if (world.site.today - car.updated).days <= 1]
    assert len(changed_lately) == 3
    world.site.reset()
    done = world.crawl(changed_days=1)

    assert verdict(done).startswith("bilasolur: success. 3 cars (0 new, 0 gone)")
    assert world.asked("advanced") == 1
    assert (world.asked("home"), world.asked("details")) == (0, 3)  # all that the site calls changed
    assert world.listing(changed)["price"] == 1_230_000
    assert all(row["is_active"] for row in world.listings().values())


def test_a_day_without_changes_is_a_success(new_world: Callable[..., World]) -> None:
    world = new_world(cars=4, photos=0, layout="2026")
    for car in world.site.cars:
        car.updated = car.updated.replace(year=2025)
    done = world.crawl(changed_days=7)
    assert "success. 0 cars" in verdict(done)
    assert "the search of 7 days found nothing" in done.log
    assert "the whole site" not in done.log
    assert "success. 0 cars" in verdict(world.crawl(changed_days=7, makes="toyota"))


def test_changed_days_and_makes_go_together(new_world: Callable[..., World]) -> None:
    world = new_world(cars=20, photos=0, layout="2026")
    world.crawl(changed_days=30, makes="kia,tesla")
    assert {row["make"] for row in world.listings().values()} == {"Kia", "Tesla"}


def test_other_numbers_of_days_are_one_sentence(new_world: Callable[..., World]) -> None:
    sentence = "changed_days is {!r}; the site's search offers 1, 7, 30, 60, 90 and 120."
    world = new_world(cars=2, photos=0, layout="2026")
    assert sentence.format("2") in verdict(world.crawl(code=4, changed_days="2"))
    assert world.site.served.counts == {}
    for days in ("0", "365", "x", "-1", "1.0"):
        spider: Any = BilasolurSpider.from_crawler(make_crawler(BilasolurSpider), changed_days=days)
        assert spider.argument_problem == sentence.format(days)


def test_changed_days_needs_the_advanced_form(new_world: Callable[..., World]) -> None:
    world = new_world(cars=4, photos=0, layout="2026", forms=["home"])
    done = world.crawl(code=4, changed_days=1)
    assert "changed_days needs the advanced search form" in verdict(done)
    assert f"{world.site.base_url}/SearchCars.aspx" in verdict(done)
    assert world.listings() == {}


def test_a_site_that_offers_these_days_no_more_is_not_searched_for_everything(new_world: Callable[..., World]) -> None:
    world = new_world(cars=4, photos=0, layout="2026")
    world.site.fault("advanced", ["no-days"], sticky=True)
    done = world.crawl(code=4, changed_days=1)
    assert "offers no '1' in select[name$='search_modage']" in verdict(done)
    assert world.asked("search") == 0


def test_without_the_form_at_home_the_advanced_one_is_the_way_in(new_world: Callable[..., World]) -> None:
    world = new_world(cars=20, photos=1, layout="2026", forms=["advanced"])
    assert "success. 20 cars (20 new, 0 gone); 20 photos" in verdict(world.crawl())
    world.crawl(makes="kia")


def test_without_any_form_both_places_are_named(new_world: Callable[..., World]) -> None:
    world = new_world(cars=4, photos=0, layout="2026", forms=[])
    done = world.crawl(code=4)
    assert f"is neither on {world.site.base_url}/ nor on {world.site.base_url}/SearchCars.aspx" in verdict(done)
    world.site.fault("advanced", ["maintenance"], sticky=True)
    done = world.crawl(code=4)
    assert "form:has([name$='btnSearch'])" in verdict(done)


def test_a_dealer_without_such_a_search_says_so(new_world: Callable[..., World]) -> None:
    done = new_world(cars=1, photos=0).crawl(code=4, spider="hekla", changed_days=1)
    assert "has no argument changed_days" in verdict(done)


# ── One car by its number ─────────────────────────────────────────────────────────────────────────


def answer(request: Request) -> HtmlResponse:
    """Ask as Scrapy would, redirects followed."""
    asked = urllib.request.Request(request.url, request.body or None, method=request.method)
    for name, values in request.headers.items():
        asked.add_header(name.decode(), values[0].decode())
    with urllib.request.urlopen(asked, timeout=5) as got:
        return HtmlResponse(got.url, body=got.read(), encoding="utf-8", request=request)


def find(spider: Any, number: str) -> tuple[HtmlResponse, dict[str, Any]]:
    heard: list[Any] = []
    request = spider.find_car(number, lambda *_, **__: None, heard.append, {"row": 7})
    (posted,) = request.callback(answer(request), **request.cb_kwargs)
    assert heard == []
    assert posted.cb_kwargs == {"row": 7}
    return answer(posted), posted.cb_kwargs


def test_one_car_is_found_by_its_number() -> None:
    with SimulatedBilasolur(cars=30, photos=1, layout="2026") as site:
        spider: Any = BilasolurSpider.from_crawler(make_crawler(BilasolurSpider), base_url=site.base_url)
        car = site.cars[17]
        page, _ = find(spider, str(car.cid))
        cards, _ = spider.read_cards(page)
        assert [card.external_id for card in cards] == [str(car.cid)]
        site.sell(car.cid)
        page, _ = find(spider, str(car.cid))
        assert spider.says_empty(page)
        site.cid_leads_to = "details"
        page, _ = find(spider, str(site.cars[3].cid))
        assert spider.car_id(page.url) == str(site.cars[3].cid)


def test_a_search_for_one_car_without_the_form_is_a_failure_like_any_other() -> None:
    with SimulatedBilasolur(cars=1, photos=1, layout="2026") as site:
        spider: Any = BilasolurSpider.from_crawler(make_crawler(BilasolurSpider), base_url=site.base_url)
        heard: list[Any] = []
        request = spider.find_car("290003", lambda *_, **__: None, heard.append, {"row": 7})
        site.fault("advanced", ["maintenance"])
        request.callback(answer(request), **request.cb_kwargs)
        (failure,) = heard
        assert failure.request.cb_kwargs == {"row": 7}
        assert "is not on" in failure.getErrorMessage()
