"""``scrapy enqueue VERB``: crawls for the workers."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from carscraper.cli.command import VerbCommand
from carscraper.cli.verb import DONE, Context, Verb
from carscraper.exceptions import ConfigurationError
from carscraper.logs import cleaned
from carscraper.settings import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable


class Command(VerbCommand):
    """Puts crawls into the queue."""

    name = "enqueue"
    verbs = (
        Verb("crawl", __name__, "Put crawls into the queue"),
        Verb("backfill", __name__, "Put a backfill into the queue"),
    )

    def short_desc(self) -> str:
        """Return the one-line description."""
        return "Put crawls into the queue for the workers"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-a", dest="spargs", action="append", default=[], metavar="NAME=VALUE", help="an argument of the spider"
    )
    parser.add_argument("--queue", metavar="NAME", type=_name, help="another queue than the usual one")
    parser.add_argument("--shards", help=argparse.SUPPRESS)


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", text):
        raise ValueError(text)
    return text


def _crawl_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spiders", nargs="+", metavar="SPIDER", help="the spider's name, as for scrapy crawl")
    _arguments(parser)


def _crawl(context: Context, options: argparse.Namespace) -> int:
    return _enqueue(context, options, dict.fromkeys(options.spiders))


def _backfill(context: Context, options: argparse.Namespace) -> int:
    return _enqueue(context, options, ["backfill"])


def _enqueue(context: Context, options: argparse.Namespace, spiders: Iterable[str]) -> int:
    from carscraper.queue import enqueue, name_of  # noqa: PLC0415 - procrastinate takes a third of a second to import

    if options.shards is not None:
        raise ConfigurationError(
            "A backfill has no shards any more: leave --shards out. One process a dealer is what politeness allows; "
            "-a sources=hekla,br is a part of it."
        )
    settings = _pairs(options.set, "-s")
    secrets = [name for name in settings if isinstance(context.settings.get(name), Secret)]
    if secrets:
        raise ConfigurationError(
            f"{secrets[0]} is a secret and does not go into the queue, where it could be read: give it to the workers."
        )
    arguments = _pairs(options.spargs, "-a")
    jobs = [{"spider": name, "arguments": arguments, "settings": settings} for name in spiders]
    found = enqueue(context.settings, jobs, options.queue)
    lines = [f"job {each['job']}{'' if each['queued'] else ' waits already'}: {name_of(each)}" for each in found]
    context.console.result({"jobs": found}, lines)
    return DONE


def _pairs(given: Iterable[str], option: str) -> dict[str, str]:
    found = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z]\w*", name):
            raise ConfigurationError(f"{option} {cleaned(each)} can't be read; write NAME=VALUE.")
        found[name] = value
    return found


FUNCTIONS = {"crawl": (_crawl_arguments, _crawl), "backfill": (_arguments, _backfill)}
