"""Link the listings of one car at several sites.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Apply; every car that is there already is looked at by the crawls that follow."""
    same_as = sa.ForeignKey("car_listings.id", ondelete="SET NULL", name="fk_car_listings_same_as")
    op.add_column("car_listings", sa.Column("registration_plate", sa.Text))
    op.add_column("car_listings", sa.Column("same_as", sa.Integer, same_as), inline_references=True)
    op.add_column("car_listings", sa.Column("link_due", sa.Boolean, nullable=False, server_default=sa.true()))
    for columns, where, sqlite_where in (
        (["same_as"], "same_as IS NOT NULL", None),
        (["registration_plate"], "registration_plate IS NOT NULL", None),
        (["make", "year"], "is_active", "is_active = 1"),
    ):
        _index("_".join(columns), columns, where, sqlite_where or where)
    _index("link_due", ["id"], "link_due AND external_id IS NOT NULL", "link_due = 1 AND external_id IS NOT NULL")
    op.create_table(
        "image_likeness",
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("phash", sa.Text),
    )


def _index(name: str, columns: list[str], where: str, sqlite_where: str) -> None:
    op.create_index(
        f"ix_car_listings_{name}",
        "car_listings",
        columns,
        postgresql_where=sa.text(where),
        sqlite_where=sa.text(sqlite_where),
    )
