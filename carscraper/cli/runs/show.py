"""``scrapy runs show``: all that is known of one run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from carscraper.cli.runs.common import find, open_runs
from carscraper.cli.runs.words import in_words
from carscraper.cli.verb import DONE

if TYPE_CHECKING:
    from carscraper.cli.verb import Context


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="its id, its job's, or latest")


def _show(context: Context, options: argparse.Namespace) -> int:
    with open_runs(context) as connection:
        record = find(connection, options.id)
    words = in_words(record)
    width = max(map(len, words))
    lines = [
        f"{name if not number else '':{width}}  {line}"
        for name, value in words.items()
        for number, line in enumerate(value.split("\n"))
    ]
    context.console.result(record.as_json(), lines)
    return DONE


FUNCTIONS = {"show": (_arguments, _show)}
