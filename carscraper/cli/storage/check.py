"""``check``: the connection test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from carscraper.cli.console import printable
from carscraper.cli.verb import DONE, FAILED
from carscraper.storage.probe import probe

if TYPE_CHECKING:
    import argparse

    from carscraper.cli.verb import Context
    from carscraper.storage.probe import Step

_MARKS = {True: "✓", False: "✗", None: "–"}
_WIDTH = len("presigned address")


def _arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--public", dest="public", action="store_true", default=None, help="photos shall be readable by anybody"
    )
    which.add_argument(
        "--private",
        dest="public",
        action="store_false",
        help="nobody shall read photos without credentials; without either word it is public if IMAGES_PUBLIC_URL is "
        "set or the bucket's policy lets everybody read",
    )


def _check(context: Context, arguments: argparse.Namespace) -> int:
    options, console = context.options, context.console
    if not context.settings.getbool("USE_S3_STORAGE"):
        console.note("USE_S3_STORAGE is off: crawls keep photos elsewhere.")
    steps = []
    for step in probe(options, public=arguments.public):
        steps.append(step)
        if not console.as_json:
            console.line(_line(step))
    good = all(step.ok is not False for step in steps)
    if console.as_json:
        data = [
            {"name": step.name, "ok": step.ok, "detail": step.detail, "cause": step.cause, "cure": step.cure}
            for step in steps
        ]
        console.result({"ok": good, "bucket": options.bucket, "endpoint": options.endpoint, "steps": data}, "")
    return DONE if good else FAILED


def _line(step: Step) -> str:
    said = f"{step.cause} → {step.cure}" if step.cure else step.cause or step.detail
    return f"{_MARKS[step.ok]} {step.name:{_WIDTH}}  {printable(said)}"


FUNCTIONS = {"check": (_arguments, _check)}
