"""Lengths of time as people type them."""

from __future__ import annotations

import argparse
import re
from datetime import timedelta

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST = timedelta(days=36500)  # beyond a century it is a slip of the finger, and dates run out


def duration(text: str) -> timedelta:
    """Read ``90s``, ``15m``, ``1h``, ``30d`` or ``2w``; made for argparse's ``type=``.

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
