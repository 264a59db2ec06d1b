"""Create the tables, or adopt the ``car_listings`` of the earlier scraper: rows, ids and columns stay.

Revision ID: 0001
Revises: nothing
"""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# Sources on the Rögg platform, whose addresses carry the car's lasting id.
_ROGG = ("Bilasolur", "Bilaland", "BR")


def upgrade() -> None:
    """Apply."""
    inspector = sa.inspect(op.get_bind())
    if inspector.has_table("car_listings"):
        existing = {column["name"] for column in inspector.get_columns("car_listings")}
        for column in _listing_columns():
            if column.name not in existing and not column.primary_key:
                op.add_column("car_listings", column)
        if inspector.get_pk_constraint("car_listings")["constrained_columns"] != ["id"]:
            # Some tables have only `id serial`; the photos' rows must be able to refer to it.
            op.create_index("uq_car_listings_id", "car_listings", ["id"], unique=True)
        _give_external_ids()
        op.execute(sa.text("UPDATE car_listings SET first_seen_at = scraped_at WHERE first_seen_at IS NULL"))
    else:
        op.create_table("car_listings", *_listing_columns(), sa.UniqueConstraint("url", name="uq_car_listings_url"))
    op.create_index("uq_car_listings_source_external_id", "car_listings", ["source", "external_id"], unique=True)
    _create_images()
    _create_price_changes()


def _listing_columns() -> list[sa.Column[Any]]:
    text, integer, big, time = sa.Text, sa.Integer, sa.BigInteger, sa.DateTime
    return [
        sa.Column("id", integer, primary_key=True),
        sa.Column("source", text),
        sa.Column("external_id", text),
        sa.Column("url", text),
        sa.Column("title", text),
        sa.Column("make", text),
        sa.Column("model", text),
        sa.Column("year", integer),
        sa.Column("registration_month", integer),
        sa.Column("price", big),
        sa.Column("price_before_offer", big),
        sa.Column("price_excludes_vat", sa.Boolean),
        sa.Column("kilometers", big),
        sa.Column("fuel", text),
        sa.Column("transmission", text),
        sa.Column("drivetrain", text),
        sa.Column("colour", text),
        sa.Column("body", text),
        sa.Column("doors", integer),
        sa.Column("seats", integer),
        sa.Column("horsepower", integer),
        sa.Column("city_consumption", sa.Float),
        sa.Column("dealer_id", text),
        sa.Column("dealer_name", text),
        sa.Column("description", text),
        sa.Column("source_updated_at", sa.Date),
        sa.Column("image_url", text),
        sa.Column("display_make", text),
        sa.Column("display_name", text),
        sa.Column("is_active", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("scraped_at", time),
        sa.Column("first_seen_at", time),
        sa.Column("last_seen_at", time),
        sa.Column("gone_at", time),
        sa.Column("details_at", time),
        sa.Column("card_hash", text),
    ]


def _give_external_ids() -> None:
    """Fill in the car's id of rows of Rögg sites, from the address.

    The earlier scraper could keep one car under several addresses; the row that was seen last gets the id, the others
    stay as they are, without one.
    """
    connection = op.get_bind()
    rows = connection.execute(
        sa.text(
            "SELECT id, source, url FROM car_listings WHERE external_id IS NULL AND source IN :sources "
            "ORDER BY last_seen_at IS NULL, last_seen_at DESC, id DESC"
        ).bindparams(sa.bindparam("sources", _ROGG, expanding=True))
    )
    taken = set()
    updates = []
    for row_id, source, url in rows:
        found = re.search(r"[?&]cid=(\d+)", url or "", re.IGNORECASE)
        if found and (source, found.group(1)) not in taken:
            taken.add((source, found.group(1)))
            updates.append({"row": row_id, "external_id": found.group(1)})
    if updates:
        connection.execute(sa.text("UPDATE car_listings SET external_id = :external_id WHERE id = :row"), updates)


def _create_images() -> None:
    big_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "car_images",
        sa.Column("id", big_id, primary_key=True),
        sa.Column(
            "listing_id",
            sa.Integer,
            sa.ForeignKey("car_listings.id", ondelete="CASCADE", name="fk_car_images_listing_id"),
            nullable=False,
        ),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("source_url", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("store", sa.Text),
        sa.Column("key", sa.Text),
        sa.Column("url", sa.Text),
        sa.Column("sha256", sa.Text),
        sa.Column("source_sha256", sa.Text),
        sa.Column("bytes", sa.BigInteger),
        sa.Column("width", sa.Integer),
        sa.Column("height", sa.Integer),
        sa.Column("content_type", sa.Text),
        sa.Column("first_seen_at", sa.DateTime, nullable=False),
        sa.Column("last_attempt_at", sa.DateTime),
        sa.Column("stored_at", sa.DateTime),
        sa.UniqueConstraint("listing_id", "identity", name="uq_car_images_listing_id_identity"),
    )
    for column in ("source_sha256", "status", "key"):
        op.create_index(f"ix_car_images_{column}", "car_images", [column])


def _create_price_changes() -> None:
    op.create_table(
        "price_changes",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column(
            "listing_id",
            sa.Integer,
            sa.ForeignKey("car_listings.id", ondelete="CASCADE", name="fk_price_changes_listing_id"),
            nullable=False,
        ),
        sa.Column("old_price", sa.BigInteger, nullable=False),
        sa.Column("new_price", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.DateTime, nullable=False),
    )
    op.create_index("ix_price_changes_listing_id", "price_changes", ["listing_id"])
