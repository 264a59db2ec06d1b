"""``scrapy newdealer`` in a copy of the project: its tests fail with advice, then pass."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path

import pytest

from carscraper.exceptions import ConfigurationError
from carscraper.upkeep.newdealer import KINDS, plan, write
from tests import services
from tests.cli.used_cars import CARD
from tests.services import REPO

DAY = date.fromisoformat("2026-02-01")
MADE = [
    "carscraper/spiders/example.py",
    "tests/fixtures/example/results-first/response.html",
    "tests/fixtures/example/results-first/meta.json",
    "tests/fixtures/example/results-first/expected.json",
    "docs/sites/example.md",
]

BOTH = ("tests/test_architecture.py", "tests/spiders/test_fixtures.py")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What of the project the command and the two tests need."""
    root = tmp_path / "project"
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPO / "carscraper", root / "carscraper", ignore=without)
    shutil.copytree(REPO / "tests" / "spiders", root / "tests" / "spiders", ignore=without)
    shutil.copytree(REPO / "docs" / "sites", root / "docs" / "sites")
    (root / "tests" / "fixtures").mkdir()
    for name in ("__init__.py", "conftest.py", "services.py", "preloaded.py", "fakes.py", "test_architecture.py"):
        shutil.copy(REPO / "tests" / name, root / "tests")
    for name in ("scrapy.cfg", "pyproject.toml"):
        shutil.copy(REPO / name, root)
    return root


def scrapy(project: Path, *words: str) -> services.CompletedCrawl:
    return services.run_scrapy(*words, cwd=project, env={"PYTHONPATH": str(project)})


def pytest_in(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The tests of what is called example."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "example", *words],
        cwd=project,
        env=services.crawl_environment(project, {"PYTHONPATH": str(project)}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_from_nothing_to_a_dealer_that_is_tested(project: Path) -> None:
    done = scrapy(project, "newdealer", "example", "www.example.is")
    assert done.returncode == 0, done
    assert done.stdout.splitlines() == [f"made {path}" for path in MADE]
    assert "Replace tests/fixtures/example/results-first/response.html" in done.stderr
    assert "example" in scrapy(project, "list").stdout.split()

    tests = pytest_in(project, *BOTH)
    assert tests.returncode == 1, tests.stdout
    assert "2 failed" in tests.stdout, tests.stdout
    assert "example/results-first is read differently" in tests.stdout
    assert "Not written yet: save a page as response.html" in tests.stdout
    assert "results-first holds no saved page yet" in tests.stdout

    spider = project / MADE[0]
    text = spider.read_text("utf-8")
    for before, after in (
        ('card = ".card"', 'card = ".car"'),
        ("a[href*='/car/']", "a[href*='/view/']"),
        ("/car/(", "/view/("),
    ):
        assert before in text
        text = text.replace(before, after)
    spider.write_text(text, "utf-8")
    page = f"<html><body>{CARD.format(n=7)}<a rel='next' href='?page=2'>Næsta</a></body></html>"
    (project / MADE[1]).write_text(page, "utf-8")
    url = "https://www.example.is/is/bilar/notadir-bilar/view/7"
    title = {"title": "Volkswagen ID.7 GTX", "make": "Volkswagen", "model": "ID.7 GTX"}
    date_and_price = {"year": 2023, "registration_month": 12, "price": 6_290_000, "fuel": "electric"}
    car = {"source": "Example", "external_id": "7", "url": url} | title | date_and_price
    expected = {"cars": [car], "unreadable": 0, "says_empty": False, "next": "https://www.example.is/?page=2"}
    (project / MADE[3]).write_text(json.dumps(expected), "utf-8")
    tests = pytest_in(project, "tests/spiders/test_fixtures.py", "--regenerate")
    assert "written anew; look at the difference" in tests.stdout
    assert "photos/7.jpg" in tests.stdout, "the person had forgotten what is read besides"
    found = json.loads((project / MADE[3]).read_text("utf-8"))
    assert found["next"] == expected["next"]
    assert {name: value for name, value in found["cars"][0].items() if name in car} == car
    tests = pytest_in(project, *BOTH)
    assert tests.returncode == 0, tests.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_spider_of_a_few_lines(kind: str) -> None:
    files = plan("ny_bilasala", "https://www.ny.is/bilar/", kind=kind, today=DAY)
    text = files[Path("carscraper/spiders/ny_bilasala.py")]
    names: dict[str, object] = {"__name__": "carscraper.spiders.ny_bilasala"}
    exec(compile(text, "ny_bilasala.py", "exec"), names)
    spider = names["NyBilasalaSpider"]
    assert (spider.name, spider.source) == ("ny_bilasala", "NyBilasala")  # type: ignore[attr-defined]
    assert spider.home == "https://www.ny.is/bilar/"  # type: ignore[attr-defined]
    assert len(text.splitlines()) <= 30
    assert not [path for path, content in files.items() if "$" in content.replace("${", "")]


@pytest.mark.parametrize(
    "name", ["Hekla", "hekla.is", "../hekla", "hékla", "backfill", "", "a__b", "9hekla", "x" + "\n"]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no name for a spider"):
        plan(name, "hekla.is", kind="cards", today=DAY)


@pytest.mark.parametrize(
    "address",
    ["hekla", "http://hekla.is", "https://hekla.is:8080", "https://a@hekla.is", 'x"y.is', "", "https://[", "x.is?a"],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address of a dealer's site"):
        plan("hekla", address, kind="cards", today=DAY)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    files = plan("example", "example.is", kind="rogg", today=DAY)
    with pytest.raises(ConfigurationError, match="is no checkout of carscraper"):
        write(tmp_path, files)
    (tmp_path / "carscraper" / "spiders").mkdir(parents=True)
    (tmp_path / "tests" / "fixtures" / "example" / "results-first").mkdir(parents=True)
    mine = tmp_path / MADE[2]
    mine.write_text("{}", "utf-8")
    with pytest.raises(ConfigurationError, match=r"meta\.json is there already; nothing was written"):
        write(tmp_path, files)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]


def test_the_command_refuses_with_one_sentence(tmp_path: Path) -> None:
    done = services.run_scrapy("newdealer", "Hekla", "hekla.is", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert len(done.stderr.splitlines()) == 1
    done = services.run_scrapy("newdealer", "example", "example.is", "--dry-run", "--json", cwd=tmp_path)
    assert list(json.loads(done.stdout)) == MADE
    assert [path for path in tmp_path.rglob("*") if path.suffix in {".py", ".html", ".md"}] == []


def test_the_templates_come_with_the_package() -> None:
    data = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    templates = REPO / "carscraper" / "templates"
    kept = {path for pattern in data["carscraper"] for path in (REPO / "carscraper").glob(pattern)}
    assert {path for path in templates.rglob("*") if path.suffix == ".tmpl"} <= kept
