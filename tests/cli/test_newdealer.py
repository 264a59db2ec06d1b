"""``scrapy newdealer``: from the address of a list to a dealer that is crawled, in a copy of the project."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.exceptions import ConfigurationError
from carscraper.maintenance.newdealer import PAGE_KINDS, check_name, planned_files, write_files
from tests import services
from tests.dealers.cars import Car, Photo
from tests.dealers.listing import SimulatedListing, dotted
from tests.services import REPO

if TYPE_CHECKING:
    from tests.http_server import Response

NOW = datetime.fromisoformat("2026-02-01T12:00:00")
SPIDER, FIXTURE = "carscraper/spiders/example.py", "tests/fixtures/example"


class SimulatedExample(SimulatedListing):
    """An invented dealer: ``id-slug`` addresses, no picture on a card, the photos on the car's own page."""

    results_path = "/bilar"
    car_path = "/bilar/"
    title = "Bílar til sölu"
    ads = ("<div class='banner'>Bílalán á 5 mínútum</div>",)

    def results(self, cards: str, number: int, last: int) -> str:
        return f"<header><a href='/um-okkur'><img src='/logo.svg'></a> sími 555 1234</header><main>{cards}</main>"

    def card(self, parts: dict[str, str]) -> str:
        return (
            f"<div class='tile'><a href='{parts['link']}'>{parts['photos']}<h2>{parts['title']}</h2></a>"
            f"<p>{parts['when']}</p><p>{parts['distance']}</p><p>{parts['fuel']}</p><b>{parts['price']}</b></div>"
        )

    def parts(self, car: Car) -> dict[str, str]:
        return {
            "title": f"{car.make} {car.model}",
            "when": f"{car.month or 1}/{car.year}",
            "distance": f"{dotted(car.kilometers)} km." if car.kilometers else "Nýtt ökutæki",
            "fuel": car.fuel or "Bensín",
            "price": f"kr. {dotted(car.price)}" if car.price else "Tilboð óskast",
            "photos": "",
        }

    def link(self, car: Car) -> str:
        return f"{self.car_path}{car.cid}-{car.make.lower().replace(' ', '-')}"

    def classify(self, request: Any) -> tuple[str, str]:
        kind, which = super().classify(request)
        return kind, which.partition("-")[0] if kind == "details" else which

    def photo_address(self, car: Car, photo: Photo) -> str:
        return f"/myndir/{car.cid}-{photo.p}.jpg"

    def _details(self, car: Car) -> Response:
        photos = "".join(f"<a href='#'><img src='{self.photo_address(car, photo)}'></a>" for photo in car.photos)
        others = "".join(f"<img src='{self.photo_address(other, other.photos[0])}'>" for other in self.cars[:1])
        return self._page(car.model, f"<div class='wide gallery'>{photos}</div><div class='similar'>{others}</div>")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What of the project the command and the fixtures' test need."""
    root = tmp_path / "project"
    shutil.copytree(REPO / "carscraper", root / "carscraper")  # with its byte code, which holds for the same times
    shutil.copytree(REPO / "tests" / "spiders", root / "tests" / "spiders")
    (root / "tests" / "fixtures").mkdir()
    for file in (REPO / "tests").glob("[!t]*.py"):
        shutil.copy(file, root / "tests")
    shutil.copy(REPO / "tests" / "__init__.py", root / "tests")
    for name in ("scrapy.cfg", "pyproject.toml"):
        shutil.copy(REPO / name, root)
    return root


def scrapy(project: Path, *words: str, **env: str) -> services.CompletedCrawl:
    return services.run_scrapy(*words, cwd=project, env={"PYTHONPATH": str(project)} | env)


def test_from_an_address_to_a_dealer_that_is_crawled(project: Path) -> None:
    with SimulatedExample(cars=9, photos=3) as site:
        done = scrapy(project, "newdealer", "example", f"{site.base_url}/bilar")
        assert done.returncode == 0, done
        pages = [
            f"{FIXTURE}/{case}/{file}"
            for case in ("results-first", "details-first")
            for file in ("response.html", "meta.json")
        ]
        assert done.stdout.splitlines() == [f"made {path}" for path in [SPIDER, *pages]]
        assert site.served.counts == {"robots": 1, "results": 1, "details": 1}
        spider = (project / SPIDER).read_text("utf-8")
        for line in (
            'results_path = "bilar"',
            "card_link = \"a[href*='/bilar/']\"",
            r'car_in_address = r"/bilar/(\d+)"',
            'details_images = ".gallery img"',
        ):
            assert line in spider
        assert "sími 000 0000" in (project / pages[0]).read_text("utf-8")
        tests = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "example"]  # noqa: RUF005
            + ["--regenerate", "tests/spiders/test_fixtures.py"],
            cwd=project,
            env=services.crawl_environment(project, {"PYTHONPATH": str(project)}),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert "written anew; look at the difference" in tests.stdout, tests.stdout
        read = json.loads((project / FIXTURE / "results-first" / "expected.json").read_text("utf-8"))
        assert [car["external_id"] for car in read["cars"]] == [str(car.cid) for car in site.cars]
        read = json.loads((project / FIXTURE / "details-first" / "expected.json").read_text("utf-8"))
        assert len(read["car"]["images"]) == 3, "without those of similar cars"
        # It is known to whatever knows dealers.
        assert "example" in scrapy(project, "list").stdout.split()
        options = ("-a", f"base_url={site.base_url}", "-s", "DOWNLOAD_DELAY=0", "-s", "AUTOTHROTTLE_ENABLED=false")
        for said in ("9 cars (9 new, 0 gone); 27 photos stored", "9 cars (0 new, 0 gone); 0 photos stored"):
            done = scrapy(project, "crawl", "example", *options)
            assert f"success. {said}" in done.stderr, done
        done = scrapy(project, "crawl", "backfill", "-a", "sources=Example", "-a", "dry_run=true")
        assert done.returncode == 0, done
        # Nothing is written over.
        done = scrapy(project, "newdealer", "example", f"{site.base_url}/bilar")
        assert done.returncode == 4
        assert done.stderr == f"{SPIDER} is there already; nothing was written.\n"


def test_every_kind_is_a_spider_of_a_few_lines() -> None:
    for kind in PAGE_KINDS:
        files = planned_files("ny_bilasala", "https://www.ny.is/bilar", kind=kind, results="", details=None, now=NOW)
        text = files[Path("carscraper/spiders/ny_bilasala.py")]
        names: dict[str, Any] = {"__name__": "carscraper.spiders.ny_bilasala"}
        exec(compile(text, "ny_bilasala.py", "exec"), names)
        spider = names["NyBilasalaSpider"]
        assert (spider.name, spider.source, spider.home) == ("ny_bilasala", "NyBilasala", "https://www.ny.is/")
        assert len(text.splitlines()) <= 30


def test_what_is_no_name_and_no_address() -> None:
    for name in ("Hekla", "hekla.is", "../hekla", "hékla", "backfill", "", "a__b", "9hekla", "x\n"):
        with pytest.raises(ConfigurationError, match="is no name for a spider"):
            check_name(name, "https://hekla.is/")
    for address in (
        "hekla",
        "ftp://hekla.is",
        "https://a@hekla.is",
        'https://x"y.is',
        "",
        "https://[",
        "https://x.is:0",
    ):
        with pytest.raises(ConfigurationError, match="is no address of a page with cars"):
            check_name("hekla", address)


def test_nothing_is_written_outside_of_a_checkout(tmp_path: Path) -> None:
    files = planned_files("example", "https://example.is/", kind="rogg", results="", details=None, now=NOW)
    with pytest.raises(ConfigurationError, match="is no checkout of carscraper"):
        write_files(tmp_path, files)
    done = services.run_scrapy("newdealer", "example", "example.is", "--no-fetch", "--dry-run", "--json", cwd=tmp_path)
    assert SPIDER in json.loads(done.stdout)
    assert [path for path in tmp_path.rglob("*") if path.suffix in {".py", ".html"}] == []
