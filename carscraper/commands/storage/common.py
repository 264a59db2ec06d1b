"""What several verbs share: values that a person types, and lines of output."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carscraper.exceptions import ConfigurationError
from carscraper.logs import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from carscraper.command import Context

KIND_NAMES = {"photo": "photos", "thumbnail": "thumbnails", "output": "outputs", "other": "other objects"}
"""What the kinds of objects are called in tables."""

_LONGEST_KEY = 1024  # bytes of UTF-8


def typed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return *parse* for argparse's ``type=``, with its own sentence about a wrong value."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except ConfigurationError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def object_key(text: str) -> str:
    """Read a KEY; made for argparse's ``type=``."""
    if problem := problem_with_key(text):
        raise argparse.ArgumentTypeError(f"the key {text[:80]!r} {problem}")
    return text


def new_key(key: str) -> None:
    """Refuse a KEY that S3 takes but that addresses, lists or folders can't hold.

    Raises:
        ConfigurationError: with what is wrong with it.
    """
    if problem := problem_with_key(key, new=True):
        raise ConfigurationError(f"The key {key!r} {problem}: choose another.")


def problem_with_key(key: str, *, new: bool = False) -> str | None:
    """Return why *key* can be no object's name, or should be no *new* object's; ``None`` if it can.

    >>> problem_with_key("cars/þ + 100%.jpg", new=True), problem_with_key("a/../b.jpg", new=True)
    (None, "has a part '..', which browsers take out of an address")
    """
    try:
        length = len(key.encode("utf-8"))
    except UnicodeEncodeError:
        return "is not UTF-8"
    dots = {".", ".."} & set(key.split("/"))
    for is_wrong, words in (
        (not key, "is empty"),
        (length > _LONGEST_KEY, f"has {length} bytes; S3 takes {_LONGEST_KEY}"),
        ("\0" in key, "holds a NUL"),
        (new and dots, f"has a part {min(dots, default='')!r}, which browsers take out of an address"),
        (new and re.search(r"[\x00-\x1f\x7f]", key), "holds a control character"),
        (new and key.endswith("/"), "ends with a slash, which marks a folder"),
    ):
        if is_wrong:
            return words
    return None


def outputs_prefix(context: Context) -> str | None:
    """Return what the names of runs' outputs begin with, ``None`` if another bucket has them."""
    from carscraper.storage.keys import normalise_prefix

    settings = context.settings
    if settings.get("S3_OUTPUT_BUCKET") not in {None, context.options.bucket}:
        return None
    return normalise_prefix(settings.get("S3_OUTPUT_PREFIX"))


def kind_of(context: Context, name: str) -> str:
    """Return what the object *name* is, one of :data:`KIND_NAMES`."""
    from carscraper.storage import keys

    return keys.kind_of(name, context.options.prefix, outputs_prefix(context))


def car(text: str) -> tuple[str, str]:
    """Read SOURCE/ID; made for argparse's ``type=``."""
    source, _, external_id = text.partition("/")
    if not source or not external_id or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text[:80]!r} names no car; write SOURCE/ID, such as Bilasolur/296487")
    return source, external_id


def lines_of(context: Context, option: str, file: str) -> list[str]:
    """Return the lines of *file* (``-`` is stdin) that are not empty.

    Raises:
        ConfigurationError: it can't be read; the sentence names the *option*.
    """
    try:
        text = context.console.stdin.read() if file == "-" else Path(file).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ConfigurationError(f"{option} {file} can't be read ({said}).") from None
    return [line for line in text.split("\n") if line.strip()]


@contextlib.contextmanager
def ledger_hashes(context: Context) -> Iterator[Callable[[Iterable[str]], dict[str, set[str]]]]:
    """Return what looks up the SHA-256 of keys; it finds nothing if there is no ledger."""
    from carscraper.db.repairs import stored_hashes

    with contextlib.ExitStack() as stack:
        try:
            engine = stack.enter_context(context.database(read_only=True))
        except ConfigurationError as error:
            context.console.note(f"Not compared with the ledger: {error}")
            yield lambda _: {}
            return

        def look_up(keys: Iterable[str]) -> dict[str, set[str]]:
            with engine.connect() as connection:
                return stored_hashes(connection, context.options.store, keys)

        yield look_up


def result(context: Context, name: str, data: dict[str, Any], lines: Iterable[str]) -> None:
    """Print one more line of JSON, *data* under *name*, or *lines*."""
    if context.console.as_json:
        context.console.line(json.dumps({name: data}, ensure_ascii=False))
        return
    for line in lines:
        context.console.line(printable(line))
