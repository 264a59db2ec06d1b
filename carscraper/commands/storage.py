"""``scrapy storage VERB``: everything about the bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from carscraper.cli import storage
from carscraper.cli.command import VerbCommand

if TYPE_CHECKING:
    from carscraper.cli.verb import Verb


class Command(VerbCommand):
    """The verbs of ``carscraper.cli.storage``."""

    name = "storage"
    gone = storage.GONE

    def verbs(self) -> list[Verb]:
        """Return its verbs."""
        return storage.verbs()

    def short_desc(self) -> str:
        """Return the one-line description."""
        return "Everything about the bucket: set up, check, look, change, audit"
