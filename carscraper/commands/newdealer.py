"""``scrapy newdealer NAME ADDRESS``: a spider and saved pages of a new dealer."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from scrapy import Request, Spider
from scrapy.http import TextResponse
from scrapy.utils.conf import closest_scrapy_cfg

from carscraper.command import ProjectCommand, add_json
from carscraper.maintenance.newdealer import PAGE_KINDS, check_name, check_room, first_car, planned_files, write_files
from carscraper.state import ExitCode

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Iterator

    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from twisted.python.failure import Failure

    from carscraper.command import Context

_NEXT = """\
1. Look at {spider}: its attributes were guessed from the page.
2. python -m pytest tests/spiders/test_fixtures.py -k {name} --regenerate
   writes expected.json, what the spider reads of the saved pages: compare it with them, correct the spider, repeat.
3. scrapy checkdealers --live {name}
docs/adding-a-dealer.md has the rest."""


class Command(ProjectCommand):
    """Fetch, plan, write, say what comes next."""

    usage = "NAME ADDRESS [--like cards|rogg|tiles|browser] [--no-fetch] [--dry-run]"
    summary = "Make a new dealer: a spider, and saved pages of its site"
    checks_settings = False

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        super().add_options(parser)
        kinds = "; ".join(f"{kind}: {what}" for kind, (_, _, what) in PAGE_KINDS.items())
        parser.add_argument("name", metavar="NAME", help="of the spider")
        parser.add_argument("address", metavar="ADDRESS", help="the page with the cars")
        parser.add_argument(
            "--like", choices=list(PAGE_KINDS), default="cards", help=f"what the site is like ({kinds})"
        )
        parser.add_argument("--no-fetch", action="store_true", help="ask the site for nothing: you save the page")
        parser.add_argument("--dry-run", action="store_true", help="print the files, write none")
        add_json(parser)

    def work(self, context: Context, opts: argparse.Namespace) -> int:
        """Write the files; exit code 4 with a sentence if one is there already."""
        name, console = opts.name, context.console
        address = opts.address if "://" in opts.address else f"https://{opts.address}"
        check_name(name, address)
        root = Path(closest_scrapy_cfg() or "scrapy.cfg").parent
        now = datetime.now(UTC)
        if not opts.dry_run:
            check_room(root, planned_files(name, address, kind=opts.like, results="", details=None, now=now))
        results, details = "", None
        if not opts.no_fetch and opts.like != "browser":
            results, details = _fetch(context.settings, address, quiet=not opts.loglevel)
        if not results and not opts.no_fetch:
            console.note(
                f"The page did not come; save it in the browser as tests/fixtures/{name}/results-first/response.html."
            )
        files = planned_files(name, address, kind=opts.like, results=results, details=details, now=now)
        if opts.dry_run:
            contents = {path.as_posix(): text for path, text in files.items()}
            console.result(contents, [f"--- {path}\n{text}" for path, text in contents.items()])
            return ExitCode.SUCCESS
        write_files(root, files)
        paths = [path.as_posix() for path in files]
        console.result({"made": paths}, [f"made {path}" for path in paths])
        console.note(_NEXT.format(name=name, spider=paths[0]))
        return ExitCode.SUCCESS


def _fetch(settings: BaseSettings, address: str, *, quiet: bool) -> tuple[str, tuple[str, str] | None]:
    """Return the page and that of its first car, asked for as by a crawl; empty if it does not come."""
    from scrapy.crawler import AsyncCrawlerProcess

    for name in ("ITEM_PIPELINES", "EXTENSIONS"):
        settings.set(name, {}, priority="cmdline")
    if quiet:
        settings.set("LOG_LEVEL", "WARNING", priority="cmdline")
    pages: dict[str, str] = {}
    process = AsyncCrawlerProcess(settings)  # type: ignore[arg-type]  # a command has the whole Settings
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
        from carscraper.base_spiders.base import allow_host

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
        from carscraper.base_spiders.base import why_no_page

        self.logger.warning("%s does not come (%s)", failure.request.url, why_no_page(failure))  # type: ignore[attr-defined]
