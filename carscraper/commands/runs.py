"""``scrapy runs VERB``: what the crawls did."""

from __future__ import annotations

from carscraper.cli import runs
from carscraper.cli.command import VerbCommand


class Command(VerbCommand):
    """The verbs of ``carscraper.cli.runs``."""

    name = "runs"
    verbs = runs.VERBS
    default = "list"

    def short_desc(self) -> str:
        """Give the one-line description."""
        return "What the crawls did: list them, show one, compare two, upload what one wrote"
