"""``scrapy storage VERB``: everything about the bucket."""

from __future__ import annotations

from carscraper.command import VerbCommand
from carscraper.commands.storage import (
    audit,
    browse,
    caches,
    delete,
    estimate,
    objects,
    rules,
    setup,
    thumbnails,
    versions,
)

REMOVED_VERBS = {
    "tiers": "`scrapy storage tiers` is gone: nginx in front of the bucket (deploy/nginx.conf) keeps what is viewed "
    "most, `scrapy storage hits LOG` counts its hit rate, `scrapy storage lifecycle` moves photos to cheaper classes.",
    "upload": "`scrapy storage upload` is gone: `scrapy crawl backfill -a only=local` moves the photos of "
    "IMAGES_STORE to the bucket.",
}
"""Verbs of earlier versions, each with what to use instead."""


class Command(VerbCommand):
    """The verbs in the order in which they are shown."""

    summary = "Everything about the bucket: set up, check, look, change, audit"
    verbs = (
        setup.SETUP,
        setup.CHECK,
        rules.POLICY,
        rules.LIFECYCLE,
        browse.LIST,
        browse.STATS,
        estimate.VERB,
        objects.GET,
        objects.PUT,
        objects.PRESIGN,
        objects.URL,
        delete.VERB,
        versions.VERSIONS,
        versions.RESTORE,
        audit.AUDIT,
        audit.DISCOVER,
        thumbnails.VERB,
        caches.HITS,
        caches.INVALIDATE,
    )
    gone = REMOVED_VERBS
