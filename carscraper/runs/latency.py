"""How long photos take from being seen to being safe: quantiles in bounded memory."""

from __future__ import annotations

from array import array
from itertools import accumulate
from math import ceil, log

_SHORTEST = 0.001  # seconds
_LONGEST = 7 * 86_400.0
_GROWTH = 1.09  # of a bucket to the next: its geometric middle is within 4.5 % of all that is in it
_PER_BUCKET = 1 / log(_GROWTH)
_BUCKETS = int(log(_LONGEST / _SHORTEST) * _PER_BUCKET) + 1


class Latency:
    """A histogram with logarithmic buckets from a millisecond to a week; quantiles are right within 5 %.

    >>> latency = Latency()
    >>> for seconds in range(1, 101):
    ...     latency.add(seconds)
    >>> 48 < latency.quantile(0.5) < 53, 90 < latency.quantile(0.95) < 100
    (True, True)
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        """Begin with nothing."""
        self._counts = array("Q", bytes(8 * _BUCKETS))

    def add(self, seconds: float) -> None:
        """Count one duration; what is outside the range counts as the shortest or longest."""
        bucket = int(log(seconds / _SHORTEST) * _PER_BUCKET) if seconds > _SHORTEST else 0
        self._counts[bucket if bucket < _BUCKETS else -1] += 1

    def quantile(self, share: float) -> float | None:
        """Give the seconds within which *share* of all were done; ``None`` if there were none.

        >>> print(Latency().quantile(0.5))
        None
        """
        total = sum(self._counts)
        if not total:
            return None
        wanted = max(1, ceil(share * total))
        bucket = next(index for index, sofar in enumerate(accumulate(self._counts)) if sofar >= wanted)
        return float(_SHORTEST * _GROWTH ** (bucket + 0.5))
