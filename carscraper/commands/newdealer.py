"""``scrapy newdealer NAME ADDRESS``: the files of a new dealer, with a test that fails until they are filled in."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError
from scrapy.utils.conf import closest_scrapy_cfg

from carscraper.cli.command import border
from carscraper.cli.console import Console
from carscraper.upkeep.newdealer import KINDS, plan, write

_NEXT = """\
1. Replace {fixture}/response.html with a saved result page, and correct the address in meta.json.
2. Say where things are in {spider}.
3. Write into expected.json what a person reads on the page: that test fails until spider and page agree.
       python -m pytest tests/spiders/test_fixtures.py -k {name}
4. Write what you know, and how sure, into {page}.
5. python -m pytest tests/test_architecture.py -k {name}
docs/adding-a-dealer.md has the rest."""


class Command(ScrapyCommand):
    """Plan, write, say what comes next."""

    requires_project = True
    requires_crawler_process = False

    def syntax(self) -> str:
        """Give the usage."""
        return "NAME ADDRESS [--like cards|rogg|tiles|browser] [--dry-run]"

    def short_desc(self) -> str:
        """Give the one-line description."""
        return "Make the files of a new dealer: spider, fixture, page of what is known"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        super().add_options(parser)
        kinds = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
        parser.add_argument("--like", choices=list(KINDS), default="cards", help=f"what the site is like ({kinds})")
        parser.add_argument("--dry-run", action="store_true", help="print the files, write none")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Write the files; exit code 4 with a sentence if one of them is there already."""
        if len(args) != 2 or any(each.startswith("-") for each in args):
            raise UsageError("say `scrapy newdealer NAME ADDRESS`, such as `scrapy newdealer hekla hekla.is`")
        with border(self):
            self._make(*args, dry_run=opts.dry_run, console=Console(as_json=opts.json), kind=opts.like)

    def _make(self, name: str, address: str, *, kind: str, dry_run: bool, console: Console) -> None:
        files = plan(name, address, kind=kind, today=datetime.now(UTC).date())
        if dry_run:
            contents = {path.as_posix(): text for path, text in files.items()}
            console.result(contents, [f"--- {path}\n{text}" for path, text in contents.items()])
            return
        write(Path(closest_scrapy_cfg() or "scrapy.cfg").parent, files)
        paths = [path.as_posix() for path in files]
        console.result({"made": paths}, [f"made {path}" for path in paths])
        fixture = Path(paths[1]).parent.as_posix()
        console.note(_NEXT.format(name=name, spider=paths[0], fixture=fixture, page=paths[-1]))
