"""``scrapy storage invalidate``: CloudFront forgets objects that were changed or deleted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from carscraper.cli.console import printable
from carscraper.cli.verb import DONE, PARTIAL
from carscraper.exceptions import ConfigurationError, StoreError
from carscraper.storage import cdn
from carscraper.storage.client import open_client
from carscraper.storage.keys import published_bases

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from carscraper.cli.verb import Context

_SHOWN = 20  # paths of a plan for people
_FREE = 1_000  # paths a month


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", metavar="PATH", help="a key, a permanent URL, or either with * at its end")
    parser.add_argument("--from-file", metavar="FILE", help="read more of them from FILE, one a line; - is stdin")
    parser.add_argument("--wait", action="store_true", help="wait until CloudFront is done")


def _invalidate(context: Context, options: argparse.Namespace) -> int:
    console = context.console
    distribution = context.settings.get("CLOUDFRONT_DISTRIBUTION_ID")
    if not distribution:
        raise ConfigurationError(
            "CLOUDFRONT_DISTRIBUTION_ID is missing: set it to the id of the distribution in front of the bucket."
        )
    paths = _wanted(context, options)
    requests = cdn.batches(paths)
    what = f"{_paths(len(paths))} of the distribution {distribution}"
    plan = f"CloudFront would forget {what} ({_requests(len(requests))})"
    data = {"distribution": distribution, "paths": paths}
    if options.dry_run:
        console.result({**data, "dry_run": True}, [f"{plan}:", *_some(paths)])
        return DONE
    if not console.assume_yes:
        for line in _some(paths):
            console.note(line)
    if len(paths) > _FREE:
        console.note(f"The first {_FREE:,} paths a month are free for an account; each one more costs.")
    if not console.confirm(f"Have CloudFront forget {what}?"):
        console.note("Nothing was done.")
        return DONE
    client = open_client(context.options, "cloudfront")
    made: list[cdn.Invalidation] = []
    problem = None
    try:
        for each in cdn.invalidations(client, distribution, paths, say=console.note):
            made.append(each)
            console.progress(f"{len(made)} of {_requests(len(requests))}")
        if options.wait:
            cdn.wait(client, distribution, made, say=console.progress)
    except StoreError as error:
        if not made:
            raise
        problem = str(error)
    console.end_progress()
    state = "done" if options.wait and not problem else "taken; it takes CloudFront some minutes"
    lines = [f"{each.id}: {_paths(len(each.paths))} {state}" for each in made]
    entries = [{"id": each.id, "paths": len(each.paths)} for each in made]
    console.result({**data, "invalidations": entries, "problem": problem}, lines)
    if problem:
        console.note(f"{len(made)} of {_requests(len(requests))} were taken. {problem}")
        return PARTIAL
    return DONE


def _wanted(context: Context, options: argparse.Namespace) -> list[str]:
    """Give CloudFront's paths for all that was asked for, each once."""
    given = [*options.paths, *(_read(context, options.from_file) if options.from_file is not None else ())]
    if not given:
        raise ConfigurationError("There is no PATH: write keys, permanent URLs, or --from-file FILE.")
    settings = context.options
    bases = published_bases(bucket=settings.bucket, endpoint=settings.endpoint, public_url=settings.public_url)
    found: dict[str, None] = {}
    for text in given:
        found |= dict.fromkeys(cdn.requested_paths(text, bases, settings.public_url))
    return list(found)


def _read(context: Context, name: str) -> Iterable[str]:
    try:
        text = context.console.stdin.read() if name == "-" else Path(name).read_text("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"--from-file {name} can't be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"--from-file {name} is no text in UTF-8.") from None
    return [line for line in text.split("\n") if line.strip()]


def _some(paths: list[str]) -> list[str]:
    rest = len(paths) - _SHOWN
    return [*(f"  {printable(path)}" for path in paths[:_SHOWN]), *([f"  … and {rest:,} more"] if rest > 0 else [])]


def _paths(number: int) -> str:
    return "1 path" if number == 1 else f"{number:,} paths"


def _requests(number: int) -> str:
    return "1 request" if number == 1 else f"{number:,} requests"


FUNCTIONS = {"invalidate": (_arguments, _invalidate)}
