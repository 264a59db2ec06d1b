"""How spiders look: named like their files, short, polite, and each with a saved page."""

from __future__ import annotations

import ast
import importlib
import io
import json
import pkgutil
import statistics
import tokenize
from typing import Any

import pytest
from scrapy import Spider

import carscraper.spiders
from carscraper.base_spiders.dealer import DealerSpider
from tests.fakes import make_settings
from tests.services import REPO
from tests.test_architecture import MODULES, TREES, strings

FIXTURES = REPO / "tests" / "fixtures"

# What may be slower or gentler than the settings, and what must be as they are.
AT_LEAST = ("DOWNLOAD_DELAY", "AUTOTHROTTLE_START_DELAY", "IMAGES_DOWNLOAD_DELAY", "RETRY_BACKOFF", "RETRY_AFTER_MAX")
AT_MOST = (
    *("CONCURRENT_REQUESTS", "CONCURRENT_REQUESTS_PER_DOMAIN", "IMAGES_CONCURRENCY", "RETRY_TIMES"),
    *("AUTOTHROTTLE_TARGET_CONCURRENCY", "DOWNLOAD_MAXSIZE"),
)
UNCHANGED = (
    *("ROBOTSTXT_OBEY", "ROBOTSTXT_USER_AGENT", "AUTOTHROTTLE_ENABLED", "DOWNLOAD_VERIFY_CERTIFICATES"),
    *("USER_AGENT", "DOWNLOAD_SLOTS", "RANDOMIZE_DOWNLOAD_DELAY", "RETRY_ENABLED", "TWISTED_DNS_RESOLVER"),
)

SPIDER_MODULES = [module.name for module in pkgutil.iter_modules(carscraper.spiders.__path__)]


def spiders_of(module: str) -> list[type[Spider]]:
    loaded = importlib.import_module(f"carscraper.spiders.{module}")
    classes = [each for each in vars(loaded).values() if isinstance(each, type) and issubclass(each, Spider)]
    return [each for each in classes if each.__module__ == loaded.__name__]


def code_lines(text: str) -> int:
    """Lines with code: no comments, no docstrings, no blank lines."""
    lines = set()
    documented = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documented |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}:
            lines |= set(range(token.start[0], token.end[0] + 1)) if token.string else set()
    return len(lines - documented)


def rudeness(spider: type[Spider]) -> list[str]:
    """What is less polite than the settings as it crawls: with what its bases set, too."""
    ours, its = make_settings(), make_settings()
    spider.update_settings(its)
    found = [name for name in AT_LEAST if its.getfloat(name) < ours.getfloat(name)]
    found += [name for name in AT_MOST if its.getfloat(name) > ours.getfloat(name)]
    found += [name for name in UNCHANGED if its.get(name) != ours.get(name)]
    middlewares = its.getwithbase("DOWNLOADER_MIDDLEWARES")
    places = ours.getwithbase("DOWNLOADER_MIDDLEWARES")
    found += [name for name, place in places.items() if middlewares[name] != place]
    # What Scrapy reads from the spider itself.
    if getattr(spider, "download_delay", ours["DOWNLOAD_DELAY"]) < ours["DOWNLOAD_DELAY"]:
        found.append("download_delay")
    most = ours.getint("CONCURRENT_REQUESTS_PER_DOMAIN")
    if getattr(spider, "max_concurrent_requests", most) > most:
        found.append("max_concurrent_requests")
    if hasattr(spider, "user_agent"):
        found.append("user_agent")
    return found


ROBOTS = "carscraper.middlewares.robots.PatientRobotsTxtMiddleware"


@pytest.mark.parametrize(
    ("attributes", "rude"),
    [
        ({"download_delay": 0.1}, ["download_delay"]),
        ({"download_delay": 5, "custom_settings": {"DOWNLOAD_DELAY": 3, "CONCURRENT_REQUESTS": 1}}, []),
        ({"max_concurrent_requests": 50}, ["max_concurrent_requests"]),
        ({"user_agent": "Mozilla/5.0"}, ["user_agent"]),
        (
            {"custom_settings": {"DOWNLOAD_DELAY": 0, "IMAGES_CONCURRENCY": 99}},
            ["DOWNLOAD_DELAY", "IMAGES_CONCURRENCY"],
        ),
        ({"custom_settings": {"CONCURRENT_REQUESTS": 64, "RETRY_TIMES": 10}}, ["CONCURRENT_REQUESTS", "RETRY_TIMES"]),
        ({"custom_settings": {"ROBOTSTXT_OBEY": False}}, ["ROBOTSTXT_OBEY"]),
        ({"custom_settings": {"USER_AGENT": "x", "DOWNLOAD_SLOTS": {}}}, ["USER_AGENT", "DOWNLOAD_SLOTS"]),
        ({"custom_settings": {"DOWNLOADER_MIDDLEWARES": {ROBOTS: None}}}, None),
    ],
)
def test_rudeness_is_noticed(attributes: dict[str, Any], rude: list[str] | None) -> None:
    found = rudeness(type("RudeSpider", (Spider,), {"name": "rude", **attributes}))
    assert found == rude if rude is not None else ROBOTS in found


def test_there_are_spiders() -> None:
    assert "bilasolur" in SPIDER_MODULES


def test_each_spider_is_named_like_its_file_short_and_polite() -> None:
    for module in SPIDER_MODULES:
        (spider,) = spiders_of(module)
        assert spider.name == module
        assert spider.__name__ == "".join(word.capitalize() for word in module.split("_")) + "Spider"
        assert spider.__doc__, module
        lines = code_lines(MODULES[f"spiders/{module}.py"].read_text("utf-8"))
        most = 30 if issubclass(spider, DealerSpider) else 350
        assert lines <= most, f"{module}: what does not fit belongs on a base spider"
        assert rudeness(spider) == [], module


def test_each_dealer_has_a_saved_page() -> None:
    dealers = {module: spider for module in SPIDER_MODULES for spider in spiders_of(module)}
    for module, spider in dealers.items():
        if not issubclass(spider, DealerSpider):
            continue
        assert spider.home.startswith("https://"), module
        cases = sorted({page.parent for page in (FIXTURES / module).glob("*/response.*")})
        assert cases, f"tests/fixtures/{module}/ is missing"
        for case in cases:
            page = next(case.glob("response.*")).read_text("utf-8")
            assert "Replace this file" not in page, f"{case} holds no saved page yet"
            for name in ("meta.json", "expected.json"):
                assert (case / name).exists(), f"{case / name} is missing"
        read = [json.loads((case / "expected.json").read_text("utf-8")) for case in cases]
        assert any(each.get("cars") or each.get("car") for each in read), f"no saved page of {module} has a car"


def test_the_dealers_are_short_and_each_has_a_name_of_its_own() -> None:
    dealers = {module: spider for module in SPIDER_MODULES for spider in spiders_of(module)}
    dealers = {module: spider for module, spider in dealers.items() if issubclass(spider, DealerSpider)}
    lines = [code_lines(MODULES[f"spiders/{module}.py"].read_text("utf-8")) for module in dealers]
    assert statistics.median(lines) <= 30
    sources = [spider.source for spider in dealers.values()]  # type: ignore[attr-defined]
    assert len({source.lower() for source in sources}) == len(sources), "a source is half of a car's identity"
    assert all(sources)


def test_no_request_passes_robots_txt_by() -> None:
    for name, tree in TREES.items():
        assert "dont_obey_robotstxt" not in strings(tree), name
