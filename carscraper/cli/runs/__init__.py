"""The verbs of ``scrapy runs``, in the order in which they are shown."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carscraper.cli.verb import Verb

_MODULES = ("list", "show", "compare", "upload")


def verbs() -> list[Verb]:
    """Load every verb."""
    found: list[Verb] = []
    for name in _MODULES:
        found += import_module(f"carscraper.cli.runs.{name}").VERBS
    return found
