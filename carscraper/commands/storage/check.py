"""``scrapy storage check``: the connection test."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from carscraper.command import Verb
from carscraper.logs import printable
from carscraper.state import ExitCode

if TYPE_CHECKING:
    import argparse

    from carscraper.command import Context

_MARKS = {True: "✓", False: "✗", None: "–"}


def _arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--public", dest="public", action="store_true", default=None, help="photos should be readable by anybody"
    )
    which.add_argument(
        "--private",
        dest="public",
        action="store_false",
        help="nobody should read photos without credentials; without either word it is public if IMAGES_PUBLIC_URL is "
        "set or the bucket's policy lets everybody read",
    )


def _run(context: Context, arguments: argparse.Namespace) -> int:
    from carscraper.maintenance.check import check

    options, console = context.options, context.console
    if not context.settings.getbool("USE_S3_STORAGE"):
        console.note("USE_S3_STORAGE is off: crawls keep photos elsewhere.")
    steps = []
    for step in check(options, public=arguments.public):
        steps.append(step)
        if not console.as_json:
            said = f"{step.detail} → {step.fix}" if step.fix else step.detail
            console.line(f"{_MARKS[step.ok]} {step.name:17}  {printable(said)}")
    good = all(step.ok is not False for step in steps)
    if console.as_json:
        where = {"bucket": options.bucket, "endpoint": options.endpoint}
        console.result({"ok": good, **where, "steps": [asdict(step) for step in steps]}, "")
    return ExitCode.SUCCESS if good else ExitCode.FAILED


VERB = Verb(
    "check", "Test the connection: credentials, bucket, objects, addresses; each failure with its fix", _run, _arguments
)
