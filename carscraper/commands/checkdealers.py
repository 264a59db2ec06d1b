"""``scrapy checkdealers``: how much each dealer's last crawl could read, against the last good one; or a first look."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scrapy.commands import ScrapyCommand
from scrapy.crawler import AsyncCrawlerProcess
from scrapy.exceptions import UsageError

from carscraper.base_spiders.dealer import DealerSpider
from carscraper.cli.command import border, checked
from carscraper.cli.console import Console, printable, table
from carscraper.cli.verb import DONE, FAILED, PARTIAL, Context
from carscraper.dealers import choose, distribute, spiders_of
from carscraper.field_coverage import PHOTO, PHOTOS, READABLE
from carscraper.runs.monitors import expected_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from carscraper.maintenance.checkdealers import Check

_COLUMNS = {
    READABLE: "cards",
    "title": "title",
    "make": "make",
    "model": "model",
    "year": "year",
    "registration_month": "month",
    "price": "price",
    "kilometers": "km",
    "fuel": "fuel",
    "transmission": "gears",
    PHOTO: "photo",
    PHOTOS: "photos/car",
}
"""Fields that have a column of the table; the others are named where they fell, and are in the JSON."""


class Command(ScrapyCommand):
    """Compares and prints."""

    requires_project = True
    requires_crawler_process = False

    def syntax(self) -> str:
        """Return the usage."""
        return "[--sources bilasolur,hekla] [--accept] [--json] | --live [DEALER …] [-a base_url=…] [--save FOLDER]"

    def short_desc(self) -> str:
        """Return the one-line description."""
        return "Tell how much each dealer's last crawl could read, so that a changed page shows"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        super().add_options(parser)
        parser.add_argument("--sources", metavar="NAMES", help="these dealers only, comma separated")
        parser.add_argument(
            "--accept", action="store_true", help="measure the next crawls by the last ones as they are"
        )
        parser.add_argument(
            "--live",
            action="store_true",
            help="ask the sites of the dealers named (or of all) for a few pages, and show what can be read; "
            "nothing is stored but the pages, without mail addresses, phone numbers and plates, in --save",
        )
        parser.add_argument(
            "-a",
            dest="spargs",
            action="append",
            default=[],
            metavar="base_url=ADDRESS",
            help="with --live, another address of the site; of several dealers, DEALER.base_url=ADDRESS",
        )
        parser.add_argument(
            "--save", metavar="FOLDER", default="var/live", help="with --live, where pages and report go (var/live)"
        )
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Check; exit code 0 if nothing fell or is missing, 3 if something did, 4 if there is nothing to compare."""
        if args and not opts.live:
            raise UsageError(f"`scrapy checkdealers` does not know {' '.join(args)}", print_help=False)
        if not all("=" in each for each in opts.spargs):
            raise UsageError("-a takes NAME=VALUE", print_help=False)
        console = Console(as_json=opts.json)
        with border(self):
            if opts.live:
                self._ask(console, args, opts)
            else:
                self._check(console, opts)

    def _check(self, console: Console, opts: argparse.Namespace) -> None:
        from carscraper.maintenance.checkdealers import accept, check  # noqa: PLC0415 - a help text needs no SQLAlchemy

        settings = checked(self.settings)
        spiders = spiders_of(settings, DealerSpider)
        chosen = choose({name: spider.source for name, spider in spiders.items()}, opts.sources)
        with (
            Context(settings, console).database(read_only=not opts.accept) as engine,
            engine.begin() as connection,
        ):
            found = [
                check(connection, name, spiders[name], expected=expected_of(settings, spiders[name])) for name in chosen
            ]
            accepted = accept(connection, found) if opts.accept else []
        compared = any(each.is_compared for each in found)
        wrong = any(each.is_wrong for each in found)
        self.exitcode = DONE if accepted else PARTIAL if wrong else DONE if compared else FAILED
        data = {"dealers": [each.as_json() for each in found], "accepted": accepted, "exit_code": self.exitcode}
        console.result(data, _lines(found))
        if accepted:
            console.note(f"The next crawls are measured by these of {', '.join(accepted)}.")
        elif self.exitcode == FAILED:
            console.note("Nothing to compare: no dealer has a good crawl before its last one.")

    def _ask(self, console: Console, args: list[str], opts: argparse.Namespace) -> None:
        """Ask the sites; exit code 0 if all is as expected, 3 if something is missing, 4 if no site could be asked."""
        from carscraper.maintenance.firstcontact import SETTINGS, Contact, Sample  # noqa: PLC0415 - nor Pillow

        assert self.settings is not None
        spiders = spiders_of(self.settings, DealerSpider)
        known = {name: spider.source for name, spider in spiders.items()}
        chosen = choose(known, ",".join(args) if args else opts.sources)
        arguments = [tuple(each.split("=", 1)) for each in opts.spargs]
        if len(chosen) == 1:
            arguments = [(name if "." in name else f"{chosen[0]}.{name}", value) for name, value in arguments]
        given = distribute(arguments, known)
        for name, value in SETTINGS.items():
            self.settings.set(name, dict(self.settings.getdict(name)) | value, priority="cmdline")
        self.settings.set("ITEM_PIPELINES", SETTINGS["ITEM_PIPELINES"], priority="cmdline")
        if not opts.loglevel:
            self.settings.set("LOG_LEVEL", "WARNING", priority="cmdline")
        process = AsyncCrawlerProcess(self.settings)
        contacts = []
        for name in chosen:
            contact = Contact(name, spiders[name], expected_of(self.settings, spiders[name]))
            crawler = process.create_crawler(type(spiders[name].__name__, (Sample, spiders[name]), {"name": name}))
            contact.watch(crawler)
            process.crawl(crawler, **given[name])
            contacts.append(contact)
        process.start()
        codes = {contact.exit_code for contact in contacts}
        self.exitcode = codes.pop() if len(codes) == 1 else PARTIAL
        folders = [str(contact.save(Path(opts.save))) for contact in contacts]
        data = {"dealers": [each.as_json() for each in contacts], "saved": folders, "exit_code": self.exitcode}
        console.result(data, (line for contact in contacts for line in contact.report()))
        console.note(f"Saved, without mail addresses, phone numbers and plates: {', '.join(folders)}")


def _lines(found: list[Check]) -> Iterator[str]:
    rows = []
    for each in found:
        if each.now is None:
            continue
        now, before = each.now.coverage.shares(), each.before.coverage.shares() if each.before else {}
        cells = [_cell(name, now.get(name), before.get(name)) for name in _COLUMNS]
        rows.append([each.dealer, f"{each.now.finished_at:%Y-%m-%d %H:%M}", each.now.coverage.cars, *cells])
    if rows:
        head = ["dealer", "last crawl", "cars", *_COLUMNS.values()]
        yield from table(head, rows, right=range(2, len(head)))
    for each in found:
        if each.now is None:
            yield f"{each.dealer}: no crawl yet"
            continue
        if each.now.why is not None:
            yield f"{each.dealer}: the last crawl failed. {printable(each.now.why)}"
        if each.before is None:
            yield f"{each.dealer}: nothing to compare with"
        for drop, place in each.fallen:
            yield f"{each.dealer}: {drop}: see {place}"
        for expectation, place in each.missing:
            yield f"{each.dealer}: {expectation}: see {place}"


def _cell(name: str, now: float | None, before: float | None) -> str:
    """Return a field's share, and what it was where that differs."""

    def shown(share: float | None) -> str:
        return "–" if share is None else f"{share:.1f}" if name == PHOTOS else f"{share:.0f}"

    return shown(now) if before is None or shown(now) == shown(before) else f"{shown(now)} (was {shown(before)})"
