"""Drop the counts of views (the hot cache is nginx, whose log has them) and the pace that machines shared.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Apply."""
    op.drop_table("access_logs", if_exists=True)
    op.drop_table("image_views", if_exists=True)
    op.drop_table("dealer_pace", if_exists=True)
