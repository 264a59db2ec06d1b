"""``scrapy storage invalidate``: CloudFront drops objects that were changed or deleted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from carscraper.command import Verb
from carscraper.exceptions import ConfigurationError, StoreError
from carscraper.logs import printable
from carscraper.state import ExitCode

if TYPE_CHECKING:
    import argparse

    from carscraper.command import Context
    from carscraper.maintenance import cdn

_SHOWN = 20  # paths of a plan for people


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", metavar="PATH", help="a key, a permanent URL, or either with * at its end")
    parser.add_argument("--from-file", metavar="FILE", help="read more of them from FILE, one a line; - is stdin")


def _run(context: Context, options: argparse.Namespace) -> int:
    from carscraper.maintenance import cdn
    from carscraper.storage.client import open_client

    console = context.console
    distribution = context.settings.get("CLOUDFRONT_DISTRIBUTION_ID")
    if not distribution:
        raise ConfigurationError(
            "CLOUDFRONT_DISTRIBUTION_ID is missing: set it to the id of the distribution in front of the bucket."
        )
    paths = _paths(context, options)
    requests = len(cdn.batches(paths))
    data = {"distribution": distribution, "paths": paths}
    what = f"paths: {len(paths):,}, requests: {requests:,}"
    shown = [f"  {printable(path)}" for path in paths[:_SHOWN]]
    shown += [f"  … and {len(paths) - _SHOWN:,} more"] if len(paths) > _SHOWN else []
    if options.dry_run:
        head = f"The distribution {distribution} would be sent an invalidation ({what}):"
        console.result({**data, "dry_run": True}, [head, *shown])
        return ExitCode.SUCCESS
    if not console.assume_yes:
        console.note("\n".join(shown))
    if not console.confirm(f"Send the distribution {distribution} this invalidation ({what})?"):
        console.note("Nothing was done.")
        return ExitCode.SUCCESS
    made: list[cdn.Invalidation] = []
    problem = None
    try:
        client = open_client(context.options, "cloudfront")
        cdn.invalidate(client, distribution, paths, say=console.note, accepted=made.append)
    except StoreError as error:
        if not made:
            raise
        problem = str(error)
    entries = [{"id": each.id, "paths": len(each.paths)} for each in made]
    lines = [f"{each.id}: accepted; it takes CloudFront some minutes (paths: {len(each.paths):,})" for each in made]
    console.result({**data, "invalidations": entries, "problem": problem}, lines)
    if problem:
        console.note(f"{len(made)} of {requests} requests were accepted. {problem}")
    return ExitCode.PARTIAL if problem else ExitCode.SUCCESS


def _paths(context: Context, options: argparse.Namespace) -> list[str]:
    """Return CloudFront's paths for all that was asked for, each once."""
    from carscraper.maintenance import cdn
    from carscraper.storage.keys import published_bases

    given = list(options.paths)
    try:
        if options.from_file == "-":
            given += context.console.stdin.read().split("\n")
        elif options.from_file is not None:
            given += Path(options.from_file).read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ConfigurationError(f"--from-file {options.from_file} can't be read ({said}).") from None
    given = [text for text in given if text.strip()]
    if not given:
        raise ConfigurationError("There is no PATH: write keys, permanent URLs, or --from-file FILE.")
    its = context.options
    bases = published_bases(bucket=its.bucket, endpoint=its.endpoint, public_url=its.public_url)
    return list(dict.fromkeys(path for text in given for path in cdn.requested_paths(text, bases, its.public_url)))


VERB = Verb(
    "invalidate", "Have CloudFront drop changed or deleted objects from its caches", _run, _arguments, changes=True
)
