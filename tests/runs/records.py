"""Runs as the database gives them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from carscraper.runs.record import SUCCESS, RunRecord

BEGIN = datetime(2026, 11, 1, 3, 0, 0)  # noqa: DTZ001 - as in all tables


def a_run(number: int = 100, *, cars: int = 100, **fields: Any) -> RunRecord:
    """Run *number*, one a day, of bilasolur."""
    begin = BEGIN + timedelta(days=number)
    return RunRecord(
        **{
            "id": number,
            "spider": "bilasolur",
            "source": "Bilasolur",
            "job_id": f"job-{number}",
            "host": "crawler-1",
            "started_at": begin,
            "finished_at": begin + timedelta(seconds=90),
            "status": SUCCESS,
            "exit_code": 0,
            "cars_unchanged": cars,
        }
        | fields
    )
