"""The simulated bilasolur.is keeps its word: driven over real HTTP, every oddity is proved."""

from __future__ import annotations

import http.client
import io
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from parsel import Selector
from PIL import Image

from tests.dealers import photos
from tests.dealers.bilasolur import ADVANCED, GONE, GONE_TOO, NOTHING_FOUND, PREFIX, SESSION, SimulatedBilasolur
from tests.dealers.cars import FUELS, MAKES
from tests.dealers.server import Remote, run_as_process


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def page(self) -> Selector:
        return Selector(self.body.decode())


def ask(base_url: str, address: str, form: dict[str, str] | None = None, timeout: float = 5) -> Answer:
    """One request, no redirect followed."""
    url = urllib.parse.urlsplit(urllib.parse.urljoin(base_url + "/", address))
    connection = http.client.HTTPConnection(url.netloc, timeout=timeout)
    try:
        body = None if form is None else urllib.parse.urlencode(form)
        target = url.path + ("?" + url.query if url.query else "")
        connection.request("GET" if form is None else "POST", target, body, {"User-Agent": "test/1"})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def filled_form(home: Selector) -> dict[str, str]:
    """What a browser would send for the search form when its button is pressed."""
    fields = home.css("form input:not([type=checkbox])")
    form = {field.attrib["name"]: field.attrib["value"] for field in fields}
    for select in home.css("form select"):
        form[select.attrib["name"]] = select.css("option[selected]").attrib["value"]
    return form


def search(base_url: str, make: str = "-1") -> str:
    """Search as a browser does; the address of the first result page."""
    form = filled_form(ask(base_url, "/").page) | {PREFIX + "search_f1": make}
    answer = ask(base_url, "/", form)
    assert answer.status == 302
    return answer.headers["Location"]


def advanced_search(base_url: str, **chosen: str) -> str:
    """Search at SearchCars.aspx, and give the address that it leads to."""
    form = filled_form(ask(base_url, "SearchCars.aspx").page)
    form |= {ADVANCED + name: value for name, value in chosen.items()}
    answer = ask(base_url, "SearchCars.aspx", form)
    assert answer.status == 302
    return answer.headers["Location"]


def cids(page: Selector) -> list[int]:
    return [int(re.search(r"cid=(\d+)", link)[1]) for link in page.css("a.sr-link::attr(href)").getall()]  # type: ignore[index]


def next_page(page: Selector) -> str | None:
    return page.xpath("//*[contains(@class, 'pagingCell')]//a[.//*[contains(@class, 'fa-angle-right')]]/@href").get()


def photo_address(site: SimulatedBilasolur, number: int = 0, place: int = 0, w: int = 400) -> str:
    car = site.cars[number]
    return f"CarImage.aspx?s={car.bid}&c={car.cid}&p={car.photos[place].p}&w={w}"


def text(node: Selector) -> str:
    return " ".join("".join(node.xpath(".//text()").getall()).split())


@pytest.fixture
def site() -> Iterator[SimulatedBilasolur]:
    with SimulatedBilasolur(cars=25, photos=3, per_page=10, layout="2019") as running:
        yield running
    assert running.errors == []


# Search


@pytest.mark.parametrize("address", ["/", "/Section.aspx?s=1"])
def test_a_search_goes_from_the_form_to_the_first_result_page(site: SimulatedBilasolur, address: str) -> None:
    home = ask(site.base_url, address).page
    form = home.css('form[method=post][action="./"]')
    makes = form.css(f'select[name="{PREFIX}search_f1"] option')
    assert makes[0].attrib["value"] == "-1"
    assert makes[0].css("::text").get() == "Allir framleiðendur"
    assert [make.css("::text").get() for make in makes[1:]] == list(MAKES)

    answer = ask(site.base_url, "/", filled_form(home))

    assert answer.status == 302
    assert re.fullmatch(r"/SearchResults\.aspx\?page=1&id=[0-9a-f-]{36}", answer.headers["Location"])
    assert len(cids(ask(site.base_url, answer.headers["Location"]).page)) == 10


def test_a_viewstate_that_no_page_gave_out_is_an_error_page(site: SimulatedBilasolur) -> None:
    form = filled_form(ask(site.base_url, "/").page)
    again = filled_form(ask(site.base_url, "/").page)
    assert form["__VIEWSTATE"] != again["__VIEWSTATE"]
    for broken in (
        form | {"__VIEWSTATE": "stale"},
        form | {"__VIEWSTATEGENERATOR": "0"},
        *(
            {name: value for name, value in form.items() if name != left_out}
            for left_out in form
            if "btn" not in left_out
        ),
    ):
        answer = ask(site.base_url, "/", broken)
        assert answer.status == 500
        assert b"Server Error" in answer.body
    assert ask(site.base_url, "/", form).status == 302


def test_without_the_button_the_home_page_comes_back(site: SimulatedBilasolur) -> None:
    form = filled_form(ask(site.base_url, "/").page)
    del form[PREFIX + "btnSearch"]
    assert ask(site.base_url, "/", form).page.css("form")


def test_a_search_by_make_finds_that_make_only(site: SimulatedBilasolur) -> None:
    page = ask(site.base_url, search(site.base_url, make=str(MAKES["Kia"][0]))).page
    assert set(page.css(".car-make::text").getall()) - {"Auglýsing"} == {"KIA"}
    assert cids(page) == [car.cid for car in site.cars if car.make == "Kia"]


def test_an_empty_search_says_so_and_an_unknown_one_goes_home(site: SimulatedBilasolur) -> None:
    address = search(site.base_url)
    for car in site.cars:
        site.sell(car.cid)
    assert NOTHING_FOUND in text(ask(site.base_url, address).page)
    unknown = ask(site.base_url, "SearchResults.aspx?page=1&id=00000000-0000-0000-0000-000000000000")
    assert (unknown.status, unknown.headers["Location"]) == (302, "/")


# Paging


def test_the_last_page_repeats_for_ever(site: SimulatedBilasolur) -> None:
    address: str | None = search(site.base_url)
    pages = []
    for _ in range(5):
        assert address is not None
        page = ask(site.base_url, address).page
        pages.append(cids(page))
        address = next_page(page)
        assert address is not None
        assert address.startswith(f"SearchResults.aspx?page={len(pages) + 1}&id=")
    assert [*pages[0], *pages[1], *pages[2]] == [car.cid for car in site.cars]
    assert pages[2] == pages[3] == pages[4]


def test_the_last_page_may_have_no_next_link(site: SimulatedBilasolur) -> None:
    site.last_page_links_on = False
    first = search(site.base_url)
    assert next_page(ask(site.base_url, first).page)
    assert next_page(ask(site.base_url, first.replace("page=1", "page=3")).page) is None


def test_endless_every_page_is_new_and_whole(site: SimulatedBilasolur) -> None:
    site.endless = True
    first = search(site.base_url)
    seen: set[int] = set()
    for number in range(1, 8):
        page = ask(site.base_url, first.replace("page=1", f"page={number}")).page
        found = set(cids(page))
        assert found
        assert not found & seen
        seen |= found
        assert next_page(page)
    link = page.css("a.sr-link::attr(href)").getall()[-1]
    photo = page.css("img.swiper-slide::attr(src)").getall()[-1]
    assert GONE not in text(ask(site.base_url, link).page)
    assert ask(site.base_url, photo).status == 200
    assert len(site.cars) == 25


# Cards and details


def test_cards_show_every_form_that_is_known() -> None:
    with SimulatedBilasolur(cars=60, photos=2, per_page=60, layout="2019") as site:
        page = ask(site.base_url, search(site.base_url)).page
    items = page.css(".sr-item")
    cards = [item for item in items if item.css("a.sr-link[href]")]
    assert (len(items), len(cards)) == (66, 60)
    prices = [text(card.css(".car-price")[0]) for card in cards]
    raw_prices = page.css(".car-price").getall()
    facts = [" | ".join(map(text, card.css(".tech-details div"))) for card in cards]
    for pattern in (
        r"kr\. [\d.]+",
        r"Flott verð kr\. [\d.]+",
        r"kr\. [\d.]+ án vsk\.",
        r"Tilboð kr\. [\d.]+ kr\. [\d.]+",
        r"Tilboð óskast",
    ):
        assert any(re.fullmatch(pattern, price) for price in prices), pattern
    assert any("kr.\N{NO-BREAK SPACE}" in price for price in raw_prices)
    for pattern in (
        r"\d+/\d{4} · .+ \| [\d.]{5,} km\. · \w+",
        r"\d{4} · .+ \| .+",
        r"\d+/\d{4} \| .+",
        r".+ \| \d+ þ\.km · \w+",
        r".+ \| Nýtt ökutæki · \w+",
        r".+ \| \w+",
    ):
        assert any(re.fullmatch(pattern, fact) for fact in facts), pattern
    assert {fuel for fuel in FUELS if fuel and any(f"· {fuel} |" in fact for fact in facts)} == {*FUELS} - {None}
    for card, car in zip(cards, site.cars, strict=True):
        assert card.css(".car-make::text").get() == car.make.upper()
        assert text(card.css(".car-make-and-model")[0]) == f"{car.make.upper()} {car.model}"
    widths = {re.search(r"w=(\d+)", src)[1] for src in page.css("img.swiper-slide::attr(src)").getall()}  # type: ignore[index]
    assert widths == {"400", "784"}


def test_links_change_with_the_search_and_the_sid_with_a_new_listing(site: SimulatedBilasolur) -> None:
    def first_link() -> dict[str, str]:
        page = ask(site.base_url, search(site.base_url)).page
        return dict(urllib.parse.parse_qsl(page.css("a.sr-link::attr(href)").getall()[0].partition("?")[2]))

    one, other = first_link(), first_link()
    assert one["schid"] != other["schid"]
    assert one | {"schid": ""} == other | {"schid": ""}
    site.relist(site.cars[0].cid)
    assert first_link()["sid"] != one["sid"]


def test_details_tell_the_truth_and_show_every_photo_at_two_widths(site: SimulatedBilasolur) -> None:
    for car in site.cars:
        page = ask(site.base_url, f"CarDetails.aspx?bid={car.bid}&cid={car.cid}&sid={car.sid}").page
        shown = text(page)
        assert f"{car.horsepower} hestöfl" in shown
        assert f"Síðast uppfært {car.updated.day}.{car.updated.month}.{car.updated.year}" in shown
        assert ("Innanbæjareyðsla" in shown) == (car.city_consumption is not None)
        for word in (car.tyres, f"{car.doors} dyra", f"{car.seats} manna", car.drivetrain, car.colour):
            assert word in shown
        sources = page.css('img[src^="CarImage.aspx"]::attr(src)').getall()
        found = [re.search(r"c=(\d+)&p=(\d+)", source).group(1, 2) for source in sources]  # type: ignore[union-attr]
        assert ["/".join(pair) for pair in found] == car.identities * 2


def test_a_sold_car_leaves_the_results_and_its_page_says_so(site: SimulatedBilasolur) -> None:
    sold = site.cars[2].cid
    site.sell(sold)
    answer = ask(site.base_url, f"CarDetails.aspx?cid={sold}")
    assert answer.status == 200
    assert GONE in text(answer.page)
    assert sold not in cids(ask(site.base_url, search(site.base_url)).page)


def test_the_same_seed_makes_the_same_cars_and_another_seed_others() -> None:
    one, same = SimulatedBilasolur(cars=5), SimulatedBilasolur(cars=9)
    assert one.cars == same.cars[:5]
    assert one.cars != SimulatedBilasolur(cars=5, seed=2).cars
    cid, p = one.cars[3].cid, one.cars[3].photos[1].p
    assert one.photo_bytes(cid, p, 400) == same.photo_bytes(cid, p, 400)


def test_hostile_text_reaches_the_reader_as_text(site: SimulatedBilasolur) -> None:
    car = site.cars[0]
    car.make, car.model = "../../etc", '"><script>alert(1)</script>\n\N{PILE OF POO}\udc80'
    page = ask(site.base_url, search(site.base_url)).page
    assert not page.css("script")
    assert page.css(".car-make::text").get() == "../../ETC"
    assert "<script>" in text(page.css(".car-make-and-model")[0])


def test_a_photo_address_may_be_anything(site: SimulatedBilasolur) -> None:
    car = site.cars[0]
    for address in (
        "http://169.254.169.254/x.jpg",
        "//elsewhere.test/a?b=1&c=2",
        "\\\\host\\a.jpg",
        "data:,x",
    ):
        site.set_photo(car.cid, car.photos[0].p, src=address)
        page = ask(site.base_url, f"CarDetails.aspx?cid={car.cid}").page
        assert page.css("img.slide::attr(src)").get() == address


def test_a_card_can_be_unreadable(site: SimulatedBilasolur) -> None:
    for place, fault in enumerate(("no-cid", "garbage", "bare")):
        site.card_fault(site.cars[place].cid, fault)
    cards = ask(site.base_url, search(site.base_url)).page.css(".sr-item:has(a.sr-link[href])")
    assert "cid=" not in cards[0].css("a").attrib["href"]
    assert "∞" in text(cards[1])
    assert text(cards[2]) == ""


# The layout of 2026


@pytest.fixture
def site_of_2026() -> Iterator[SimulatedBilasolur]:
    with SimulatedBilasolur(cars=110, photos=(10, 28), layout="2026") as running:
        yield running
    assert running.errors == []


def test_a_page_of_2026_has_48_cars_each_behind_its_anchor(site_of_2026: SimulatedBilasolur) -> None:
    site = site_of_2026
    first = search(site.base_url)
    assert re.fullmatch(r"/SearchResults\.aspx\?id=[0-9a-f-]{36}", first)
    pages = [ask(site.base_url, f"{first}&page={number}").page for number in (1, 2, 3, 4)]
    assert [len(cids(page)) for page in pages] == [48, 48, 14, 14]
    assert cids(pages[2]) == cids(pages[3])
    anchors = pages[0].css("a.car-anchor::attr(name)").getall()
    assert anchors == [f"rnr_{car.bid}_{car.cid}_{car.sid}" for car in site.cars[:48]]
    assert len(pages[0].css(".sr-item")) == 52, "the advertisements have no anchor"
    links = pages[1].css(".paging a:has(i.bisicon)::attr(href)").getall()
    guid = first.rpartition("=")[2]
    assert links[1:] == [f"SearchResults.aspx?page={number}&id={guid}" for number in (1, 3)]
    assert links[0].startswith("javascript:__doPostBack"), "sorting is a way to another search"
    assert all(10 <= len(car.photos) <= 28 for car in site.cars)
    assert len({len(car.photos) for car in site.cars}) > 10


def test_cards_of_2026_show_every_form_that_is_known(site_of_2026: SimulatedBilasolur) -> None:
    site_of_2026.per_page = 110
    page = ask(site_of_2026.base_url, search(site_of_2026.base_url)).page
    cards = page.css(".sr-item:has(a.sr-link[href])")
    prices = [text(card.css(".car-price")[0]) for card in cards]
    facts = [" | ".join(map(text, card.css(".tech-details div"))) for card in cards]
    for pattern in (r"kr\. [\d.]+", r"Flott verð kr\. [\d.]+", r"kr\. [\d.]+ án vsk\.", "Tilboð óskast"):
        assert any(re.fullmatch(pattern, price) for price in prices), pattern
    assert any(re.fullmatch(r"Tilboð kr\. [\d.]+ kr\. [\d.]+", price) for price in prices)
    for pattern in (
        r"\d+/\d{4} · [\d.]{5,} km\. \| \w+ \| \w+drif",
        r"\d+/\d{4} · \d+ þ\.km \| .+",
        r"\d{4} · .+ \| \w+drif",
        r".+ · Nýtt ökutæki \| .+",
        r".+ · \d+ klst\. \| .+",
        r"\d+/\d{4} \| \w+ \| \w+drif",
        r".+ \| Bensín / Rafmagn \| .+",
        r".+ \| Bensín/Rafmagn \| .+",
    ):
        assert any(re.fullmatch(pattern, fact) for fact in facts), pattern
    assert not any("skipting" in fact for fact in facts)
    assert page.css(".short-note::text").getall()
    assert set(page.css(".pill::attr(title)").getall()) == {"Tilboð", "Á staðnum"}
    assert page.css(".car-price span::text").get()


def test_a_cars_page_of_2026_tells_the_truth(site_of_2026: SimulatedBilasolur) -> None:
    for car in site_of_2026.cars[:24]:
        page = ask(site_of_2026.base_url, f"CarDetails.aspx?bid={car.bid}&cid={car.cid}").page
        shown = text(page)
        lines = page.css(".mb-1::text").getall()
        assert lines[lines.index("Hestöfl") + 1] == f"{car.horsepower} hö."
        for word in (car.tyres, f"{car.doors} dyra", f"{car.seats} manna", car.drivetrain):
            assert word in lines
        assert ("Tengill fyrir heimahleðslu" in lines) == (car.has_plug or car.fuel == "Rafmagn")
        assert text(page.css(".serial-number")[0]) == f"Raðnúmer{car.cid}"
        assert ("Verð áður" in shown) == (car.price_before_offer is not None)
        assert page.css(".col-6.font-weight-bold::text").get() == car.transmission
        assert (page.css(".col-6.text-right .font-weight-bold::text").get() or None) == car.fuel_words
        assert page.css(".seller-name a[href^=BilasalaDetails]::text").get() == car.dealer_name
        assert (page.css(".row.mt-3.text-overflow-ellipsis .col-12::text").get() or "") == car.description
        sources = page.css("img.pswp-popup-area.cd-car-photo::attr(src)").getall()
        assert [re.search(r"c=(\d+)&p=(\d+)", source).group(1, 2) for source in sources] == [  # type: ignore[union-attr]
            tuple(identity.split("/")) for identity in car.identities
        ]
    words = set()
    for car in site_of_2026.cars[:2]:
        site_of_2026.sell(car.cid)
        words.add(text(ask(site_of_2026.base_url, f"CarDetails.aspx?cid={car.cid}").page.css(".car-details")[0]))
    assert words == {GONE, GONE_TOO}


def test_the_advanced_form_finds_one_car_a_make_a_dealer_and_what_changed(site_of_2026: SimulatedBilasolur) -> None:
    site = site_of_2026
    site.per_page = 110

    def found(**chosen: str) -> list[int]:
        return cids(ask(site.base_url, advanced_search(site.base_url, **chosen)).page)

    car = site.cars[70]
    assert found(search_cid=str(car.cid)) == [car.cid]
    assert found() == [each.cid for each in site.cars]
    assert found(search_f1="7") == [each.cid for each in site.cars if each.make == "Kia"]
    assert found(search_btshid="203") == [each.cid for each in site.cars if each.bid == 203]
    today = [each.cid for each in site.cars if (site.today - each.updated).days <= 1]
    assert found(search_modage="1") == today
    assert len(today) < 10
    assert found(search_modage="2") == [each.cid for each in site.cars], "what is not offered is ignored"
    site.touch(car.cid)
    assert car.cid in found(search_modage="1")
    site.sell(car.cid)
    assert NOTHING_FOUND in text(ask(site.base_url, advanced_search(site.base_url, search_cid=str(car.cid))).page)
    site.cid_leads_to = "details"
    assert "CarDetails.aspx" in advanced_search(site.base_url, search_cid=str(site.cars[3].cid))


def test_forms_may_be_missing(site_of_2026: SimulatedBilasolur) -> None:
    site_of_2026.forms = ["advanced"]
    assert not ask(site_of_2026.base_url, "/").page.css("form")
    site_of_2026.forms = ["home"]
    assert ask(site_of_2026.base_url, "SearchCars.aspx").status == 404
    with SimulatedBilasolur(cars=1, layout="2019") as old:
        assert ask(old.base_url, "SearchCars.aspx").status == 404


@pytest.mark.parametrize("layout", ["2019", "2026"])
def test_home_shows_featured_cars(layout: str) -> None:
    with SimulatedBilasolur(cars=10, layout=layout) as site:
        shown = cids(ask(site.base_url, "/").page)
    assert shown == [car.cid for car in site.cars[-4:]]


def test_every_page_sets_a_session_until_the_client_has_one(site_of_2026: SimulatedBilasolur) -> None:
    site = site_of_2026
    site.session_cookie = True
    car = site.cars[0]
    for address in ("/", "SearchCars.aspx", search(site.base_url), f"CarDetails.aspx?cid={car.cid}"):
        assert ask(site.base_url, address).headers["Set-Cookie"].startswith(f"{SESSION}="), address
    assert ask(site.base_url, photo_address(site)).headers["Set-Cookie"] is None
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=5)
    connection.request("GET", "/", headers={"Cookie": f"{SESSION}=abc"})
    assert connection.getresponse().headers["Set-Cookie"] is None
    connection.close()


# Photos


def test_photos_are_real_unique_and_as_wide_as_asked(site: SimulatedBilasolur) -> None:
    seen = set()
    for number in range(8):
        for place in range(3):
            answer = ask(site.base_url, photo_address(site, number, place))
            car = site.cars[number]
            assert answer.body == site.photo_bytes(car.cid, car.photos[place].p, 400)
            assert answer.headers["Content-Type"] == "image/jpeg"
            with Image.open(io.BytesIO(answer.body)) as image:
                image.load()
                assert (image.format, image.size) == ("JPEG", (400, 267))
                assert not image.getexif()
            seen.add(answer.body)
    assert len(seen) == 24
    for width in ("1280", "784", "", "99999"):
        address = photo_address(site).replace("w=400", f"w={width}" if width else "")
        with Image.open(io.BytesIO(ask(site.base_url, address).body)) as image:
            assert image.width == (784 if width == "784" else 1280)


def test_a_photo_is_named_by_c_and_p_alone_in_any_case_and_order(site: SimulatedBilasolur) -> None:
    car = site.cars[0]
    c, p = car.cid, car.photos[0].p
    for address in (f"/carimage.ASPX?W=400&P={p}&C={c}", f"/CarImage.aspx?p={p}&x=1&s=9&c={c}&w=400"):
        assert ask(site.base_url, address).body == site.photo_bytes(c, p, 400)
    assert site.served.photos == {f"{c}/{p}": 2}
    assert ask(site.base_url, f"/CarImage.aspx?c={c}&p=1").status == 404


# Pillow opens no file that breaks off; what the program makes of these two is in tests/crawl/test_hostile.py.
WHOLE_KINDS = [kind for kind in photos.KINDS if kind not in {"jpeg-without-end", "png-without-end"}]


@pytest.mark.parametrize("kind", WHOLE_KINDS)
def test_a_photo_may_come_in_any_format(site: SimulatedBilasolur, kind: str) -> None:
    car = site.cars[0]
    site.set_photo(car.cid, car.photos[0].p, kind=kind)
    answer = ask(site.base_url, photo_address(site))
    assert answer.headers["Content-Type"] == photos.KINDS[kind][0]
    with Image.open(io.BytesIO(answer.body)) as image:
        image.load()
        assert f"image/{image.format}".lower() == photos.KINDS[kind][0]
        assert bool(image.getexif().get_ifd(0x8825)) == (kind == "jpeg-gps")
        assert (image.mode == "CMYK") == (kind == "jpeg-cmyk")


def test_the_average_size_is_what_was_asked_for() -> None:
    factory = photos.PhotoFactory(215_000)
    sizes = [
        sum(map(len, factory.photo("x", photos.Look(colour, "Jeppi"), view, 1280, "jpeg")[0]))
        for colour in list(photos.COLOURS)[:3]
        for view in range(5)
    ]
    assert 190_000 < sum(sizes) / len(sizes) < 240_000


@pytest.mark.parametrize(("mode", "status"), [("404", 404), ("403", 403), ("html200", 200), ("placeholder", 200)])
def test_addresses_expire_until_their_page_is_rendered_again(site: SimulatedBilasolur, mode: str, status: int) -> None:
    car, address = site.cars[0], photo_address(site)
    good = site.photo_bytes(car.cid, car.photos[0].p, 400)
    ask(site.base_url, f"CarDetails.aspx?cid={car.cid}")
    assert ask(site.base_url, address).body == good
    site.expire_all(mode)
    dead = ask(site.base_url, address)
    assert (dead.status, dead.body == good) == (status, False)
    ask(site.base_url, f"CarDetails.aspx?cid={car.cid}")
    assert ask(site.base_url, address).body == good


def test_addresses_expire_by_time(site: SimulatedBilasolur) -> None:
    site.photo_ttl = 0.2
    assert ask(site.base_url, photo_address(site)).status == 404  # never rendered
    ask(site.base_url, search(site.base_url))
    assert ask(site.base_url, photo_address(site)).status == 200
    time.sleep(0.25)
    assert ask(site.base_url, photo_address(site)).status == 404


def test_renumbered_photos_keep_their_bytes(site: SimulatedBilasolur) -> None:
    car, old = site.cars[0], photo_address(site)
    before = [site.photo_bytes(car.cid, photo.p) for photo in car.photos]
    site.renumber_photos()
    assert [site.photo_bytes(car.cid, photo.p) for photo in car.photos] == before
    assert ask(site.base_url, old).status == 404
    p = site.add_photo(car.cid)
    assert site.photo_bytes(car.cid, p) not in before
    assert str(p) in ask(site.base_url, f"CarDetails.aspx?cid={car.cid}").body.decode()


# Faults


def test_steps_are_taken_one_a_request(site: SimulatedBilasolur) -> None:
    car = site.cars[0]
    site.photo_fault(car.cid, car.photos[0].p, ["503", "429:7", "ok", "410"], sticky=True)
    answers = [ask(site.base_url, photo_address(site)) for _ in range(5)]
    assert [answer.status for answer in answers] == [503, 429, 200, 410, 410]
    assert answers[1].headers["Retry-After"] == "7"
    assert ask(site.base_url, photo_address(site, place=1)).status == 200
    site.fault("photo", ["500"], each=True)
    assert [ask(site.base_url, photo_address(site, place=place)).status for place in (1, 1, 2, 2)] == [
        500,
        200,
    ] * 2
    site.clear_faults()
    assert ask(site.base_url, photo_address(site)).status == 200


def test_photos_go_wrong_in_the_ways_that_are_known(site: SimulatedBilasolur) -> None:
    car = site.cars[0]
    good = site.photo_bytes(car.cid, car.photos[0].p, 400)

    def broken(step: str) -> Answer:
        site.photo_fault(car.cid, car.photos[0].p, [step])
        return ask(site.base_url, photo_address(site))

    with pytest.raises(http.client.IncompleteRead) as cut:
        broken("half")
    assert cut.value.partial == good[: len(good) // 2]
    assert broken("half-short").body == good[: len(good) // 2]
    assert broken("no-end-marker").body == good[:-2]
    assert broken("empty").body == b""
    assert broken("one-byte").body == good[:1]
    as_html = broken("as-html")
    assert (as_html.body, as_html.headers["Content-Type"]) == (good, "text/html; charset=utf-8")
    assert broken("html200").body.startswith(b"<!DOCTYPE")
    assert json.loads(broken("json200").body)
    assert broken("svg").headers["Content-Type"] == "image/jpeg"
    assert broken("placeholder").body == broken("placeholder").body != good
    redirect = broken("redirect:http://10.0.0.1/a.jpg")
    assert (redirect.status, redirect.headers["Location"]) == (302, "http://10.0.0.1/a.jpg")
    gzip = broken("gzip-bomb")
    assert (gzip.headers["Content-Encoding"], len(gzip.body) < 200_000) == ("gzip", True)
    png = broken("png-bomb").body
    assert (int.from_bytes(png[16:20]), len(png) < 100_000) == (20_000, True)
    started = time.monotonic()
    broken("slow:0.1")
    assert time.monotonic() - started >= 0.1
    assert broken("trickle:0.001").body == good
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        broken("reset")
    site.photo_fault(car.cid, None, ["never"])
    with pytest.raises(TimeoutError):
        ask(site.base_url, photo_address(site), timeout=0.1)
    with pytest.raises(ValueError, match="unknown fault"):
        site.fault("photo", ["nonsense"])


def test_an_endless_body_goes_on_until_the_client_hangs_up(site: SimulatedBilasolur) -> None:
    site.fault("photo", ["endless"])
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=5)
    connection.request("GET", "/" + photo_address(site))
    answer = connection.getresponse()
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert len(answer.read(20_000_000)) == 20_000_000
    answer.close()
    connection.close()
    assert ask(site.base_url, "/").status == 200


def test_pages_go_wrong_too(site: SimulatedBilasolur) -> None:
    address = search(site.base_url)
    site.fault("results", ["503", "500", "maintenance", "login", "layout", "binary"])
    assert ask(site.base_url, address).status == 503
    assert ask(site.base_url, address).status == 500
    for word in ("viðhald", "password"):
        answer = ask(site.base_url, address)
        assert (answer.status, word in answer.body.decode()) == (200, True)
    assert not ask(site.base_url, address).page.css(".sr-item")
    assert ask(site.base_url, address).headers["Content-Type"] == "application/octet-stream"
    assert ask(site.base_url, address).page.css(".sr-item")
    car = site.cars[1]
    site.fault(f"details:{car.cid}", ["garbage"], sticky=True)
    assert "31.2." in text(ask(site.base_url, f"CarDetails.aspx?cid={car.cid}").page)
    assert "31.2." not in text(ask(site.base_url, f"CarDetails.aspx?cid={site.cars[2].cid}").page)
    site.fault("page", ["503"], sticky=True)
    assert [ask(site.base_url, path).status for path in ("/", "/robots.txt", photo_address(site))] == [
        503,
        503,
        200,
    ]


def test_a_site_that_is_down_closes_connections_and_comes_back(site: SimulatedBilasolur) -> None:
    site.down = True
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        ask(site.base_url, "/")
    site.down = False
    assert ask(site.base_url, "/").status == 200


def test_robots_txt_allows_all_unless_told_otherwise(site: SimulatedBilasolur) -> None:
    assert ask(site.base_url, "/robots.txt").body == b"User-agent: *\nDisallow: \n"
    site.disallow = ["/CarImage.aspx"]
    assert b"Disallow: /CarImage.aspx\n" in ask(site.base_url, "/robots.txt").body


# What it was asked, and from another process


def test_it_tells_what_it_served(site: SimulatedBilasolur) -> None:
    ask(site.base_url, search(site.base_url))
    ask(site.base_url, f"CarDetails.aspx?cid={site.cars[0].cid}")
    site.fault("photo", ["503"])
    site.photo_latency = 1.0  # all four are there before the first has gone, on a busy machine, too
    clients = [threading.Thread(target=ask, args=(site.base_url, photo_address(site, number))) for number in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    served = site.served
    assert served.counts == {"home": 1, "search": 1, "results": 1, "details": 1, "photo": 4}
    assert served.counts["robots"] == 0
    assert served.statuses("photo") == {200: 3, 503: 1}
    assert served.max_concurrent_photos == 4
    assert {asked.user_agent for asked in served.requests} == {"test/1"}
    times = [asked.time for asked in served.requests]
    assert times == sorted(times)
    site.reset()
    assert site.served.counts == {}
    assert site.served.max_concurrent_photos == 0


def test_many_requests_share_a_connection(site: SimulatedBilasolur) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=5)
    for _ in range(50):
        connection.request("GET", "/" + photo_address(site))
        assert connection.getresponse().read() == site.photo_bytes(site.cars[0].cid, site.cars[0].photos[0].p, 400)
    assert len(site.connections) == 1
    connection.close()


def test_a_process_of_its_own_is_steered_over_http() -> None:
    with run_as_process("tests.dealers.bilasolur", "--cars", "3", "--photos", "2") as remote:
        assert isinstance(remote, Remote)
        cars = remote.cars
        cid, p = cars[0]["cid"], cars[0]["photos"][0]["p"]
        answer = ask(remote.base_url, f"CarImage.aspx?c={cid}&p={p}&w=400")
        assert answer.body == remote.photo_bytes(cid, p, 400)
        assert remote.served.counts == {"photo": 1}
        assert remote.served.photos == {f"{cid}/{p}": 1}
        remote.photo_fault(cid, p, ["404"])
        assert ask(remote.base_url, f"CarImage.aspx?c={cid}&p={p}").status == 404
        remote.sell(cid)
        assert GONE in text(ask(remote.base_url, f"CarDetails.aspx?cid={cid}").page)
        remote.down = True
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            ask(remote.base_url, "/")
        remote.down = False
        remote.reset()
        assert remote.served.requests == []
        with pytest.raises(ValueError, match="may not be set"):
            remote.cars_by_magic = True
        with pytest.raises(ValueError, match="unknown command"):
            remote.stop_it()
