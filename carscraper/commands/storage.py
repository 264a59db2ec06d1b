"""``scrapy storage VERB``: everything about the bucket."""

from __future__ import annotations

from carscraper.cli import storage
from carscraper.cli.command import VerbCommand


class Command(VerbCommand):
    """The verbs of ``carscraper.cli.storage``."""

    name = "storage"
    verbs = storage.VERBS
    gone = storage.GONE

    def short_desc(self) -> str:
        """Return the one-line description."""
        return "Everything about the bucket: set up, check, look, change, audit"
