"""What tests of the backfill look at."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from tests import services
from tests.crawl.world import World, last_words, verdict

if TYPE_CHECKING:
    from pathlib import Path


NO_STORE = {"USE_S3_STORAGE": "false", "IMAGES_STORE": ""}


IN_FOLDER = {"USE_S3_STORAGE": "false"}


TABLES = ("car_listings", "car_images", "price_changes")


def statuses(world: World) -> Counter[tuple[str, str | None]]:
    return Counter((row["status"], row["reason"]) for row in world.images().values())


def stored(world: World) -> set[str]:
    return {identity for identity, row in world.images().items() if row["status"] == "stored"}


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file of the world with its time of change: database, bucket, spool; what crawls print aside."""
    paths = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        str(name): (path.read_bytes(), path.stat().st_mtime_ns)
        for name, path in paths.items()
        if not name.parts[0].startswith(("crawl-", ".home", "s3.rclone"))
    }


def rows(world: World) -> dict[str, list[Any]]:
    return {table: world.sql(f"SELECT * FROM {table} ORDER BY id") for table in TABLES}


def assert_one_sentence(done: services.CompletedCrawl, named: str) -> None:
    assert len(last_words(done).splitlines()) == 1, done
    assert verdict(done).startswith("backfill: failed. "), done
    assert named in verdict(done)
