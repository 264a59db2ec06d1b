"""A list is complete only when its end was seen: whatever ends it early is gone around, or makes the crawl partial."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.crawl.world import World, last_words, verdict
from tests.dealers.bilaland import SimulatedBilaland
from tests.dealers.bilasolur import SESSION, SimulatedBilasolur
from tests.dealers.brimborg import SimulatedBrimborg
from tests.dealers.hekla import SimulatedHekla
from tests.dealers.islandsbilar import SimulatedIslandsbilar
from tests.dealers.listing import PAGERS
from tests.dealers.stubborn import STUBBORN_PAGERS, PromotedBilasolur, ResortedBilasolur, StubbornBilasolur
from tests.http_server import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.http_server import Request

CARS = 28
PAGE = 8
NO_PHOTOS = {"details": "false"}
_PAGER = '<div class="paging">'
ONE_TRY = {"RETRY_TIMES": 1, "DOWNLOAD_TIMEOUT": 3}


class EventfulBilasolur(SimulatedBilasolur):
    """A site to which something happens when a result page is asked for the first time."""

    def __init__(self, happens: str = "", page: int = 2, **options: Any) -> None:
        super().__init__(**{"cars": CARS, "photos": 0, "per_page": PAGE, "layout": "2026"} | options)
        self.happens, self.when = happens, str(page)
        self.shows: dict[str, str] = {}
        """Of pages that show the cars of another one: its number."""

    def _results(self, which: str, request: Request) -> Response:
        if which == self.when and self.happens:
            happens, self.happens = self.happens, ""
            if happens == "forgotten":
                self._searches.clear()
            elif happens == "re-listed":
                self.cars = self.cars[-PAGE:] + self.cars[:-PAGE]
            elif happens == "one-new":
                self.cars.insert(0, self.cars.pop())
            elif happens == "repeated":
                return super()._results(str(int(which) - 1), request)
            elif happens == "home-there":
                return self._home(which, request)
            elif happens == "new-session":
                self._searches.clear()  # they belonged to the session that is over
                response = super()._results(which, request)
                response.headers += (("Set-Cookie", f"{SESSION}=another; path=/; HttpOnly"),)
                return response
        if which not in self.shows:
            return super()._results(which, request)
        shown, own = super()._results(self.shows[which], request), super()._results(which, request)
        cards, pager = str(shown.body).partition(_PAGER)[0], str(own.body).partition(_PAGER)[2]
        total = f"{which} af {-(-CARS // PAGE)}"
        return replace(own, body=cards + _PAGER + pager.replace(f"<span>{which}<", f"<span>{total}<"))


@pytest.fixture
def new_list(new_world: Callable[..., World]) -> Callable[..., World]:
    def make(happens: str = "", **options: Any) -> World:
        return new_world(site=EventfulBilasolur(happens, **options))

    return make


def assert_whole(world: World, done: Any) -> None:
    assert done.returncode == 0, done
    assert world.listings().keys() == {str(car.cid) for car in world.site.cars}


# ── Ten ways in which a list ended early with exit 0 ──────────────────────────────────────────────


BAD_PAGES = [
    *("pager-gone", "pager-postback"),  # no next link on a full page
    *("nothing-found", "login", "half-short", "half-closed", "gzip-cut", "binary"),
]


def test_a_page_that_is_bad_once_does_not_end_the_list(new_list: Callable[..., World]) -> None:
    world = new_list(per_page=3)
    for page, step in enumerate(BAD_PAGES, 2):
        world.site.fault(f"results:{page}", [step])
    done = world.crawl(settings=ONE_TRY, **NO_PHOTOS)
    assert_whole(world, done)
    assert world.asked("results") <= 10 + 1 + len(BAD_PAGES)


@pytest.mark.parametrize("happens", ["forgotten", "re-listed", "one-new", "repeated", "home-there", "new-session"])
def test_what_happens_on_the_way_does_not_end_the_list(new_list: Callable[..., World], happens: str) -> None:
    world = new_list(happens)
    done = world.crawl(settings=ONE_TRY, **NO_PHOTOS)
    assert world.site.happens == ""
    assert_whole(world, done)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (["nothing-found"], "page 1 leads to it"),
        (["login"], "no car that can be read (card = '.sr-item' with card_link = 'a.sr-link[href]')"),
        (["half-short"], "was cut off"),
        (["404"], "HTTP 404"),
        (["500"], "HTTP 500"),
        (["redirect:/"], "no result page of this search"),
    ],
)
def test_a_page_that_stays_bad_makes_the_crawl_partial_and_the_pages_after_it_are_read(
    new_list: Callable[..., World], steps: Sequence[str], words: str
) -> None:
    world = new_list()
    world.site.fault("results:2", steps, sticky=True)
    done = world.crawl(code=3, settings=ONE_TRY, **NO_PHOTOS)
    assert "not complete: Result page 2" in last_words(done)
    assert words in last_words(done)
    lost = {str(car.cid) for car in world.site.cars[PAGE : 2 * PAGE]}
    assert {str(car.cid) for car in world.site.cars} - world.listings().keys() <= lost
    # Nothing is concluded from it.
    assert all(row["is_active"] for row in world.listings().values())


def test_a_search_that_is_forgotten_always_ends_as_partial(new_list: Callable[..., World]) -> None:
    world = new_list()
    world.site.fault("results:3", ["redirect:/"], sticky=True)
    world.site.fault("results:4", ["redirect:/"], sticky=True)
    done = world.crawl(code=3, **NO_PHOTOS)
    assert "Result page 3" in last_words(done)
    # The last page, which page 5 repeats, is read; the featured cars of home are on it.
    assert len(world.listings()) <= 2 * PAGE + CARS % PAGE, "the cars of home are no results"
    assert world.asked("home") <= 12


@pytest.mark.parametrize("shows", [{"2": "1"}, {"3": "2"}, {"3": "1"}, {"2": "1", "3": "1"}])
def test_a_page_that_shows_the_cars_of_another_one_is_noticed(
    new_list: Callable[..., World], shows: dict[str, str]
) -> None:
    world = new_list()
    world.site.shows = shows
    done = world.crawl(code=3, **NO_PHOTOS)
    assert "Result page" in last_words(done)
    assert len(world.listings()) == CARS - PAGE * len(shows)


class HeklaWithAGap(SimulatedHekla):
    """A site whose third page is empty, and which has no next link."""

    def results(self, cards: str, number: int, last: int) -> str:
        return super().results("" if number == 3 else cards, number, last)


def test_an_empty_page_in_the_middle_is_no_end(new_world: Callable[..., World]) -> None:
    site = HeklaWithAGap(cars=CARS, per_page=PAGE, photos=0, pager="none", past_end="empty")
    done = (world := new_world(site=site, spider="hekla")).crawl(code=3, settings={"MONITOR_IGNORE_FIELDS": "hekla"})
    assert "Result page 3" in last_words(done)
    assert len(world.listings()) == CARS - PAGE


def test_half_a_page_in_the_middle_is_noticed(new_list: Callable[..., World]) -> None:
    world = new_list()
    world.site.fault("results:2", ["half-in-other-markup"], sticky=True)
    done = world.crawl(code=3, **NO_PHOTOS)
    assert f"has {PAGE} cars by card_mark = \"a.car-anchor[name^='rnr_']\" and {PAGE // 2}" in last_words(done)


def test_cards_without_their_mark_are_read_and_nothing_is_missing(new_list: Callable[..., World]) -> None:
    world = new_list()
    world.site.fault("results:2", ["half-without-marks"], sticky=True)
    assert_whole(world, world.crawl(**NO_PHOTOS))


def test_an_empty_answer_for_one_make_is_asked_for_twice(new_list: Callable[..., World]) -> None:
    world = new_list()
    world.site.fault("results:", ["nothing-found"])
    done = world.crawl(makes="kia", **NO_PHOTOS)
    assert len(world.listings()) == len([car for car in world.site.cars if car.make == "Kia"])
    assert "success" in verdict(done)


# ── Numbers in addresses that lead nowhere, and pages that say that there are more ────────────────


LAYOUTS = ("2019", "2026")


def stubborn(pager: str, **options: Any) -> StubbornBilasolur:
    return StubbornBilasolur(pager, **{"cars": CARS, "per_page": PAGE} | options)


@pytest.mark.parametrize("cars", [CARS, 4 * PAGE], ids=["last page short", "last page full"])
@pytest.mark.parametrize("pager", [name for name in STUBBORN_PAGERS if name.startswith(("path", "form"))])
def test_a_pager_is_followed_where_numbers_in_addresses_are_ignored(
    new_world: Callable[..., World], pager: str, cars: int
) -> None:
    layout = LAYOUTS[[*STUBBORN_PAGERS].index(pager) % 2]
    world = new_world(site=stubborn(pager, ways=pager.partition("-")[0], layout=layout, cars=cars))
    done = world.crawl(**NO_PHOTOS)
    assert_whole(world, done)
    assert world.asked("results") <= 4 + 2 + 1  # two that show page 1, and the last page once more if it is full


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("pager", "words"),
    [
        ("numbers", "links to page 4, and page 2 shows page 1"),
        ("next", "has a link 'Næsta', and page 2 shows page 1"),
        ("of", "says 1 / 4, and page 2 shows page 1"),
        ("of, of", "says 1 / 4, and page 2 shows page 1"),
        ("total", f"says that there are {CARS} cars, of which {PAGE} were read, and page 2 shows page 1"),
        ("more", "has a button 'Sjá fleiri', and page 2 shows page 1"),
        ("data", "links to page 4, and page 2 shows page 1"),
        ("path-next", "has a link 'Næsta'"),
        ("form-numbers", "links to page 4"),
    ],
)
def test_a_list_whose_page_says_that_there_is_more_is_not_whole(
    new_world: Callable[..., World], layout: str, pager: str, words: str
) -> None:
    world = new_world(site=stubborn(pager, layout=layout))
    done = world.crawl(code=3, **NO_PHOTOS)
    assert "not complete: Result page 1 (" in last_words(done)
    assert words in last_words(done)
    assert len(world.listings()) == PAGE


@pytest.mark.parametrize("pager", ["numbers", "next", "window", "of", "of, of"])
def test_a_site_that_serves_no_page_beyond_one_is_noticed(new_world: Callable[..., World], pager: str) -> None:
    world = new_world(site=stubborn(pager, reach=3))
    done = world.crawl(code=3, **NO_PHOTOS)
    assert f"Result page 3 ({world.site.base_url}/SearchResults.aspx?" in last_words(done)
    assert len(world.listings()) == 3 * PAGE


def test_each_search_of_one_make_is_read_to_its_end(new_world: Callable[..., World]) -> None:
    world = new_world(site=stubborn("numbers", last=2, per_page=1))
    done = world.crawl(code=3, makes="kia,toyota", **NO_PHOTOS)
    assert "links to page 2, and page 2 shows page 1" in last_words(done)
    assert len(world.listings()) == 2


@pytest.mark.parametrize(
    ("pager", "cars"),
    [
        *itertools.product(["none", "numbers", "window", "next", "of"], [PAGE, CARS, 4 * PAGE]),
        *(("of fifty", CARS), ("a few more", CARS)),  # after a full page nothing tells that these words are wrong
    ],
)
def test_a_seen_end_is_not_doubted(new_world: Callable[..., World], pager: str, cars: int) -> None:
    world = new_world(site=stubborn(pager, reach=-(-cars // PAGE), last=-(-cars // PAGE), cars=cars))
    assert_whole(world, world.crawl(**NO_PHOTOS))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_list_that_is_sorted_anew_while_it_is_read_is_read_once_more(
    new_world: Callable[..., World], layout: str
) -> None:
    world = new_world(site=ResortedBilasolur(1, layout=layout))
    assert_whole(world, world.crawl(**NO_PHOTOS))
    assert world.asked("results") <= 2 * 9 + 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_list_that_is_sorted_anew_again_and_again_is_not_whole(new_world: Callable[..., World], layout: str) -> None:
    world = new_world(site=ResortedBilasolur(8, layout=layout))
    done = world.crawl(code=3, **NO_PHOTOS)
    assert "the list was sorted anew while it was read" in last_words(done)
    world.site.times = 0
    assert_whole(world, world.crawl(**NO_PHOTOS))


def test_cars_that_are_promoted_on_every_page_have_not_moved(new_world: Callable[..., World]) -> None:
    world = new_world(site=PromotedBilasolur(cars=85, photos=0, per_page=10))
    assert_whole(world, world.crawl(**NO_PHOTOS))
    assert world.asked("results") <= 9 + 3


# ── Pages that are no HTML ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("step", ["json200", "placeholder", "binary"])
def test_what_is_no_html_costs_its_page_only(new_list: Callable[..., World], step: str) -> None:
    world = new_list()
    world.site.fault("results:2", [step], sticky=True)
    done = world.crawl(code=3, **NO_PHOTOS)
    assert "Result page 2" in last_words(done)
    assert step == "binary" or "is no HTML" in last_words(done)
    assert len(world.listings()) == CARS - PAGE


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("step", ["json200", "placeholder", "binary"])
def test_a_search_that_is_no_html_is_a_failure(new_world: Callable[..., World], layout: str, step: str) -> None:
    world = new_world(cars=4, photos=0, layout=layout)
    for kind in ("home", "advanced"):
        world.site.fault(kind, [step], sticky=True)
    done = world.crawl(code=4)
    assert f"is not on {world.site.base_url}/" in verdict(done) or "is neither on" in verdict(done)
    # The advanced form is a way in as well, where there is one.
    world.site.fault("advanced", [])
    assert world.crawl(code=0 if layout == "2026" else 4)


@pytest.mark.parametrize("step", ["json200", "placeholder"])
def test_the_own_pages_of_missing_cars_may_be_no_html(new_list: Callable[..., World], step: str) -> None:
    world = new_list()
    world.crawl(**NO_PHOTOS)
    gone, unread = world.site.cars[3:5]
    world.site.sell(gone.cid)
    world.site.sell(unread.cid)
    world.site.fault(f"details:{unread.cid}", [step], sticky=True)
    done = world.crawl(code=None, **NO_PHOTOS)
    assert "mistake" not in last_words(done)
    assert not world.listing(gone)["is_active"]
    assert world.listing(unread)["is_active"]


# ── Every dealer, whatever leads from page to page ────────────────────────────────────────────────

SITES = {"hekla": SimulatedHekla, "brimborg": SimulatedBrimborg, "islandsbilar": SimulatedIslandsbilar}


@pytest.mark.parametrize("pager", PAGERS)
def test_numbered_links_buttons_labels_or_nothing_lead_to_every_car(
    new_world: Callable[..., World], pager: str
) -> None:
    number = [*PAGERS].index(pager)
    past_end = ["repeat", "empty", "404"][number % 3]
    spider = [*SITES][(number + number // 3) % 3]
    site = SITES[spider](cars=25, photos=0, per_page=10, pager=pager, past_end=past_end)
    world = new_world(site=site, spider=spider)
    done = world.crawl()
    assert_whole(world, done)
    assert world.asked("results") <= 3 + 1


def test_cars_in_unknown_markup_beside_known_cards_are_noticed_however_few(new_world: Callable[..., World]) -> None:
    class Odd(SimulatedIslandsbilar):
        def card(self, parts: dict[str, str]) -> str:
            card = super().card(parts)
            return card.replace('class="card"', 'class="tile"') if parts["link"].endswith(odd) else card

    site = Odd(cars=12, photos=0, per_page=5)
    odd = str(site.cars[7].cid)
    done = new_world(site=site, spider="islandsbilar").crawl(code=3)
    assert "Result pages link to 1 cars of which no card could be read (card = '.card'" in last_words(done)
    assert f"such as {odd} on " in last_words(done)


@pytest.mark.parametrize(("spider", "past_end"), [*zip(SITES, ["repeat", "empty", "404"], strict=True)])
def test_a_last_page_that_is_full_is_asked_for_twice_and_one_accident_is_no_end(
    new_world: Callable[..., World], spider: str, past_end: str
) -> None:
    site = SITES[spider](cars=20, photos=0, per_page=10, pager="none", past_end=past_end)
    world = new_world(site=site, spider=spider)
    world.site.fault("results:2", ["404" if past_end == "404" else "nothing-found"])
    done = world.crawl(code=None)
    assert (done.returncode == 0) == (len(world.listings()) == 20)


def test_a_list_that_goes_on_in_another_way_is_noticed(new_world: Callable[..., World]) -> None:
    world = new_world(site=SimulatedBilaland(cars=12, photos=0, per_page=12), spider="bilaland")
    done = world.crawl(code=3, **NO_PHOTOS)
    assert "All 12 cars were on the first page" in last_words(done)
