"""Sites that need a browser: how a list grows and ends, what a page may load, which car an address names."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.async_api import async_playwright
from scrapy.http import HtmlResponse

from carscraper.base_spiders import browser, chromium
from carscraper.base_spiders.browser import GrowingList
from carscraper.base_spiders.chromium import find_chromium, why_not_started
from carscraper.base_spiders.pages import background_address, lasting_query, query_id
from carscraper.exceptions import ConfigurationError
from carscraper.spiders.askja import AskjaSpider
from carscraper.state import state_of
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

SURE = {
    "id=7891": "7891",
    "ID=7891&make=12": "7891",
    "make=12&cid=7891": "7891",
    "carId=7891&dealer=4": "7891",
    "vehicle_id=AB-123": "AB-123",
    "id=3f2a9c1e-77aa-4b6e-9d55-0123456789ab": "3f2a9c1e-77aa-4b6e-9d55-0123456789ab",
    "vehicle=7891": "7891",
    "bill=7891&utm_source=x&fbclid=y": "7891",
    "7891": "7891",
    "x=7891": "7891",
    "id=7891&id=1": "7891",
}
UNSURE = ["make=12&model=34", "car=ev6", "id=../../etc", "id=kia", "x=78a91", "a=1&b=2", "id=" + "9" * 65, "id=²"]


def test_an_id_in_a_query_or_a_digest_where_no_parameter_is_surely_one() -> None:
    for query, external_id in SURE.items():
        assert query_id(f"https://notadir.is/soluskra?{query}") == external_id, query
    assert query_id("https://x.is/soluskra?utm_source=a") is None
    digest = hashlib.sha256(b"a=ev6&b=kia").hexdigest()[:16]
    assert query_id("https://x.is/soluskra?b=kia&a=ev6") == digest, "half of a car's identity: never another"
    for query in UNSURE:
        found = query_id(f"https://notadir.is/soluskra?{query}")
        assert re.fullmatch("[0-9a-f]{16}", found or ""), query
        turned = "&".join(reversed(query.split("&")))
        assert query_id(f"https://notadir.is/soluskra?{turned}&utm_campaign=spring#top") == found, query
        assert query_id(f"https://notadir.is/soluskra?{query}&more=1") != found, query


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
    assert "Two cars have the id 1" in state_of(spider.crawler).incomplete[0]


def test_a_list_without_any_photo_is_another_layout() -> None:
    spider, cars, _ = read(*(card(f"id={number}") for number in range(5)))
    response = HtmlResponse("https://notadir.is/", body="<html></html>", encoding="utf-8")
    assert "a.vehicle__image[style]" in (spider._missing_from_all(response, cars) or "")
    assert spider._missing_from_all(response, cars[:4]) is None


def test_the_browser_is_for_its_own_crawl_and_the_scheme_in_use_only(program: str) -> None:
    spider = AskjaSpider.from_crawler(make_crawler())
    assert "PLAYWRIGHT_ABORT_REQUEST" not in spider.settings, "the backfill asks it for its photos' names only"
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
    assert find_chromium(None) == find_chromium(str(program)) == str(program)


def test_a_chromium_that_does_not_start_names_the_fix() -> None:
    for said, fix in {
        "[9:9:FATAL:zygote_host_impl_linux.cc:128] No usable sandbox! Update your kernel": "chromium-sandbox",
        "The SUID sandbox helper binary was found, but is not configured: setuid sandbox": "chromium-sandbox",
        "error while loading shared libraries: libnss3.so: cannot open shared object file": "--reinstall chromium",
        "BrowserType.launch: Timeout 30000ms exceeded.": "memory",
        "start() must be awaited before launch_browser()": "apt-get install libatomic1",
        "spawn /x EACCES": "Try it: /x",
        "": "no reason given",
    }.items():
        sentence = why_not_started("/x", said)
        assert fix in sentence
        assert sentence.startswith("Chromium (/x) can't be started")
        assert "\n" not in sentence
    assert browser.first_words("2026-01-01 [x] INFO: \x1b[31mforged\nsecond") == "2026-01-01 [x] INFO:  [31mforged"
    assert len(browser.first_words("x" * 10_000)) == 160


def test_the_sites_twin_must_not_lead_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {"www.p.example": "93.184.215.14", "www.inside.example": "10.0.0.1"}

    def getaddrinfo(name: str, port: int, **_: Any) -> list[Any]:
        if name not in addresses:
            raise OSError(name)
        return [(2, 1, 6, "", (addresses[name], port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    start, end = "--host-resolver-rules=EXCLUDE ", "MAP * ~NOTFOUND"
    for host, mapped in (
        ("p.example", "MAP www.p.example 93.184.215.14, "),
        ("inside.example", ""),
        ("nowhere.example", ""),
    ):
        spider = AskjaSpider.from_crawler(make_crawler(), base_url=f"https://{host}/")
        assert spider._resolver_rules() == f"{start}{host}, {mapped}{end}"
        assert state_of(spider.crawler).addresses.refused("www.inside.example", 443) is (host == "inside.example")
    spider = AskjaSpider.from_crawler(make_crawler(), base_url="http://127.0.0.1:8000/")
    assert spider._resolver_rules() == "--host-resolver-rules=MAP 127.0.0.1 127.0.0.1:8000, MAP * ~NOTFOUND"


# --- in the browser ---------------------------------------------------------------------------------------------


def in_browser(program: str, work: Callable[[Callable[..., Awaitable[GrowingList]]], Awaitable[Any]]) -> Any:
    """What *work* returns; it is given what opens the list of a site in a browser, as a crawl does."""

    async def run() -> Any:
        async with async_playwright() as driver:
            started = await driver.chromium.launch(executable_path=program, chromium_sandbox=os.geteuid() != 0)

            async def opened(site: SimulatedAskja) -> GrowingList:
                spider = AskjaSpider.from_crawler(
                    make_crawler(DOWNLOAD_TIMEOUT=5, RETRY_TIMES=1, RETRY_BACKOFF=0.01), base_url=site.base_url
                )
                spider.crawler.engine.running = True

                async def nothing(_url: str) -> bool:
                    return False

                spider._is_forbidden = nothing
                page: Page = await started.new_page(service_workers="block")

                async def decide(route: Any, request: Any) -> None:
                    await (route.abort() if await spider.refuses(request) else route.continue_())

                await page.route("**", decide)
                found = GrowingList(page, spider)
                await page.goto(site.base_url, wait_until="domcontentloaded")
                return found

            return await work(opened)

    return asyncio.run(run())


GROWING: list[tuple[str, Any, tuple[int, int, str | None]]] = [
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
]


def test_a_list_grows_to_its_end(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "_QUIET", 0.8)

    async def grown(opened: Callable[..., Awaitable[GrowingList]], mode: str, step: Any) -> Any:
        with SimulatedAskja(cars=20, photos=1, mode=mode) as site:
            if step:
                site.fault(*step)
            found = await opened(site)
            steps = 0
            while await found.grow():
                steps += 1
        assert site.errors == []
        return steps, len(found.cards), found.problem

    async def work(opened: Callable[..., Awaitable[GrowingList]]) -> Any:
        return await asyncio.gather(*(grown(opened, mode, step) for mode, step, _ in GROWING))

    for (mode, step, expected), found in zip(GROWING, in_browser(program, work), strict=True):
        assert found[:2] == expected[:2], (mode, step, found)
        assert (found[2] is None) == (expected[2] is None), (mode, step, found)
        assert (expected[2] or "") in (found[2] or "")
        assert "\n" not in (found[2] or "")


def test_a_page_that_goes_away_ends_the_list_and_keeps_what_was_seen(program: str) -> None:
    async def work(opened: Callable[..., Awaitable[GrowingList]]) -> Any:
        found = await opened(site)
        assert await found.grow()
        await found._page.close()
        return await found.grow(), found.problem, await found.html()

    with SimulatedAskja(cars=20, photos=1) as site:
        more, problem, html = in_browser(program, work)
    assert not more
    assert "closed" in problem
    assert html.count('class="vehicle"') == 8
    assert f'<base href="{site.base_url}/">' in html
