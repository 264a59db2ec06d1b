"""``scrapy enqueue VERB``: crawls for the workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from carscraper.cli.command import VerbCommand
from carscraper.jobs.verbs import VERBS

if TYPE_CHECKING:
    from carscraper.cli.verb import Verb


class Command(VerbCommand):
    """The verbs of ``carscraper.jobs.verbs``."""

    name = "enqueue"

    def verbs(self) -> list[Verb]:
        """Give its verbs."""
        return VERBS

    def short_desc(self) -> str:
        """Give the one-line description."""
        return "Put crawls, or a backfill in parts, into the queue for the workers"
