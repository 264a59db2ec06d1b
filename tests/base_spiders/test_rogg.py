"""The Rögg platform: one photo has one identity, one car one address, a card one hash, and details their own day."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsel import Selector
from scrapy.http import HtmlResponse, Request, Response
from scrapy.spidermiddlewares.httperror import HttpError
from twisted.python.failure import Failure

from carscraper.base_spiders.base import why_no_page
from carscraper.base_spiders.dealer import is_stale
from carscraper.base_spiders.rogg import RoggSpider, _option
from carscraper.spiders.bilasolur import BilasolurSpider
from tests.fakes import make_crawler

if TYPE_CHECKING:
    from carscraper.items import CarImage, CarItem

PAGE = "https://bilasolur.is/SearchResults.aspx?page=1&id=11111111-2222-3333-4444-555555555555"


def make_spider(**settings: Any) -> BilasolurSpider:
    spider = make_crawler(BilasolurSpider, **settings).spider
    assert isinstance(spider, BilasolurSpider)
    return spider


@pytest.fixture(scope="module")
def spider() -> BilasolurSpider:
    return make_spider(IMAGES_WIDTH="1280")


# --- photos -----------------------------------------------------------------------------------------------------


def image(spider: BilasolurSpider, address: str, external_id: str = "789541") -> CarImage | None:
    return spider.image(lambda url: urljoin(PAGE, url), address, external_id)


ONE_PHOTO = [
    "CarImage.aspx?s=16&c=789541&p=3777561&w=784",
    "CarImage.aspx?s=16&c=789541&p=3777561&w=400",
    "CarImage.aspx?s=16&c=789541&p=3777561",
    "CarImage.aspx?c=789541&p=3777561",
    "CarImage.aspx?w=1200&p=3777561&c=789541&s=99",
    "CarImage.aspx?s=16&amp;c=789541&amp;p=3777561&amp;w=784",
    "CarImage.aspx?s=16&amp;amp;c=789541&amp;amp;p=3777561",
    "/CarImage.aspx?c=789541&p=3777561",
    "./CarImage.aspx?c=789541&p=3777561",
    "../CarImage.aspx?c=789541&p=3777561",
    "//bilasolur.is/CarImage.aspx?c=789541&p=3777561",
    "https://bilasolur.is/CarImage.aspx?c=789541&p=3777561",
    "https://bilasolur.is//CarImage.aspx?c=789541&p=3777561",
    "http://bilasolur.is/CarImage.aspx?c=789541&p=3777561",
    "https://bilasolur.is:443/CarImage.aspx?c=789541&p=3777561",
    "https://bilasolur.isCarImage.aspx?s=16&c=789541&p=3777561&w=784",
    "https://bilasolur.isCarImage.aspx?s=16&amp;c=789541&amp;p=3777561&amp;w=784",
    "carimage.aspx?c=789541&p=3777561",
    "CARIMAGE.ASPX?C=789541&P=3777561&W=784",
    "CarImage.aspx?c=789541&p=3777561&t=1699999999&sig=abc#top",
    "CarImage.aspx?c=789541&p=3777561&p=2",
    "CarImage.aspx?c= 789541 &p=+3777561+",
    "CarImage.aspx?&&c=789541&&p=3777561&",
    # The same car on another dealer's site: the ids are the platform's.
    "https://www.bilaland.is/CarImage.aspx?s=16&c=789541&p=3777561&w=784",
]


def test_all_spellings_are_one_photo_and_so_is_the_address_that_is_asked_for(spider: BilasolurSpider) -> None:
    for address in ONE_PHOTO:
        found = image(spider, address)
        assert found, address
        assert (found.identity, found.status, found.reason) == ("789541/3777561", "pending", None), address
        parts = urlsplit(found.source_url)
        query = parse_qs(parts.query)
        assert (query["c"], query["p"], query["w"]) == (["789541"], ["3777561"], ["1280"]), address
        assert set(query) <= {"s", "c", "p", "w"}
        assert (parts.path.lower(), parts.fragment) == ("/carimage.aspx", "")
        assert image(spider, found.source_url) == found, address


def test_the_dealer_stays_in_the_address_and_the_width_is_the_settings() -> None:
    for width in ("400", "784"):
        found = image(make_spider(IMAGES_WIDTH=width), "CarImage.aspx?w=1&s=16&c=789541&p=3777561")
        assert found
        assert found.source_url == f"https://bilasolur.is/CarImage.aspx?s=16&c=789541&p=3777561&w={width}"


OTHERS = ["CarImage.aspx?c=789542&p=3777561", "CarImage.aspx?c=0789541&p=1", "CarImage.aspx?c=&p=1&c=1"]
AMBIGUOUS = [
    r"CarImage.aspx?c=789541\&p=3777561",
    r"https:\\bilasolur.is\CarImage.aspx?c=789541&p=3777561",
    r"\\evil.is\share\x.jpg",
    "https://evil.is@bilasolur.is/CarImage.aspx?c=789541&p=3777561",
    "https://bilasolur.is@evil.is/CarImage.aspx?c=789541&p=3777561",
    "//user:password@bilasolur.is/CarImage.aspx?c=789541&p=3777561",
    "https://[broken/CarImage.aspx?c=789541&p=3777561",
    "https://bilasolur.is&#64;evil.is/CarImage.aspx?c=789541&amp;p=1",
]
NOT_THE_PLATFORMS = [
    *("photo.jpg", "https://assets.mango.is/a/b.jpg", "CarImage.aspx?c=789541", "CarImage.aspx?p=3777561"),
    *("CarImage.aspx?c=789541&p=", "CarImage.aspx?c=789541&p=%00", "CarImage.aspx?c=789541&p=../../etc/passwd"),
    *("CarImage.aspx?c=789541&p=" + "9" * 5000, "CarImage.aspx?c=789541&p=%F0%9F%9A%97"),
]


def test_other_addresses_are_left_out_or_refused_or_named_by_themselves(spider: BilasolurSpider) -> None:
    for address in OTHERS:
        found = image(spider, address)
        assert found is None or found.identity.startswith("url:"), address
    for address in AMBIGUOUS:
        found = image(spider, address)
        assert found, address
        assert (found.status, found.reason, found.identity[:4]) == ("failed", "bad-address", "url:"), address
        assert found.source_url == address.replace("&#64;", "@").replace("&amp;", "&")
    for address in NOT_THE_PLATFORMS:
        found = image(spider, address)
        assert found, address
        assert re.fullmatch(r"url:[0-9a-f]{32}", found.identity), address
        assert (found.status, found.source_url) == ("pending", urljoin(PAGE, address)), address


@given(
    st.text(max_size=60), st.sampled_from(["", "CarImage.aspx?c=789541&p=", "https://", "//", "https://bilasolur.is/"])
)
def test_no_address_is_an_error(spider: BilasolurSpider, text: str, start: str) -> None:
    found = image(spider, start + text)
    assert found is None or re.fullmatch(r"url:[0-9a-f]{32}|789541/[A-Za-z0-9_-]{1,40}", found.identity)


# --- cards ------------------------------------------------------------------------------------------------------


def card(
    *,
    search: str = "schid=aaaa-1&schpage=1",
    sid: str = "555",
    width: int = 784,
    price: str = "kr. 2.990.000",
    photos: tuple[str, ...] = ("31", "32"),
    kilometers: str = "45.000 km.",
    dealer: str = "16",
    link: str | None = None,
) -> str:
    href = link or f"CarDetails.aspx?bid=76&amp;cid=296487&amp;sid={sid}&amp;{search.replace('&', '&amp;')}"
    slides = "".join(
        f'<img class="swiper-slide" src="CarImage.aspx?s={dealer}&amp;c=296487&amp;p={photo}&amp;w={width}">'
        for photo in photos
    )
    return f"""
    <div class="sr-item"><a class="sr-link" href="{href}">
      <div>{slides}</div>
      <div class="car-make">TOYOTA</div><div class="car-make-and-model">TOYOTA YARIS HYBRID</div>
      <div class="tech-details"><div>6/2019 · Bensín</div><div>{kilometers} · Sjálfskipting</div></div>
      <div class="car-price">{price}</div>
    </a></div>"""


def read_first(spider: BilasolurSpider, response: HtmlResponse) -> CarItem:
    found = response.css(RoggSpider.card)[0]
    return spider.read_card(response, found, response.urljoin(found.css(RoggSpider.card_link).attrib["href"]))


def read(spider: BilasolurSpider, html: str) -> CarItem:
    response = HtmlResponse(PAGE, body=f"<html><body>{html}</body></html>", encoding="utf-8")
    return read_first(spider, response)


def test_a_car_has_one_address_and_a_link_that_names_none_is_told(spider: BilasolurSpider) -> None:
    for link in (
        "CarDetails.aspx?bid=76&amp;cid=296487&amp;sid=555&amp;schid=abc&amp;schpage=2",
        "CarDetails.aspx?schpage=9&amp;sid=555&amp;cid=296487&amp;bid=76",
        "/CarDetails.aspx?bid=76&cid=296487&sid=555",
        "https://bilasolur.is/CarDetails.aspx?BID=76&CID=296487&SID=555&utm_source=x#photos",
        "CarDetails.aspx?bid=76&cid=296487&sid=555&cid=1",
    ):
        item = read(spider, card(link=link))
        assert item.url == "https://bilasolur.is/CarDetails.aspx?bid=76&cid=296487&sid=555", link
        assert (item.external_id, item.dealer_id) == ("296487", "76")
    for link in ("CarDetails.aspx?bid=76", "CarDetails.aspx?cid=", "CarDetails.aspx?cid=../..", "#", "x?cid=1%00"):
        with pytest.raises(ValueError, match="no car in"):
            read(spider, card(link=link))


def test_the_address_is_on_the_crawls_own_site() -> None:
    crawler = make_crawler(BilasolurSpider)
    spider = BilasolurSpider.from_crawler(crawler, base_url="http://127.0.0.1:8000/is")
    response = HtmlResponse("http://127.0.0.1:8000/is/", body=f"<html><body>{card()}</body></html>", encoding="utf-8")
    item = read_first(spider, response)
    assert item.url == "http://127.0.0.1:8000/is/CarDetails.aspx?bid=76&cid=296487&sid=555"


NOT_SHOWN: list[dict[str, Any]] = [
    *({"search": "schid=bbbb-2&schpage=7"}, {"sid": "777"}, {"width": 400}, {"dealer": "99"}),
    {"price": "kr.\n  2.990.000 "},
]
SHOWN: list[dict[str, Any]] = [
    *({"price": "kr. 2.890.000"}, {"price": "Tilboð óskast"}, {"kilometers": "46.000 km."}, {"photos": ("31",)}),
    *({"photos": ("32", "31")}, {"photos": ("31", "32", "33")}, {"photos": ("31", "33")}),
]


def test_what_a_person_sees_changes_the_card_and_what_only_names_the_search_does_not(spider: BilasolurSpider) -> None:
    usual = read(spider, card()).card_hash
    for changes in NOT_SHOWN:
        assert read(spider, card(**changes)).card_hash == usual, changes
    for changes in SHOWN:
        assert read(spider, card(**changes)).card_hash != usual, changes


def test_a_photo_that_is_shown_twice_is_one(spider: BilasolurSpider) -> None:
    item = read(spider, card(photos=("31", "32", "31")))
    assert [(each.identity, each.position) for each in item.images] == [("296487/31", 0), ("296487/32", 1)]
    assert item.image_urls == [each.source_url for each in item.images]


# --- details, each on its own day -------------------------------------------------------------------------------

START = datetime(2026, 1, 1)  # noqa: DTZ001 - UTC without a zone, as in the tables
WEEK = timedelta(days=7)
AGES = st.timedeltas(timedelta(hours=1), timedelta(days=60))
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1))  # noqa: DTZ001


class TestIsStale:
    @given(st.text(), MOMENTS, AGES, st.timedeltas(timedelta(0), timedelta(days=400)))
    def test_never_older_than_the_setting(
        self, external_id: str, read_at: datetime, max_age: timedelta, more: timedelta
    ) -> None:
        assert is_stale(external_id, read_at, now=read_at + max_age + more, max_age=max_age)

    @given(st.text(), MOMENTS, AGES, st.floats(0, 0.142))
    def test_never_again_within_a_seventh(
        self, external_id: str, read_at: datetime, max_age: timedelta, part: float
    ) -> None:
        assert not is_stale(external_id, read_at, now=read_at + max_age * part, max_age=max_age)

    @given(st.text(), MOMENTS, AGES, st.lists(st.floats(0, 2), min_size=2, max_size=5))
    def test_once_due_it_stays_due(
        self, external_id: str, read_at: datetime, max_age: timedelta, parts: list[float]
    ) -> None:
        due = [is_stale(external_id, read_at, now=read_at + max_age * part, max_age=max_age) for part in sorted(parts)]
        assert due == sorted(due)

    @given(st.text(), MOMENTS)
    def test_an_age_of_nothing_means_always(self, external_id: str, read_at: datetime) -> None:
        assert is_stale(external_id, read_at, now=read_at, max_age=timedelta(0))

    def test_a_clock_that_was_wrong_is_no_error(self) -> None:
        assert not is_stale("1", START + timedelta(days=400), now=START, max_age=WEEK)

    @pytest.mark.parametrize("per_day", [1, 4])
    def test_the_visits_spread_evenly_over_the_days(self, per_day: int) -> None:
        """All cars are read on one day; three weeks of crawls later every crawl reads about as many."""
        read_at = {str(number): START for number in range(1400)}
        longest = timedelta(0)
        visits = []
        for crawl in range(1, 28 * per_day + 1):
            now = START + timedelta(days=crawl / per_day)
            due = [car for car, when in read_at.items() if is_stale(car, when, now=now, max_age=WEEK)]
            for car in due:
                longest = max(longest, now - read_at[car])
                read_at[car] = now
            visits.append(len(due))
        assert longest <= WEEK
        days = [sum(visits[start : start + per_day]) for start in range(0, len(visits), per_day)]
        assert max(days) < 1.5 * 1400 / 7, "nor is there one day for all in the beginning"
        steady = visits[14 * per_day :]
        assert max(steady) < 1.5 * 1400 / 7 / per_day
        assert min(steady) > 0.5 * 1400 / 7 / per_day


# --- makes ------------------------------------------------------------------------------------------------------

SELECT = Selector(
    """<select name="ctl00$contentSearchEngine$ctl00$search_f1">
    <option value="-1" selected>Allir framleiðendur</option>
    <option value="10">TOYOTA</option><option value="11"> KIA </option><option value="12">M.BENZ</option>
    <option value="13">VW</option><option value="14">ŠKODA</option><option value="15">LAND ROVER</option>
    <option>Citroën</option></select>"""
).css("select")


MAKES = {
    "10": ("toyota", "TOYOTA"),
    "11": (" Kia",),
    "12": ("Mercedes-Benz", "m.benz"),
    "13": ("volkswagen",),
    "14": ("skoda", "Škoda"),
    "15": ("land-rover", "Land Rover"),
    None: ("Trabant", "Toy", "-1"),
}


def test_makes_are_found_in_whatever_spelling() -> None:
    for value, spellings in MAKES.items():
        assert [_option(SELECT, make) for make in spellings] == [value] * len(spellings)


def test_a_proxy_that_may_be_why_a_page_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@proxy.example:3128/")
    request = Request("http://dealer.example/")
    said = {}
    for status in (None, 407, 404):
        request.meta["proxy"] = "http://proxy.example:3128"
        response = Response(request.url, status=status or 200)
        failure: Any = Failure(HttpError(response) if status else OSError("Connection refused."))
        failure.request = request
        said[status] = why_no_page(failure)
    assert said == {
        None: "Connection refused, by the proxy proxy.example:3128 (HTTP_PROXY)",
        407: "HTTP 407, by the proxy proxy.example:3128 (HTTP_PROXY)",
        404: "HTTP 404",
    }
