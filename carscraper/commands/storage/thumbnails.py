"""``thumbnails``: of photos that were stored before ``IMAGES_THUMBS`` was set, or that lost theirs."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from carscraper.command import Verb
from carscraper.commands.storage import browse
from carscraper.commands.storage.common import kind_of
from carscraper.exceptions import ConfigurationError
from carscraper.logs import printable
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from carscraper.command import Context


def _arguments(parser: argparse.ArgumentParser) -> None:
    browse.prefix_argument(parser)
    parser.add_argument("--make", action="store_true", help="make those that are missing (else they are counted)")


def _run(context: Context, arguments: argparse.Namespace) -> int:
    from carscraper.maintenance.thumbnails import MADE, Thumbnails

    console, sizes = context.console, context.settings.get("IMAGES_THUMBS")
    if not sizes:
        raise ConfigurationError("IMAGES_THUMBS is empty: set it, such as IMAGES_THUMBS='{\"small\": [320, 240]}'.")
    counts: Counter[str] = Counter()
    thumbnails = Thumbnails(context.client, context.options, sizes, context.settings.getint("IMAGES_MAX_PIXELS"))

    def photos() -> Iterator[str]:
        for each in browse.selected(context, arguments.prefix):
            if kind_of(context, each.name) == "photo":
                counts["photos"] += 1
                yield each.name

    def missing() -> Iterator[tuple[str, str]]:
        for pair in thumbnails.missing(photos()):
            counts["missing"] += 1
            console.progress(f"{counts['photos']:,} photos, thumbnails made {counts[MADE]:,}")
            yield pair

    making = arguments.make and not arguments.dry_run
    if making:
        boxes = ", ".join(f"{name} {width}×{height}" for name, (width, height) in sizes.items())
        if not console.confirm(f"Make the thumbnails ({boxes}) that photos in {context.options.bucket} do not have?"):
            console.note("Nothing was done.")
            return ExitCode.PARTIAL
        for outcome in thumbnails.make_all(missing()):
            counts["made"] += outcome.what == MADE
            if outcome.what != MADE:
                detail = f": {outcome.detail}" if outcome.detail else ""
                console.note(printable(f"left: {outcome.name} ({outcome.what}{detail})"))
    else:
        for _ in missing():
            pass
    console.end_progress()
    left = counts["missing"] - counts["made"]
    data = {name: counts[name] for name in ("photos", "missing", "made")} | {"left": left}
    text = f"Photos {counts['photos']:,}; thumbnails missing {counts['missing']:,}, made {counts['made']:,}."
    console.result(data, text)
    if left and not making:
        console.note("--make makes them.")
    return ExitCode.PARTIAL if left else ExitCode.SUCCESS


VERB = Verb(
    "thumbnails",
    "Count, or make, the thumbnails that stored photos do not have",
    _run,
    _arguments,
    changes=True,
)
