"""``scrapy queue [VERB]``: what the workers have to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from carscraper.cli.command import VerbCommand
from carscraper.jobs import overview

if TYPE_CHECKING:
    from carscraper.cli.verb import Verb


class Command(VerbCommand):
    """The verbs of ``carscraper.jobs.overview``."""

    name = "queue"
    default = "show"

    def verbs(self) -> list[Verb]:
        """Give its verbs."""
        return overview.VERBS

    def short_desc(self) -> str:
        """Give the one-line description."""
        return "Show the queue: what waits, what runs where, what failed and why"
