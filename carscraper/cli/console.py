"""A person or a script at the other end: results on stdout, progress and questions on stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from carscraper.exceptions import ConfigurationError
from carscraper.logs import cleaned, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Console", "human_bytes", "printable", "table"]

_EVERY = 0.5  # seconds between two progress lines


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
