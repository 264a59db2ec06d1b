"""``scrapy checkdealers``: how much each dealer's last crawl could read, against the last good one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError

from carscraper.base_spiders.dealer import DealerSpider
from carscraper.cli.command import border, checked
from carscraper.cli.console import Console, printable, table
from carscraper.cli.verb import DONE, FAILED, PARTIAL, Context
from carscraper.fill import DROP, PAGE, PHOTO, PHOTOS, READABLE
from carscraper.upkeep.checkdealers import Check, accept, check, read_against
from carscraper.upkeep.dealers import choose, spiders_of

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        """Give the usage."""
        return "[--sources bilasolur,hekla] [--drop 20] [--against good|previous|DAY] [--accept] [--json]"

    def short_desc(self) -> str:
        """Give the one-line description."""
        return "Tell how much each dealer's last crawl could read, so that a changed page shows"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        super().add_options(parser)
        parser.add_argument("--sources", metavar="NAMES", help="these dealers only, comma separated")
        parser.add_argument(
            "--drop", metavar="POINTS", type=float, default=DROP, help="how far a field may fall (default 20 points)"
        )
        parser.add_argument(
            "--against",
            metavar="WHICH",
            default="good",
            help="good: the last good crawl before (default); previous: the one before; or the last good one by a DAY",
        )
        parser.add_argument(
            "--accept", action="store_true", help="measure the next crawls by the last ones as they are"
        )
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Check; exit code 0 if nothing fell, 3 if something did, 4 if there is nothing to compare."""
        if args:
            raise UsageError(f"`scrapy checkdealers` does not know {' '.join(args)}", print_help=False)
        if not 0 <= opts.drop <= 100:
            raise UsageError("--drop takes points from 0 to 100", print_help=False)
        console = Console(as_json=opts.json)
        with border(self):
            self._check(console, opts)

    def _check(self, console: Console, opts: argparse.Namespace) -> None:
        settings = checked(self.settings)
        spiders = spiders_of(settings, DealerSpider)
        chosen = choose({name: spider.source for name, spider in spiders.items()}, opts.sources)
        against = read_against(opts.against)
        with (
            Context(settings, console).database(read_only=not opts.accept) as engine,
            engine.begin() as connection,
        ):
            found = [check(connection, name, spiders[name], against=against, points=opts.drop) for name in chosen]
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


def _lines(found: list[Check]) -> Iterator[str]:
    rows = []
    for each in found:
        if each.now is None:
            continue
        now, before = each.now.fill.shares(), each.before.fill.shares() if each.before else {}
        cells = [_cell(name, now.get(name), before.get(name)) for name in _COLUMNS]
        rows.append([each.dealer, f"{each.now.finished_at:%Y-%m-%d %H:%M}", each.now.fill.cars, *cells])
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
            unit = "" if drop.name.endswith(PHOTOS) else " %"
            name = drop.name.removeprefix(PAGE)
            where = "on the cars' own pages " if drop.name.startswith(PAGE) else ""
            yield f"{each.dealer}: {name} {where}fell from {drop.before:g}{unit} to {drop.now:g}{unit}: see {place}"


def _cell(name: str, now: float | None, before: float | None) -> str:
    """Give a field's share, and what it was where that differs."""

    def shown(share: float | None) -> str:
        return "–" if share is None else f"{share:.1f}" if name == PHOTOS else f"{share:.0f}"

    return shown(now) if before is None or shown(now) == shown(before) else f"{shown(now)} (was {shown(before)})"
