r"""How the log is written: plain lines that nobody can forge, or JSON (``LOG_FORMAT=json``).

Scrapy makes its log's handler before any component of a crawl exists, and knows %-formats only. So the add-on puts one
up in its place, at the moment when the settings of the command line are known and no line is written yet (Scrapy's
``LOG_INSTALL_ROOT_HANDLER`` is there for that). All other ``LOG_…`` settings mean what they mean to Scrapy.

Text from pages gets into log lines. In a plain log all lines of a record but its first are indented, and what is not
printable is escaped: a line that begins at the margin is the beginning of a record.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from pythonjsonlogger.json import JsonFormatter
from scrapy.settings.default_settings import LOG_FORMAT, LOG_LEVEL
from scrapy.utils.log import TopLevelFormatter

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings

JSON = "json"
"""The value of ``LOG_FORMAT``."""

_INDENT = "    "
_NAMES = (
    *("LOG_FILE", "LOG_FILE_APPEND", "LOG_ENCODING", "LOG_ENABLED", "LOG_SHORT_NAMES", "LOG_LEVEL"),
    *("LOG_FORMAT", "LOG_DATEFORMAT"),
)


class _Log:
    """What there is once a process."""

    handler: logging.Handler | None = None
    made_from: tuple[Any, ...] = ()
    about: ClassVar[dict[str, str | int]] = {}


def identify(**fields: str | int | None) -> None:
    """Say whose log it is: each JSON line has *fields* (``spider``, ``job``, ``run``); ``None`` ends one."""
    _Log.about.update({name: value for name, value in fields.items() if value is not None})
    for name in [name for name, value in fields.items() if value is None]:
        _Log.about.pop(name, None)


def printable(text: str) -> str:
    r"""Give *text* without what would forge a line or command a terminal.

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


class JsonLines(JsonFormatter):
    """One JSON object a line: ``timestamp``, ``level``, ``logger``, ``message``, whose log it is, ``exception``."""

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Take these and no others: what libraries attach to their records may be anything."""
        log_data["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        log_data["message"] = record.message or (str(record.msg) if isinstance(record.msg, dict) else "")
        log_data |= _Log.about
        spider = getattr(getattr(record, "spider", None), "name", None)  # Scrapy attaches it
        if isinstance(spider, str):
            log_data["spider"] = spider
        exception = message_dict.get("exc_info")
        if exception:
            log_data["exception"] = exception


def formatter(settings: BaseSettings) -> logging.Formatter:
    """Give the formatter of the log, for whatever is another copy of it."""
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
    line = printable(text)
    if is_json(settings):
        line = JsonLines().format(logging.LogRecord(name, level, "", 0, text, None, None))
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - for people who do not see the log


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
    handler.setFormatter(formatter(settings))
    try:
        handler.setLevel(settings.get("LOG_LEVEL"))
    except (TypeError, ValueError):
        handler.setLevel(LOG_LEVEL)
    if settings.getbool("LOG_SHORT_NAMES"):
        handler.addFilter(TopLevelFormatter(["scrapy"]))
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
        mode = "a" if settings.getbool("LOG_FILE_APPEND") else "w"
        return logging.FileHandler(settings["LOG_FILE"], mode=mode, encoding=settings.get("LOG_ENCODING"))
    return logging.StreamHandler() if settings.getbool("LOG_ENABLED") else logging.NullHandler()
