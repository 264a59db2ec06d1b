"""``scrapy storage VERB``: everything about the bucket."""

from __future__ import annotations

from carscraper.cli import storage
from carscraper.command import VerbCommand


class Command(VerbCommand):
    """The verbs of ``carscraper.cli.storage``."""

    summary = "Everything about the bucket: set up, check, look, change, audit"
    verbs = storage.VERBS
    gone = storage.GONE
