"""A person or a script at the other end: results on stdout, progress and questions on stderr, what is typed."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TextIO

from carscraper.exceptions import ConfigurationError
from carscraper.logs import cleaned

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_EVERY = 0.5  # seconds between two progress lines
_BYTES = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST = timedelta(days=36500)  # beyond a century it is a slip of the finger, and dates run out


@dataclass(kw_only=True, slots=True)
class Console:
    """Where a verb prints."""

    as_json: bool = False
    """Results are JSON."""
    assume_yes: bool = False
    """Nothing is asked (``--yes``)."""
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    stdin: TextIO = field(default_factory=lambda: sys.stdin)
    _last: float = 0.0
    _lines: list[str] = field(default_factory=list)

    def result(self, data: Any, text: str | Iterable[str]) -> None:
        """Print *data* as JSON, or *text* for people (lines without their ends)."""
        if self.as_json:
            # An output that can't show every letter gets JSON's own escapes.
            plain = not (self.out.encoding or "").lower().startswith("utf")
            print(json.dumps(data, ensure_ascii=plain, indent=2, default=str), file=self.out)
            return
        for line in [text] if isinstance(text, str) else text:
            print(line, file=self.out)

    def line(self, text: str) -> None:
        """Print one line of a result for people."""
        print(text, file=self.out)

    def note(self, text: str) -> None:
        """Say something beside the result, above the lines that :meth:`live` shows."""
        lines = self._lines
        self.live([])
        print(cleaned(text), file=self.err)
        self.live(lines)

    def live(self, lines: list[str]) -> None:
        """Show *lines* on a terminal, in the place of those that were shown before."""
        if not (lines or self._lines):
            return
        width = os.get_terminal_size(self.err.fileno()).columns - 1
        up = f"\033[{len(self._lines)}A" if self._lines else ""
        print(f"{up}\r\033[J" + "".join(f"{line[:width]}\n" for line in lines), end="", file=self.err, flush=True)
        self._lines = lines

    def progress(self, text: str) -> None:
        """Show how far it is, at most twice a second, and only to a terminal."""
        now = time.monotonic()
        if self.err.isatty() and now - self._last > _EVERY:
            self._last = now
            print(f"\r\033[K{text}", end="", file=self.err, flush=True)

    def end_progress(self) -> None:
        """Take the progress line away."""
        if self.err.isatty() and self._last:
            print("\r\033[K", end="", file=self.err, flush=True)

    def confirm(self, question: str) -> bool:
        """Ask before something changes; true at once with ``--yes``.

        Raises:
            ConfigurationError: there is nobody to ask.
        """
        if self.assume_yes:
            return True
        if not self.stdin.isatty():
            raise ConfigurationError(f"{question} Nobody is there to answer: say --yes, or --dry-run to look.")
        print(f"{question} [y/N] ", end="", file=self.err, flush=True)
        return self.stdin.readline().strip().lower() in {"y", "yes"}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[int] = ()) -> list[str]:
    """Lay out *rows* under *head*; the columns numbered in *right* are set to the right.

    >>> table(["source", "photos"], [["Bilasolur", "1,200"], ["BR", "3"]], right=[1])
    ['source     photos', 'Bilasolur   1,200', 'BR              3']
    """
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[number]) for row in cells) for number in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def counted(number: int, what: str) -> str:
    """Return a number of things.

    >>> counted(1, "object"), counted(1200, "object")
    ('1 object', '1,200 objects')
    """
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def human_bytes(number: float) -> str:
    """Return *number* of bytes in the unit a person would choose.

    >>> human_bytes(999), human_bytes(215_000), human_bytes(1_230_000_000)
    ('999 B', '215.0 kB', '1.2 GB')
    """
    size, unit = float(number), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"


# --- what is typed, for argparse's ``type=`` ------------------------------------------------------------------------


def positive(text: str) -> int:
    """Read a whole number of at least 1.

    >>> positive("12")
    12
    """
    if not re.fullmatch(r"[0-9]{1,15}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def pair(text: str) -> tuple[str, str]:
    """Read ``NAME=VALUE``.

    >>> pair("br.base_url=https://x/?a=b")
    ('br.base_url', 'https://x/?a=b')
    """
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z][\w.]*", name):
        raise argparse.ArgumentTypeError(f"{cleaned(text)} can't be read; write NAME=VALUE")
    return name, value


def size(text: str) -> float:
    """Read a number of bytes, at least 1.

    >>> size("215kB"), size("1.5 MB"), size("20")
    (215000.0, 1500000.0, 20.0)
    """
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([kmg]?b)?", text.strip().lower(), re.ASCII)
    if not found or float(found[1]) * _BYTES[found[2] or ""] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write bytes, or such as 215kB")
    return float(found[1]) * _BYTES[found[2] or ""]


def duration(text: str) -> timedelta:
    """Read ``90s``, ``15m``, ``1h``, ``30d`` or ``2w``.

    Raises:
        argparse.ArgumentTypeError: it is nothing like that.

    >>> duration("1h"), duration("30d"), duration("90s")
    (datetime.timedelta(seconds=3600), datetime.timedelta(days=30), datetime.timedelta(seconds=90))
    """
    found = re.fullmatch(r"([0-9]{1,10})([smhdw])", text.strip().lower())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time; write a number with s, m, h, d or w: 1h, 30d")
    seconds = int(found[1]) * _SECONDS[found[2]]
    if not 0 < seconds <= _LONGEST.total_seconds():
        raise argparse.ArgumentTypeError(f"{text!r} is not between 1s and 100 years")
    return timedelta(seconds=seconds)


def in_words(length: timedelta) -> str:
    """Return *length* the way :func:`duration` reads it, in the largest unit that fits.

    >>> in_words(timedelta(hours=1)), in_words(timedelta(days=30)), in_words(timedelta(seconds=90))
    ('1h', '30d', '90s')
    """
    seconds = int(length.total_seconds())
    unit = next(name for name in "dhms" if seconds % _SECONDS[name] == 0)
    return f"{seconds // _SECONDS[unit]}{unit}"
