"""Dealers' own sites on the Rögg platform: their cards, their pages, and where their results begin."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from scrapy.exceptions import CloseSpider
from scrapy.http import HtmlResponse, Request

from carscraper.spiders.bilaland import BilalandSpider
from carscraper.spiders.bilasolur import BilasolurSpider
from carscraper.spiders.br import BrSpider
from carscraper.state import state_of
from tests.fakes import make_crawler

if TYPE_CHECKING:
    from carscraper.base_spiders.rogg import RoggSpider
    from carscraper.items import CarItem

FORM = """<form method="post" action="./"><input type="hidden" name="__VIEWSTATE" value="abc">
<select name="ctl00$search_f1"><option value="-1">Allir</option><option value="12">Toyota</option></select>
<input type="submit" name="ctl00$btnSearch" value="Leita"></form>"""
TITLE = '<span class="title-text"><span class="sr-make">VW</span> <span class="sr-model">ID.4</span></span>'
ROW = '<div class="sr-item-wrapper"><div class="pull-left">{}</div><div class="sr-right">{}</div></div>'


def tile(*, title: str = TITLE, rows: str = ROW.format("Akstur", "29 þ.km."), picture: str = "") -> str:
    picture = picture or '<img src="CarImage.aspx?s=1&amp;c=7001&amp;p=3&amp;w=400">'
    return f"""<div class="sr-item"><a class="sr-link" href="CarDetails.aspx?bid=1&amp;cid=7001&amp;schid=5">
<figure>{picture}</figure><div class="sr-title">{title}</div><div class="sr-yr-pr">
<div class="pull-left">4/2022</div><div class="pull-right">Flott verð kr. 6.490.000</div></div>
<div class="sr-item-info">{rows}</div></a></div>"""


def make_spider(cls: type[RoggSpider] = BilalandSpider, **arguments: str) -> Any:
    crawler = make_crawler(cls)
    crawler.spider = spider = cls.from_crawler(crawler, **arguments)
    assert spider.argument_problem is None
    return spider


def page(url: str, body: str) -> HtmlResponse:
    return HtmlResponse(url, body=f"<html><body>{body}</body></html>", encoding="utf-8")


def read(**parts: str) -> CarItem:
    (item,), unreadable = make_spider().read_cards(page("https://bilaland.is/SearchResults.aspx?id=1", tile(**parts)))
    assert unreadable == 0
    found: CarItem = item
    return found


TITLES = {
    TITLE: ("Volkswagen", "ID.4"),
    '<span class="title-text">VW ID.4</span>': ("Volkswagen", "ID.4"),
    '<span class="sr-make">VW</span><span class="title-text">VW ID.4 GTX</span>': ("Volkswagen", "ID.4 GTX"),
    '<span class="sr-model">KIA NIRO</span>': ("Kia", "Niro"),
    '<span class="sr-make">TESLA</span>': ("Tesla", None),
    "": (None, None),
}
DISTANCES = {
    ROW.format("Akstur", "29 þ.km."): 29_000,
    ROW.format("Akstur", "Nýtt"): None,
    ROW.format("Akstur", "12.345 km."): 12_345,
    ROW.format("Drægni", "560 km") + ROW.format("Akstur", "29 þ.km."): 29_000,
    ROW.format("Drægni", "560 km"): None,
    "": None,
}
PICTURES = [
    '<img src="CarImage.aspx?s=1&amp;c=7001&amp;p=3">',
    '<img src="data:image/gif;base64,R0" data-src="/CarImage.aspx?s=1&amp;c=7001&amp;p=3&amp;w=400">',
    '<img src="/images/placeholder.png" data-src="https://bilaland.isCarImage.aspx?s=1&amp;c=7001&amp;p=3">',
    '<img src="carimage.aspx?P=3&amp;C=7001&amp;S=1"><img src="CarImage.aspx?s=1&amp;c=7001&amp;p=3">',
]


def test_what_a_tile_says() -> None:
    for title, named in TITLES.items():
        item = read(title=title)
        assert (item.make, item.model) == named, title
    for rows, kilometers in DISTANCES.items():
        assert read(rows=rows).kilometers == kilometers, "only the row of the distance is one"
    for picture in PICTURES:
        (image,) = read(picture=picture).images
        assert (image.identity, image.source_url.partition("?")[2]) == ("7001/3", "s=1&c=7001&p=3&w=1280"), picture


# --- where the results begin ---


def after_home(spider: Any, response: HtmlResponse) -> Request:
    """The request that the home page leads to."""

    async def first() -> Request:
        async for each in spider.parse_home(response, None, 1):
            assert isinstance(each, Request)
            return each
        raise AssertionError

    return asyncio.run(first())


@pytest.mark.parametrize("cls", [BilasolurSpider, BilalandSpider])
def test_cars_beside_the_search_are_not_the_results(cls: type[RoggSpider]) -> None:
    """A home page may show its newest cars."""
    spider = make_spider(cls)
    request = after_home(spider, page("https://bilaland.is/", FORM + tile()))
    assert (request.method, request.url) == ("POST", "https://bilaland.is/")
    assert not spider._is_results(page("https://bilaland.is/", tile()))


def test_br_may_lead_to_its_results_or_show_them_or_a_form() -> None:
    spider = make_spider(BrSpider)
    assert after_home(spider, page("https://br.is/?make=-1", FORM)).method == "POST"
    assert spider._is_results(page("https://br.is/?make=-1", FORM + tile()))
    assert spider._is_results(page("https://br.is/SearchResults.aspx?id=1", FORM))
    assert not spider._is_results(page("https://br.is/?make=-1", '<div class="sr-item">Auglýsing</div>'))
    assert [request.url for request in spider.start_search()] == ["https://br.is/?make=-1"]


@pytest.mark.parametrize("cls", [BilalandSpider, BrSpider])
def test_a_changed_page_of_results_is_named_by_what_it_lacks(cls: type[RoggSpider]) -> None:
    spider = make_spider(cls)
    changed = page(f"{cls.home}SearchResults.aspx?id=1", tile().replace("sr-item", "tile"))
    with pytest.raises(CloseSpider):
        after_home(spider, changed)
    assert "card = '.sr-item' with card_link = 'a.sr-link[href]'" in str(state_of(spider.crawler).failed)


@pytest.mark.parametrize(
    ("url", "following"),
    [
        ("SearchResults.aspx?id=ab-1", "SearchResults.aspx?id=ab-1&page=2"),
        ("SearchResults.aspx?page=1&id=ab-1", "SearchResults.aspx?page=2&id=ab-1"),
        ("?make=-1", "?make=-1&page=2"),
    ],
)
def test_the_next_page_is_the_same_search(url: str, following: str) -> None:
    request = make_spider(BrSpider).next_request(page("https://br.is/" + url, tile()), None, 1)
    assert request.url == "https://br.is/" + following


def test_makes_are_chosen_among_the_cards_of_br() -> None:
    spider = make_spider(BrSpider, makes="volkswagen, Kia")
    (card,), _ = spider.read_cards(page("https://br.is/?make=-1", tile()))
    assert spider.is_asked_for(card)
    assert spider.searches() == [None]
    assert not make_spider(BrSpider, makes="Kia").is_asked_for(card)
