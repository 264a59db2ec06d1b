"""``scrapy checkdealers``: how much each dealer's last crawl could read, against the last good one; or a first look."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scrapy.exceptions import UsageError

from carscraper.command import ProjectCommand, add_json, add_spider_arguments, checked
from carscraper.console import table
from carscraper.dealers import choose, distribute, spiders_of
from carscraper.field_coverage import PHOTO, PHOTOS, READABLE
from carscraper.logs import printable
from carscraper.state import ExitCode

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from carscraper.command import Context
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


class Command(ProjectCommand):
    """Compares and prints."""

    usage = "[--sources bilasolur,hekla] [--accept] [--json] | --live [DEALER …] [-a base_url=…] [--save FOLDER]"
    summary = "Tell how much each dealer's last crawl could read, so that a changed page shows"
    checks_settings = False

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        super().add_options(parser)
        parser.add_argument("dealers", nargs="*", metavar="DEALER", help="with --live, whose sites are asked")
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
        add_spider_arguments(
            parser,
            help="with --live, another address of the site; of several dealers, DEALER.base_url=ADDRESS",
            metavar="base_url=ADDRESS",
        )
        parser.add_argument(
            "--save", metavar="FOLDER", default="var/live", help="with --live, where pages and report go (var/live)"
        )
        add_json(parser)

    def work(self, context: Context, opts: argparse.Namespace) -> int:
        """Check, or ask the sites."""
        if opts.live:
            return _ask(context, opts)
        if opts.dealers:
            raise UsageError(f"`scrapy checkdealers` does not know {' '.join(opts.dealers)}", print_help=False)
        context.settings = checked(context.settings)
        return _check(context, opts)


def _check(context: Context, opts: argparse.Namespace) -> int:
    """Compare; exit code 0 if nothing fell or is missing, 3 if something did, 4 if there is nothing to compare."""
    from carscraper.base_spiders.dealer import DealerSpider
    from carscraper.maintenance.checkdealers import accept_all, check_dealer
    from carscraper.runs.monitors import expected_of

    settings, console = context.settings, context.console
    spiders = spiders_of(settings, DealerSpider)
    chosen = choose({name: spider.source for name, spider in spiders.items()}, opts.sources)
    with context.database(read_only=not opts.accept) as engine, engine.begin() as connection:
        found = [
            check_dealer(connection, name, spiders[name], expected=expected_of(settings, spiders[name]))
            for name in chosen
        ]
        accepted = accept_all(connection, found) if opts.accept else []
    code = ExitCode.SUCCESS
    if not accepted and any(each.is_wrong for each in found):
        code = ExitCode.PARTIAL
    elif not accepted and not any(each.is_compared for each in found):
        code = ExitCode.FAILED
    data = {"dealers": [each.as_json() for each in found], "accepted": accepted, "exit_code": code}
    console.result(data, _lines(found))
    if accepted:
        console.note(f"The next crawls are measured by these of {', '.join(accepted)}.")
    elif code == ExitCode.FAILED:
        console.note("Nothing to compare: no dealer has a good crawl before its last one.")
    return code


def _ask(context: Context, opts: argparse.Namespace) -> int:
    """Ask the sites; exit code 0 if all is as expected, 3 if something is missing, 4 if no site could be asked."""
    from scrapy.crawler import AsyncCrawlerProcess

    from carscraper.base_spiders.dealer import DealerSpider
    from carscraper.maintenance.firstcontact import SAMPLING, Contact, Sample
    from carscraper.runs.monitors import expected_of

    settings, console = context.settings, context.console
    spiders = spiders_of(settings, DealerSpider)
    known = {name: spider.source for name, spider in spiders.items()}
    chosen = choose(known, ",".join(opts.dealers) if opts.dealers else opts.sources)
    arguments = opts.spargs
    if len(chosen) == 1:
        arguments = [(name if "." in name else f"{chosen[0]}.{name}", value) for name, value in arguments]
    given = distribute(arguments, known)
    for name, value in SAMPLING.items():
        settings.set(name, dict(settings.getdict(name)) | value, priority="cmdline")
    settings.set("ITEM_PIPELINES", SAMPLING["ITEM_PIPELINES"], priority="cmdline")
    if not opts.loglevel:
        settings.set("LOG_LEVEL", "WARNING", priority="cmdline")
    process = AsyncCrawlerProcess(settings)  # type: ignore[arg-type]  # a command has the whole Settings
    contacts = []
    for name in chosen:
        contact = Contact(name, spiders[name], expected_of(settings, spiders[name]))
        crawler = process.create_crawler(type(spiders[name].__name__, (Sample, spiders[name]), {"name": name}))
        contact.watch(crawler)
        process.crawl(crawler, **given[name])
        contacts.append(contact)
    process.start()
    codes = {contact.exit_code for contact in contacts}
    code = codes.pop() if len(codes) == 1 else ExitCode.PARTIAL
    folders = [str(contact.save(Path(opts.save))) for contact in contacts]
    data = {"dealers": [each.as_json() for each in contacts], "saved": folders, "exit_code": code}
    console.result(data, (line for contact in contacts for line in contact.report()))
    console.note(f"Saved, without mail addresses, phone numbers and plates: {', '.join(folders)}")
    return code


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
