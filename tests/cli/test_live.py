"""``scrapy checkdealers --live``: a first look at a site, which stores nothing but masked pages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from scrapy.http import HtmlResponse

from carscraper.maintenance.newdealer import mask
from carscraper.spiders.bilasolur import BilasolurSpider
from tests import services
from tests.dealers.bilasolur import SimulatedBilasolur
from tests.dealers.hekla import SimulatedHekla
from tests.fakes import make_crawler

if TYPE_CHECKING:
    from pathlib import Path

PRIVATE = ("jon.jonsson@postur.is", "555 1234", "555-4321", "5559876", "010190-2939", "0101902939", "ZX123", "ZX 456")
ADVERTISEMENT = "Uppl. í síma 555 1234 eða +354 555-4321, jon.jonsson@postur.is, kt. 010190-2939, ZX123, (ZX 456)."
SCRIPT = (
    '<script>var s = {"sími": "5559876", "kt": "0101902939", "price": 5559877};</script><a href="tel:5559876">x</a>'
)

FACTS = "kr. 4.990.000 6/2019 · 45.000 km. · 177 hö. · 181 000 km · KIA EV6 · MERCEDES-BENZ GLC 300"


def ask(dealer: str, url: str, folder: Path, *words: str, code: int) -> services.CompletedCrawl:
    done = services.run_scrapy(
        "checkdealers",
        "--live",
        dealer,
        "-a",
        f"base_url={url}",
        *words,
        *("-s", "DOWNLOAD_DELAY=0", "-s", "AUTOTHROTTLE_ENABLED=false", "-s", "RETRY_TIMES=0"),
        cwd=folder,
        # Nobody is there: no ledger is asked.
        env={"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing", "CONTACT": "crawls@example.is"},
    )
    assert "Traceback" not in done.stderr, done
    assert done.returncode == code, done
    return done


def lines(done: services.CompletedCrawl) -> dict[str, str]:
    """What was said of each thing, with its mark before it."""
    found = (line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  "))
    split = ((mark, *rest.split("  ", maxsplit=1)) for mark, rest in found)
    return {name: f"{mark} {said.strip()}" for mark, name, said in split}


def test_a_first_look_at_a_site(tmp_path: Path) -> None:
    with SimulatedBilasolur(cars=110, photos=4) as site:
        for car in site.cars:
            car.description = ADVERTISEMENT
        site.page_steps = {"script": (("</body>", f"{SCRIPT}</body>"),)}
        for kind in ("home", "results", "details"):
            site.fault(kind, ["script"], sticky=True)
        done = ask("bilasolur", site.base_url, tmp_path, code=0)
        assert dict(site.served.counts) == {
            "robots": 1, "home": 1, "search": 1, "results": 2, "details": 3, "photo": 3
        }  # fmt: skip
        assert {asked.user_agent for asked in site.served.requests} == {"carscraper/0.1.0 (+crawls@example.is)"}
        price = next(car.price for car in site.cars if car.price)
    said = lines(done)
    assert said["robots.txt"] == "✓ HTTP 200"
    assert said["result page 2"].startswith("✓ 48 cars, 48 of them new, 0 unreadable cards, http")
    assert said["next page"] == "✓ found, with 48 further cars"
    assert said["end of the list"].startswith(("✓ the pager says", "· not said on these pages"))
    assert said["cars' own pages"] == "✓ 3 read"
    assert said["photos"].startswith("✓ 3 of 3 whole, such as JPEG of 1280 × 853 pixels")
    assert "of 96 cards (85 % are expected), such as '" in said["price"]
    assert said["price"].endswith("get_price of BilasolurSpider in base_spiders/rogg.py, card_price = '.car-price'")
    assert price
    assert said["page.horsepower"].startswith("✓ 3 of 3 own pages, such as ")

    # What is kept: pages as fixtures, and the report. Nothing else, and nothing private.
    (folder,) = (tmp_path / "var" / "live").iterdir()
    assert [each.name for each in (tmp_path / "var").iterdir()] == ["live"]
    assert (folder / "report.txt").read_text("utf-8") == "\n".join(
        line for line in done.stdout.splitlines() if line.strip()
    ) + "\n"
    texts = [path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()]
    for text in (*texts, done.stdout):
        assert not [private for private in PRIVATE if private in text]
    assert any("Uppl. í síma 000 0000 eða +000 000-0000" in text for text in texts)
    assert any('"price": 5559877' in text for text in texts)
    case = folder / "results-1"
    meta = json.loads((case / "meta.json").read_text("utf-8"))
    assert meta["kind"] == "results"
    body = (case / "response.html").read_bytes()
    spider: Any = BilasolurSpider.from_crawler(make_crawler(BilasolurSpider), base_url=site.base_url)
    assert len(spider.read_cards(HtmlResponse(meta["url"], body=body, encoding="utf-8"))[0]) == 48
    assert {path.name for path in folder.iterdir()} == {
        "report.txt", "robots.txt", "home-1", "results-1", "results-2", "details-1", "details-2", "details-3"
    }  # fmt: skip


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with SimulatedHekla(cars=30, photos=1) as site:
        site.page_steps = {"changed": ((".000 kr", " kr"),)}
        site.fault("results", ["changed"], sticky=True)
        site.fault("photo", ["html200"], sticky=True)
        done = ask("hekla", site.base_url, tmp_path, "--save", "kept", code=3)
    said = lines(done)
    assert said["price"].startswith("✗ ")
    assert "(85 % are expected)" in said["price"]
    assert said["price"].endswith("get_price of HeklaSpider in base_spiders/cards.py")
    assert said["photos"].startswith("✗ 0 of 3 whole, such as HTTP 200, ")
    assert list((tmp_path / "kept").iterdir())


def test_a_site_that_can_not_be_asked(tmp_path: Path) -> None:
    with SimulatedBilasolur(cars=5, photos=1, disallow=["/"]) as site:
        done = ask("bilasolur", site.base_url, tmp_path, code=4)
        assert dict(site.served.counts) == {"robots": 1}
    assert lines(done)["the crawl"].startswith("✗ ")
    done = ask("bilasolur", site.base_url, tmp_path, code=4)  # it is away
    assert "can't be reached" in lines(done)["the crawl"]
    done = ask("bilasolr", site.base_url, tmp_path, code=4)
    assert "bilasolr, which is no dealer here; known are " in done.stderr


MASKED = [
    ("S. 5551234", "S. 0000000"),
    ("s: 555&nbsp;1234, 00354 5551234", "s: 000&nbsp;0000, 00000 0000000"),
    ('<a href="tel:+3545551234">', '<a href="tel:+0000000000">'),
    ('<a href="mailto:a%40b.is">', '<a href="mailto:post@example.is">'),
    ('<a data-cfemail="a1b2c3">', '<a data-cfemail="post@example.is">'),
    ("jon(at)b.is", "post@example.is"),
    ("jon [hjá] b.is", "post@example.is"),
    ("jon&#64;b.is {\"m\": \"jon\\u0040b.is\"}", 'post@example.is {"m": "post@example.is"}'),
    ("Skráningarnúmer</td><td>ab-c12", "Skráningarnúmer</td><td>XX-X00"),
    ('alt="ZX 12 3, ZXC12 ÞÓ123"', 'alt="ZX 12 3, XXX00 XX000"'),
    ("kt. 2501853339", "kt. 0000000000"),
    ("CarImage.aspx?s=16&c=789541&p=5777561&w=784", "CarImage.aspx?s=16&c=789541&p=5777561&w=784"),
    (FACTS, FACTS),
]  # fmt: skip


def test_what_is_masked() -> None:
    for text, masked in MASKED:
        assert mask(text) == masked
