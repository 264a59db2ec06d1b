"""Remember each run, and share a dealer's pace between machines.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "crawl_runs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("spider", sa.Text, nullable=False),
        sa.Column("source", sa.Text),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("arguments", sa.Text, nullable=False, server_default="{}"),
        sa.Column("settings", sa.Text, nullable=False, server_default="{}"),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer),
        sa.Column("started_at", sa.DateTime, nullable=False),
        sa.Column("finished_at", sa.DateTime),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("exit_code", sa.Integer),
        sa.Column("why", sa.Text),
        sa.Column("complete", sa.Boolean, nullable=False, server_default=sa.false()),
        *(_count(f"cars_{name}") for name in ("new", "changed", "unchanged", "gone")),
        *(_count(f"images_{name}") for name in ("stored", "linked", "known")),
        sa.Column("images_failed", sa.Text, nullable=False, server_default="{}"),
        sa.Column("bytes", sa.BigInteger, nullable=False, server_default="0"),
        _count("requests"),
        sa.Column("safe_p50", sa.Float),
        sa.Column("safe_p95", sa.Float),
        sa.Column("monitors", sa.Text, nullable=False, server_default="[]"),
        sa.Column("output", sa.Text, nullable=False, server_default="{}"),
    )
    op.create_index("ix_crawl_runs_spider_started_at", "crawl_runs", ["spider", "started_at"])
    op.create_index("ix_crawl_runs_job_id", "crawl_runs", ["job_id"])
    op.create_table(
        "dealer_pace",
        sa.Column("slot", sa.Text, primary_key=True),
        sa.Column("next_at", sa.DateTime, nullable=False),
    )


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default="0")
