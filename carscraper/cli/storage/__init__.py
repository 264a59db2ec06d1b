"""The verbs of ``scrapy storage``, in the order in which they are shown."""

from __future__ import annotations

from carscraper.cli.verb import Verb

_CHANGE = {"setup", "lifecycle", "put", "delete", "audit", "discover", "invalidate"}
_VERBS = (
    ("setup", "setup", "Make the bucket, or bring one that is there into shape: access, encryption, versions, rules"),
    ("check", "check", "Test the connection: credentials, bucket, objects, addresses; each failure with its fix"),
    (
        *("policy", "policy"),
        "Print the least rights for a crawl, a backfill or the administration, or a policy for the bucket",
    ),
    ("lifecycle", "lifecycle", "Show or change when objects move to cheaper classes and when they are deleted"),
    ("list", "browse", "List objects with size, date and storage class; --json gives a JSON object a line"),
    (
        *("stats", "browse"),
        "Count objects and bytes by source, storage class and month, and the cars' photos in the ledger",
    ),
    (
        *("estimate", "estimate"),
        "Estimate what the photos cost in a month: storage, requests, transfer; the arithmetic is shown",
    ),
    ("get", "objects", "Read one object, checked against the ledger"),
    ("put", "objects", "Put one file as one object; prints its permanent address"),
    ("presign", "objects", "Give an address that opens one object for a while"),
    ("url", "objects", "Give the permanent address of a key, without asking anybody"),
    (
        "delete",
        "delete",
        "Delete photos everywhere: object, thumbnails, row, local copy, CDN; no crawl brings them back",
    ),
    ("audit", "audit", "Compare database, bucket and bytes; mend what differs"),
    ("discover", "discover", "Register objects that the ledger does not know"),
    ("hits", "hits", "Count the hot cache's hit rate from nginx's log"),
    ("invalidate", "invalidate", "Have CloudFront drop changed or deleted objects from its caches"),
)
VERBS = [Verb(name, f"{__name__}.{module}", summary, name in _CHANGE) for name, module, summary in _VERBS]
"""Each with its module and its line of help."""

GONE = {
    "tiers": "`scrapy storage tiers` is gone: nginx in front of the bucket (deploy/nginx.conf) keeps what is viewed "
    "most, `scrapy storage hits LOG` counts its hit rate, `scrapy storage lifecycle` moves photos to cheaper classes.",
    "upload": "`scrapy storage upload` is gone: `scrapy crawl backfill -a only=local` moves the photos of "
    "IMAGES_STORE to the bucket.",
}
"""Verbs of earlier versions, each with what to use instead."""
