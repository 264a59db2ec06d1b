"""The verbs of ``scrapy storage``, in the order in which they are shown."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from carscraper.command import Verb


def _verb(name: str, module: str, summary: str, *, changes: bool = False) -> Verb:
    def function(number: int, *arguments: Any) -> Any:
        return import_module(f"{__name__}.{module}").FUNCTIONS[name][number](*arguments)

    return Verb(name, summary, partial(function, 1), partial(function, 0), changes)


VERBS = [
    _verb(
        "setup",
        "setup",
        "Make the bucket, or bring one that is there into shape: access, encryption, versions, rules",
        changes=True,
    ),
    _verb(
        "check",
        "check",
        "Test the connection: credentials, bucket, objects, addresses; each failure with its fix",
    ),
    _verb(
        "policy",
        "policy",
        "Print the least rights for a crawl, a backfill or the administration, or a policy for the bucket",
    ),
    _verb(
        "lifecycle",
        "lifecycle",
        "Show or change when objects move to cheaper classes and when they are deleted",
        changes=True,
    ),
    _verb("list", "browse", "List objects with size, date and storage class; --json gives a JSON object a line"),
    _verb(
        "stats",
        "browse",
        "Count objects and bytes by source, storage class and month, and the cars' photos in the ledger",
    ),
    _verb(
        "estimate",
        "estimate",
        "Estimate what the photos cost in a month: storage, requests, transfer; the arithmetic is shown",
    ),
    _verb("get", "objects", "Read one object, checked against the ledger"),
    _verb("put", "objects", "Put one file as one object; prints its permanent address", changes=True),
    _verb("presign", "objects", "Give an address that opens one object for a while"),
    _verb("url", "objects", "Give the permanent address of a key, without asking anybody"),
    _verb(
        "delete",
        "delete",
        "Delete photos everywhere: object, thumbnails, row, local copy, CDN; no crawl brings them back",
        changes=True,
    ),
    _verb("audit", "audit", "Compare database, bucket and bytes; mend what differs", changes=True),
    _verb("discover", "discover", "Register objects that the ledger does not know", changes=True),
    _verb("hits", "hits", "Count the hot cache's hit rate from nginx's log"),
    _verb("invalidate", "invalidate", "Have CloudFront drop changed or deleted objects from its caches", changes=True),
]

GONE = {
    "tiers": "`scrapy storage tiers` is gone: nginx in front of the bucket (deploy/nginx.conf) keeps what is viewed "
    "most, `scrapy storage hits LOG` counts its hit rate, `scrapy storage lifecycle` moves photos to cheaper classes.",
    "upload": "`scrapy storage upload` is gone: `scrapy crawl backfill -a only=local` moves the photos of "
    "IMAGES_STORE to the bucket.",
}
"""Verbs of earlier versions, each with what to use instead."""
