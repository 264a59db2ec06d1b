"""The tables. ``car_listings`` keeps every column of the table of the earlier scraper, with the same meaning.

All times are UTC without a zone, as in the existing table.
"""

from __future__ import annotations

from datetime import date, datetime

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
    true,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


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


class CarListing(Base):
    """One car at one source."""

    __tablename__ = "car_listings"
    __table_args__ = (Index("uq_car_listings_source_external_id", "source", "external_id", unique=True),)

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


class CarImageRow(Base):
    """One photo of one car: the ledger."""

    __tablename__ = "car_images"
    __table_args__ = (
        UniqueConstraint("listing_id", "identity"),
        Index("ix_car_images_source_sha256", "source_sha256"),
        Index("ix_car_images_status", "status"),
        Index("ix_car_images_key", "key"),
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


class PriceChange(Base):
    """One change of a car's price."""

    __tablename__ = "price_changes"
    __table_args__ = (Index("ix_price_changes_listing_id", "listing_id"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    listing_id: Mapped[int] = mapped_column(ForeignKey("car_listings.id", ondelete="CASCADE"))
    old_price: Mapped[int] = mapped_column(BigInteger)
    new_price: Mapped[int] = mapped_column(BigInteger)
    changed_at: Mapped[datetime]


class ImageViews(Base):
    """How often a photo's permanent URL was asked for, by the web servers' own logs."""

    __tablename__ = "image_views"

    key: Mapped[str] = mapped_column(primary_key=True)
    """As in ``car_images``; several photos with the same bytes have one."""
    views: Mapped[int] = mapped_column(BigInteger, server_default="0")
    hits: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Views while the folder had the photo, when they were counted."""
    misses: Mapped[int] = mapped_column(BigInteger, server_default="0")
    last_viewed_at: Mapped[datetime | None]


class AccessLog(Base):
    """How far an access log was counted."""

    __tablename__ = "access_logs"

    fingerprint: Mapped[str] = mapped_column(primary_key=True)
    """SHA-256 of its first line: it stays the same when the file grows, is renamed or compressed."""
    position: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Bytes (uncompressed) that are counted."""
    counted_at: Mapped[datetime]
