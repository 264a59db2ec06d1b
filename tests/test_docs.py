"""What the documents say is there."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import sqlalchemy
from dotenv import dotenv_values

import carscraper
import carscraper.settings
from carscraper.backfill.options import Options
from carscraper.commands.storage import REMOVED_VERBS
from carscraper.commands.storage import Command as StorageCommand
from carscraper.db.coverage import ForSale
from carscraper.db.models import Base
from carscraper.db.rules import CRAWL, DECIDED_HERE, FINAL_BY_DAYS
from carscraper.extensions import verdict
from carscraper.settings.table import REMOVED, SETTINGS
from carscraper.state import CrawlState
from tests.services import REPO

PAGES = sorted([REPO / "README.md", REPO / "CHANGELOG.md", *(REPO / "docs").rglob("*.md")])
# Names in capitals that are no settings: of other programs, or placeholders.
NOT_SETTINGS = (
    set(REMOVED)
    | {"CARSCRAPER_ENV_FILE", "SCRAPY_SETTINGS_MODULE", "PYTEST_ARGS", "BENCH_ARGS"}
    | {
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL_S3",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
        "SCRAPYD_USERNAME",
        "SCRAPYD_PASSWORD",
        "POSTGRES_PASSWORD",
        "STANDARD_IA",
        "ONEZONE_IA",
        "GLACIER_IR",
        "DEEP_ARCHIVE",
        "INTELLIGENT_TIERING",
        "SQLITE_ERROR",
        "SQLITE_FULL",
        "SQLITE_NOTADB",
    }
)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPO).as_posix())


def text_of(page: Path) -> str:
    return page.read_text("utf-8")


def prose_of(page: Path) -> str:
    """The page without fenced blocks."""
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """The anchors that a Markdown viewer gives the headings."""
    titles = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# --- what is generated ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["settings_docs.py", "storage_docs.py"])
def test_what_is_generated_is_current(script: str) -> None:
    command = [sys.executable, str(REPO / "scripts" / script), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- what is named ----------------------------------------------------------------------------------------------


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors_of(linked), target


@each_page
def test_files_exist(page: Path) -> None:
    here = r"(?<![\w/.:-])((?:carscraper|docs|deploy|scripts|tests|benchmarks)/(?:[\w.-]+/)*(?:[\w-]+\.\w+)?)(?![\w<])"
    for name in re.findall(here, text_of(page)):
        # The page about a new dealer says how to make its example; carscraper/images/… are stats.
        if "/example." not in name and not name.startswith("carscraper/images"):
            assert (REPO / name).exists(), name
    for name in re.findall(
        r"`((?:addon|network|batching|middlewares|db|storage|extensions)[\w/]*\.py)`", prose_of(page)
    ):
        assert (REPO / "carscraper" / name).exists(), name


@each_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(REPO / "Makefile"), re.MULTILINE))
    mentioned = set(re.findall(r"(?:^|`|sudo |&& )make ([a-z]+)", text_of(page), re.MULTILINE))
    assert mentioned <= targets


@each_page
def test_commands_exist(page: Path) -> None:
    text = text_of(page)
    for command, verb in re.findall(r"(?:/|`|^)scrapy (\w+)(?: (\w+))?", text, re.MULTILINE):
        if command == "crawl":
            assert verb in {"", "example"} or (REPO / "carscraper" / "spiders" / f"{verb}.py").exists()
        else:
            known = {
                "database": {"upgrade", "version"},
                "storage": {each.name for each in StorageCommand.verbs} | {"VERB"},
            }
            known["storage"] |= REMOVED_VERBS.keys() if page.name == "CHANGELOG.md" else set()
            known |= {"crawlall": set(), "checkdealers": set(), "newdealer": {"example"}}
            known |= {"runs": {"list", "show", "compare", "upload"}, "worker": set()}
            known |= {"queue": {"show", "cancel", "setup"}}
            known |= {"enqueue": {"crawl", "backfill"}}
            assert not verb or verb in known[command]
    arguments = {"base_url", "makes", "limit", "max_pages", "changed_days", "details"} | {
        field.name for field in fields(Options)
    }
    assert set(re.findall(r"-a (\w+)=", text)) <= arguments


def test_every_argument_of_the_backfill_has_its_line() -> None:
    page = text_of(REPO / "docs" / "backfill.md")
    table = "\n".join(line for line in page.splitlines() if line.startswith("| `"))
    for field in fields(Options):
        assert f"`{field.name}`" in table


@each_page
def test_settings_exist(page: Path) -> None:
    known = carscraper.settings.known_names | NOT_SETTINGS
    for name in re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=[^`]*)?`", prose_of(page)):
        assert name in known, name


@each_page
def test_nothing_private_is_named(page: Path) -> None:
    for word in ("/work/", "/tmp/", "/root/", "TODO", "FIXME"):
        assert word not in text_of(page)


def test_every_reason_has_its_line() -> None:
    page = text_of(REPO / "docs" / "architecture.md")
    table = [line for line in page.splitlines() if line.startswith("| `")]
    final: dict[str, set[str]] = {"final": set(), "by days": set()}
    named = set()
    for line in table:
        reasons = set(re.findall(r"`([a-z0-9-]+)`", line.split("|")[1]))
        named |= reasons
        if (last := line.rstrip(" |").rpartition("| ")[2]) in final:
            final[last] |= {reason for reason in reasons if not reason.startswith("http-4")}
    assert final == {"final": DECIDED_HERE, "by days": FINAL_BY_DAYS}
    pipeline = text_of(REPO / "carscraper" / "pipelines" / "images.py")
    inspection = text_of(REPO / "carscraper" / "images" / "inspection.py")
    given = re.findall(r'(?:return|_fail\(image,) "([a-z][a-z-]+)"', pipeline)  # what inspection returns is no reason
    given += re.findall(r'ImageRejectedError\("([a-z][a-z-]+)"', pipeline + inspection)
    for reason in given:
        assert reason in named, f"{reason} is not in the table of reasons"


def test_the_documents_say_what_becomes_of_a_photo_that_fails() -> None:
    """What they say of these nights is what ``tests/crawl/test_photos_for_sale.py`` crawls."""
    page = text_of(REPO / "README.md") + text_of(REPO / "docs" / "troubleshooting.md")
    days = CRAWL.final_after
    assert f"After the same answer on {days} days (`IMAGES_FINAL_AFTER`) exit code 0 and `1 http-404 final`" in page
    assert days == carscraper.settings.IMAGES_FINAL_AFTER
    night = ForSale(photos=300, stored=0, due={"http-404": 300})
    code, lines = verdict.judge({"carscraper/images/failed/http-404": 300}, CrawlState(), "bilasolur", night)
    assert "A night of HTML or 404 for every photo | exit code 3 that night and each like it" in page
    assert code == 3
    said = "0 of 300 photos of cars for sale are stored"
    assert f"`{said}`" in page
    assert said in lines[0]
    first = {"carscraper/cars/saved": 60, "carscraper/cars/new": 60, "carscraper/images/stored": 300}
    well = ForSale(photos=300, stored=300)
    code, (line,) = verdict.judge({**first, "carscraper/images/bytes": 34_400_000}, CrawlState(), "bilasolur", well)
    assert (code, line in page.splitlines()) == (0, True), "the sample of a first crawl"
    again = {"carscraper/cars/saved": 60, "carscraper/images/known": 300}
    code, (line,) = verdict.judge(again, CrawlState(), "bilasolur", well)
    assert (code, line in page.splitlines()) == (0, True), "and of a second one"


def test_every_last_line_has_its_advice() -> None:
    page = text_of(REPO / "docs" / "going-to-production.md")
    counted = [(what, said) for _, what, said in (*verdict.NOT_KEPT, *verdict.BESIDE)]
    counted += re.findall(r'_count\(.*?, "([\w ]+)", "([^"]+)"', text_of(Path(verdict.__file__)))
    assert len(counted) > 20
    for what, said in counted:
        assert said in page, f"no advice for: {what} {said}"


def test_the_changelog_knows_this_version() -> None:
    page = text_of(REPO / "CHANGELOG.md")
    assert f"## {carscraper.__version__}" in page
    assert "## Unreleased" in page


@pytest.mark.parametrize(("name", "block"), [("README.md", "demo output"), ("docs/benchmarks.md", "bench table")])
def test_there_is_room_for_what_is_filled_in(name: str, block: str) -> None:
    assert re.search(rf"<!-- {block} -->\n.*?<!-- {block}: end -->", text_of(REPO / name), re.DOTALL)


def test_every_column_is_described() -> None:
    sections = dict(
        re.findall(r"^## ([\w ]+)\n(.*?)(?=^## |\Z)", text_of(REPO / "docs" / "tables.md"), re.DOTALL | re.MULTILINE)
    )
    described = {
        name: {
            column
            for line in section.splitlines()
            if line.startswith("| `")
            for column in re.findall(r"`(\w+)`", line.split("|")[1])
        }
        for name, section in sections.items()
    }
    described.pop("Queries to start from")
    assert described == {table.name: set(table.columns.keys()) for table in Base.metadata.sorted_tables}


def test_the_queries_to_start_from_run(database_url: str) -> None:
    queries = re.findall(r"^```sql\n(.*?)^```", text_of(REPO / "docs" / "tables.md"), re.DOTALL | re.MULTILINE)
    assert len(queries) == 5
    engine = sqlalchemy.create_engine(database_url, poolclass=sqlalchemy.NullPool)
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        for query in queries:
            assert connection.execute(sqlalchemy.text(query)).all() == []


def test_every_document_is_in_the_index() -> None:
    index = text_of(REPO / "docs" / "index.md")
    for page in (REPO / "docs").glob("*.md"):
        assert page.name == "index.md" or f"]({page.name})" in index, page.name


def test_every_verb_of_storage_has_its_section() -> None:
    page = text_of(REPO / "docs" / "storage.md")
    for verb in StorageCommand.verbs:
        assert re.search(rf"^##+ .*`{verb.name}`", page, re.MULTILINE), verb.name


# --- .env.example -----------------------------------------------------------------------------------------------

EXAMPLE = REPO / ".env.example"


def test_the_example_changes_nothing_as_it_is_and_can_be_read_when_all_is_switched_on(tmp_path: Path) -> None:
    assert dotenv_values(EXAMPLE) == {}
    everything = tmp_path / "everything.env"
    everything.write_text(re.sub(r"^#(?=[A-Z])", "", text_of(EXAMPLE), flags=re.MULTILINE), "utf-8")
    read = dotenv_values(everything, interpolate=False)
    assert 0 < len(read) <= 45, "the others are in docs/settings.md alone"
    for name, value in read.items():
        carscraper.settings.checks[name](value or None if SETTINGS[name].default is None else value)
    # systemd reads the same file: a value with a quote inside stands between single quotes, and no line is exported.
    for name, value in (
        line.split("=", 1) for line in everything.read_text("utf-8").splitlines() if line[:1].isupper()
    ):
        assert '"' not in value or value == f"'{read[name]}'"
        assert "#" not in value
        assert "$" not in value
