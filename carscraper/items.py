"""What flows through the pipelines.

Unknown is ``None``, never 0 or an empty string.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import date


class Status(StrEnum):
    """What became of a photo: ``car_images.status``."""

    STORED = "stored"
    FAILED = "failed"
    PENDING = "pending"
    """It was seen; its bytes are not yet safe in the store."""
    SUPERSEDED = "superseded"
    """Another row of the car shows the picture now."""


class Reason(StrEnum):
    """Why a photo is not stored: ``car_images.reason``, besides ``http-404`` and its kind."""

    DELETED = "deleted"
    """Somebody had it deleted, for good."""
    CAR_GONE = "car-gone"
    """The car is sold, and nobody has the photo any more."""
    SPOOLED = "spooled"
    """Its bytes wait in the spool."""
    STORE_ERROR = "store-error"
    """Neither the store nor the spool took it."""
    LIMIT = "limit"
    """Left by an argument."""
    TERMS = "terms"
    """Left by a setting."""
    PLACEHOLDER = "placeholder"
    """The same bytes on many cars."""
    NOT_AN_IMAGE = "not-an-image"
    TRUNCATED = "truncated"
    EMPTY = "empty"
    TOO_SMALL = "too-small"
    TOO_LARGE = "too-large"
    NO_FRESH_ADDRESS = "no-fresh-address"
    """The car's own page shows no photo."""
    OFF_PAGE = "off-page"
    """The car's own page shows others."""
    BAD_ADDRESS = "bad-address"
    BLOCKED_ADDRESS = "blocked-address"
    """Inside a private network."""
    ROBOTS_TXT = "robots-txt"
    ROBOTS_UNREACHABLE = "robots-unreachable"
    HOST_UNKNOWN = "host-unknown"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    IGNORED = "ignored"
    ERROR = "error"
    """An internal error."""
    NOT_FETCHED = "not-fetched"


CARD_TEXT, CARD_FIELD = 32, 4
"""Characters of ``CarItem.card_hash``: of the card's text and photos, and of each of ``CARD_FIELDS`` after them."""
CARD_FIELDS = (
    ("title", "make", "model", "display_make", "display_name"),
    ("year", "registration_month"),
    ("price", "price_before_offer", "price_excludes_vat"),
    *(("kilometers",), ("fuel",), ("transmission",), ("drivetrain",), ("dealer_id",)),
)
"""What is read together from a card."""
CARD_SILENT = "-" * CARD_FIELD
"""Stands for one of them that the card does not say."""


@dataclass(kw_only=True, slots=True)
class CarImage:
    """One photo of a car and what became of it: a row of ``car_images``."""

    identity: str
    """What names the photo whatever its address; for Rögg sites ``{cid}/{photo id}``."""
    source_url: str
    """The dealer's temporary address, as it was asked for."""
    position: int = 0
    """0 for the car's first photo."""
    status: str = Status.PENDING
    """A :class:`Status`."""
    reason: str | None = None
    """A :class:`Reason`, or ``http-404`` and its kind."""
    attempts: int = 0
    """How many times this run tried to get it; added to the row's count."""
    store: str | None = None
    """Where ``key`` is: ``s3://bucket`` or ``folder``."""
    key: str | None = None
    """The object's name in the store, prefix included."""
    url: str | None = None
    """The permanent URL, ``None`` where the store has none."""
    sha256: str | None = None
    """Of the stored bytes, hexadecimal."""
    source_sha256: str | None = None
    """Of the bytes as the dealer served them."""
    bytes: int | None = None
    width: int | None = None
    """Pixels, as stored (before any EXIF rotation)."""
    height: int | None = None
    content_type: str | None = None
    wanted_key: str | None = None
    """The key it must get (a manifest's), instead of one made from the car. Not a column."""
    may_link: bool = False
    """Another object with the same bytes will do in place of ``wanted_key``. Not a column."""
    insist: bool = False
    """Fetch it though an earlier run gave it up (``only=failed``). Not a column."""
    on_page: bool = True
    """The car's page or card shows it in this run; else the ledger alone knows its address. Not a column."""
    seen_at: float = field(default_factory=monotonic, compare=False, repr=False)
    """When the page that shows it was read, by this process's monotonic clock in seconds. Not a column."""


@dataclass(kw_only=True, slots=True)
class CarItem:
    """One car as one dealer's site shows it."""

    source: str
    """The dealer site's stored name, e.g. ``Bilasolur``."""
    external_id: str
    """The site's own lasting id of the car."""
    url: str
    """The canonical address of the car's own page: only the parameters that name the car."""
    title: str | None = None
    make: str | None = None
    model: str | None = None
    year: int | None = None
    registration_month: int | None = None
    """Month of first registration, 1 to 12."""
    price: int | None = None
    """ISK, the price that is asked now."""
    price_before_offer: int | None = None
    """ISK, the older, higher price where the car is on offer."""
    price_excludes_vat: bool | None = None
    """True for prices marked *án vsk*."""
    kilometers: int | None = None
    fuel: str | None = None
    transmission: str | None = None
    drivetrain: str | None = None
    colour: str | None = None
    body: str | None = None
    doors: int | None = None
    seats: int | None = None
    horsepower: int | None = None
    city_consumption: float | None = None
    """Litres per 100 km."""
    registration_plate: str | None = None
    """The plate's lasting number (*fastanúmer*), e.g. ``AB123``, where the site shows it."""
    dealer_id: str | None = None
    dealer_name: str | None = None
    description: str | None = None
    source_updated_at: date | None = None
    """The day on which the dealer says the advertisement was last changed."""
    display_make: str | None = None
    display_name: str | None = None
    image_urls: list[str] = field(default_factory=list)
    """The dealer's temporary addresses, in the page's order."""
    images: list[CarImage] = field(default_factory=list)
    """Filled by ``CarImagesPipeline``, one for each photo that was seen."""
    card_hash: str | None = None
    """Names the content of the result card and what was read of it (which older versions left out), so that the next
    crawl sees a change without the details page."""
    unchanged: bool = False
    """The card says nothing that the database does not know: only the time is written."""
    details_at: datetime | None = None
    """When the details page was read (UTC); ``None`` if this item comes from the card alone."""
    shows_all: bool = False
    """``images`` are all photos that the site shows of the car now. Not a column."""
    seen: bool = True
    """The car was on its site in this run. False: only its photos are written, nothing is said about the car."""
    imported: bool = False
    """Its photos are in the store or the folder already: they are entered, not fetched. Not a column."""
    listing_id: int | None = None
    """The id of its row, once that and those of its photos are written. Not a column."""
    news: str | None = None
    """``new``, ``changed`` or ``unchanged``, once the car is opened. Not a column."""
    gone: bool = False
    """Its page says that it is gone: no page can give fresh addresses for its photos."""


@dataclass(kw_only=True, slots=True)
class GoneCar:
    """A car whose own page says that it is sold or removed."""

    source: str
    external_id: str
    url: str
    give_up_photos: bool = False
    """Its photos that no address gives any more are given up, too (``car-gone``). Not a column."""


def utcnow() -> datetime:
    """Return the time as items and tables hold it: UTC without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)
