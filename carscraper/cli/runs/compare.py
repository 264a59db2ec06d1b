"""``scrapy runs compare``: two runs side by side."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from carscraper.cli.console import table
from carscraper.cli.runs.common import find, open_runs
from carscraper.cli.runs.words import in_words
from carscraper.cli.verb import DONE

if TYPE_CHECKING:
    from carscraper.cli.verb import Context
    from carscraper.runs.record import RunRecord

_WIDTH = 48  # characters of a value; `scrapy runs show` has all of them


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="the id of one run, its job's, or latest")
    parser.add_argument("b", metavar="B", help="the id of the other")


def _compare(context: Context, options: argparse.Namespace) -> int:
    with open_runs(context) as connection:
        a, b = find(connection, options.a), find(connection, options.b)
    words, others = in_words(a), in_words(b)
    names = [*words, *(name for name in others if name not in words)]
    rows = [
        [name, _short(words.get(name, "-")), _short(others.get(name, "-")), _difference(name, a, b, words, others)]
        for name in names
    ]
    one, other = a.as_json(), b.as_json()
    differences = {name: [value, other[name]] for name, value in one.items() if value != other[name]}
    data = {"a": one, "b": other, "differences": differences}
    context.console.result(data, table(("", f"run {a.id}", f"run {b.id}", "difference"), rows))
    return DONE


def _difference(name: str, a: RunRecord, b: RunRecord, words: dict[str, str], others: dict[str, str]) -> str:
    one, other = _number(a, name), _number(b, name)
    if one is not None and other is not None and name not in {"id", "pid", "exit_code"}:
        return "" if one == other else f"{other - one:+.4g}" if isinstance(one, float) else f"{other - one:+d}"
    return "" if words.get(name, "-") == others.get(name, "-") else "differs"


def _number(record: RunRecord, name: str) -> Any:
    """Give the number that is called *name* in the table, if it is one."""
    part, _, key = name.partition(".")
    value = getattr(record, part, None)
    if part == "images_failed":
        value = value.get(key, 0) if isinstance(value, dict) else 0
    elif key:
        return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _short(text: str) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


FUNCTIONS = {"compare": (_arguments, _compare)}
