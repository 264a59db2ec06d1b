"""Sites that need a browser: how a list grows and ends, what a page may load, which car an address names."""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scrapy.http import HtmlResponse

from carscraper.base_spiders import chromium
from carscraper.base_spiders.browser import background_address, lasting_query, query_id
from carscraper.base_spiders.chromium import Chromium, Listing, Traffic, find_chromium, site_hosts
from carscraper.exceptions import ConfigurationError
from carscraper.network import AddressFilter
from carscraper.spiders.askja import AskjaSpider
from tests.dealers.askja import SimulatedAskja
from tests.fakes import make_crawler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from playwright.async_api import Page


@pytest.fixture
def program() -> str:
    try:
        return find_chromium(None)
    except ConfigurationError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


# --- what names a car -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "external_id"),
    [
        ("id=7891", "7891"),
        ("ID=7891&make=12", "7891"),
        ("make=12&cid=7891", "7891"),
        ("carId=7891&dealer=4", "7891"),
        ("vehicle_id=AB-123", "AB-123"),
        ("id=3f2a9c1e-77aa-4b6e-9d55-0123456789ab", "3f2a9c1e-77aa-4b6e-9d55-0123456789ab"),
        ("vehicle=7891", "7891"),
        ("bill=7891&utm_source=x&fbclid=y", "7891"),
        ("7891", "7891"),
        ("x=7891", "7891"),
        ("id=7891&id=1", "7891"),
    ],
)
def test_an_id_in_a_query(query: str, external_id: str) -> None:
    assert query_id(f"https://notadir.is/soluskra?{query}") == external_id


@pytest.mark.parametrize(
    "query", ["make=12&model=34", "car=ev6", "id=../../etc", "id=kia", "x=78a91", "a=1&b=2", "id=" + "9" * 65, "id=²"]
)
def test_a_digest_where_no_parameter_is_surely_the_id(query: str) -> None:
    found = query_id(f"https://notadir.is/soluskra?{query}")
    assert found
    assert re.fullmatch("[0-9a-f]{16}", found)
    turned = "&".join(reversed(query.split("&")))
    assert query_id(f"https://notadir.is/soluskra?{turned}&utm_campaign=spring#top") == found
    assert query_id(f"https://notadir.is/soluskra?{query}&more=1") != found


@given(st.text(max_size=40))
def test_no_address_is_an_error(text: str) -> None:
    url = f"https://notadir.is/soluskra?{text}"
    found = query_id(url)
    assert found is None or re.fullmatch("[A-Za-z0-9_-]{1,64}", found)
    assert query_id(lasting_query(url)) == found
    background_address(text)
    background_address(f"background: url({text})")


# --- what is read of a page -------------------------------------------------------------------------------------


def read(*cards: str) -> tuple[AskjaSpider, list[Any], int]:
    spider = AskjaSpider.from_crawler(make_crawler(AskjaSpider))
    response = HtmlResponse("https://notadir.is/", body="<html>" + "".join(cards) + "</html>", encoding="utf-8")
    return spider, *spider.read_cards(response)


def card(query: str, *, model: str = "EV6", style: str = "") -> str:
    return f"""<div class="vehicle"><a class="vehicle__image" href="/soluskra?{query}" style="{style}"></a>
    <h4 class="vehicle__title">KIA</h4><p class="vehicle__subtitle">{model}</p>
    <em><span>4.990.000</span></em><ul><li>2022</li><li>93 þ.km.</li></ul></div>"""


def test_two_cars_under_one_id_are_told() -> None:
    spider, cars, _ = read(card("id=1"), card("id=1&amp;page=2"), card("id=2"))
    assert [each.external_id for each in cars] == ["1", "1", "2"]
    assert not spider.is_partial, "the same car twice"
    spider, cars, _ = read(card("id=1&amp;x=1"), card("id=1&amp;x=2", model="Sportage"))
    assert len(cars) == 2
    assert spider.is_partial
    assert spider.crawler.stats.get_value("carscraper/cards/failed") == 1


def test_a_list_without_any_photo_is_another_layout() -> None:
    spider, cars, _ = read(*(card(f"id={number}") for number in range(5)))
    response = HtmlResponse("https://notadir.is/", body="<html></html>", encoding="utf-8")
    assert "a.vehicle__image[style]" in (spider._missing_from_all(response, cars) or "")
    assert spider._missing_from_all(response, cars[:4]) is None


def test_only_its_own_crawl_has_a_browser() -> None:
    spider = AskjaSpider.from_crawler(make_crawler())
    assert not hasattr(spider, "_chromium")
    assert "PLAYWRIGHT_BROWSER_PROVIDER" not in spider.settings
    assert spider.argument_problem is None


def test_the_browser_is_for_the_scheme_in_use_only(program: str) -> None:
    crawler = make_crawler(CHROMIUM_PATH=program)
    crawler.spidercls = AskjaSpider  # not made by make_crawler, which knows no base_url
    spider = AskjaSpider.from_crawler(crawler, base_url="http://127.0.0.1:1/")
    assert spider.argument_problem is None
    handlers = spider.settings.getdict("DOWNLOAD_HANDLERS")
    assert [scheme for scheme, handler in handlers.items() if handler and "chromium" in handler] == ["http"]
    assert handlers["file"] is None
    (item,) = read(card("id=1"))[1]
    assert spider.page_url(item) is None, "nobody can read it without the browser"


# --- the program ------------------------------------------------------------------------------------------------


def test_a_chromium_that_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"^CHROMIUM_PATH is '/nowhere'.* no such program.*\.$"):
        find_chromium("/nowhere")
    monkeypatch.setattr(chromium, "_PROGRAMS", ("chromium",))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"apt-get install chromium, or set CHROMIUM_PATH"):
        find_chromium(None)
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_chromium(None) == str(program)
    assert find_chromium(str(program)) == str(program)


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ("[9:9:FATAL:zygote_host_impl_linux.cc:128] No usable sandbox! Update your kernel", "chromium-sandbox"),
        ("The SUID sandbox helper binary was found, but is not configured: setuid sandbox", "chromium-sandbox"),
        ("error while loading shared libraries: libnss3.so: cannot open shared object file", "--reinstall chromium"),
        ("BrowserType.launch: Timeout 30000ms exceeded.", "memory"),
        ("spawn /x EACCES", "Try it: /x"),
        ("", "no reason given"),
    ],
)
def test_a_chromium_that_does_not_start_names_the_cure(said: str, cure: str) -> None:
    sentence = chromium.why_not_started("/x", said)
    assert cure in sentence
    assert sentence.startswith("Chromium (/x) can't be started")
    assert "\n" not in sentence


def test_what_a_page_says_is_one_short_line() -> None:
    assert chromium.first_words("2026-01-01 [x] INFO: \x1b[31mforged\nsecond") == "2026-01-01 [x] INFO:  [31mforged"
    assert len(chromium.first_words("x" * 10_000)) == 160


# --- in the browser ---------------------------------------------------------------------------------------------


def in_browser(
    program: str, site: SimulatedAskja, work: Callable[[Page, Traffic, Chromium], Awaitable[Any]], **options: Any
) -> Any:
    """What *work* gives for the site's page in a browser, with what the page may load decided as in a crawl."""

    async def run() -> Any:
        browser = Chromium(program, site_hosts(site.base_url), **options)
        try:
            page = await (await browser.launch_browser()).new_page(service_workers="block")

            async def decide(route: Any, request: Any) -> None:
                await (route.abort() if await browser.refuses(request) else route.continue_())

            await page.route("**", decide)
            traffic = Traffic(page, browser.refused)
            await page.goto(site.base_url, wait_until="domcontentloaded")
            return await work(page, traffic, browser)
        finally:
            await browser.close()

    return asyncio.run(run())


def listing(traffic: Traffic, **options: Any) -> Listing:
    return Listing(
        traffic,
        card=AskjaSpider.card,
        link=AskjaSpider.card_link,
        button=AskjaSpider.more_button,
        **{"timeout": 3, "retries": 1, "backoff": 0.01} | options,
    )


async def grown(page: Page, traffic: Traffic, _browser: Chromium) -> tuple[int, int, str | None]:
    """Steps, cards, problem."""
    found = listing(traffic)
    steps = 0
    while await found.grow():
        steps += 1
    return steps, len(found.cards), found.problem


@pytest.mark.parametrize(
    ("mode", "step", "expected"),
    [
        ("button", None, (3, 20, None)),
        ("scroll", None, (3, 20, None)),
        ("stubborn", None, (3, 20, None)),
        ("reset", None, (3, 20, None)),
        ("dead", None, (1, 8, "does nothing")),
        ("button", ("list:8", ["503"], False), (3, 20, None)),
        ("button", ("list:8", ["500"], True), (1, 8, "offset=8' answers HTTP 500")),
        ("button", ("list:16", ["never"], True), (2, 16, "offset=16' does not answer")),
        ("button", ("list:16", ["reset"], True), (2, 16, "offset=16' does not come")),
        ("button", ("script", ["broken"], True), (0, 0, "Minified React error")),
        ("button", ("script", ["404"], True), (0, 0, "app.js' answers HTTP 404")),
        ("button", ("script", ["cards"], True), (0, 0, None)),
    ],
)
def test_a_list_grows_to_its_end(
    program: str, mode: str, step: Any, expected: tuple[int, int, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chromium, "_QUIET", 1.0)
    monkeypatch.setattr(chromium, "_QUIET_AT_FIRST", 2.0)
    with SimulatedAskja(cars=20, photos=1, mode=mode) as site:
        if step:
            site.fault(*step)
        steps, cards, problem = in_browser(program, site, grown)
        assert site.errors == []
    assert (steps, cards) == expected[:2]
    assert (problem is None) == (expected[2] is None), problem
    assert (expected[2] or "") in (problem or "")
    assert "\n" not in (problem or "")


def test_a_page_that_goes_away_ends_the_list_and_keeps_what_was_seen(program: str) -> None:
    async def work(page: Page, traffic: Traffic, _browser: Chromium) -> Any:
        found = listing(traffic)
        assert await found.grow()
        await page.close()
        return await found.grow(), found.problem, await found.html()

    with SimulatedAskja(cars=20, photos=1) as site:
        more, problem, html = in_browser(program, site, work)
    assert not more
    assert "closed" in problem
    assert html.count('class="vehicle"') == 8
    assert f'<base href="{site.base_url}/">' in html


def test_a_page_reaches_the_site_only(program: str) -> None:
    """Not by a script, a frame, a redirect or a web socket; and nothing but text is loaded."""

    async def forbidden(url: str) -> bool:
        return url.endswith("app.css")

    async def work(page: Page, traffic: Traffic, browser: Chromium) -> Any:
        assert await listing(traffic).grow()
        reached = {}
        for target in (f"{other.base_url}/x", f"http://localhost:{other.port}/", f"{site.base_url}/elsewhere"):
            reached[target] = await page.evaluate("url => fetch(url).then((a) => a.ok, () => false)", target)
        await asyncio.sleep(0.5)
        return reached, browser.refused

    with SimulatedAskja(cars=2) as other, SimulatedAskja(cars=8, photos=1, abroad=other.base_url) as site:
        reached, refused = in_browser(program, site, work, forbidden=forbidden)
        assert set(reached.values()) == {False}
        assert other.served.requests == []
        counts = site.served.counts
        assert {kind for kind in counts if counts[kind]} == {"results", "script", "list", "other"}
        # Whatever port of this machine they name, they end here.
        others = {asked.path for asked in site.served.requests if asked.kind == "other"}
        assert others == {"/elsewhere", "/redirected", "/socket"}
    assert refused[f"{other.base_url}/tracker.js"] == "another host"
    assert refused[f"{site.base_url}/static/app.css"] == "robots.txt"


def test_the_sites_twin_is_resolved_by_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that the crawl was not told of must not lead inside."""
    addresses = {"www.p.example": "93.184.215.14", "www.inside.example": "10.0.0.1"}

    async def run(host: str) -> str:
        loop = asyncio.get_running_loop()

        async def getaddrinfo(name: str, port: int, **_: Any) -> list[Any]:
            if name not in addresses:
                raise OSError(name)
            return [(2, 1, 6, "", (addresses[name], port))]

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        return await Chromium("/x", site_hosts(f"https://{host}/"))._rules()

    start, end = "--host-resolver-rules=EXCLUDE ", "MAP * ~NOTFOUND"
    addresses_of_crawl = AddressFilter()
    monkeypatch.setattr("carscraper.base_spiders.chromium.current_filter", lambda: addresses_of_crawl)
    assert asyncio.run(run("p.example")) == f"{start}p.example, MAP www.p.example 93.184.215.14, {end}"
    assert asyncio.run(run("inside.example")) == f"{start}inside.example, {end}"
    assert addresses_of_crawl.refused("www.inside.example", 443)
    assert asyncio.run(run("nowhere.example")) == f"{start}nowhere.example, {end}"
