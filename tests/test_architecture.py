"""The house rules that a test can hold: who imports whom, who reads what, how spiders and commands look."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import scrapy.commands
import scrapy.commands.crawl
from scrapy.commands import ScrapyCommand

import carscraper
import carscraper.commands
import carscraper.settings
import carscraper.spiders
from carscraper.settings.environment import scrapy_names
from carscraper.settings.table import REMOVED, SETTINGS
from tests.fakes import make_settings
from tests.services import REPO

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = REPO / "carscraper"
MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in MODULES.items()}

# Who may import whom inside the package, from the bottom up; a new part of the house gets its line here.
FOUNDATION = {
    *("state", "console", "dealers", "exceptions", "words", "field_coverage", "items", "logs", "manifest"),
    *("network", "parsing", "settings", "shortage", "vehicles"),
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
    "manifest": {"exceptions", "logs"},
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
    told = {
        name
        for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
        for name in re.findall(r"`(\w+)(?:/|\.py)`", row)
    }
    assert told >= set(ALLOWED) - FOUNDATION - {"data", "command"}, "the table of the rooms"


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


def test_no_file_is_longer_than_400_lines() -> None:
    """What is longer has two subjects."""
    files = (path for room in ("carscraper", "tests", "benchmarks", "scripts") for path in (REPO / room).rglob("*.py"))
    lines = {str(path.relative_to(REPO)): path.read_text("utf-8").count("\n") for path in files}
    assert {name: count for name, count in lines.items() if count > 400} == {}


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
    *("carscraper.spiders", "carscraper.base_spiders", "carscraper.db", "carscraper.storage.keys"),
    "carscraper.vehicles",
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
