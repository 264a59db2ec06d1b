"""A run's fields as people read them."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import datetime
from typing import Any

from carscraper.cli.console import human_bytes, printable
from carscraper.runs.record import RunRecord

_SECONDS = {"safe_p50", "safe_p95"}


def took(record: RunRecord) -> str:
    """Give how long it took, ``-`` if it has no end.

    >>> start = datetime(2026, 11, 21, 7, 0, 0)
    >>> took(RunRecord(spider="x", job_id="1", started_at=start, finished_at=datetime(2026, 11, 21, 8, 2, 3)))
    '1:02:03'
    """
    if record.finished_at is None:
        return "-"
    seconds = max(0, round((record.finished_at - record.started_at).total_seconds()))
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def in_words(record: RunRecord) -> dict[str, str]:
    """Give every field, and every value of those that hold several, with its name; nothing in it forges a line."""
    found: dict[str, str] = {}
    for field in fields(record):
        found |= _parts(field.name, getattr(record, field.name))
        if field.name == "finished_at":
            found["took"] = took(record)
        if field.name == "cars_gone":
            found["cars"] = str(record.cars)
    return found


def _parts(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, dict) and value:
        return {f"{name}.{printable(key)}": _word(key, each) for key, each in value.items()}
    if name == "monitors" and value:
        return {
            f"{name}.{printable(str(each.get('name')))}": printable(
                f"{'kept' if each.get('passed') else 'not kept'}: {each.get('said')}"
            )
            for each in value
        }
    return {name: _word(name, value)}


def _word(name: str, value: Any) -> str:
    if value is None or value in ({}, [], ""):
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in _SECONDS:
        return f"{value:.3g} s"
    if name == "bytes":
        return f"{value} ({human_bytes(value)})"
    if name == "why":
        return "\n".join(map(printable, value.split("\n")))
    if isinstance(value, dict | list):
        return printable(json.dumps(value, ensure_ascii=False, default=str))
    return printable(str(value))
