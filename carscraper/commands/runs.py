"""``scrapy runs VERB``: what the crawls did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from carscraper.cli import runs
from carscraper.cli.command import VerbCommand

if TYPE_CHECKING:
    from carscraper.cli.verb import Verb


class Command(VerbCommand):
    """The verbs of ``carscraper.cli.runs``."""

    name = "runs"
    default = "list"

    def verbs(self) -> list[Verb]:
        """Give its verbs."""
        return runs.verbs()

    def short_desc(self) -> str:
        """Give the one-line description."""
        return "What the crawls did: list them, show one, compare two, upload what one wrote"
