"""For ``cli.storage``, until it moves to ``commands``."""

from carscraper.console import Console, human_bytes, table
from carscraper.logs import printable

__all__ = ["Console", "human_bytes", "printable", "table"]
