"""The verbs of ``scrapy storage``, in the order in which they are shown."""

from __future__ import annotations

from importlib import import_module

from carscraper.cli.verb import Verb

_MODULES = (
    "setup",
    "check",
    "policy",
    "lifecycle",
    "browse",
    "estimate",
    "objects",
    "upload",
    "delete",
    "audit",
    "discover",
    "tiers",
    "invalidate",
)


def verbs() -> list[Verb]:
    """Load every verb."""
    found: list[Verb] = []
    for name in _MODULES:
        found += import_module(f"carscraper.cli.storage.{name}").VERBS
    return found
