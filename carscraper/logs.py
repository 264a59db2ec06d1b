r"""How the log is written: plain lines that nobody can forge, or JSON (``LOG_FORMAT=json``).

Scrapy makes its log's handler before any component of a crawl exists, and knows %-formats only. So the add-on puts one
up in its place, at the moment when the settings of the command line are known and no line is written yet (Scrapy's
``LOG_INSTALL_ROOT_HANDLER`` is there for that). All other ``LOG_…`` settings mean what they mean to Scrapy.

Text from pages gets into log lines. In a plain log all lines of a record but its first are indented, and what is not
printable is escaped: a line that begins at the margin is the beginning of a record.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TextIO
from urllib.parse import parse_qsl, unquote, urlsplit

from pythonjsonlogger.json import JsonFormatter
from scrapy.settings.default_settings import LOG_FORMAT, LOG_LEVEL
from scrapy.utils.log import TopLevelFormatter

from carscraper.settings import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from scrapy.settings import BaseSettings

JSON = "json"
"""The value of ``LOG_FORMAT``."""

_INDENT = "    "
_CLEAR = "\r\033[K"
_NAMES = (
    *("LOG_FILE", "LOG_FILE_APPEND", "LOG_ENCODING", "LOG_ENABLED", "LOG_SHORT_NAMES", "LOG_LEVEL"),
    *("LOG_FORMAT", "LOG_DATEFORMAT"),
)


SECRET_NAME = re.compile(r"key|token|secret|passw|pwd|credential|signature|cookie|auth(?!or(?!i))", re.IGNORECASE)
"""Part of the name of what is a secret."""
_SECRET_PARAMETER = re.compile(
    rf"([?&;#][^=&;#\s]*(?:{SECRET_NAME.pattern}|sig)[^=&;#\s]*=)[^&;#\s'\"]+", re.IGNORECASE
)
# A password that is not percent-encoded may have any character in it; what looks like a port is none.
_USER_INFO = re.compile(
    r"(?<=://)(?!user:password@)(?:[^/?#\s'\"@]*@|[^/?#\s'\":]*:(?!\d{1,5}(?:[/?#\s]|$))[^\s'\"]*@)+"
)
_SHORTEST = 6  # characters; less than that is found in any text


class _Log:
    """What there is once a process."""

    secrets: re.Pattern[str] | None = None

    handler: logging.Handler | None = None
    made_from: tuple[Any, ...] = ()
    about: ClassVar[dict[str, str | int]] = {}


def identify(**fields: str | int | None) -> None:
    """Say whose log it is: each JSON line has *fields* (``spider``, ``job``, ``run``); ``None`` ends one."""
    _Log.about.update({name: value for name, value in fields.items() if value is not None})
    for name in [name for name, value in fields.items() if value is None]:
        _Log.about.pop(name, None)


def cleaned(text: str) -> str:
    """Return *text* without secrets: those of the settings in any spelling, and what addresses hold.

    Everything that leaves this program for people goes through this: the log, the verdict, runs, notices, commands.

    >>> cleaned("base_url=http://a:b@c@h/?token=x -s LOG_LEVEL=DEBUG")
    'base_url=http://***@h/?token=*** -s LOG_LEVEL=DEBUG'
    >>> cleaned("-o s3://AKIA:a/b+c@bucket/x.csv, http://h:80/a@2x.jpg")
    '-o s3://***@bucket/x.csv, http://h:80/a@2x.jpg'
    """
    if _Log.secrets:
        text = _Log.secrets.sub("***", text)
    if "://" in text:
        text = _USER_INFO.sub("***@", text)
    return _SECRET_PARAMETER.sub(r"\1***", text) if "=" in text else text


def conceal(settings: BaseSettings, others: Iterable[str] = ()) -> None:
    """Have :func:`cleaned` take out every secret that *settings* hold, and *others*."""
    values = {*_secrets_of(settings), *others}
    found = {part for value in values if len(value) >= _SHORTEST for part in Secret(value).spellings()}
    longest_first = sorted(found, key=lambda part: (-len(part), part))
    pattern = "|".join(map(re.escape, longest_first))
    _Log.secrets = re.compile(pattern, re.IGNORECASE) if pattern else None


def _secrets_of(settings: BaseSettings) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Secret):
            for each in value.reveal().split() or []:
                yield from _secrets_in_address(each) if "://" in each else [each]
            if name != "DATABASE_URL":  # which is shown without its secrets
                yield value.reveal()
        elif isinstance(value, str) and SECRET_NAME.search(name):
            yield value
    for address in settings.getdict("FEEDS"):
        yield from _secrets_in_address(str(address), user=True)


def _secrets_in_address(address: str, *, user: bool = False) -> Iterator[str]:
    """Find the password and other secrets in an address; with *user* also the name before the password."""
    authority = re.match(r"[^:]*://([^:/?#@]*):(.*)@", address)
    if authority:
        yield from (authority[2], unquote(authority[2]))
        if user:
            yield from (authority[1], unquote(authority[1]))
    with contextlib.suppress(ValueError):  # it is no address, and is refused elsewhere
        parts = urlsplit(address)
        yield from (value for name, value in parse_qsl(parts.query) if SECRET_NAME.search(name))
        if parts.scheme in {"http", "https"} and len(parts.path) > 16:  # the path of a webhook is its key
            yield parts.path


def printable(text: str) -> str:
    r"""Return *text* without what would forge a line or command a terminal.

    >>> printable("a\nb\x1b[31m þ")
    'a\\nb\\x1b[31m þ'
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class PlainFormatter(logging.Formatter):
    """A %-format, whose records can't be mistaken for several."""

    def format(self, record: logging.LogRecord) -> str:
        r"""Indent all lines but the first and escape what is not printable.

        >>> record = logging.makeLogRecord({"name": "x", "msg": "a\n2026 [x] INFO: forged\r\x85"})
        >>> print(PlainFormatter("[%(name)s] %(message)s").format(record))
        [x] a
            2026 [x] INFO: forged\r\x85
        """
        text = super().format(record)
        return text if text.isprintable() else f"\n{_INDENT}".join(printable(line) for line in text.split("\n"))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """Take secrets out of the message, whatever put them there."""
        record.message = cleaned(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name is logging's
        """Take secrets out of a traceback."""
        return cleaned(super().formatException(ei))


class JsonLines(JsonFormatter):
    """One JSON object a line: ``timestamp``, ``level``, ``logger``, ``message``, whose log it is, ``exception``."""

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Take these and no others: what libraries attach to their records may be anything."""
        log_data["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        log_data["message"] = cleaned(record.message or (str(record.msg) if isinstance(record.msg, dict) else ""))
        log_data |= _Log.about
        spider = getattr(getattr(record, "spider", None), "name", None)  # Scrapy attaches it
        if isinstance(spider, str):
            log_data["spider"] = spider
        exception = message_dict.get("exc_info")
        if exception:
            log_data["exception"] = cleaned(exception)


def dress(handler: logging.Handler, settings: BaseSettings) -> None:
    """Give *handler* the log's format, level and names."""
    handler.setFormatter(formatter(settings))
    try:
        handler.setLevel(settings.get("LOG_LEVEL"))
    except (TypeError, ValueError):
        handler.setLevel(LOG_LEVEL)
    if settings.getbool("LOG_SHORT_NAMES"):
        handler.addFilter(TopLevelFormatter(["scrapy"]))


def formatter(settings: BaseSettings) -> logging.Formatter:
    """Return the formatter of the log."""
    if is_json(settings):
        return JsonLines()
    try:
        plain = PlainFormatter(settings.get("LOG_FORMAT"), settings.get("LOG_DATEFORMAT"))
        plain.format(logging.makeLogRecord({}))
    except (KeyError, TypeError, ValueError):  # which ends the crawl with its sentence; until then there is a log
        return PlainFormatter(LOG_FORMAT, settings.get("LOG_DATEFORMAT"))
    return plain


def is_json(settings: BaseSettings) -> bool:
    """Whether the log's lines are JSON."""
    return str(settings.get("LOG_FORMAT")).strip().lower() == JSON


def say(settings: BaseSettings, text: str, *, name: str, level: int = logging.INFO) -> None:
    """Write one line to standard error beside the log, in its format if that is JSON.

    Args:
        settings: of the crawl.
        text: one line; what is not printable is escaped.
        name: the logger's name for JSON.
        level: for JSON.
    """
    text = cleaned(text)
    line = printable(text)
    if is_json(settings):
        line = JsonLines().format(logging.LogRecord(name, level, "", 0, text, None, None))
    with contextlib.suppress(OSError):  # nobody reads it any more
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - for people who do not see the log


class TerminalHandler(logging.StreamHandler[TextIO]):
    """The log on a terminal, above a line that is drawn anew in place."""

    def __init__(self) -> None:
        """Write to standard error."""
        super().__init__(sys.stderr)
        self._line = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record where the line stands, and the line below."""
        self._write(_CLEAR)
        super().emit(record)
        self._write(self._line)

    def show(self, line: str) -> None:
        """Put *line* in the place of the one that was shown before; nothing takes it away."""
        with contextlib.suppress(OSError):  # a terminal that went away
            line = cleaned(printable(line))[: os.get_terminal_size(self.stream.fileno()).columns - 1]
        self.acquire()
        try:
            self._line = line
            self._write(_CLEAR + line)
        finally:
            self.release()

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the same
            self.stream.write(text)
            self.flush()


def terminal() -> TerminalHandler | None:
    """Return the terminal on which a line can be shown beside the log, ``None`` if nobody sits there."""
    if isinstance(_Log.handler, TerminalHandler):
        return _Log.handler
    return TerminalHandler() if is_terminal() else None


def is_terminal() -> bool:
    """Whether standard error is a terminal on which lines can be drawn anew."""
    if not sys.stderr.isatty():
        return False
    from rich.console import Console  # noqa: PLC0415 - takes 0.1 s, and nobody else needs it

    return not Console(stderr=True).is_dumb_terminal


def is_no_inventory(record: logging.LogRecord) -> bool:
    """Leave out Scrapy's lists of settings, add-ons, middlewares and pipelines, which only DEBUG is for."""
    return not str(record.msg).startswith(("Overridden settings:", "Enabled "))


def leave_out_inventory(settings: BaseSettings) -> None:
    """Keep Scrapy's inventory out of the log unless its level is DEBUG."""
    wanted = str(settings.get("LOG_LEVEL")).upper() in {"DEBUG", str(logging.DEBUG)}
    for name in ("scrapy.addons", "scrapy.crawler", "scrapy.middleware"):
        logger = logging.getLogger(name)
        logger.removeFilter(is_no_inventory)
        if not wanted:
            logger.addFilter(is_no_inventory)


class LogFile(logging.FileHandler):
    """A file of the log. It ends when its disk is full, and says so once."""

    broken: Callable[[logging.LogRecord, OSError], None] | None = None
    """Is called with the record that could not be written, and why."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Stop at what the disk does; a mistake in a line is reported by the console's handler."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError) and self in logging.root.handlers:
            logging.root.removeHandler(self)
            if self.broken:
                self.broken(record, error)


def is_in_file(settings: BaseSettings) -> bool:
    """Whether the log goes to a file, and nobody sees it."""
    return bool(settings.get("LOG_FILE")) and (_Log.handler is None or isinstance(_Log.handler, LogFile))


def _go_on(settings: BaseSettings, record: logging.LogRecord, error: OSError) -> None:
    """Log to standard error in place of ``LOG_FILE``, from *record* on."""
    handler = _Log.handler = logging.StreamHandler()
    dress(handler, settings)
    logging.root.addHandler(handler)
    logging.getLogger(__name__).error(
        "LOG_FILE=%s can't be written any more (%s); the log goes on here.", settings["LOG_FILE"], error.strerror
    )
    handler.handle(record)


def install(settings: BaseSettings) -> str | None:
    """Put up the log's handler, in place of the one that was put up before if it would not be the same.

    Returns:
        What is wrong with ``LOG_FILE``, as a sentence; the setting is emptied and the log goes to standard error then.
    """
    made_from = tuple(settings.get(name) for name in _NAMES)
    if _Log.handler is not None and (made_from == _Log.made_from or _Log.handler not in logging.root.handlers):
        return None
    problem = None
    try:
        handler = _make(settings)
    except (OSError, LookupError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = f"LOG_FILE is {settings.get('LOG_FILE')!r}, which can't be written ({reason}); name another file."
        settings.set("LOG_FILE", None, priority=settings.getpriority("LOG_FILE") or 0)
        handler = logging.StreamHandler()
    dress(handler, settings)
    uninstall()
    logging.root.setLevel(logging.NOTSET)
    logging.root.addHandler(handler)
    _Log.handler, _Log.made_from = handler, made_from
    return problem


def uninstall() -> None:
    """Take the handler away again."""
    if _Log.handler is not None:
        logging.root.removeHandler(_Log.handler)
        _Log.handler.close()
        _Log.handler = None


def _make(settings: BaseSettings) -> logging.Handler:
    if settings.get("LOG_FILE"):
        Path(settings["LOG_FILE"]).parent.mkdir(parents=True, exist_ok=True)
        mode = "a" if settings.getbool("LOG_FILE_APPEND") else "w"
        handler = LogFile(settings["LOG_FILE"], mode=mode, encoding=settings.get("LOG_ENCODING"))
        handler.broken = partial(_go_on, settings)
        return handler
    if not settings.getbool("LOG_ENABLED"):
        return logging.NullHandler()
    return TerminalHandler() if is_terminal() and not is_json(settings) else logging.StreamHandler()
