"""``scrapy enqueue VERB``: crawls for the workers."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from scrapy.utils.conf import arglist_to_dict

from carscraper.command import Verb, VerbCommand, add_spider_arguments
from carscraper.exceptions import ConfigurationError
from carscraper.settings import Secret
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from carscraper.command import Context


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_spider_arguments(parser, help="an argument of the spider")
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
    from carscraper.queue import enqueue, name_of

    if options.shards is not None:
        raise ConfigurationError(
            "A backfill has no shards any more: leave --shards out. One process a dealer is what politeness allows; "
            "-a sources=hekla,br is a part of it."
        )
    settings = arglist_to_dict(options.set)
    secrets = [name for name in settings if isinstance(context.settings.get(name), Secret)]
    if secrets:
        raise ConfigurationError(
            f"{secrets[0]} is a secret and does not go into the queue, where it could be read: give it to the workers."
        )
    jobs = [{"spider": name, "arguments": dict(options.spargs), "settings": settings} for name in spiders]
    found = enqueue(context.settings, jobs, options.queue)
    lines = [f"job {each['job']}{'' if each['queued'] else ' waits already'}: {name_of(each)}" for each in found]
    context.console.result({"jobs": found}, lines)
    return ExitCode.SUCCESS


class Command(VerbCommand):
    """Puts crawls into the queue."""

    summary = "Put crawls into the queue for the workers"
    verbs = (
        Verb("crawl", "Put crawls into the queue", _crawl, _crawl_arguments),
        Verb("backfill", "Put a backfill into the queue", _backfill, _arguments),
    )
