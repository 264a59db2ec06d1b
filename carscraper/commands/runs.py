"""``scrapy runs VERB``: what the crawls did."""

from __future__ import annotations

from carscraper.cli.command import VerbCommand
from carscraper.cli.verb import Verb

_MODULE = "carscraper.cli.runs"


class Command(VerbCommand):
    """Lists runs, shows one, compares two, uploads the files of one."""

    name = "runs"
    default = "list"
    verbs = (
        Verb("list", _MODULE, "The newest runs, and how they ended"),
        Verb("show", _MODULE, "All that is known of one run"),
        Verb("compare", _MODULE, "Two runs side by side"),
        Verb("upload", _MODULE, "Upload the items and the log of a run again"),
    )

    def short_desc(self) -> str:
        """Return the one-line description."""
        return "What the crawls did: list them, show one, compare two, upload what one wrote"
