"""Numbers of a spider's last run for Prometheus, through the node exporter's textfile folder (``METRICS_DIR``)."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from carscraper.items import utcnow
from carscraper.runs.record import FAILED, OUTPUT_STATUSES, PARTIAL, SKIPPED, SUCCESS

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from scrapy.settings import BaseSettings

    from carscraper.runs.record import RunRecord

logger = logging.getLogger(__name__)

_LAST_SUCCESS = "carscraper_run_last_success_timestamp_seconds"
_WORD = re.compile(r"[a-z0-9._-]{1,60}", re.IGNORECASE)


def write_metrics(settings: BaseSettings, record: RunRecord) -> None:
    """Write the spider's file, in one step; what can't be written is a line of the log. Blocking; never raises.

    A run that was skipped changes nothing: the numbers stay those of the last one.
    """
    folder = settings.get("METRICS_DIR")
    if not folder or record.status == SKIPPED:
        return
    path = Path(folder) / f"carscraper_{re.sub(r'[^A-Za-z0-9_-]', '_', record.spider)}.prom"
    try:
        _write(path, _text_of(record, _last_success(path)))
    except OSError as error:
        logger.warning("METRICS_DIR: %s can't be written (%s)", str(path)[:200], error.strerror)


def _text_of(record: RunRecord, last_success: float | None) -> bytes:
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - most runs need it for nothing

    registry = CollectorRegistry()
    _fill(registry, record, last_success)
    return generate_latest(registry)


def _fill(registry: CollectorRegistry, record: RunRecord, last_success: float | None) -> None:
    from prometheus_client import Gauge  # noqa: PLC0415 - as above

    def gauge(name: str, what: str, *labels: str) -> Gauge:
        return Gauge(f"carscraper_run_{name}", what, ("spider", *labels), registry=registry)

    def one(name: str, what: str, value: float) -> None:
        gauge(name, what).labels(record.spider).set(value)

    def several(name: str, what: str, label: str, values: dict[str, float]) -> None:
        family = gauge(name, what, label)
        for key, value in values.items():
            # Reasons and limits are our own words; should one not be, it makes no new time series.
            family.labels(record.spider, key if _WORD.fullmatch(key) else "other").inc(value)

    finished = record.finished_at or utcnow()
    one("last_started_timestamp_seconds", "When the last run began.", _seconds(record.started_at))
    one("last_finished_timestamp_seconds", "When the last run ended.", _seconds(finished))
    if record.status == SUCCESS:
        last_success = _seconds(finished)
    if last_success is not None:
        one(
            _LAST_SUCCESS.removeprefix("carscraper_run_"), "When the last run that kept all it saw ended.", last_success
        )
    one("duration_seconds", "How long the last run took.", max(0.0, (finished - record.started_at).total_seconds()))
    one("success", "1 if the last run kept all it saw, else 0.", record.status == SUCCESS)
    states = {word: float(record.status == word) for word in (SUCCESS, PARTIAL, FAILED)}
    several("status", "1 for the word that the last run ended with.", "status", states)
    uploads = {word: float(record.output.get("status") == word) for word in OUTPUT_STATUSES}
    several("output", "1 for how the upload of the last run's items and log ended.", "status", uploads)
    if record.exit_code is not None:
        one("exit_code", "The last run's exit code: 0 success, 3 partial, 4 failed.", record.exit_code)
    cars = {"new": record.cars_new, "changed": record.cars_changed, "unchanged": record.cars_unchanged}
    several("cars", "Cars that the last run saw, or found gone.", "state", {**cars, "gone": record.cars_gone})
    photos = {"stored": record.images_stored, "linked": record.images_linked, "known": record.images_known}
    failed = sum(record.images_failed.values())
    several("photos", "Photos of the last run by what became of them.", "outcome", {**photos, "failed": failed})
    several("photos_failed", "Photos that failed by reason.", "reason", dict(record.images_failed))
    if record.images_for_sale is not None:
        one("photos_for_sale", "Photos of cars for sale in the ledger when the last run ended.", record.images_for_sale)
        stored = record.images_for_sale_stored or 0
        one("photos_for_sale_stored", "Those of them that are stored.", stored)
        several("photos_unstored", "The others, by reason.", "reason", dict(record.images_unstored))
    one("stored_bytes", "Bytes of the photos that the last run stored.", record.bytes)
    one("requests", "Requests that the last run made to the dealer.", record.requests)
    safe = {"0.5": record.safe_p50, "0.95": record.safe_p95}
    several(
        "photo_safe_seconds",
        "From a photo being seen to its bytes being safe, by quantile.",
        "quantile",
        {quantile: seconds for quantile, seconds in safe.items() if seconds is not None},
    )
    passed = {str(each["name"]): float(bool(each["passed"])) for each in record.monitors}
    several("monitor_passed", "1 if the last run kept the limit, else 0.", "monitor", passed)


def _seconds(naive: datetime) -> float:
    return naive.replace(tzinfo=UTC).timestamp()


def _last_success(path: Path) -> float | None:
    """Read from the file that is there when the last good run was; a file that is none has nothing to say."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - as above

    try:
        families = list(text_string_to_metric_families(path.read_text("utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception:  # the parser's errors are not its contract
        logger.warning("METRICS_DIR: %s can't be read; when the last good run was is lost", str(path)[:200])
        return None
    return next(
        (sample.value for family in families for sample in family.samples if sample.name == _LAST_SUCCESS), None
    )


def _write(path: Path, text: bytes) -> None:
    """Write *text* so that nobody sees half of it; the node exporter, another user, may read it."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
