"""Whose turn it is to ask a server that is away."""

from __future__ import annotations

import threading
import time

_EVERY = 1.0  # seconds between two requests


class Turns:
    """From the first request that fails to the next that works, one request a second is sent, of all threads together.

    What is under way then comes to its end.
    """

    def __init__(self, patience: int) -> None:
        """After more failures in a row than *patience* the server is given up: only probes are sent."""
        self.trouble = ""
        """What was wrong with the last request that failed."""
        self._patience = patience
        self._failures = 0
        self._next = 0.0  # on the monotonic clock
        self._changed = threading.Condition()

    @property
    def given_up(self) -> bool:
        """Whether all but probes should stop trying."""
        return self._failures > self._patience

    def take(self, deadline: float, *, probe: bool) -> bool:
        """Wait until a request may be sent; false if it may not: the server is given up, or *deadline* comes first."""
        with self._changed:
            while self._failures and (probe or not self.given_up):
                left = self._next - time.monotonic()
                if left <= 0:
                    break
                if self._next > deadline:
                    return False
                self._changed.wait(left)
            self._next = time.monotonic() + _EVERY
            return probe or not self.given_up

    def failed(self, why: str) -> None:
        """Count a request to which no answer came, or one that passes by itself."""
        with self._changed:
            self._failures += 1
            self._next = time.monotonic() + _EVERY
            self.trouble = why
            if self.given_up:
                self._changed.notify_all()

    def worked(self) -> None:
        """Let everybody ask again."""
        with self._changed:
            self._failures = 0
            self._changed.notify_all()
