"""The verbs of ``scrapy runs``, in the order in which they are shown."""

from __future__ import annotations

from functools import partial

from carscraper.cli.verb import Verb

_verb = partial(Verb, package="carscraper.cli.runs")

VERBS = [
    _verb("list", "list", "The newest runs, and how they ended"),
    _verb("show", "show", "All that is known of one run"),
    _verb("compare", "compare", "Two runs side by side"),
    _verb("upload", "upload", "Upload the items and the log of a run again"),
]
