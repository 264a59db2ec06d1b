"""From one result page to the next: by its address, whatever leads there, and never to another site."""

from __future__ import annotations

from scrapy.http import HtmlResponse

from carscraper.base_spiders.cards import CardSpider
from carscraper.base_spiders.paging import find_next, place_of
from carscraper.spiders.bilasolur import BilasolurSpider
from carscraper.spiders.brimborg import BrimborgSpider
from carscraper.spiders.hekla import HeklaSpider
from carscraper.spiders.islandsbilar import IslandsbilarSpider
from tests.base_spiders.test_cards import HEKLA, make_spider, page


def following(cls: type[CardSpider], body: str, *, url: str, base_url: str | None = None) -> tuple[str, bool]:
    """The address of the page after *url*, and whether a link or a button leads there."""
    spider = make_spider(cls, **({"base_url": base_url} if base_url else {}))
    request = spider.next_request(page(body, url=url), None, 1)
    return request.url, spider.walk(None).linked


def test_arrows_that_turn_photos_lead_nowhere() -> None:
    url = "https://islandsbilar.is/soluskra/"
    turn = '<div class="card"><a href="/car/1"><i class="next">x</i></a><a class="next" href="javascript:x">x</a></div>'
    assert following(IslandsbilarSpider, turn, url=url) == (f"{url}?page=2", False)
    on = '<a rel="next" href="?p=2">x</a>'
    assert following(IslandsbilarSpider, turn + on, url=url) == (f"{url}?p=2", True)


def test_the_next_page_is_on_the_same_site() -> None:
    guess = (f"{HEKLA}?page=2", False)
    assert following(HeklaSpider, '<a href="https://evil.example/x">Næsta</a>', url=HEKLA) == guess
    assert following(HeklaSpider, '<a href="http://[/x">Næsta</a>', url=HEKLA) == guess
    base = "http://127.0.0.1:8000"
    linked = f'<a href="{HEKLA}?page=2">Næsta</a>'
    at_base = f"{base}/is/bilar/notadir-bilar"
    assert following(HeklaSpider, linked, url=at_base, base_url=base) == (f"{at_base}?page=2", True)
    assert following(HeklaSpider, linked, url=HEKLA) == (f"{HEKLA}?page=2", True)


def test_numbered_pages_keep_what_the_address_says() -> None:
    assert following(BrimborgSpider, "", url="https://notadir.brimborg.is/is?brand=4&page=1") == (
        "https://notadir.brimborg.is/is?brand=4&page=2",
        False,
    )


GUID = "0d5bb3a0-1c7e-4d33-9d0c-6f7e5c1a2b3c"
RESULTS = f"https://bilasolur.is/SearchResults.aspx?page=1&id={GUID}"
SECOND = f"SearchResults.aspx?page=2&id={GUID}"


ONWARDS = [
    f'<a href="SearchResults.aspx?page=2&amp;id={GUID}"><i class="bisicon bi-chevron-right"></i></a>',
    f'<a href="SearchResults.aspx?id={GUID}&page=2">Næsta</a>',
    f'<a href="/searchresults.aspx?ID={GUID.upper()}&amp;PAGE=2">2</a>',
    f'<a href="https://www.bilasolur.is/SearchResults.aspx?page=2&amp;id={GUID}"></a>',
    f'<a href="SearchResults.aspx?page=7&amp;id={GUID}">7</a><a href="./{SECOND}#top">&raquo;</a>',
    f'<link rel="next" href="{SECOND}">',
    f'<form action="?"><input name="id" value="{GUID}"><button name="page" value="2">2</button></form>',
    """<a href="javascript:__doPostBack('ctl00$pager','next')">Næsta</a>""",
    """<a href="javascript:__doPostBack('ctl00$pager','2')">2</a><a href="SearchResults.aspx?page=2&id=0">x</a>""",
]
ELSEWHERE = [
    "",
    f'<a href="SearchResults.aspx?page=1&amp;id={GUID}"><i class="fa fa-angle-left"></i></a>',
    '<a href="SearchResults.aspx?page=2&amp;id=another">2 dyra</a>',
    f'<a href="SearchResults.aspx?page=7&amp;id={GUID}">7</a>',
    """<a href="javascript:__doPostBack('ctl00$sort','price')">Verð</a>""",
    "<form><input type=submit value=Leita></form>",
]


def test_the_next_page_is_found_by_its_address_however_it_is_written() -> None:
    second = RESULTS.replace("page=1", "page=2")
    for pager in ONWARDS:
        url, leads = following(BilasolurSpider, pager, url=RESULTS)
        assert leads, pager
        assert place_of(url) == place_of(second), pager
    for pager in ELSEWHERE:
        assert following(BilasolurSpider, pager, url=RESULTS) == (second, False), pager


PAGES = {
    '<div class="paging"><span>5 / 5</span></div>': 5,
    "<nav><b>5</b> / <b>5</b></nav>": 5,
    '<p class="pagination">Síða 5 af 5</p>': 5,
    '<p class="pagination">Síða 5 af 6</p>': 6,
    '<p class="pagination">4 / 4</p>': None,
    "<p>5 / 5</p>": None,
    '<div class="sr-item"><a class="sr-link" href="CarDetails.aspx?cid=1"><i class="pager">5 / 5</i></a></div>': None,
}


def test_a_pager_says_how_many_pages_there_are_and_a_cards_photos_do_not() -> None:
    for pager, pages in PAGES.items():
        assert make_spider(BilasolurSpider).number_of_pages(page(pager, url=RESULTS), 5) == pages, pager


def test_a_site_that_counts_its_pages_from_zero_is_followed_by_what_says_next() -> None:
    def following(url: str, links: str) -> str | None:
        response = HtmlResponse(url, body=f"<html><body>{links}</body></html>", encoding="utf-8")
        request, _ = find_next(response, 1, "", lambda _: True)
        return request.url if request else None

    first = '<a href="?page=0">1</a> <a href="?page=1">2</a> <a href="?page=2">3</a>'
    assert following("https://x.is/cars", f'{first} <a href="?page=1" aria-label="Next">next</a>') == (
        "https://x.is/cars?page=1"
    )
    assert following("https://x.is/cars", first) == "https://x.is/cars?page=2"
