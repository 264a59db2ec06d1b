"""Merge the rows of photos that a car has twice: as a crawl has it, and as it was found in the store.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Apply."""
    # How an object was served that was found in the store is not known, so 0006, which compares that, has left these.
    # The row under the site's identity is the current one: a crawl knows it. Not so in an archive, see 0006.
    op.execute("""
        UPDATE car_images SET status = 'superseded', superseded_by = (
            SELECT other.id FROM car_images AS other
            WHERE other.listing_id = car_images.listing_id AND other.sha256 = car_images.sha256
            AND other.status = 'stored' AND other.store = car_images.store
            ORDER BY CASE WHEN other.identity LIKE 'object/%' THEN 0 ELSE 1 END DESC, other.id DESC LIMIT 1
        )
        WHERE status = 'stored' AND identity LIKE 'object/%' AND EXISTS (
            SELECT 1 FROM car_images AS other
            WHERE other.listing_id = car_images.listing_id AND other.sha256 = car_images.sha256
            AND other.status = 'stored' AND other.store = car_images.store
            AND (other.identity NOT LIKE 'object/%' OR other.id > car_images.id)
        )
        AND listing_id IN (SELECT id FROM car_listings WHERE source <> 'Archive')
    """)
    # What they had taken the place of.
    op.execute("""
        UPDATE car_images SET superseded_by = (
            SELECT newer.superseded_by FROM car_images AS newer WHERE newer.id = car_images.superseded_by
        )
        WHERE superseded_by IN (
            SELECT id FROM car_images WHERE status = 'superseded' AND superseded_by IS NOT NULL
        )
    """)
