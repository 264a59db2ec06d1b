"""What the value of a setting may be: how it is read, and the words that say what to write instead of a wrong one."""

from __future__ import annotations

import json
import logging
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from carscraper.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable


class _WrongError(ValueError):
    """What is wrong with a value and what to write, as the rest of a sentence that begins with the setting's name."""


@dataclass(frozen=True)
class Kind:
    """A kind of value."""

    words: str
    """What to write: the sentence "NAME is 'x'; write …." ends with it, and ``docs/settings.md`` has it."""
    parse: Callable[[Any], Any]
    """Return the typed value or raise ``ValueError`` (or its kin)."""
    optional: bool = False
    """Nothing is a value too, and read as ``None``."""
    wrong: str = ""
    """Said in place of the value, which may be a secret."""

    def read(self, name: str, value: Any) -> Any:
        """Return the typed value.

        Raises:
            ConfigurationError: it is none; the sentence names the setting and what to write.
        """
        if self.optional and (value is None or value == ""):
            return None
        try:
            return self.parse(value)
        except _WrongError as error:
            raise ConfigurationError(f"{name} {error}.") from None
        except (ValueError, TypeError, KeyError, OverflowError):
            raise ConfigurationError(f"{name} {self.wrong or f'is {value!r}'}; write {self.words}.") from None


def _require(good: object) -> None:
    if not good:
        raise ValueError


def whole(low: int) -> Kind:
    """Return the kind of whole numbers that are at least *low*."""

    def parse(value: Any) -> int:
        _require(int(value) >= low)
        return int(value)

    return Kind(f"a whole number of at least {low}", parse)


def number(low: float, *, optional: bool = False) -> Kind:
    """Return the kind of numbers that are at least *low*."""

    def parse(value: Any) -> float:
        _require(low <= float(value) < float("inf"))
        return float(value)

    return Kind(f"a number of at least {low:g}", parse, optional=optional)


def matching(pattern: str, words: str, *, optional: bool = False) -> Kind:
    """Return the kind of text that *pattern* matches as a whole; not optional, nothing is read as empty text."""

    def parse(value: Any) -> str:
        text = str("" if value is None else value)
        _require(re.fullmatch(pattern, text))
        return text

    return Kind(words, parse, optional=optional)


def _boolean(value: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    return words[str(value).strip().lower()]


def _share(value: Any) -> float:
    _require(0 <= float(value) <= 1)
    return float(value)


def _placeholder_cars(value: Any) -> int:
    if int(value) == 1:
        raise _WrongError("is 1, which makes every photo a placeholder; write 0 (off), 2 or more")
    _require(int(value) >= 0)
    return int(value)


def _depth_limit(value: Any) -> int:
    if str(value) != "0":
        raise _WrongError(f"is {value!r}, which drops result pages without a word; write 0, and use -a max_pages=N")
    return 0


def _json_object(value: Any) -> dict[str, Any]:
    if not value:
        return {}
    return dict(json.loads(value) if isinstance(value, str) else value)


def _tags(value: Any) -> dict[str, str]:
    tags = {str(key): str(text) for key, text in _json_object(value).items()}
    if len(tags) > _MOST_TAGS:
        raise _WrongError(f"has {len(tags)} tags; write at most {_MOST_TAGS}, S3 takes no more of an object")
    for key, text in tags.items():
        whole_words = all(each.isalnum() or each in " +-=._:/@" for each in key + text)
        if not whole_words or not 0 < len(key) <= 128 or len(text) > 256 or key.lower().startswith("aws:"):
            raise _WrongError(
                f"has the tag {key!r}: {text!r}; write names of 1 to 128 and values of at most 256 letters, digits, "
                "spaces and +-=._:/@, without aws: at the beginning"
            )
    return tags


def _prefix(value: Any) -> str:
    text = str(value or "")
    _require(text.isprintable() and len(text.encode()) <= 700 and not {".", ".."} & set(text.split("/")))
    return text


def _storage_class(value: Any) -> str:
    if str(value).upper() in {"GLACIER", "DEEP_ARCHIVE"}:
        raise _WrongError(
            f"is {value!r}, whose photos nobody can see before they are restored; write GLACIER_IR, or leave it empty "
            "and let `scrapy storage lifecycle` move old photos there"
        )
    _require(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", str(value)))
    return str(value)


def _thumbnails(value: Any) -> dict[str, tuple[int, int]]:
    sizes = {str(label): tuple(size) for label, size in _json_object(value).items()}
    for label, size in sizes.items():
        _require(re.fullmatch(r"[a-z0-9_-]+", label) and len(size) == 2)
        _require(all(isinstance(each, int) and each > 0 for each in size))
    return sizes


def _schedule(value: Any) -> dict[str, str]:
    schedule = _json_object(value)
    for spider, times in schedule.items():
        # Five fields of the characters that cron knows; the worker reads them exactly.
        _require(re.fullmatch(r"\w+", spider) and re.fullmatch(r"[\w*,/?#-]+( [\w*,/?#-]+){4}", times))
    return schedule


def _field_shares(value: Any) -> dict[str, float]:
    from carscraper.field_coverage import MEASURED  # noqa: PLC0415 - what only those who set this need

    shares = _json_object(value)
    for label, share in shares.items():
        a_number = isinstance(share, int | float) and not isinstance(share, bool)
        if label not in MEASURED or not a_number or not 0 <= share <= 1:
            fields = ", ".join(MEASURED)
            raise _WrongError(
                f'is {value!r}; write JSON such as {{"price": 0.8}} with shares between 0 and 1 of: {fields}'
            )
    return {label: float(share) for label, share in shares.items()}


def _ignored_fields(value: Any) -> str:
    from carscraper.field_coverage import MEASURED, PAGE, PHOTOS  # noqa: PLC0415 - the same

    words = str(value or "").replace(",", " ").split()
    # A spider's file is called as the spider is.
    dealers = {path.stem for path in (Path(__file__).parents[1] / "spiders").glob("[a-z]*.py")} - {"backfill"}
    for word in words:
        dealer, dot, field = word.partition(".")
        if dealer not in dealers or (dot and field not in {*MEASURED, PHOTOS, PAGE + PHOTOS}):
            raise _WrongError(
                f"is {value!r}; write dealers ({', '.join(sorted(dealers))}), or fields such as hekla.price"
            )
    return ",".join(words)


def _notify_urls(value: Any) -> str | None:
    # A comma inside an address, as in ?to=a@x,b@x, parts nothing.
    addresses = [each for each in re.split(r"\s+|,(?=\s|$|[A-Za-z][A-Za-z0-9+.-]*://)", str(value)) if each]
    _require(all(re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/].*", each) for each in addresses))
    return " ".join(addresses) or None


def _endings(value: Any) -> str:
    words = str(value or "").lower().replace(",", " ").split()
    _require(set(words) <= {"failed", "partial", "success", "skipped", "interrupted"})
    return ",".join(words)


def _log_format(value: Any) -> str:
    if str(value).strip().lower() == "json":
        return "json"
    logging.Formatter(value or None).format(logging.makeLogRecord({}))
    return str(value or "%(message)s")


def _log_level(value: Any) -> Any:
    _require(isinstance(value, int) or str(value).upper() in logging.getLevelNamesMapping())
    return value


def is_address(url: str) -> bool:
    """Return whether *url* is a whole http or https address.

    >>> [is_address(url) for url in ("https://h", "http://[::1]:9/x", "h", "ftp://h", "http://h:99999", "http://[::1")]
    [True, True, False, False, False, False]
    """
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _http_url(value: Any) -> str:
    if is_address(str(value)) and "@" in urlsplit(str(value)).netloc:
        # Not shown: what stands there may be a password, which would then be in the log and in permanent URLs.
        raise _WrongError("is an address with a user in it; write it without what stands before @")
    _require(is_address(str(value)))
    return str(value).rstrip("/")


def _endpoint(value: Any) -> str:
    if re.search(r"[?#\s]", str(value)):
        raise _WrongError("is more than a server's address; write it without ? or # and what follows")
    return _http_url(value)


def _feed_url(value: Any) -> str:
    if re.search(r"[?#@\s]", str(value)):
        # Not shown: what follows the question mark may be the key.
        raise _WrongError(
            "is more than an address; write it without ? and what follows, the key belongs in HENRY_API_KEY"
        )
    return _http_url(value)


def _api_key(value: Any) -> str:
    _require(re.fullmatch(r"[!-~]+", value) and not value.startswith(("http:", "https:", "apikey=")))
    return str(value)


def _database_url(value: Any) -> str:
    url = str(value)
    _require(
        re.fullmatch(
            r"sqlite:///(?!:memory:)[^?].*|postgres(ql)?(\+psycopg)?://[^/?].*|postgres(ql)?(\+psycopg)?:///.*", url
        )
    )
    path = Path(url.removeprefix("sqlite:///").partition("?")[0])
    if url.startswith("sqlite") and path.is_dir():
        raise _WrongError(f"is the folder {path}; write a file in it, such as sqlite:///{path}/cars.db")
    if url.startswith("postgres") and url.partition("?")[0].count("@") > 1:
        raise _WrongError("has an @ in its password; write %40 instead, as all special characters there")
    return url


def _feeds(value: Any) -> Any:
    """Check that the files that ``-o`` names can be written: Scrapy finds out at the first car."""
    for uri in map(str, _json_object(value)):
        # Keys with a / or @ in them that is not percent-encoded would name another bucket.
        if uri.startswith("s3://") and not re.match(r"s3://([^:/?#@\s]+:[^:/?#@\s]+@)?[^:/?#@\s]+/\S", uri):
            raise ConfigurationError(  # not shown: there may be a secret in it
                "-o s3://… can't be read; write s3://bucket/file.csv, with the keys in AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY or, percent-encoded, in s3://KEY:SECRET@bucket/file.csv."
            )
        parts = urlsplit(uri)
        if parts.scheme not in {"", "file"}:
            continue
        path = Path(url2pathname(parts.path) if parts.scheme else uri)
        folder = next(each for each in path.parents if "%" not in str(each))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise ConfigurationError(
                f"-o {path} can't be written ({error.strerror}): name a file in a folder where you may write."
            ) from None
    return value


HASHES = matching(
    r"\s*([0-9A-Fa-f]{64}\s*(,\s*|$))*", "SHA-256 sums, each of 64 hexadecimal digits, separated by commas"
)
TEXT = Kind("", lambda value: value)
OPTIONAL = Kind("", str, optional=True)
BOOLEAN = Kind("true or false", _boolean)
SHARE = Kind("a share between 0 and 1, such as 0.5", _share)
OPTIONAL_SHARE = Kind(SHARE.words, _share, optional=True)
PLACEHOLDER_CARS = Kind("0 for off, or a whole number of at least 2", _placeholder_cars)
_MOST_TAGS = 10
TAGS = Kind('JSON such as {"project": "cars"}, at most 10 tags', _tags)
PREFIX = Kind("a folder of the bucket such as cars/, without . or .. in it", _prefix)
STORAGE_CLASS = Kind("a storage class such as STANDARD_IA", _storage_class, optional=True)
THUMBNAILS = Kind('JSON such as {"small": [320, 240]}', _thumbnails)
SCHEDULE = Kind('JSON with a crontab\'s times, such as {"bilasolur": "17 3,15 * * *"}', _schedule)
FIELD_SHARES = Kind('JSON such as {"price": 0.8}', _field_shares)
IGNORED_FIELDS = Kind("dealers, or fields such as hekla.price", _ignored_fields)
NOTIFY_URLS = Kind(
    "https://… or mailtos://…, comma separated", _notify_urls, optional=True, wrong="is no list of addresses"
)
ENDINGS = Kind("any of failed, partial, success, skipped, interrupted, comma separated", _endings)
LOG_FORMAT = Kind("json, or a format such as %(levelname)s: %(message)s", _log_format)
LOG_LEVEL = Kind("DEBUG, INFO, WARNING, ERROR or CRITICAL", _log_level)
HTTP_URL = Kind("a whole address such as https://images.example.com", _http_url, optional=True)
ENDPOINT = Kind(HTTP_URL.words, _endpoint, optional=True)
FEED_URL = Kind(HTTP_URL.words, _feed_url, optional=True)
API_KEY = Kind("the key alone, without spaces, quotes or an address", _api_key, optional=True, wrong="is not a key")
DATABASE_URL = Kind(
    "sqlite:///file.db or postgresql://user:password@host/name",
    _database_url,
    wrong="is not an address of a database",
)
DEPTH_LIMIT = Kind("0", _depth_limit)
FEEDS = Kind("a JSON object", _feeds)
BUCKET = matching(
    r"(?!xn--|.*(\.[.-]|-\.)|[0-9]+(\.[0-9]+){3}$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
    "3 to 63 lower-case letters, digits, hyphens and single dots without a hyphen beside them, and no IP address",
    optional=True,
)
PROGRAM = matching(r"/.+", "the program's whole path, such as /usr/bin/chromium", optional=True)
REGION = matching(r"[a-z0-9][a-z0-9-]{0,62}", "a region such as eu-north-1", optional=True)
ADDRESSING_STYLE = matching("auto|path|virtual", "auto, path or virtual")
DISTRIBUTION = matching(r"[A-Z0-9]{6,32}", "a distribution's id such as E2QWRUHEXAMPLE", optional=True)
ENCRYPTION = matching(r"AES256|aws:kms(:\S+)?", "AES256, aws:kms or aws:kms:KEY-ID", optional=True)
OUTPUT_PREFIX = matching(
    r"(?!(.*/)?\.\.?(/|$))[A-Za-z0-9!_.*'()/=+@:,-]{0,700}",
    "a folder of the bucket such as outputs/, in letters, digits and !_.*'()=+@:,-",
)
OUTPUT_CLIENT = matching(r"[A-Za-z0-9 +=._:/@-]{1,256}", "1 to 256 letters, digits, spaces and +=._:/@-")
