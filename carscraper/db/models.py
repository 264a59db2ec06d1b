"""The tables. ``car_listings`` keeps every column of the table of the earlier scraper, with the same meaning.

All times are UTC without a zone, as in the existing table.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, cast

from sqlalchemy import (
    BigInteger,
    Date,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

if TYPE_CHECKING:
    from sqlalchemy import Table


class Base(DeclarativeBase):
    """Constraint names are fixed so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: Text, datetime: DateTime, float: Float, date: Date}


def _partial(*columns: str, where: str, sqlite_where: str | None = None) -> Index:
    """Return an index of the rows for which *where* holds."""
    name = f"ix_car_listings_{'_'.join(columns)}"
    return Index(name, *columns, postgresql_where=text(where), sqlite_where=text(sqlite_where or where))


class CarListing(Base):
    """One car at one source."""

    __tablename__ = "car_listings"
    __table_args__ = (
        Index("uq_car_listings_source_external_id", "source", "external_id", unique=True),
        # For linking (``linking``): each holds only the rows it is asked for, and costs the others nothing.
        _partial("same_as", where="same_as IS NOT NULL"),
        _partial("registration_plate", where="registration_plate IS NOT NULL"),
        _partial("make", "year", where="is_active", sqlite_where="is_active = 1"),
        Index(
            "ix_car_listings_link_due",
            "id",
            postgresql_where=text("link_due AND external_id IS NOT NULL"),
            sqlite_where=text("link_due = 1 AND external_id IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str | None]
    external_id: Mapped[str | None]
    url: Mapped[str | None] = mapped_column(unique=True)
    title: Mapped[str | None]
    make: Mapped[str | None]
    model: Mapped[str | None]
    year: Mapped[int | None]
    registration_month: Mapped[int | None]
    price: Mapped[int | None] = mapped_column(BigInteger)
    price_before_offer: Mapped[int | None] = mapped_column(BigInteger)
    price_excludes_vat: Mapped[bool | None]
    kilometers: Mapped[int | None] = mapped_column(BigInteger)
    fuel: Mapped[str | None]
    transmission: Mapped[str | None]
    drivetrain: Mapped[str | None]
    colour: Mapped[str | None]
    body: Mapped[str | None]
    doors: Mapped[int | None]
    seats: Mapped[int | None]
    horsepower: Mapped[int | None]
    city_consumption: Mapped[float | None]
    dealer_id: Mapped[str | None]
    dealer_name: Mapped[str | None]
    description: Mapped[str | None]
    source_updated_at: Mapped[date | None]
    image_url: Mapped[str | None]
    display_make: Mapped[str | None]
    display_name: Mapped[str | None]
    is_active: Mapped[bool] = mapped_column(server_default=true())
    scraped_at: Mapped[datetime | None]
    first_seen_at: Mapped[datetime | None]
    last_seen_at: Mapped[datetime | None]
    gone_at: Mapped[datetime | None]
    """When the car's own page said that it is sold or removed."""
    details_at: Mapped[datetime | None]
    """When the details page was last read."""
    card_hash: Mapped[str | None]
    registration_plate: Mapped[str | None]
    same_as: Mapped[int | None] = mapped_column(ForeignKey("car_listings.id", ondelete="SET NULL"))
    """The preferred listing of the same car; ``None`` for that one and for a car that has only one listing."""
    link_due: Mapped[bool] = mapped_column(server_default=true())
    """Something changed that may make or undo a link; the end of a crawl looks at it."""


class CarImageRow(Base):
    """One photo of one car: the ledger."""

    __tablename__ = "car_images"
    __table_args__ = (
        UniqueConstraint("listing_id", "identity"),
        Index("ix_car_images_source_sha256", "source_sha256"),
        Index("ix_car_images_status", "status"),
        Index("ix_car_images_key", "key"),
        Index(
            "ix_car_images_superseded_by",
            "superseded_by",
            postgresql_where=text("superseded_by IS NOT NULL"),
            sqlite_where=text("superseded_by IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    listing_id: Mapped[int] = mapped_column(ForeignKey("car_listings.id", ondelete="CASCADE"))
    position: Mapped[int]
    identity: Mapped[str]
    source_url: Mapped[str]
    status: Mapped[str]
    reason: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(server_default="0")
    store: Mapped[str | None]
    """Where ``key`` is: ``s3://bucket`` or ``folder``."""
    key: Mapped[str | None]
    url: Mapped[str | None]
    sha256: Mapped[str | None]
    source_sha256: Mapped[str | None]
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    width: Mapped[int | None]
    height: Mapped[int | None]
    content_type: Mapped[str | None]
    first_seen_at: Mapped[datetime]
    last_attempt_at: Mapped[datetime | None]
    stored_at: Mapped[datetime | None]
    failed_days: Mapped[int] = mapped_column(server_default="0")
    """On how many different days (UTC) the photo failed for ``reason``; a failure becomes final by it."""
    failed_on: Mapped[date | None]
    """The last of these days."""
    superseded_by: Mapped[int | None] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), ForeignKey("car_images.id", ondelete="SET NULL")
    )
    """The row that shows the same picture of the same car now; ``status`` is then ``superseded``."""


class ImageLikeness(Base):
    """What a photo looks like: computed once for the same bytes, and only where cars have to be compared."""

    __tablename__ = "image_likeness"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    """Of the stored bytes."""
    phash: Mapped[str | None]
    """Perceptual hash, 16 hexadecimal digits; ``None`` for a picture that says nothing."""


class PriceChange(Base):
    """One change of a car's price."""

    __tablename__ = "price_changes"
    __table_args__ = (Index("ix_price_changes_listing_id", "listing_id"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    listing_id: Mapped[int] = mapped_column(ForeignKey("car_listings.id", ondelete="CASCADE"))
    old_price: Mapped[int] = mapped_column(BigInteger)
    new_price: Mapped[int] = mapped_column(BigInteger)
    changed_at: Mapped[datetime]


class DealerFill(Base):
    """How many of its cars a dealer's crawl could read which fields of: a row a crawl."""

    __tablename__ = "dealer_fill"
    __table_args__ = (Index("ix_dealer_fill_source", "source"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    source: Mapped[str]
    finished_at: Mapped[datetime]
    cars: Mapped[int]
    fields: Mapped[str]
    """JSON: the number of cars with each field, as ``carscraper.field_coverage`` counts them."""
    complete: Mapped[bool]
    """The crawl ended by itself, saw the whole site and did not fail."""
    good: Mapped[bool]
    """Later crawls are measured by it."""
    why: Mapped[str | None]
    """Why it failed."""


class CrawlRun(Base):
    """One run of a spider; ``carscraper.runs.record`` describes its fields."""

    __tablename__ = "crawl_runs"
    __table_args__ = (
        Index("ix_crawl_runs_spider_started_at", "spider", "started_at"),
        Index("ix_crawl_runs_job_id", "job_id"),
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    spider: Mapped[str]
    source: Mapped[str | None]
    job_id: Mapped[str]
    arguments: Mapped[str] = mapped_column(server_default="{}")
    """JSON, as all the texts below that hold more than one value."""
    settings: Mapped[str] = mapped_column(server_default="{}")
    version: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int | None]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    status: Mapped[str]
    exit_code: Mapped[int | None]
    why: Mapped[str | None]
    complete: Mapped[bool] = mapped_column(server_default=false())
    cars_new: Mapped[int] = mapped_column(server_default="0")
    cars_changed: Mapped[int] = mapped_column(server_default="0")
    cars_unchanged: Mapped[int] = mapped_column(server_default="0")
    cars_gone: Mapped[int] = mapped_column(server_default="0")
    images_stored: Mapped[int] = mapped_column(server_default="0")
    images_linked: Mapped[int] = mapped_column(server_default="0")
    images_known: Mapped[int] = mapped_column(server_default="0")
    images_failed: Mapped[str] = mapped_column(server_default="{}")
    images_for_sale: Mapped[int | None]
    """Photos of cars for sale in the ledger when the run ended; ``None``: not counted."""
    images_for_sale_stored: Mapped[int | None]
    """Those of them that are stored."""
    images_unstored: Mapped[str] = mapped_column(server_default="{}")
    """JSON: the others, by reason."""
    bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    requests: Mapped[int] = mapped_column(server_default="0")
    safe_p50: Mapped[float | None]
    safe_p95: Mapped[float | None]
    monitors: Mapped[str] = mapped_column(server_default="[]")
    output: Mapped[str] = mapped_column(server_default="{}")


# The tables as statements name them.
listings = cast("Table", CarListing.__table__)
images = cast("Table", CarImageRow.__table__)
price_changes = cast("Table", PriceChange.__table__)
dealer_fill = cast("Table", DealerFill.__table__)
crawl_runs = cast("Table", CrawlRun.__table__)
