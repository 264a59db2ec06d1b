"""The official feed: cars and photos end to end, what can be wrong with it, and a key that nobody gets to see."""

from __future__ import annotations

import asyncio
import os
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import pytest
from scrapy.exceptions import CloseSpider
from scrapy.http import XmlResponse

from carscraper.spiders.henry import HenrySpider
from carscraper.state import state_of
from tests.crawl.world import World, keys_of, last_words, truth_of, verdict
from tests.dealers.henry import KEY, SimulatedHenry, equipment_of
from tests.fakes import make_crawler

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests import services
    from tests.dealers.cars import Car

SPELLINGS = {KEY, quote(KEY), quote(KEY, safe=""), quote_plus(KEY), quote_plus(KEY).lower()}


@pytest.fixture
def new_feed(new_world: Callable[..., World]) -> Callable[..., World]:
    def make(*, env: dict[str, str] | None = None, key: str = KEY, **options: Any) -> World:
        env = {"HENRY_API_KEY": key, "HENRY_STORE_IMAGES": "true"} | (env or {})
        return new_world(site=SimulatedHenry(**options), spider="henry", env={k: v for k, v in env.items() if v})

    return make


def assert_secret(world: World, *done: services.CompletedCrawl) -> None:
    """The key is in no output, no file and no row."""
    for each in done:
        for spelling in SPELLINGS:
            assert spelling not in each.stdout + each.stderr
    for path in world.folder.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert not [spelling for spelling in SPELLINGS if spelling.encode() in data], path


def truth(world: World, car: Car) -> dict[str, Any]:
    """What the feed tells; it has neither month nor offers nor the rest of a details page."""
    there = {"kilometers": None if car.is_new else car.kilometers, "description": ", ".join(equipment_of(car)) or None}
    unknown = dict.fromkeys(
        (
            *("registration_month", "price_before_offer", "price_excludes_vat", "city_consumption"),
            *("dealer_name", "source_updated_at"),
        )
    )
    url = f"{world.site.base_url}/CarDetails.aspx?bid={car.bid}&cid={car.cid}"
    return truth_of(car, world.site.base_url, "2019") | unknown | there | {"source": "Henry", "url": url}


def test_without_leave_photos_are_linked_and_not_stored(new_feed: Callable[..., World]) -> None:
    world = new_feed(env={"HENRY_STORE_IMAGES": ""}, cars=4, photos=2)
    done = world.crawl()
    assert len(done.lines("HENRY_STORE_IMAGES=true")) == 1
    assert world.asked("photo") == 0
    assert {(row["status"], row["reason"]) for row in world.images().values()} == {("pending", "terms")}
    for car in world.site.cars:
        first = world.image(car)
        assert world.listing(car)["image_url"] == first["source_url"]
        assert f"/CarImage.aspx?s={car.bid}&c={car.cid}" in first["source_url"]
    world.crawl()
    assert world.asked("photo") == 0
    world.crawl(env={"HENRY_STORE_IMAGES": "true"})
    assert world.asked("photo") == 8
    assert {row["status"] for row in world.images().values()} == {"stored"}
    world.crawl()
    assert {row["status"] for row in world.images().values()} == {"stored"}, "what is stored stays so"


@pytest.mark.parametrize("s3", ["rclone"], indirect=True)
def test_the_feed_is_crawled_into_s3_and_the_second_crawl_costs_its_pages_only(
    new_feed: Callable[..., World], s3: services.S3
) -> None:
    world = new_feed(env=s3.env, cars=12, echo=True)
    site = world.site
    first = world.crawl(settings={"LOG_LEVEL": "DEBUG"})
    rows, images = world.listings(), world.images()
    assert rows.keys() == {str(car.cid) for car in site.cars}
    for car in site.cars:
        expected = truth(world, car)
        assert {name: rows[str(car.cid)][name] for name in expected} == expected
        for position, photo in enumerate(car.photos):
            row = images[f"{car.cid}/{photo.p}"]
            assert (row["status"], row["position"]) == ("stored", position)
            assert keys_of("henry").fullmatch(row["key"])
            assert s3.get(row["key"])[0] == world.served(car, photo)
    assert len(images) == len(s3.keys()) == 24
    assert site.served.counts == {"robots": 1, "codes": 1, "feed": 3, "photo": 24}
    keyed = f"apikey={quote(KEY, safe='')}"
    for asked in site.served.requests:
        assert (keyed in asked.path) is (asked.kind in {"feed", "codes"})
        assert KEY not in asked.path
    assert [asked.path for asked in site.served.requests if asked.kind == "feed"] == [
        f"/get.aspx?{keyed}&page={page}&pagesize=50" for page in (1, 2, 3)
    ]
    assert "henry: success. 12 cars (12 new, 0 gone); 24 photos stored (" in verdict(first)

    sold = site.cars[4]
    site.sell(sold.cid)
    site.reset()
    second = world.crawl()
    # The page of the sold car, and that of one on the list: does the site tell the truth?
    assert site.served.counts == {"robots": 1, "feed": 3, "details": 2}, "codes once a day, photos once"
    assert "11 cars (0 new, 1 gone); 0 photos stored (0.0 MB), 0 linked, 22 known before" in verdict(second)
    assert not world.listing(sold)["is_active"]
    assert world.images() == images
    assert_secret(world, first, second)


def kept_codes(world: World) -> Path:
    (path,) = (world.folder / "var").glob("henry-codes-*.xml*")
    return path


def test_codes_are_fetched_once_a_day_and_a_broken_copy_anew(new_feed: Callable[..., World]) -> None:
    world = new_feed(cars=3, photos=0)
    car = world.site.cars[0]
    world.crawl()
    path = kept_codes(world)
    day_old = time.time() - 25 * 3600
    path.write_bytes(path.read_bytes()[:100])
    world.site.reset()
    world.crawl()
    assert world.asked("codes") == 1
    assert world.listing(car)["fuel"] == "petrol"
    # Those of an earlier day are better than none, and none costs their fields only.
    world.site.fault("codes", ["500"], sticky=True)
    os.utime(path, (day_old, day_old))
    world.site.reset()
    done = world.crawl(settings={"RETRY_TIMES": 0})
    assert world.asked("codes") == 1
    assert len(done.lines("those of an earlier day are used")) == 1
    path.unlink()
    done = world.crawl(code=3, settings={"RETRY_TIMES": 0})
    assert len(done.lines("fuel, gears, drive, colour and equipment stay unknown")) == 1
    assert world.listing(car)["fuel"] == "petrol", "what was known stays"
    assert not list((world.folder / "var").glob("henry-codes-*"))


def test_arguments_and_settings(new_feed: Callable[..., World]) -> None:
    world = new_feed(photos=0)
    url = world.site.base_url
    # The setting may name the page itself.
    done = world.crawl(base_url="", makes="vw, KIA", settings={"HENRY_URL": f"{url}/get.aspx"})
    assert {row["make"] for row in world.listings().values()} == {"Volkswagen", "Kia"}
    assert "success. 3 cars" in verdict(done)
    assert world.asked("feed") == 3
    world.site.reset()
    world.crawl(limit=3, max_pages=2, details="false")
    assert world.asked("feed") == 1


def test_nothing_is_asked_without_a_key(new_feed: Callable[..., World]) -> None:
    world = new_feed(key="")
    done = world.crawl(code=4)
    assert "HENRY_API_KEY is missing" in verdict(done)
    assert world.site.served.requests == []


@pytest.mark.parametrize(
    ("arguments", "settings", "sentence"),
    [
        ({}, {"HENRY_API_KEY": KEY}, "HENRY_URL is missing"),
        ({}, {"HENRY_URL": "https://feed.example.is"}, "HENRY_API_KEY is missing"),
        ({"base_url": f"http://h/get.aspx?apikey={KEY}"}, {"HENRY_API_KEY": KEY}, "the key belongs in HENRY_API_KEY"),
        ({"base_url": "h"}, {"HENRY_API_KEY": KEY}, "base_url is 'h'"),
        ({"key": "x"}, {"HENRY_API_KEY": KEY, "HENRY_URL": "https://h/"}, "has no argument key"),
    ],
)
def test_what_is_missing_is_one_sentence(arguments: dict[str, str], settings: dict[str, str], sentence: str) -> None:
    spider = HenrySpider.from_crawler(make_crawler(HenrySpider, **settings), **arguments)
    assert sentence in (spider.argument_problem or "")
    assert KEY not in (spider.argument_problem or "")


# ── What is wrong with the feed ───────────────────────────────────────────────────────────────────

META = 'fields="ID,EXT_MODFRAMLEIDANDI,EXT_MODGERD,VERD,ARGERD,EKINN,EXT_BILASALAID" pages="1" records="6"'
IMGURL = 'imgurl="https://bilasolur.is/CarImage.aspx?s={v.EXT_BILASALAID}&amp;c={v.ID}&amp;p={p.ID}&amp;w={width}"'
CARS = "".join(
    f'<v F0="{cid}" F1="KIA" F2="RIO" F3="990" F4="2019" F5="45000" F6="76"><ps><p id="9" so="1"/></ps></v>'
    for cid in range(100, 106)
)
FEED = f"<data><meta {META} {IMGURL}/><vs>{CARS}</vs></data>"
BOMB = '<!DOCTYPE data [<!ENTITY a "lol">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 20}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def read(spider: HenrySpider, body: str | bytes) -> list[Any]:
    """What the spider makes of a first page, to the end of its reading."""
    url = "https://feed.example.is/get.aspx?page=1&pagesize=50"
    response = XmlResponse(url, body=body.encode() if isinstance(body, str) else body, encoding="utf-8")

    async def all_of() -> list[Any]:
        return [each async for each in spider.parse_results(response)]

    return asyncio.run(all_of())


def make_spider(**settings: str) -> HenrySpider:
    settings = {"HENRY_URL": "https://feed.example.is/", "HENRY_API_KEY": KEY} | settings
    crawler = make_crawler(HenrySpider, **settings)
    crawler.spider = spider = HenrySpider.from_crawler(crawler)
    assert spider.argument_problem is None
    return spider


def sentence_of(body: str | bytes, **settings: str) -> str:
    spider = make_spider(**settings)
    with pytest.raises(CloseSpider):
        read(spider, body)
    assert spider.crawler.stats
    return str(state_of(spider.crawler).failed)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no whole XML"),
        (b"\x00\x00", "no whole XML"),
        ('{"error": "key"}', "no whole XML"),
        (FEED[:-200], "no whole XML"),
        (FEED[:40], "no whole XML"),
        ("<!DOCTYPE html><html><body><p>Lokað</p></body></html>", "DOCTYPE"),
        ('<!DOCTYPE data SYSTEM "http://127.0.0.1:9/x.dtd">' + FEED, "DOCTYPE"),
        (
            '<!DOCTYPE data [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + FEED.replace("KIA", "&x;"),
            "no page of the feed",
        ),
        (BOMB + "]>" + FEED.replace("RIO", "&i;"), "no page of the feed"),
        (BOMB + "]>" + FEED.replace("<vs>", "<vs>&i;"), "no page of the feed"),
        ((BOMB + "]>" + FEED.replace("RIO", "&i;")).encode("utf-16"), "no page of the feed"),
        (f"<error key='{KEY}'>Invalid apikey {KEY}</error>", "no good <meta fields=…> and no good <meta imgurl=…>"),
        (FEED.replace("fields=", "names="), "no good <meta fields=…>"),
        (FEED.replace('fields="ID,', 'fields="KEY,'), "no good <meta fields=…>"),
        (FEED.replace("imgurl=", "picture="), "no good <meta imgurl=…>"),
        (FEED.replace(CARS, ""), "empty feed (records=6)"),
        (FEED.replace("<vs>", "<cars>").replace("</vs>", "</cars>"), "empty feed"),
        (re.sub(' F0="[0-9]+"', "", FEED), "no car that can be read (card = 'vs/v' with card_link = 'meta fields')"),
        (FEED.replace("EXT_MODFRAMLEIDANDI", "MAKE"), "EXT_MODFRAMLEIDANDI"),
        (FEED.replace("VERD,ARGERD,EKINN", "A,B,C"), "VERD, EXT_ARGERD or EXT_EKINNKM"),
        (FEED.replace("c={v.ID}", "c={v.CAR}"), "imgurl"),
    ],
)
def test_what_is_no_feed_ends_the_crawl_with_a_sentence(body: str | bytes, words: str) -> None:
    begin = time.process_time()
    sentence = sentence_of(body)
    assert words in sentence
    assert sentence.endswith(".")
    assert not [spelling for spelling in SPELLINGS if spelling in sentence]
    assert time.process_time() - begin < 1


def test_a_feed_that_ends_early_marks_no_car(new_feed: Callable[..., World]) -> None:
    world = new_feed(photos=1)
    site = world.site
    world.crawl()
    before = world.listings()
    site.fault("feed:2", ["half-short"], sticky=True)
    site.cars[0].sold = True
    done = world.crawl(code=4)
    assert "no whole XML" in last_words(done)
    assert "kept all the same: 5 cars" in last_words(done)
    assert all(row["is_active"] for row in world.listings().values())
    site.clear_faults()
    for car in site.cars:
        car.sold = True
    done = world.crawl(code=4)
    assert "empty feed" in verdict(done)
    assert all(row["is_active"] for row in world.listings().values())
    assert world.listings().keys() == before.keys()


def test_a_page_that_does_not_come_is_left_out_and_nothing_is_concluded(new_feed: Callable[..., World]) -> None:
    world = new_feed(photos=0, cars=12)
    site = world.site
    world.crawl()
    site.sell(site.cars[0].cid)
    site.fault("feed:2", ["500"], sticky=True)
    site.reset()
    done = world.crawl(code=3, settings={"RETRY_TIMES": 0})
    assert "partial. 6 cars" in last_words(done), "the first and the third page"
    assert "1 result page missing" in last_words(done)
    assert world.asked("details") == 0
    site.clear_faults()
    site.stuck = True
    done = world.crawl(code=3)
    assert re.search(r"\d result pages? missing|not complete: ", last_words(done)), "whatever it repeats"
    site.stuck = False
    site.records = 15
    done = world.crawl()
    assert len(done.lines("nothing is concluded")) == 1
    assert all(row["is_active"] for row in world.listings().values())


# ── The key ───────────────────────────────────────────────────────────────────────────────────────


def test_the_key_is_shown_nowhere_whatever_goes_wrong(new_feed: Callable[..., World]) -> None:
    world = new_feed(cars=6, photos=1, echo=True)
    site = world.site
    base, keyed = site.base_url, f"apikey={quote(KEY, safe='')}"
    loud = {"LOG_LEVEL": "DEBUG", "RETRY_TIMES": 1, "COOKIES_DEBUG": "true"}
    troubles: list[tuple[str, list[str], int, str]] = [
        ("feed", ["500"], 4, "HTTP 500"),
        ("feed", ["never"], 4, "took longer than"),
        ("feed", [f"redirect:{base}/elsewhere.aspx?{keyed}"], 4, "HTTP 404"),
        ("feed", [f"redirect:{base}/get.aspx?page=1&{keyed}&x=1", "ok"], 0, "success"),
        ("feed:2", ["503:1", "500"], 3, "1 result page missing"),
    ]
    crawls = []
    for target, steps, code, words in troubles:
        site.clear_faults()
        for path in (world.folder / "var").glob("henry-codes-*"):
            path.unlink()
        site.fault(target, steps, sticky=True)
        site.reset()
        patience = {"DOWNLOAD_TIMEOUT": 1} if "never" in steps else {}
        crawls.append(world.crawl(code=code, settings=loud | patience))
        assert words in last_words(crawls[-1]), (target, steps, crawls[-1])
        sent = [asked.path for asked in site.served.requests if keyed in asked.path or KEY in asked.path]
        assert all(path.startswith((f"/get.aspx?{keyed}", f"/codes.aspx?{keyed}")) for path in sent), sent
        assert sent
    site.clear_faults()
    site.disallow = ["/get.aspx"]
    crawls.append(world.crawl(code=4, settings=loud))
    assert "robots.txt" in verdict(crawls[-1])
    assert_secret(world, *crawls)


def test_a_wrong_key_is_one_sentence(new_feed: Callable[..., World]) -> None:
    world = new_feed(key="wrong-key-of-somebody")
    done = world.crawl(code=4, settings={"LOG_LEVEL": "DEBUG"})
    assert "refuses the key (HTTP 403): HENRY_API_KEY is wrong" in verdict(done)
    assert "wrong-key-of-somebody" not in done.stdout + done.stderr
    assert world.listings() == {}
    assert world.asked("photo") == 0
