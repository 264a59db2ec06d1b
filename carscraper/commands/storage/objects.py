"""``get`` (with ``--into`` see ``fetch.py``), ``put``, ``presign``, ``url``: one object at a time.

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

from carscraper.command import Verb
from carscraper.commands.storage import fetch
from carscraper.commands.storage.common import ledger_hashes, new_key, object_key
from carscraper.console import duration, human_bytes, in_words, size
from carscraper.exceptions import ConfigurationError, ImageRejectedError, StoreRefusedError
from carscraper.logs import printable
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from carscraper.command import Context
    from carscraper.console import Console

_UNKNOWN = "application/octet-stream"


def _key_argument(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    words = "the object's whole name in the bucket"
    parser.add_argument("key", metavar="KEY", nargs=nargs, type=object_key, help=words)


def _in_ledger(context: Context, key: str) -> set[str]:
    """Return the SHA-256 that the ledger has for *key*; nothing if there is no ledger."""
    with ledger_hashes(context) as hashes:
        return hashes([key]).get(key, set())


# --- get --------------------------------------------------------------------------------------------------------


def _get_arguments(parser: argparse.ArgumentParser) -> None:
    _key_argument(parser, "?")
    fetch.add_arguments(parser)
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write there, - for stdout; by default stdout, or the key's file name here if stdout is a terminal",
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.add_argument("--no-ledger", action="store_true", help="do not compare the bytes with the ledger")


def _get(context: Context, arguments: argparse.Namespace) -> int:
    from carscraper.storage import objects
    from carscraper.storage.client import contradicts
    from carscraper.storage.folder import write_atomically

    if fetch.asked_for(arguments):
        return fetch.run(context, arguments)
    options, console, key = context.options, context.console, arguments.key
    path = _target(arguments, console)
    expected = set() if arguments.no_ledger else _in_ledger(context, key)
    found = objects.get(context.client, options.bucket, key)
    shown = printable(key)
    if found is None or found.data is None:
        hint = "`scrapy storage list` shows what it has"
        if options.prefix and not key.startswith(options.prefix):
            hint = f"a KEY is the whole name, with S3_PREFIX={printable(options.prefix)} where it has it"
        raise StoreRefusedError(f"The bucket {options.bucket} has no {shown}; {hint}.")
    if expected and found.sha256 not in expected:
        raise StoreRefusedError(
            f"{shown} does not hold what the ledger says (SHA-256 {str(found.sha256)[:12]}…, not "
            f"{'… or '.join(sorted(each[:12] for each in expected))}…): nothing was written. "
            "`scrapy storage audit` tells more; --no-ledger gives the bytes all the same."
        )
    if not expected and contradicts(found.etag, found.sse, found.data):
        if not objects.same_again(context.client, options.bucket, key, found):
            raise StoreRefusedError(
                f"The bytes of {shown} do not fit the server's checksum of them, and came otherwise the second time: "
                "nothing was written, try again."
            )
        console.note(f"The ETag of {shown} is not the MD5 of its bytes; read twice, they are the same.")
    if path is None:
        binary: Any = console.out
        binary.flush()
        binary.buffer.write(found.data)
        binary.flush()
        return ExitCode.SUCCESS
    try:
        write_atomically(path, found.data)
    except OSError as error:
        raise ConfigurationError(f"{printable(str(path))} can't be written ({error.strerror}).") from error
    how = ", SHA-256 as in the ledger" if expected else ""
    data = {"key": key, "file": str(path), "bytes": found.size, "content_type": found.content_type}
    kind = printable(found.content_type) or "no type"
    console.result(
        data | {"sha256": found.sha256, "in_ledger": bool(expected)},
        f"{shown} → {printable(str(path))} ({human_bytes(found.size)}, {kind}{how})",
    )
    return ExitCode.SUCCESS


def _target(arguments: argparse.Namespace, console: Console) -> Path | None:
    """Return where the bytes go; ``None``: stdout.

    Raises:
        ConfigurationError: nothing can or may be written there.
    """
    if arguments.output == "-":
        if console.as_json:
            raise ConfigurationError("--json and the bytes can't both go to stdout: name a file with --output.")
        return None
    if arguments.output is None and not console.as_json and not console.out.isatty():
        return None
    name = arguments.key.rsplit("/", 1)[-1]
    path = Path(arguments.output or name)
    if path.is_dir() and name in {"", ".", ".."}:
        raise ConfigurationError(f"{printable(arguments.key)} has no file name: say --output FILE.")
    if arguments.output and path.is_dir():
        path /= name
    shown = printable(str(path))
    if path.is_symlink() or path.exists():
        if not path.is_file():
            raise ConfigurationError(f"{shown} is there and no plain file: choose another with --output.")
        if not arguments.force:
            raise ConfigurationError(
                f"{shown} is there already: say --force to replace it, or choose another by --output."
            )
    return path


# --- put --------------------------------------------------------------------------------------------------------


def _put_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a photo on this machine")
    _key_argument(parser)
    parser.add_argument("--force", action="store_true", help="replace the object if it is there")
    parser.add_argument("--any", action="store_true", help="also put what is no photo, its type guessed by FILE's name")


def _put(context: Context, arguments: argparse.Namespace) -> int:
    from carscraper.storage import objects
    from carscraper.storage.keys import Upload, permanent_url

    options, console, key, shown = context.options, context.console, arguments.key, printable(arguments.key)
    new_key(key)
    data = _read(arguments.file)
    content_type, cache_control = _kind(context, arguments.file, data, anything=arguments.any)
    caches = "A CDN, and whoever has seen it, may go on showing the old one"
    is_there = _is_there(context, key, force=arguments.force)
    if is_there and not arguments.force:
        raise ConfigurationError(
            f"{shown} is there already: say --force to replace it. {caches}: `scrapy storage invalidate`."
        )
    url, digest = permanent_url(key, options.base), hashlib.sha256(data).hexdigest()
    if not arguments.dry_run:
        upload = Upload(name=key, data=data, content_type=content_type)
        objects.put(context.client, options, upload, replace=arguments.force, cache_control=cache_control)
    said = {"key": key, "url": url, "bytes": len(data), "content_type": content_type, "sha256": digest}
    would = f"would put {printable(str(arguments.file))} ({human_bytes(len(data))}, {content_type})"
    console.result(
        said | {"replaced": is_there, "dry_run": arguments.dry_run}, [would, url] if arguments.dry_run else url
    )
    if is_there:
        console.note(f"{caches}: `scrapy storage invalidate {shlex.quote(shown)}`.")
        known = _in_ledger(context, key)
        if known and digest not in known:
            console.note("The ledger has another checksum for this key: `scrapy storage audit --deep` will show it.")
    if options.prefix and not key.startswith(options.prefix):
        console.note(f"The key is outside S3_PREFIX={printable(options.prefix)}, where crawls put their photos.")
    return ExitCode.SUCCESS


def _read(path: Path) -> bytes:
    from carscraper.storage import objects

    shown = printable(str(path))
    try:
        if path.stat().st_size > objects.MAX_BYTES:
            raise ConfigurationError(
                f"{shown} has more than {human_bytes(objects.MAX_BYTES)}: send it with `presign --put`."
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{shown} can't be read ({getattr(error, 'strerror', error)}).") from error


def _kind(context: Context, path: Path, data: bytes, *, anything: bool) -> tuple[str, str | None]:
    """Return the type of the bytes and their ``Cache-Control``, which photos have."""
    from carscraper.images.inspection import inspect, limits_of
    from carscraper.images.metadata import strip_metadata
    from carscraper.storage.keys import IMMUTABLE

    settings, shown = context.settings, printable(str(path))
    limits = limits_of(settings) | {"min_width": 1, "min_height": 1}
    try:
        photo = inspect(data, **limits)
    except ImageRejectedError as error:
        if not anything:
            raise ConfigurationError(
                f"{shown} is no photo a crawl would keep ({error}): say --any to put it all the same."
            ) from error
        return _guessed(path.name), None
    if settings.getbool("IMAGES_STRIP_METADATA") and strip_metadata(data, photo.format, photo.parts) is not data:
        context.console.note(
            f"{shown} carries metadata, such as a position or a name, that a crawl would have cut out; "
            "put stores bytes as they are."
        )
    return photo.content_type, IMMUTABLE


def _guessed(name: str) -> str:
    known = mimetypes.MimeTypes()  # not what this machine adds: the same file has the same type everywhere
    known.add_type("image/avif", ".avif")
    known.add_type("image/webp", ".webp")
    return known.guess_type(name, strict=False)[0] or _UNKNOWN


def _is_there(context: Context, key: str, *, force: bool) -> bool:
    from carscraper.storage import objects

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


def _expiry(text: str) -> timedelta:
    from carscraper.storage import objects

    length = duration(text)
    if length > objects.MAX_EXPIRES:
        most = in_words(objects.MAX_EXPIRES)
        raise argparse.ArgumentTypeError(f"an address can be signed for {most} at most, not for {text}")
    return length


def _content_type(text: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9!#$&^_.+-]+/[a-zA-Z0-9!#$&^_.+-]+(; ?[a-z]+=[a-zA-Z0-9-]+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no content type; write one such as image/jpeg")
    return text


def _presign_arguments(parser: argparse.ArgumentParser) -> None:
    _key_argument(parser)
    parser.add_argument(
        "--expires",
        metavar="TIME",
        type=_expiry,
        default=timedelta(hours=1),
        help="such as 15m, 1h (default), 7d (most)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--put", action="store_true", help="for writing the object instead of reading it")
    how.add_argument("--post", action="store_true", help="for writing it by the form of a browser, with a largest size")
    parser.add_argument(
        "--content-type",
        metavar="TYPE",
        type=_content_type,
        help="with --put or --post: what the writer must say; by default guessed by KEY's ending",
    )
    parser.add_argument("--max-bytes", metavar="N", type=size, help="with --post: such as 5MB (IMAGES_MAX_BYTES)")


def _presign(context: Context, arguments: argparse.Namespace) -> int:
    from carscraper.storage import objects

    console, key = context.console, arguments.key
    if arguments.max_bytes and not arguments.post:
        raise ConfigurationError("--max-bytes belongs to --post: only a form has a limit that the server keeps.")
    if arguments.content_type and not (arguments.put or arguments.post):
        raise ConfigurationError("--content-type belongs to --put and --post: what is read has its type already.")
    if arguments.put or arguments.post:
        new_key(key)
    kind = arguments.content_type or _guessed(key)
    bucket, expires = context.options.bucket, arguments.expires
    data: dict[str, Any] = {"key": key, "expires_at": (datetime.now(UTC) + expires).isoformat(timespec="seconds")}
    if arguments.post:
        limit = int(arguments.max_bytes or context.settings.getint("IMAGES_MAX_BYTES"))
        url, fields = objects.presign_post(
            context.client, bucket, key, expires=expires, content_type=kind, max_bytes=limit
        )
        form = " ".join(f"--form-string {shlex.quote(f'{name}={value}')}" for name, value in fields.items())
        data |= {"method": "POST", "url": url, "fields": fields, "max_bytes": limit}
        console.result(data, [url, f"curl --fail {form} --form file=@FILE {shlex.quote(url)}"])
    else:
        put = arguments.put
        url = objects.presign(context.client, bucket, key, expires=expires, put=put, content_type=kind)
        curl = f"curl --fail --upload-file FILE --header 'Content-Type: {kind}' {shlex.quote(url)}"
        data |= {"method": "PUT" if put else "GET", "url": url, "headers": {"Content-Type": kind} if put else {}}
        console.result(data, [url, curl] if put else url)
    if "X-Amz-Security-Token=" in url or "x-amz-security-token" in data.get("fields", ()):
        console.note("Signed with credentials that end by themselves: the address ends with them, if that is sooner.")
    return ExitCode.SUCCESS


def _url(context: Context, arguments: argparse.Namespace) -> int:
    from carscraper.storage.keys import permanent_url

    url = permanent_url(arguments.key, context.options.base)
    context.console.result({"key": arguments.key, "url": url}, url)
    return ExitCode.SUCCESS


GET = Verb("get", "Read one object, or many into a folder, checked against the ledger", _get, _get_arguments)
PUT = Verb("put", "Put one file as one object; prints its permanent address", _put, _put_arguments, changes=True)
PRESIGN = Verb("presign", "Give an address that opens one object for a while", _presign, _presign_arguments)
URL = Verb("url", "Give the permanent address of a key, without asking anybody", _url, _key_argument)
