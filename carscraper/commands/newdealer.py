"""``scrapy newdealer NAME ADDRESS``: a spider and saved pages of a new dealer."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrapy import Request, Spider
from scrapy.commands import ScrapyCommand
from scrapy.crawler import AsyncCrawlerProcess
from scrapy.exceptions import UsageError
from scrapy.http import TextResponse
from scrapy.utils.conf import closest_scrapy_cfg

from carscraper.base_spiders.base import allow_host, reason_of
from carscraper.cli.command import border
from carscraper.cli.console import Console
from carscraper.maintenance.newdealer import KINDS, check, check_room, first_car, plan, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from scrapy.http import Response
    from twisted.python.failure import Failure

_NEXT = """\
1. Look at {spider}: its attributes were guessed from the page.
2. python -m pytest tests/spiders/test_fixtures.py -k {name} --regenerate
   writes expected.json, what the spider reads of the saved pages: compare it with them, correct the spider, repeat.
3. scrapy checkdealers --live {name}
docs/adding-a-dealer.md has the rest."""


class Command(ScrapyCommand):
    """Fetch, plan, write, say what comes next."""

    requires_project = True
    requires_crawler_process = False

    def syntax(self) -> str:
        """Return the usage."""
        return "NAME ADDRESS [--like cards|rogg|tiles|browser] [--no-fetch] [--dry-run]"

    def short_desc(self) -> str:
        """Return the one-line description."""
        return "Make a new dealer: a spider, and saved pages of its site"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        super().add_options(parser)
        kinds = "; ".join(f"{kind}: {what}" for kind, (_, _, what) in KINDS.items())
        parser.add_argument("--like", choices=list(KINDS), default="cards", help=f"what the site is like ({kinds})")
        parser.add_argument("--no-fetch", action="store_true", help="ask the site for nothing: you save the page")
        parser.add_argument("--dry-run", action="store_true", help="print the files, write none")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Write the files; exit code 4 with a sentence if one is there already or the page does not come."""
        if len(args) != 2 or any(each.startswith("-") for each in args):
            raise UsageError("Write `scrapy newdealer NAME ADDRESS`: the name of the spider, the page with the cars.")
        with border(self):
            self._make(*args, opts=opts, console=Console(as_json=opts.json))

    def _make(self, name: str, address: str, *, opts: argparse.Namespace, console: Console) -> None:
        address = address if "://" in address else f"https://{address}"
        check(name, address)
        root = Path(closest_scrapy_cfg() or "scrapy.cfg").parent
        now = datetime.now(UTC)
        if not opts.dry_run:
            check_room(root, plan(name, address, kind=opts.like, results="", details=None, now=now))
        results, details = ("", None) if opts.no_fetch or opts.like == "browser" else self._fetch(address, opts)
        if not results and not opts.no_fetch:
            console.note(
                f"The page did not come; save it in the browser as tests/fixtures/{name}/results-first/response.html."
            )
        files = plan(name, address, kind=opts.like, results=results, details=details, now=now)
        if opts.dry_run:
            contents = {path.as_posix(): text for path, text in files.items()}
            console.result(contents, [f"--- {path}\n{text}" for path, text in contents.items()])
            return
        write(root, files)
        paths = [path.as_posix() for path in files]
        console.result({"made": paths}, [f"made {path}" for path in paths])
        console.note(_NEXT.format(name=name, spider=paths[0]))

    def _fetch(self, address: str, opts: argparse.Namespace) -> tuple[str, tuple[str, str] | None]:
        """Return the page and that of its first car, asked for as by a crawl; empty if it does not come."""
        assert self.settings is not None
        settings: dict[str, Any] = {"ITEM_PIPELINES": {}, "EXTENSIONS": {}}
        if not opts.loglevel:
            settings["LOG_LEVEL"] = "WARNING"
        for name, value in settings.items():
            self.settings.set(name, value, priority="cmdline")
        pages: dict[str, str] = {}
        process = AsyncCrawlerProcess(self.settings)
        process.crawl(_Pages, address=address, pages=pages)
        process.start()
        results = pages.pop(address, "")
        return results, next(iter(pages.items()), None)


class _Pages(Spider):
    """The first page of a list, and the page of its first car."""

    name = "newdealer"

    def __init__(self, address: str, pages: dict[str, str]) -> None:
        super().__init__()
        self.address, self.pages = address, pages

    async def start(self) -> AsyncIterator[Request]:
        """Ask for the list."""
        allow_host(self.crawler, self.address)
        yield Request(self.address, callback=self.keep, errback=self.missed)

    def keep(self, response: Response) -> Iterator[Request]:
        """Keep a page, and ask for the first car of the list."""
        if isinstance(response, TextResponse):
            is_list = not self.pages
            self.pages[self.address if is_list else response.url] = response.text
            if is_list and (car := first_car(response.text, response.url)):
                yield Request(car, callback=self.keep, errback=self.missed)

    def missed(self, failure: Failure) -> None:
        """Say why a page did not come."""
        self.logger.warning("%s does not come (%s)", failure.request.url, reason_of(failure))  # type: ignore[attr-defined]
