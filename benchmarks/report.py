"""Numbers into tables and verdicts: pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.arena import Measurement

Number = Callable[[Measurement], float]


@dataclass(frozen=True, slots=True)
class Table:
    """A headline and rows of text; the first row names the columns."""

    headline: str
    rows: list[list[str]]

    def plain(self) -> str:
        """Lay the table out for a terminal."""
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in self.rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([self.headline, *(line.rstrip() for line in lines)])

    def markdown(self) -> str:
        """Return the table as Markdown.

        >>> print(Table("Of two", [["who", "what"], ["a", "1"]]).markdown())
        **Of two**
        <BLANKLINE>
        | who | what |
        |---|---|
        | a | 1 |
        """
        lines = ["| " + " | ".join(row) + " |" for row in self.rows]
        lines.insert(1, "|" + "---|" * len(self.rows[0]))
        return "\n".join([f"**{self.headline}**", "", *lines])


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Give the median, and the smallest and largest value behind it.

    >>> spread([3.0, 1.0, 2.04]), spread([2.0]), spread([1200.4, 1300.2], 0)
    ('2.0 (1.0–3.0)', '2.0', '1,250 (1,200–1,300)')
    """
    middle = f"{median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def ratios(ours: Sequence[Measurement], others: Sequence[Measurement], number: Number) -> list[float]:
    """Give ours/other for each round: the two ran right after each other, so a slow minute meets both."""
    return [number(mine) / number(other) for mine, other in zip(ours, others, strict=True)]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target and what came out."""

    target: str
    value: str
    reached: bool

    def __str__(self) -> str:
        """Begin with the word to look for."""
        return f"{'reached' if self.reached else 'MISSED '}  {self.target}: {self.value}"


def at_most(target: str, values: Sequence[float], bound: float, *, digits: int = 2) -> Verdict:
    """Judge the median.

    >>> print(at_most("ratio at most 0.20", [0.25, 0.17, 0.18], 0.2))
    reached  ratio at most 0.20: 0.18 (0.17–0.25)
    """
    return Verdict(target, spread(values, digits), median(values) <= bound)


def at_least(target: str, values: Sequence[float], bound: float, *, digits: int = 2) -> Verdict:
    """Judge the median."""
    return Verdict(target, spread(values, digits), median(values) >= bound)
