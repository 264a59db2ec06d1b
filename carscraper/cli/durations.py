"""For ``cli.storage``, until it moves to ``commands``."""

from carscraper.console import duration, in_words

__all__ = ["duration", "in_words"]
