"""The house rules that a test can hold: who imports whom, who reads what, how spiders and commands look."""

from __future__ import annotations

import ast
import importlib
import io
import json
import pkgutil
import re
import statistics
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import scrapy.commands
import scrapy.commands.crawl
from scrapy import Spider
from scrapy.commands import ScrapyCommand

import carscraper
import carscraper.commands
import carscraper.settings
import carscraper.spiders
from carscraper.base_spiders.dealer import DealerSpider
from carscraper.settings.environment import scrapy_names
from carscraper.settings.table import REMOVED, SETTINGS
from tests.fakes import make_settings
from tests.services import REPO

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = REPO / "carscraper"
FIXTURES = REPO / "tests" / "fixtures"
MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in MODULES.items()}

# Who may import whom inside the package, from the bottom up; a new part of the house gets its line here.
FOUNDATION = {
    "state",
    "console",
    "dealers",
    "exceptions",
    "words",
    "field_coverage",
    "items",
    "logs",
    "manifest",
    "network",
    "parsing",
    "settings",
    "shortage",
    "vehicles",
}
ROOMS = FOUNDATION | {"db", "images", "storage", "addon"}
ALLOWED: dict[str, set[str]] = {
    "data": set(),
    "command": ROOMS,
    "console": {"exceptions", "logs"},
    "exceptions": set(),
    "words": {"parsing"},
    "field_coverage": {"items"},
    "items": set(),
    "dealers": {"exceptions"},
    "logs": {"settings"},
    "manifest": {"exceptions"},
    "network": {"exceptions"},
    "parsing": set(),
    "settings": {"exceptions", "field_coverage"},
    "shortage": {"exceptions"},
    "vehicles": {"data", "parsing"},
    "state": {"network"},
    "addon": {"exceptions", "logs", "network", "settings", "shortage", "state"},
    "db": FOUNDATION,
    "images": {"exceptions"},
    "storage": FOUNDATION,
    "middlewares": FOUNDATION | {"addon", "db"},
    "pipelines": ROOMS,
    "base_spiders": ROOMS | {"middlewares", "pipelines"},
    "linking": ROOMS,
    "backfill": ROOMS | {"base_spiders", "middlewares", "pipelines"},
    "maintenance": ROOMS,
    "spiders": ROOMS | {"pipelines", "base_spiders", "backfill", "middlewares"},
    "runs": ROOMS,
    "queue": ROOMS | {"runs"},
    "worker": ROOMS | {"runs", "queue"},
    "extensions": ROOMS | {"pipelines", "base_spiders", "runs"},
    "commands": ROOMS | {"base_spiders", "command", "extensions", "maintenance", "queue", "runs", "worker"},
}
# Outside things and the one room each is met in. (A command may look at SQLAlchemy's errors.)
OUTSIDE = {
    "sqlalchemy": {"db", "commands", "linking"},
    "alembic": {"db"},
    "psycopg": {"db"},
    "boto3": {"storage"},
    "botocore": {"storage", "maintenance"},
    "obstore": {"storage"},
    "PIL": {"images", "linking"},
    "imagehash": {"linking"},
    "dotenv": {"settings"},
    "filelock": {"db"},
    "procrastinate": {"queue", "worker"},
    "prometheus_client": {"runs"},
    "apprise": {"runs"},
    "pythonjsonlogger": {"logs"},
}


def part_of(name: str) -> str:
    """``db/photos.py`` and ``db/__init__.py`` are ``db``, ``items.py`` is ``items``."""
    return name.split("/", maxsplit=1)[0].removesuffix(".py")


def imports(tree: ast.Module, *, types_too: bool = False) -> Iterator[tuple[str, str, int]]:
    """Module, name (or nothing) and line of every import; those for type checkers only are no dependency."""
    skipped: set[ast.AST] = set()
    if not types_too:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                skipped |= {inner for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, "", node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            for alias in node.names:
                yield node.module or "", alias.name, node.lineno


def test_the_picture_of_the_rooms_is_what_is_imported() -> None:
    page = (REPO / "docs" / "architecture.md").read_text("utf-8")
    drawn = {
        (source, target)
        for source, targets in re.findall(r"^    (\w+) --> ([\w &]+)$", page, re.MULTILINE)
        for target in targets.split(" & ")
        if source in ALLOWED
    }
    imported = {
        (part_of(name), module.split(".")[1])
        for name, tree in TREES.items()
        for module, _, _ in imports(tree)
        if module.startswith("carscraper.")
    }
    small = FOUNDATION | {"addon", "command"}
    assert drawn == {(a, b) for a, b in imported if a != b and not small & {a, b}}


def test_the_picture_of_the_flow_is_what_is_imported() -> None:
    """Its stations are those of ``ITEM_PIPELINES`` in their order, and who talks to ledger or store imports it."""
    page = (REPO / "docs" / "architecture.md").read_text("utf-8")
    picture = page[page.index("flowchart LR") : page.index("## The rooms")]
    homes = {
        node.name: f"carscraper.{name.removesuffix('.py').replace('/', '.')}"
        for name, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    nodes = {node: homes[text] for node, text in re.findall(r'(\w+)\["(\w+)<br/>', picture) if text in homes}
    drawn = [
        nodes[each] for each in re.findall(r"\w+", next(re.finditer(r"spider -->.*", picture))[0]) if each in nodes
    ]
    stations = sorted(make_settings().getdict("ITEM_PIPELINES").items(), key=lambda each: each[1])
    assert drawn == [name.rsplit(".", 1)[0] for name, _ in stations if name.rsplit(".", 1)[0] in drawn]
    assert len(drawn) == 4

    direct = {
        f"carscraper.{name.removesuffix('.py').replace('/', '.')}": {
            each for module, imported, _ in imports(tree) for each in (module, f"{module}.{imported}")
        }
        for name, tree in TREES.items()
    }

    def reaches(source: str, target: str, seen: set[str]) -> bool:
        if source in seen:
            return False
        seen.add(source)
        return target in direct.get(source, ()) or any(reaches(each, target, seen) for each in direct.get(source, ()))

    arrows = re.findall(r'^    (\w+) -- "[^"]*" --> (\w+)$', picture, re.MULTILINE)
    named = [(nodes[source], nodes[target]) for source, target in arrows if source in nodes and target in nodes]
    assert len(named) == 4
    for source, target in named:
        assert reaches(source, target, set()), f"{source} does not use {target}"


def test_imports_run_downward_only() -> None:
    for name, tree in TREES.items():
        own = part_of(name)
        ours = [each for each in imports(tree) if each[0].startswith("carscraper")]
        assert name != "__init__.py" or not ours
        assert own in {*ALLOWED, "__init__"}, f"{own} is new: say in ALLOWED what it may import"
        for module, imported, line in ours:
            part = (module.split(".")[1:] or [imported])[0]
            assert part in {"__version__", own, *ALLOWED[own]}, f"{name}:{line} imports carscraper.{part}"


def test_each_outside_thing_is_met_in_one_room() -> None:
    for name, tree in TREES.items():
        for module, _, line in imports(tree):
            rooms = OUTSIDE.get(module.split(".")[0])
            assert rooms is None or part_of(name) in rooms, f"{name}:{line} imports {module}"


def test_storage_and_db_do_not_know_each_other() -> None:
    for name, tree in TREES.items():
        other = {"db": "storage", "storage": "db"}.get(part_of(name))
        modules = {module for module, _, _ in imports(tree, types_too=True)}
        assert not [each for each in modules if other and each.startswith(f"carscraper.{other}")], name


def test_components_take_only_secret_from_the_settings_module() -> None:
    for name, tree in TREES.items():
        if part_of(name) in {"addon", "commands", "settings"}:
            continue  # they check values
        taken = {imported for module, imported, _ in imports(tree) if module == "carscraper.settings"}
        assert taken <= {"Secret"}, f"{name} takes {taken}: components read crawler.settings"


def test_only_the_settings_module_reads_the_environment() -> None:
    readers = set()
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if text in {"os.environ", "os.environb", "os.getenv", "os.putenv"}:
                readers.add(name)
        for module, imported, _ in imports(tree, types_too=True):
            if module == "dotenv" or (module == "os" and imported in {"environ", "getenv"}):
                readers.add(name)
    assert readers == {"settings/environment.py"}


# --- spiders ----------------------------------------------------------------------------------------------------

# What may be slower or gentler than the settings, and what must be as they are.
AT_LEAST = ("DOWNLOAD_DELAY", "AUTOTHROTTLE_START_DELAY", "IMAGES_DOWNLOAD_DELAY", "RETRY_BACKOFF", "RETRY_AFTER_MAX")
AT_MOST = (
    "CONCURRENT_REQUESTS",
    "CONCURRENT_REQUESTS_PER_DOMAIN",
    "IMAGES_CONCURRENCY",
    "RETRY_TIMES",
    "AUTOTHROTTLE_TARGET_CONCURRENCY",
    "DOWNLOAD_MAXSIZE",
)
UNCHANGED = (
    "ROBOTSTXT_OBEY",
    "ROBOTSTXT_USER_AGENT",
    "AUTOTHROTTLE_ENABLED",
    "DOWNLOAD_VERIFY_CERTIFICATES",
    "USER_AGENT",
    "DOWNLOAD_SLOTS",
    "RANDOMIZE_DOWNLOAD_DELAY",
    "RETRY_ENABLED",
    "TWISTED_DNS_RESOLVER",
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


# --- commands ---------------------------------------------------------------------------------------------------

COMMANDS = [module.name for module in pkgutil.iter_modules(carscraper.commands.__path__)]


def test_each_command_is_the_only_class_of_its_file_and_explains_itself() -> None:
    scrapys = {module.name for module in pkgutil.iter_modules(scrapy.commands.__path__)}
    for name in COMMANDS:
        # Scrapy instantiates every command class it finds, a base class too.
        module = importlib.import_module(f"carscraper.commands.{name}")
        classes = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, ScrapyCommand)]
        (own,) = [each for each in classes if each.__module__ == module.__name__]
        assert own.__name__ == "Command"
        assert not [base for base in own.__mro__[1:] if base.__module__.startswith("carscraper.commands")], name
        # `crawl` alone is one of Scrapy's own, extended by what must be true of every crawl.
        assert (name in scrapys) == issubclass(own, scrapy.commands.crawl.Command), f"{name} hides one of Scrapy's"
        assert own().short_desc(), name
        assert own().syntax(), name


HEAVY = {
    *("sqlalchemy", "alembic", "psycopg", "boto3", "botocore", "obstore", "PIL", "imagehash", "numpy", "scipy"),
    *("procrastinate", "apprise", "prometheus_client", "rich", "aiohttp", "playwright", "filelock"),
    *(
        "carscraper.spiders",
        "carscraper.base_spiders",
        "carscraper.db",
        "carscraper.storage.keys",
        "carscraper.vehicles",
    ),
}
"""What no help text needs. Scrapy imports every command for any of them."""


def test_a_help_text_waits_for_no_library_that_it_does_not_need() -> None:
    code = (
        "import argparse, sys; from scrapy.cmdline import _get_commands_dict; from scrapy.utils.project import *\n"
        "settings = get_project_settings()\n"
        "for name, command in _get_commands_dict(settings, inproject=True).items():\n"
        "    if not type(command).__module__.startswith('carscraper'): continue\n"
        "    command.settings, parser = settings, argparse.ArgumentParser(conflict_handler='resolve')\n"
        "    command.add_options(parser)\n"
        "    for verb in [[], *([each.name] for each in getattr(command, 'verbs', ()))]:\n"
        "        try: parser.parse_args([*verb, '--help'])\n"
        "        except SystemExit: pass\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") > len(COMMANDS) + 25, "a help text for each command and verb"


# --- settings ---------------------------------------------------------------------------------------------------

READERS = {"get", "getbool", "getint", "getfloat", "getlist", "getdict", "getdictorlist", "getwithbase"}


def read_settings(tree: ast.Module) -> set[str]:
    """Names that are read from an object called ``settings``."""
    names = set()
    for node in ast.walk(tree):
        key: ast.expr | None = None
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in READERS
            and node.args
        ):
            holder, key = node.func.value, node.args[0]
        elif isinstance(node, ast.Subscript):
            holder, key = node.value, node.slice
        if (
            isinstance(key, ast.Constant)
            and isinstance(key.value, str)
            and ast.unparse(holder).split(".")[-1] == "settings"
        ):
            names.add(key.value)
    return names


def strings(tree: ast.Module) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_setting_that_is_read_exists_and_every_one_that_exists_is_read() -> None:
    derived = {"CARSCRAPER_PROBLEMS", "CARSCRAPER_LOG_PROBLEM", "CARSCRAPER_PHOTO_SLOTS"}  # set by the add-on, a spider
    for name, tree in TREES.items():
        unknown = read_settings(tree) - carscraper.settings.known_names - derived
        assert not unknown, f"{name} reads {unknown}, which the table of settings does not have"
    read = set().union(*(strings(tree) for name, tree in TREES.items() if not name.startswith("settings/")))
    assert set(SETTINGS) - scrapy_names - read == set()
    assert set(REMOVED) & set(SETTINGS) == set()


def test_the_package_says_its_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", carscraper.__version__)
    assert Path(carscraper.__file__).parent == PACKAGE
