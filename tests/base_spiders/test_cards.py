"""Sites of cards: what is a card, where the list ends, which photo is which, and when the site is not what it was."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any
from urllib.parse import urljoin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scrapy.exceptions import CloseSpider
from scrapy.http import HtmlResponse, Response

from carscraper.base_spiders.cards import CardSpider
from carscraper.base_spiders.pages import largest_of
from carscraper.items import CarImage, CarItem
from carscraper.spiders.bilasolur import BilasolurSpider
from carscraper.spiders.brimborg import BrimborgSpider
from carscraper.spiders.hekla import HeklaSpider
from carscraper.spiders.islandsbilar import IslandsbilarSpider
from carscraper.state import state_of
from tests.fakes import make_crawler

HEKLA = "https://www.hekla.is/is/bilar/notadir-bilar"
VIEW = "/is/bilar/notadir-bilar/view/"


def make_spider(cls: type[CardSpider] = HeklaSpider, **arguments: str) -> Any:
    return cls.from_crawler(make_crawler(cls), **arguments)


def page(body: str, *, title: str = "Notaðir bílar", url: str = HEKLA) -> HtmlResponse:
    text = f"<html><head><title>{title}</title></head><body>{body}</body></html>"
    return HtmlResponse(url, body=text.encode(), encoding="utf-8")


def card(number: int, *, title: str = "VW GOLF", price: str = "Verð: 990.000 kr.", picture: str | None = None) -> str:
    """A card of hekla.is."""
    shown = f'<img src="/media/{number}.jpg">' if picture is None else picture
    info = f'<h3><a href="{VIEW}{number}">{title}</a></h3><p>{price}</p><span>12.2023</span><span>20.000</span>'
    return f'<div class="card"><div class="img">{shown}</div><div class="info">{info}</div></div>'


def read(spider: Any, response: HtmlResponse) -> list[CarItem]:
    cars, unreadable = spider.read_cards(response)
    assert unreadable == 0
    return list(cars)


def run(spider: Any, response: Response, **arguments: Any) -> str:
    """Read a result page that must end the crawl, and give the reason."""

    async def first() -> None:
        async for _ in spider.parse_results(response, **arguments):
            return

    with pytest.raises(CloseSpider):
        asyncio.run(first())
    return str(state_of(spider.crawler).failed)


# --- where the list is ------------------------------------------------------------------------------------------


def test_the_sites_root_and_the_lists_address_are_the_same() -> None:
    paths = {HeklaSpider: "is/bilar/notadir-bilar", BrimborgSpider: "is", IslandsbilarSpider: "soluskra/"}
    for (cls, path), root in itertools.product(
        paths.items(), ("http://127.0.0.1:1234", "https://www.example.is/mirror")
    ):
        for end in (f"/{path.rstrip('/')}{each}" for each in ("", "/", "?page=1", "/?page=3#top")):
            for address in (root + end, root, f"{root}/"):
                spider = make_spider(cls, base_url=address)
                assert (spider.argument_problem, spider.base_url) == (None, f"{root}/"), address
                assert [request.url for request in spider.start_search()] == [f"{root}/{path}"]


def test_an_address_that_only_ends_alike_is_another() -> None:
    assert make_spider(BrimborgSpider, base_url="http://127.0.0.1/paradis").base_url == "http://127.0.0.1/paradis/"
    assert make_spider(BrimborgSpider).base_url == "https://notadir.brimborg.is/"


# --- what is a card ---------------------------------------------------------------------------------------------


def test_the_card_is_what_is_around_a_link_and_no_more() -> None:
    logo = '<header><a href="/is"><img src="/logo.jpg"></a> Hekla, sími 000 0000</header>'
    (item,) = read(make_spider(), page(f"{logo}<main>{card(7)}</main>"))
    assert [image.source_url for image in item.images] == ["https://www.hekla.is/media/7.jpg"]
    assert (item.make, item.model, item.year, item.kilometers) == ("Volkswagen", "Golf", 2023, 20000)


def test_a_car_without_a_photo_or_a_price_or_both_is_still_a_car() -> None:
    cards = card(1) + card(2, picture="") + card(3, price="") + card(4, picture="", price="") + card(5, title="")
    cars = read(make_spider(), page(cards))
    assert sorted(car.external_id for car in cars) == ["1", "2", "3", "4", "5"]
    assert {car.external_id: (len(car.images), car.price) for car in cars} == {
        "1": (1, 990_000),
        "2": (0, 990_000),
        "3": (1, None),
        "4": (0, None),
        "5": (1, 990_000),
    }


def test_a_mention_in_passing_is_no_card() -> None:
    banner = f'<section><a href="{VIEW}2"><img src="/banner.jpg"></a></section>'
    seen = f'<ul><li><a href="{VIEW}9">VW Golf</a></li><li><a href="{VIEW}1">VW Polo</a></li></ul>'
    cars = read(make_spider(), page(banner + card(1) + card(2) + seen))
    assert [(car.external_id, car.images[0].source_url[-12:]) for car in cars] == [
        ("1", "/media/1.jpg"),
        ("2", "/media/2.jpg"),
    ]


def test_icons_are_no_pictures() -> None:
    heart = '<div class="info"><img src="/heart.svg"><img src="data:image/png;base64,AA">'
    (item, _) = read(make_spider(), page((card(1) + card(2)).replace('<div class="info">', heart)))
    assert [image.source_url for image in item.images] == ["https://www.hekla.is/media/1.jpg"]


def test_a_link_to_another_site_is_an_advertisement() -> None:
    foreign = card(1, title="KIA RIO").replace('href="', 'href="https://annar.example')
    (item,) = read(make_spider(), page(foreign + card(1)))
    assert item.make == "Volkswagen"
    mirrored = card(1).replace('href="', 'href="https://hekla.is')
    spider = make_spider(base_url="http://127.0.0.1:8000")
    (item,) = read(spider, page(mirrored, url="http://127.0.0.1:8000/is/bilar/notadir-bilar"))
    assert item.url == f"http://127.0.0.1:8000{VIEW}1", "on the crawl's own site"
    (item,) = read(make_spider(), page(card(2) + card(1).replace('href="', 'href="http://[')))
    assert item.external_id == "2"
    cards = '<div class="card"><a href="{}/car/1"><img class="card__img" src="a.jpg"></a>KIA RIO 1/2019</div>'
    islandsbilar = make_spider(IslandsbilarSpider)
    home = "https://islandsbilar.is/soluskra/"
    assert read(islandsbilar, page(cards.format("https://annar.example"), url=home)) == []
    assert len(read(islandsbilar, page(cards.format(""), url=home))) == 1


def test_a_link_that_names_no_car_is_told() -> None:
    for number in ("", "../..", "9" * 41, "a%00b", "ð"):
        spider = make_spider()
        broken = card(2).replace(f"{VIEW}2", f"{VIEW}{number}")
        cars, unreadable = spider.read_cards(page(card(1) + broken + card(3)))
        assert ([car.external_id for car in cars], unreadable) == (["1", "3"], 1), number
        assert spider.is_partial


TITLES = {
    "VW ID.5 GTX 220 KW": ("Volkswagen", "ID.5 GTX 220 KW"),
    "<b>VW</b> <i>ID.5 GTX</i>": ("Volkswagen", "ID.5 GTX"),
    "<em>Nýtt á skrá</em>ALFA ROMEO <span>GIULIA</span>": ("Alfa Romeo", "Giulia"),
    "Land Rover": ("Land Rover", None),
    "TRABANT 601": ("Trabant", "601"),
}


def test_a_title_may_be_in_pieces() -> None:
    for title, expected in TITLES.items():
        (item,) = read(make_spider(), page(card(1, title=title)))
        assert (item.make, item.model) == expected, title


def test_a_bare_year_is_no_distance() -> None:
    for when, year, month in (("2023", 2023, None), ("1.2023", 2023, 1)):
        (item,) = read(make_spider(), page(card(1).replace("12.2023", when)))
        assert (item.year, item.registration_month, item.kilometers) == (year, month, 20_000)
        (item,) = read(make_spider(), page(card(1).replace("12.2023", when).replace("20.000", "")))
        assert (item.year, item.kilometers) == (year, None)


# --- photos -----------------------------------------------------------------------------------------------------


def image(address: str, spider: Any = None) -> CarImage:
    found = (spider or make_spider()).image(lambda raw: urljoin(HEKLA, raw), address, "7")
    assert found
    assert isinstance(found, CarImage)
    return found


def test_one_photo_in_two_sizes_is_one() -> None:
    spellings = [
        "/m/a.jpg",
        "/m/a.jpg?w=400",
        "/m/a.jpg?width=9&HEIGHT=3&q=80",
        "http://hekla.is/m/a.jpg?fm=webp&dpr=2",
    ]
    assert len({image(each).identity for each in spellings}) == 1
    assert len({image(each).identity for each in ("/m/a.jpg", "/m/b.jpg", "/m/a.jpg?id=2", "/m/a.jpg?id=3")}) == 4
    assert image("/m/a.jpg?w=4&id=2&v=1").identity == image("/m/a.jpg?v=1&id=2").identity


@given(
    st.text(max_size=80), st.sampled_from(["", "/media/", "https://", "//", "https://www.hekla.is/", "a.jpg?\ud800"])
)
def test_no_address_is_an_error(text: str, start: str) -> None:
    found = image(start + text, SPIDER)
    assert found.status == "pending" or (found.status, found.reason) == ("failed", "bad-address")


SPIDER = make_spider()


@given(st.text(alphabet="ab,. 0123wx/:\t\n", max_size=80))
def test_no_srcset_is_an_error(text: str) -> None:
    found = largest_of(text)
    assert found in text
    assert not any(each.isspace() for each in found)


def test_a_long_srcset_costs_little() -> None:
    begin = time.process_time()
    for text in ("a," * 100_000, "a" * 200_000, "a 1w," * 50_000, ", " * 100_000, "a 1" * 60_000):
        largest_of(text)
    assert time.process_time() - begin < 2


def test_the_largest_of_a_srcset_goes_before_what_is_shown_at_first() -> None:
    picture = page('<img src="/s.jpg" data-src="/m.jpg" srcset="/m.jpg 400w, /l.jpg 1.2.3x, /xl.jpg 800w">').css("img")[
        0
    ]
    assert SPIDER.picture_address(picture) == "/xl.jpg"
    for attributes, expected in (
        ('src="/placeholder.png" data-src=" /m.jpg "', "/m.jpg"),
        ('src="/s.jpg" srcset="data:image/gif;base64,R0 2x"', "/s.jpg"),
        ('src="data:image/gif;base64,R0" data-original="/m.jpg"', "/m.jpg"),
        ('src="data:image/gif;base64,R0" data-lazy="/m.jpg"', "/m.jpg"),
        ('src="/spinner.svg" data-lazy-src="/m.jpg"', "/m.jpg"),
        ('src="/spinner.svg" data-lazy-srcset="/m.jpg 400w, /l.jpg 800w"', "/l.jpg"),
        ('src="about:blank" data-srcset="/a.jpg 1x, /b.jpg 2x"', "/b.jpg"),
        ('src="/placeholder.png?v=2"', None),
        ('src="/icons/x.SVG#i" alt=""', None),
        ('alt=""', None),
    ):
        assert SPIDER.picture_address(page(f"<img {attributes}>").css("img")[0]) == expected


def test_a_picture_whose_address_stands_around_it() -> None:
    late = '<img src="data:image/gif;base64,R0">'
    for around, expected in (
        (f'<picture><source srcset="/m.webp 400w, /l.webp 800w">{late}</picture>', ["/l.webp"]),
        (f'<picture><source data-srcset="/l.webp">{late}</picture>', ["/l.webp"]),
        ('<picture><source srcset="/l.webp"><img src="/l.jpg"></picture>', ["/l.jpg"]),
        (f'{late}<noscript><img src="/l.jpg"></noscript>', ["/l.jpg"]),
        ('<img data-lazy="/l.jpg"><noscript><img src="/l.jpg"></noscript>', ["/l.jpg"]),
    ):
        shown = page(around)
        images = SPIDER.images_of(shown, shown.css("img"), "1")
        assert [image.source_url for image in images] == [shown.urljoin(address) for address in expected]


# --- the site is not what it was --------------------------------------------------------------------------------

OTHER_PAGES = {
    "empty": "",
    "login": '<form action="/login"><input type="password"></form>',
    "maintenance": "<h1>Lokað vegna viðhalds</h1>",
    "layout": card(1).replace("/view/", "/kaupa/"),
}


def test_a_first_page_without_cars_names_what_is_missing() -> None:
    for cls, name in itertools.product((HeklaSpider, BrimborgSpider, IslandsbilarSpider), OTHER_PAGES):
        spider = make_spider(cls)
        why = run(spider, page(OTHER_PAGES[name], url=spider.base_url))
        assert cls.card_link in why, (cls, name)
        assert spider.base_url in why


def test_a_page_of_bytes_names_what_is_missing() -> None:
    assert HeklaSpider.card_link in run(make_spider(), Response(HEKLA, body=b"\x00\xff"))


def brimborg_page(body: str, *, title: str = "Notaðir bílar - síða 2") -> HtmlResponse:
    return page(body, title=title, url="https://notadir.brimborg.is/is?page=2")


def test_past_the_last_numbered_page_comes_the_same_page_without_cars() -> None:
    spider = make_spider(BrimborgSpider)
    spider._results_title = "Notaðir bílar - síða "
    assert spider._may_be_empty(brimborg_page("<p>Engir bílar</p>"), 2)
    for other in (
        brimborg_page("", title="Innskráning"),
        brimborg_page("", title=""),
        brimborg_page('<a href="/vehicle/1">Ford Kuga</a> Verð: 990.000 kr.'),
    ):
        assert not spider._may_be_empty(other, 2)
        assert BrimborgSpider.card_link in run(spider, other, page=2)
    assert not spider._may_be_empty(brimborg_page(""), 1)
    # Where the site's own words are known, nothing else is taken for them.
    assert not make_spider(BilasolurSpider)._may_be_empty(page("", title=""), 2)


def test_what_no_car_of_a_page_has_is_another_layout() -> None:
    spider = make_spider()

    def missing(cards: list[str]) -> str | None:
        response = page("".join(cards))
        found: str | None = spider._missing_from_all(response, read(spider, response))
        return found

    bare = [card(n, price="").replace("12.2023", "").replace("20.000", "") for n in range(6)]
    assert missing([card(n) for n in range(6)]) is None
    assert missing(bare) == "a price, a year or a distance (get_price, get_year_month, get_kilometers)"
    assert missing(bare[:4]) is None, "few may have none by chance"
    assert missing([*bare, card(7)]) is None
    assert missing([card(n, picture="") for n in range(6)]) is None, "nobody took photos"
    assert "a price" in run(spider, page("".join(bare)))


def test_pictures_that_the_selector_does_not_find_are_noticed() -> None:
    spider = make_spider(IslandsbilarSpider)
    one = '<div class="card"><a href="/car/{}"><img class="photo" src="{}"></a>KIA RIO 1/2019 Verð: 990.000 kr.</div>'
    url = "https://islandsbilar.is/soluskra/"
    response = page(one.format(1, "a.jpg") + one.format(2, "b.jpg"), url=url)
    assert "img.card__img" in run(spider, response)
    icons = page(one.format(1, "/placeholder.png") + one.format(2, "/heart.svg"), url=url)
    assert spider._missing_from_all(icons, read(spider, icons)) is None


def test_a_page_of_which_nothing_is_known_is_not_asked_for_fresh_addresses() -> None:
    item = CarItem(source="Hekla", external_id="7", url=f"https://www.hekla.is{VIEW}7")
    assert make_spider().page_url(item) is None


# --- cards that were not closed -----------------------------------------------------------------------------------


def unclosed(*cards: str, ends: int = 1) -> str:
    """These cards, each without its last *ends* closing tags."""
    return "".join(each.removesuffix("</div>" * ends) for each in cards) + '<p class="pager">Verð 1 2 Næsta</p>'


@pytest.mark.parametrize("ends", [0, 1, 2])
def test_nothing_is_taken_from_the_card_after_one_that_is_not_closed(ends: int) -> None:
    cards = [
        card(1, price="hafið samband", picture=""),
        card(2, title="KIA NIRO", price="Verð: 2.000.000 kr."),
        card(3, title="KIA RIO", price="Verð: 3.000.000 kr."),
    ]
    for selector in ("", ".card"):
        spider = make_spider()
        spider.card = selector
        response = page(f'<div class="cards">{unclosed(*cards, ends=ends)}</div>')
        for _ in range(2):  # it can be read again
            found = {each.external_id: each for each in read(spider, response)}
            assert {name: each.price for name, each in found.items()} == {"1": None, "2": 2_000_000, "3": 3_000_000}
            assert {name: each.model for name, each in found.items()} == {"1": "Golf", "2": "Niro", "3": "Rio"}
            photos = {name: [image.source_url[-5:] for image in each.images] for name, each in found.items()}
            assert photos == {"1": [], "2": ["2.jpg"], "3": ["3.jpg"]}


def test_cards_in_a_grid_whose_classes_they_share_stay_as_they_are() -> None:
    first = f'<a href="{VIEW}1">VW GOLF</a><img src="/media/1.jpg"><p>Verð: 1.000.000 kr.</p>'
    second = f'<div class="row"><a href="{VIEW}2">VW POLO</a></div><img src="/media/2.jpg"><p>Verð: 2.000.000 kr.</p>'
    columns = "".join(f'<div class="col"><div class="card">{each}</div></div>' for each in (first, second))
    found = read(make_spider(), page(f'<div class="row">{columns}</div>'))
    assert [(each.model, each.price, len(each.images)) for each in found] == [
        ("Golf", 10**6, 1),
        ("Polo", 2 * 10**6, 1),
    ]


def test_an_advertisement_after_a_card_that_is_not_closed_is_no_part_of_it() -> None:
    spider = make_spider()
    spider.card = ".card"
    advertisement = '<div class="card"><img src="/ads/9.jpg"><p>Verð: 9.000.000 kr.</p></div>'
    first = card(1, price="hafið samband").removesuffix("</div>")
    (found,) = read(spider, page(f"{first}{advertisement}"))
    assert (found.price, [image.source_url[-5:] for image in found.images]) == (None, ["1.jpg"])
    # An advertisement that is not closed has the cars after it, and is none of them.
    found, other = read(spider, page(advertisement.removesuffix("</div>") + card(1, price="—") + card(2, price="—")))
    assert (found.price, other.price) == (None, None)


def test_a_frame_around_a_card_is_a_part_of_it() -> None:
    spider = make_spider()
    spider.card = ".card"
    inner = card(1, picture="")
    (found, *_) = read(spider, page(f'<div class="card"><img src="/media/1.jpg">{inner}</div>'))
    assert [image.source_url[-5:] for image in found.images] == ["1.jpg"]
