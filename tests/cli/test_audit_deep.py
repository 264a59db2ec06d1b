"""What an audit reads, and what is entered from the bucket: no picture of a car twice."""

from __future__ import annotations

import gzip
import io
import json
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from sqlalchemy import delete, insert, select

from carscraper.db.models import CrawlRun
from tests.cli.test_audit import CLEAN, findings, marks
from tests.crawl.conftest import new_site, new_world
from tests.maintenance.stock import OLD, Stock, images, picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests import services
    from tests.cli.conftest import Storage
    from tests.crawl.world import World

__all__ = ["new_site", "new_world"]  # fixtures


def test_damaged_thumbnails_are_made_again_and_damaged_outputs_named(
    storage: Storage, sqlite_url: str, s3: services.S3
) -> None:
    stock = Stock(sqlite_url, s3)
    listing_id = stock.car("1")
    keys = [stock.photo(listing_id, "1", number, picture(f"{number}")) for number in range(3)]
    storage.settings = stock.settings | {"IMAGES_THUMBS": '{"small": [32, 24]}'}
    storage("audit", "--fix", "--yes")
    small = [stock.thumbnail(key) for key in keys]
    whole = s3.objects()[small[0]]
    s3.put(small[1], whole[:-40])
    s3.put(small[2], b"")
    items, log = "outputs/run-1/items.jsonl.gz", "outputs/run-1/run.log"
    s3.put(items, gzip.compress(b'{"car": 1}\n' * 50)[:-9])
    s3.put(log, b"log")
    output = {"s3Urls": [f"s3://{s3.bucket}/{name}" for name in (items, log)], "filesUploaded": 2}
    run = {"spider": "bilasolur", "job_id": "j", "version": "1", "host": "h", "status": "success", "started_at": OLD}
    with stock.engine.begin() as connection:
        connection.execute(insert(CrawlRun.__table__).values(**run, output=json.dumps(output)))
    assert findings(storage("audit")) == []
    said = storage("audit", "--deep", code=3)
    assert marks(said) == sorted(("*", name) for name in (*small[1:], f"s3://{s3.bucket}/{items}"))
    assert (
        "fetched again (0), make missing thumbnails (2)" in storage("audit", "--deep", "--fix", "--dry-run", code=3).err
    )
    said = storage("audit", "--deep", "--fix", "--yes", code=3)
    assert f"left: s3://{s3.bucket}/{items} (bad-output: scrapy runs upload 1)" in said.err
    assert "thumbnails 2; left 1." in said.out
    for name in small[1:]:
        with Image.open(io.BytesIO(s3.objects()[name])) as made:
            made.load()
    s3.put(items, gzip.compress(b"{}\n"))
    assert findings(storage("audit", "--deep")) == []


@pytest.mark.parametrize(
    ("s3", "verb", "carries"),
    [
        ("rclone", ("discover", "--yes"), True),
        ("rclone", ("audit", "--fix", "--yes"), False),
        ("moto", ("discover", "--yes"), False),
        ("moto", ("audit", "--fix", "--yes"), True),
    ],
    indirect=["s3"],
)
def test_what_is_entered_from_the_bucket_is_no_second_row_for_the_next_crawl(
    storage: Storage, new_world: Callable[..., World], s3: services.S3, verb: tuple[str, ...], carries: bool
) -> None:
    """Also where the object does not say whose photo it is, and was served with what is not stored of it."""
    world = new_world(cars=3, photos=2, env=s3.env)
    for car in world.site.cars:
        world.site.set_photo(car.cid, None, kind="jpeg-gps")
    world.crawl()
    before = world.sql(select(images.c.identity, images.c.key).order_by(images.c.key))
    objects = s3.objects()
    if not carries:
        for key, data in objects.items():
            s3.put(key, data)
    world.sql(delete(images))
    storage.settings = {**s3.env, "DATABASE_URL": world.database_url}
    storage(*verb)
    storage(*verb)
    assert len(world.images()) == len(objects)
    asked = world.asked("photo")
    world.crawl(settings={"DETAILS_MAX_AGE_DAYS": 0})
    current = select(images.c.identity, images.c.key).where(images.c.status == "stored").order_by(images.c.key)
    assert world.sql(current) == before, "one row for each picture, under the identity of the site"
    if carries:
        assert world.asked("photo") == asked
        assert len(world.images()) == len(objects)
    assert s3.objects().keys() == objects.keys()
    assert storage("audit", "--deep").out.endswith("as they should be (=) 6, " + CLEAN)
    storage(*verb)
    assert world.sql(current) == before
