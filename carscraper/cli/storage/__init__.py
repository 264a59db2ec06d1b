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
    "delete",
    "audit",
    "discover",
    "hits",
    "invalidate",
)

GONE = {
    "tiers": "`scrapy storage tiers` is gone: nginx in front of the bucket (deploy/nginx.conf) keeps what is viewed "
    "most, `scrapy storage hits LOG` counts its hit rate, `scrapy storage lifecycle` moves photos to cheaper classes.",
    "upload": "`scrapy storage upload` is gone: `scrapy crawl backfill -a only=local` moves the photos of "
    "IMAGES_STORE to the bucket.",
}
"""Verbs of earlier versions, each with what to use instead."""


def verbs() -> list[Verb]:
    """Load every verb."""
    found: list[Verb] = []
    for name in _MODULES:
        found += import_module(f"carscraper.cli.storage.{name}").VERBS
    return found
