"""How long photos take from being seen to being safe."""

from __future__ import annotations

from array import array
from math import ceil


class Latency:
    """Durations, four bytes each.

    >>> latency = Latency()
    >>> for seconds in range(1, 101):
    ...     latency.add(seconds)
    >>> latency.quantile(0.5), latency.quantile(0.95)
    (50.0, 95.0)
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._seconds = array("f")

    def add(self, seconds: float) -> None:
        """Add one duration."""
        self._seconds.append(seconds)

    def quantile(self, share: float) -> float | None:
        """Return the seconds within which *share* of all were done; ``None`` if there were none.

        >>> print(Latency().quantile(0.5))
        None
        """
        if not self._seconds:
            return None
        return sorted(self._seconds)[max(1, ceil(share * len(self._seconds))) - 1]
