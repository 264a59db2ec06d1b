"""Every exception of carscraper, in one tree.

Messages are whole sentences for the person who runs the crawl: what is wrong and what mends it.
"""

from __future__ import annotations

from scrapy.exceptions import IgnoreRequest


class CarscraperError(Exception):
    """The root. Never raised itself."""


class ConfigurationError(CarscraperError):
    """A setting or a spider argument is missing or wrong.

    Raised by whoever reads the value, before anything is fetched; the crawl ends with exit code 4.
    """


class SchemaOutdatedError(ConfigurationError):
    """The database's tables are older (or newer) than this program. Raised by ``db.schema``."""


class ImageRejectedError(CarscraperError):
    """The bytes are not a photo worth keeping. Raised by ``images``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        """The word that goes to ``car_images.reason``: ``truncated``, ``too-small``, …"""
        self.detail = detail
        """A few words for the log."""


class BlockedAddressError(CarscraperError, IgnoreRequest):
    """A request would have connected to a loopback, private or link-local address.

    Raised by ``middlewares.retry`` when the guard in ``network`` refused every address of the host.
    """


class RobotsUnreachableError(CarscraperError, IgnoreRequest):
    """Nobody knows what a host's ``robots.txt`` allows, so nothing is fetched. Raised by ``middlewares.robots``."""


class StoreError(CarscraperError):
    """The store did not take the bytes. Raised only as one of the two below."""


class StoreUnavailableError(StoreError):
    """The store is away, busy or slow: the same call may work later. Raised by ``storage.s3``."""


class StoreRefusedError(StoreError):
    """The store will go on refusing until a person changes something: keys, rights, bucket, disk.

    Raised by ``storage.s3`` and ``storage.folder``; ends the crawl with one message.
    """


class KeysRefusedError(StoreRefusedError):
    """The store does not know the keys, or not any more; a profile or role may give others."""


class DatabaseUnavailableError(CarscraperError):
    """The database did not answer, or refused, for longer than ``DATABASE_PATIENCE``. Raised by ``db.ledger``."""
