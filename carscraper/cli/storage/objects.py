"""``get``, ``put``, ``presign``, ``url``: one object at a time.

A KEY is the object's whole name in the bucket, ``S3_PREFIX`` included: as ``list`` shows it and as the ledger has it.
"""

from __future__ import annotations

import argparse
import hashlib
import mimetypes
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carscraper.cli.console import human_bytes, printable
from carscraper.cli.durations import duration, in_words
from carscraper.cli.verb import DONE
from carscraper.db.repairs import stored_hashes
from carscraper.exceptions import ConfigurationError, ImageRejectedError, StoreRefusedError
from carscraper.images.inspection import inspect
from carscraper.images.metadata import strip_metadata
from carscraper.storage import objects
from carscraper.storage.encryption import contradicts
from carscraper.storage.folder import write_atomically
from carscraper.storage.keys import permanent_url
from carscraper.storage.upload import IMMUTABLE, Upload

if TYPE_CHECKING:
    from carscraper.cli.console import Console
    from carscraper.cli.verb import Context
    from carscraper.storage.client import S3Options

_UNKNOWN = "application/octet-stream"


def object_key(text: str) -> str:
    """Read a KEY; made for argparse's ``type=``.

    Raises:
        argparse.ArgumentTypeError: no object can have this name.
    """
    problem = objects.problem_with_key(text)
    if problem:
        raise argparse.ArgumentTypeError(f"the key {text[:80]!r} {problem}")
    return text


def _expiry(text: str) -> timedelta:
    length = duration(text)
    if length > objects.MAX_EXPIRES:
        raise argparse.ArgumentTypeError(
            f"an address can be signed for {in_words(objects.MAX_EXPIRES)} at most, not for {text}"
        )
    return length


def _content_type(text: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9!#$&^_.+-]+/[a-zA-Z0-9!#$&^_.+-]+(; ?[a-z]+=[a-zA-Z0-9-]+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no content type; write one such as image/jpeg")
    return text


def _key_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", type=object_key, help="the object's whole name in the bucket")


# --- get --------------------------------------------------------------------------------------------------------


def _get_arguments(parser: argparse.ArgumentParser) -> None:
    _key_argument(parser)
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write there, - for stdout; by default stdout, or the key's file name here if stdout is a terminal",
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there")
    parser.add_argument("--no-ledger", action="store_true", help="do not compare the bytes with the ledger")


def _get(context: Context, arguments: argparse.Namespace) -> int:
    options, console, key = context.options, context.console, arguments.key
    path = _target(arguments, console)
    if path is not None:
        _see_that_it_is_free(path, force=arguments.force)
    expected = set() if arguments.no_ledger else _in_ledger(context, key)
    found = objects.get(context.client, options.bucket, key)
    if found is None:
        raise StoreRefusedError(_nothing_there(options, key))
    head, data = found
    digest = hashlib.sha256(data).hexdigest()
    if expected and digest not in expected:
        raise StoreRefusedError(
            f"{printable(key)} does not hold what the ledger says (SHA-256 {digest[:12]}…, not "
            f"{'… or '.join(sorted(each[:12] for each in expected))}…): nothing was written. "
            "`scrapy storage audit` tells more; --no-ledger gives the bytes all the same."
        )
    if not expected and contradicts(head.etag, head.sse, data):
        raise StoreRefusedError(
            f"The bytes of {printable(key)} do not fit the server's checksum of them: nothing was written, try again."
        )
    if path is None:
        binary: Any = console.out
        binary.flush()
        binary.buffer.write(data)
        binary.flush()
        return DONE
    _write(path, data)
    how = ", SHA-256 as in the ledger" if expected else ""
    console.result(
        {
            "key": key,
            "file": str(path),
            "bytes": len(data),
            "content_type": head.content_type,
            "sha256": digest,
            "in_ledger": bool(expected),
        },
        f"{printable(key)} → {printable(str(path))} "
        f"({human_bytes(len(data))}, {printable(head.content_type) or 'no type'}{how})",
    )
    return DONE


def _target(arguments: argparse.Namespace, console: Console) -> Path | None:
    """Return where the bytes go; ``None``: stdout."""
    if arguments.output == "-":
        if console.as_json:
            raise ConfigurationError("--json and the bytes can't both go to stdout: name a file with --output.")
        return None
    if arguments.output is None and not console.as_json and not console.out.isatty():
        return None
    name = arguments.key.rsplit("/", 1)[-1]
    path = Path(arguments.output) if arguments.output else Path(name)
    if path.is_dir() and (arguments.output or name in {"", ".", ".."}):
        path /= name
    if name in {"", ".", ".."} and path.is_dir():
        raise ConfigurationError(f"{printable(arguments.key)} has no file name: say --output FILE.")
    return path


def _see_that_it_is_free(path: Path, *, force: bool) -> None:
    shown = printable(str(path))
    if not (path.is_symlink() or path.exists()):
        return
    if not path.is_file():
        raise ConfigurationError(f"{shown} is there and no plain file: choose another with --output.")
    if not force:
        raise ConfigurationError(f"{shown} is there already: say --force to replace it, or choose another by --output.")


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        raise ConfigurationError(f"{printable(str(path))} can't be written ({error.strerror}).") from error


def _in_ledger(context: Context, key: str) -> set[str]:
    """Return the SHA-256 that the ledger has for *key*; nothing if there is no ledger."""
    try:
        with context.database(read_only=True) as engine, engine.connect() as connection:
            return stored_hashes(connection, f"s3://{context.options.bucket}", key)
    except ConfigurationError as error:
        context.console.note(f"Not compared with the ledger: {error}")
        return set()


def _nothing_there(options: S3Options, key: str) -> str:
    said = f"The bucket {options.bucket} has no {printable(key)}"
    if options.prefix and not key.startswith(options.prefix):
        return f"{said}; a KEY is the whole name, with S3_PREFIX={printable(options.prefix)} where it has it."
    return f"{said}; `scrapy storage list` shows what it has."


# --- put --------------------------------------------------------------------------------------------------------


def _put_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a photo on this machine")
    _key_argument(parser)
    parser.add_argument("--force", action="store_true", help="replace the object if it is there")
    parser.add_argument("--any", action="store_true", help="also put what is no photo, its type guessed by FILE's name")


def _put(context: Context, arguments: argparse.Namespace) -> int:
    options, console, key = context.options, context.console, arguments.key
    problem = objects.problem_with_key(key, new=True)
    if problem:
        raise ConfigurationError(f"The key {key!r} {problem}: choose another.")
    data = _read(arguments.file)
    content_type, is_photo = _kind(context, arguments.file, data, anything=arguments.any)
    is_there = _is_there(context, key, force=arguments.force)
    if is_there and not arguments.force:
        raise ConfigurationError(
            f"{printable(key)} is there already: say --force to replace it. A CDN, and whoever has seen it, may go on "
            "showing the old one: `scrapy storage invalidate`."
        )
    url = permanent_url(key, options.base)
    if not arguments.dry_run:
        objects.put(
            context.client,
            options,
            Upload(name=key, data=data, content_type=content_type),
            replace=arguments.force,
            cache_control=IMMUTABLE if is_photo else None,
        )
    digest = hashlib.sha256(data).hexdigest()
    would = "would put" if arguments.dry_run else "put"
    console.result(
        {
            "key": key,
            "url": url,
            "bytes": len(data),
            "content_type": content_type,
            "sha256": digest,
            "replaced": is_there,
            "dry_run": arguments.dry_run,
        },
        [f"{would} {printable(str(arguments.file))} ({human_bytes(len(data))}, {content_type})", url]
        if arguments.dry_run
        else url,
    )
    if is_there:
        console.note(
            "A CDN, and whoever has seen it, may go on showing the old one: "
            f"`scrapy storage invalidate {shlex.quote(printable(key))}`."
        )
        known = _in_ledger(context, key)
        if known and digest not in known:
            console.note("The ledger has another checksum for this key: `scrapy storage audit --deep` will show it.")
    if options.prefix and not key.startswith(options.prefix):
        console.note(f"The key is outside S3_PREFIX={printable(options.prefix)}, where crawls put their photos.")
    return DONE


def _read(path: Path) -> bytes:
    shown = printable(str(path))
    try:
        if path.stat().st_size > objects.MAX_BYTES:
            raise ConfigurationError(
                f"{shown} has more than {human_bytes(objects.MAX_BYTES)}: send it with `presign --put`."
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{shown} can't be read ({getattr(error, 'strerror', error)}).") from error


def _kind(context: Context, path: Path, data: bytes, *, anything: bool) -> tuple[str, bool]:
    """Return the type of the bytes, and whether they are a photo."""
    settings = context.settings
    try:
        photo = inspect(
            data,
            min_width=1,
            min_height=1,
            max_pixels=settings.getint("IMAGES_MAX_PIXELS"),
            max_bytes=settings.getint("IMAGES_MAX_BYTES"),
        )
    except ImageRejectedError as error:
        if not anything:
            raise ConfigurationError(
                f"{printable(str(path))} is no photo a crawl would keep ({error}): say --any to put it all the same."
            ) from error
        return _guessed(path.name) or _UNKNOWN, False
    if settings.getbool("IMAGES_STRIP_METADATA") and strip_metadata(data, photo.format) is not data:
        context.console.note(
            f"{printable(str(path))} carries metadata, such as a position or a name, that a crawl would have cut out; "
            "put stores bytes as they are."
        )
    return photo.content_type, True


def _guessed(name: str) -> str | None:
    known = mimetypes.MimeTypes()  # not what this machine adds: the same file has the same type everywhere
    known.add_type("image/avif", ".avif")
    known.add_type("image/webp", ".webp")
    return known.guess_type(name, strict=False)[0]


def _is_there(context: Context, key: str, *, force: bool) -> bool:
    try:
        return objects.head(context.client, context.options.bucket, key) is not None
    except StoreRefusedError as error:
        if not objects.is_denied(error):
            raise
        if force:
            return True  # it may be: then what is said about a replaced one is right
        raise StoreRefusedError(
            f"Whether {printable(key)} is there already can't be seen: {error} --force puts it without a look."
        ) from error


# --- presign and url --------------------------------------------------------------------------------------------


def _presign_arguments(parser: argparse.ArgumentParser) -> None:
    _key_argument(parser)
    parser.add_argument(
        "--expires",
        metavar="TIME",
        type=_expiry,
        default=timedelta(hours=1),
        help="such as 15m, 1h (default), 7d (most)",
    )
    parser.add_argument("--put", action="store_true", help="for writing the object instead of reading it")
    parser.add_argument(
        "--content-type",
        metavar="TYPE",
        type=_content_type,
        help="with --put: what the writer must say; by default guessed by KEY's ending",
    )


def _presign(context: Context, arguments: argparse.Namespace) -> int:
    options, console, key = context.options, context.console, arguments.key
    if arguments.content_type and not arguments.put:
        raise ConfigurationError("--content-type belongs to --put: what is read has its type already.")
    problem = objects.problem_with_key(key, new=arguments.put)
    if problem:
        raise ConfigurationError(f"The key {key!r} {problem}: choose another.")
    content_type = (arguments.content_type or _guessed(key) or _UNKNOWN) if arguments.put else None
    url = objects.presign(
        context.client, options.bucket, key, expires=arguments.expires, put=arguments.put, content_type=content_type
    )
    headers = {"Content-Type": content_type} if content_type else {}
    lines = [url]
    if arguments.put:
        lines.append(f"curl --fail --upload-file FILE --header 'Content-Type: {content_type}' {shlex.quote(url)}")
    console.result(
        {
            "key": key,
            "method": "PUT" if arguments.put else "GET",
            "url": url,
            "headers": headers,
            "expires_at": (datetime.now(UTC) + arguments.expires).isoformat(timespec="seconds"),
        },
        lines,
    )
    if "X-Amz-Security-Token=" in url:
        console.note("Signed with credentials that end by themselves: the address ends with them, if that is sooner.")
    return DONE


def _url(context: Context, arguments: argparse.Namespace) -> int:
    url = permanent_url(arguments.key, context.options.base)
    context.console.result({"key": arguments.key, "url": url}, url)
    return DONE


FUNCTIONS = {
    "get": (_get_arguments, _get),
    "put": (_put_arguments, _put),
    "presign": (_presign_arguments, _presign),
    "url": (_key_argument, _url),
}
