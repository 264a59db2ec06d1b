"""The settings of a rehearsal: nothing that people use is written to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from carscraper.settings import Secret
from carscraper.storage.keys import PROBES, normalise_prefix

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings


_STATION = {"carscraper.pipelines.rehearsal.RehearsalPipeline": 400}


def dry_run_settings() -> dict[str, Any]:
    """Return settings without a component that fetches or writes."""
    return {"ITEM_PIPELINES": _STATION}


def sample_settings(settings: BaseSettings, scratch: Path) -> dict[str, Any]:
    """Return settings with all components, with a database and spool in the folder *scratch* and another prefix."""
    changes: dict[str, Any] = {
        "ITEM_PIPELINES": {**settings.getdict("ITEM_PIPELINES"), **_STATION},
        "DATABASE_URL": Secret(f"sqlite:///{scratch / 'sample.db'}"),
        "SPOOL_DIR": str(scratch / "spool"),
        "IMAGES_THUMBS": {},
        "S3_PREFIX": normalise_prefix(settings.get("S3_PREFIX")) + PROBES,
    }
    to_s3 = str(settings.get("USE_S3_STORAGE")).strip().lower() in {"1", "true", "yes", "on"}  # not checked yet
    if settings.get("IMAGES_STORE") and not to_s3:
        changes["IMAGES_STORE"] = str(Path(settings.get("IMAGES_STORE")) / PROBES)
    return changes
