"""Count the days on which a photo failed, mark superseded photos, and give a run the state that it left.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Apply."""
    row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    newer = sa.ForeignKey("car_images.id", ondelete="SET NULL", name="fk_car_images_superseded_by")
    op.add_column("car_images", sa.Column("failed_days", sa.Integer, nullable=False, server_default="0"))
    op.add_column("car_images", sa.Column("failed_on", sa.Date))
    op.add_column("car_images", sa.Column("superseded_by", row_id, newer), inline_references=True)
    where = sa.text("superseded_by IS NOT NULL")
    op.create_index(
        "ix_car_images_superseded_by", "car_images", ["superseded_by"], postgresql_where=where, sqlite_where=where
    )
    op.add_column("crawl_runs", sa.Column("images_for_sale", sa.Integer))
    op.add_column("crawl_runs", sa.Column("images_for_sale_stored", sa.Integer))
    op.add_column("crawl_runs", sa.Column("images_unstored", sa.Text, nullable=False, server_default="{}"))
    # Sites that gave their photos new ids have left several stored rows for one picture: the newest is the current one.
    # Not so in an archive, where each photo has a key that was asked for.
    op.execute("""
        UPDATE car_images SET status = 'superseded', superseded_by = (
            SELECT max(newer.id) FROM car_images AS newer
            WHERE newer.listing_id = car_images.listing_id AND newer.source_sha256 = car_images.source_sha256
            AND newer.status = 'stored'
        )
        WHERE status = 'stored' AND EXISTS (
            SELECT 1 FROM car_images AS newer
            WHERE newer.listing_id = car_images.listing_id AND newer.source_sha256 = car_images.source_sha256
            AND newer.status = 'stored' AND newer.id > car_images.id
        )
        AND listing_id IN (SELECT id FROM car_listings WHERE source <> 'Archive')
    """)
