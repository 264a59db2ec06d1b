"""Golden fixtures: saved pages and what each spider must read from them.

A case is a folder ``tests/fixtures/<spider>/<case>/`` with ``response.html`` (the page), ``meta.json`` (``url``,
``now``: the frozen time, ``kind``: ``results`` or ``details``) and ``expected.json``. After a change that is meant::

    python -m pytest tests/spiders/test_fixtures.py --regenerate

writes ``expected.json`` anew, shows what changed and fails; look at the difference, then run without it.
"""

from __future__ import annotations

import difflib
import importlib
import json
from dataclasses import MISSING, asdict, fields
from datetime import UTC, date, datetime, tzinfo
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from scrapy.http import HtmlResponse

from carscraper import parsing
from carscraper.base_spiders import dealer
from carscraper.base_spiders.cards import CardSpider
from carscraper.base_spiders.paging import place_of
from carscraper.items import CarImage, CarItem
from tests.fakes import make_crawler
from tests.services import REPO

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FIXTURES = REPO / "tests" / "fixtures"
CASES = {
    f"{page.parent.parent.name}/{page.parent.name}": page.parent for page in sorted(FIXTURES.glob("*/*/response.html"))
}
META = {"url", "now", "kind"}
RESULTS = {"cars", "unreadable", "says_empty", "next"}
DETAILS = {"gone", "car"}


def spider_of(folder: Path) -> Any:
    name = folder.parent.name
    module = importlib.import_module(f"carscraper.spiders.{name}")
    (cls,) = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
    return make_crawler(cls, IMAGES_WIDTH="1280").spider


def known(item: CarItem | CarImage) -> dict[str, Any]:
    """The item without what is unknown; the hash, which only has to differ, is left out."""
    found: dict[str, Any] = {}
    for field in fields(item):
        value = getattr(item, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if value == default or field.name == "card_hash" or not field.compare:
            continue
        if isinstance(value, datetime | date):
            value = value.isoformat()
        elif field.name == "images":
            value = [known(image) for image in value]
        found[field.name] = value
    if isinstance(item, CarItem):
        assert item.image_urls == [image.source_url for image in item.images]
        found.pop("image_urls", None)
        assert [image.position for image in item.images] == list(range(len(item.images)))
    else:
        found.pop("position", None)
    return found


def read_results(spider: CardSpider, response: HtmlResponse) -> dict[str, Any]:
    cars, unreadable = spider.read_cards(response)
    assert len({car.card_hash for car in cars}) == len(cars)
    following = spider.next_request(response, None, place_of(response.url).number or 1)
    return {
        "cars": [known(car) for car in cars],
        "unreadable": unreadable,
        "says_empty": spider.says_empty(response),
        "next": following.url if following else None,
    }


def read_details(spider: CardSpider, response: HtmlResponse) -> dict[str, Any]:
    """As for a card that said nothing but which car it is; where the page is not known to say more, its photos."""
    external_id = spider.car_id(response.url)
    assert external_id
    item = CarItem(source=spider.source, external_id=external_id, url=response.url)
    if spider.has_details:
        (found,) = spider.parse_details_safely(response, item)
    else:
        found = item
        found.images = spider.fresh_images(response, item)
        found.image_urls = [image.source_url for image in found.images]
    assert spider.crawler.stats.get_value("carscraper/details/failed") is None
    return {"gone": spider.is_gone(response), "car": known(found)}


def freeze(monkeypatch: pytest.MonkeyPatch, now: datetime) -> None:
    class Frozen(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return now.replace(tzinfo=UTC).astimezone(tz) if tz else now

    monkeypatch.setattr(dealer, "utcnow", lambda: now)
    monkeypatch.setattr(parsing, "dt", SimpleNamespace(date=date, datetime=Frozen, UTC=UTC))


def unknown_keys(expected: dict[str, Any], allowed: Iterable[str]) -> list[str]:
    """Misspelt expectations would never be compared."""
    wrong = sorted(set(expected) - set(allowed))
    for car in [*expected.get("cars", []), *([expected["car"]] if "car" in expected else [])]:
        wrong += sorted(set(car) - {field.name for field in fields(CarItem)})
        for image in car.get("images", []):
            wrong += sorted(set(image) - {field.name for field in fields(CarImage)})
    return wrong


@pytest.mark.parametrize("case", CASES)
def test_a_saved_page_reads_as_it_always_did(
    case: str, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    folder = CASES[case]
    assert {path.name for path in folder.iterdir()} <= {"response.html", "meta.json", "expected.json"}
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    assert set(meta) == META
    freeze(monkeypatch, datetime.fromisoformat(meta["now"]))
    response = HtmlResponse(meta["url"], body=(folder / "response.html").read_bytes(), encoding="utf-8")
    read, allowed = {"results": (read_results, RESULTS), "details": (read_details, DETAILS)}[meta["kind"]]
    found = read(spider_of(folder), response)

    path = folder / "expected.json"
    before = path.read_text("utf-8") if path.exists() else ""
    after = json.dumps(found, ensure_ascii=False, indent=2) + "\n"
    difference = "".join(
        difflib.unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), "expected", "found")
    )
    if pytestconfig.getoption("--regenerate") and difference:
        path.write_text(after, "utf-8")
        pytest.fail(
            f"written anew; look at the difference, then run without --regenerate:\n{difference}", pytrace=False
        )
    expected = json.loads(before)
    assert not unknown_keys(expected, allowed), "what is misspelt is never compared"
    if found != expected:
        pytest.fail(f"{case} is read differently:\n{difference}", pytrace=False)


def test_unknown_keys_are_noticed() -> None:
    expected = {"cars": [{"prize": 1, "images": [{"adress": "x"}]}], "nxt": None}
    assert unknown_keys(expected, RESULTS) == ["nxt", "prize", "adress"]
    assert unknown_keys({"gone": False, "car": {"title": "x"}}, DETAILS) == []


def test_asdict_is_what_is_compared() -> None:
    item = CarItem(source="x", external_id="1", url="u", price=0, images=[CarImage(identity="1/1", source_url="s")])
    item.image_urls = ["s"]
    assert set(known(item)) <= set(asdict(item))
    assert known(item)["price"] == 0, "0 is not unknown"


def test_there_are_cases() -> None:
    assert len([case for case in CASES if case.startswith("bilasolur/")]) >= 5
