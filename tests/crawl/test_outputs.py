"""What a crawl leaves in its job folder and in the bucket, and how a missed upload is mended."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.commands.runs import folder_of
from carscraper.exceptions import ConfigurationError
from carscraper.runs.record import RunRecord
from tests import services
from tests.crawl.world import World, last_words, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

ITEMS, LOG = "items.jsonl.gz", "run.log"


def newest(world: World) -> Any:
    row = world.sql("SELECT * FROM crawl_runs ORDER BY id DESC LIMIT 1")[0]
    return {**row, "output": json.loads(row["output"])}


def test_items_and_log_are_in_the_folder_and_in_the_bucket(
    new_world: Callable[..., World], rclone: services.RcloneS3
) -> None:
    s3, other = rclone.bucket(), rclone.bucket("car-outputs")
    world = new_world(env=s3.env | {"S3_UPLOAD_ON_COMPLETION": "true"}, cars=6, photos=2)
    done = world.crawl(_job="../6487ec79 é")
    row = newest(world)
    output = row["output"]
    folder = Path(output["folder"])
    assert folder.parent == world.folder / "var/jobs"
    assert re.fullmatch(r"\d{8}_\d{6}_6487ec79-[0-9a-f]{8}", folder.name)
    assert (output["enabled"], output["status"], output["errors"]) == (True, "success", [])
    assert output["s3Urls"] == [f"s3://{s3.bucket}/outputs/{folder.name}/{name}" for name in (ITEMS, LOG)]
    kept = {name: (folder / name).read_bytes() for name in (ITEMS, LOG)}
    assert s3.objects("outputs/") == {f"outputs/{folder.name}/{name}": data for name, data in kept.items()}
    assert output["bytesUploaded"] == sum(map(len, kept.values()))
    # The items are the rows.
    items = {each["external_id"]: each for each in map(json.loads, gzip.decompress(kept[ITEMS]).splitlines())}
    assert items.keys() == world.listings().keys()
    photos = {image["identity"]: image for item in items.values() for image in item["images"]}
    assert photos == {
        identity: {name: image[name] for name in ("identity", "url", "key", "status", "reason")}
        for identity, image in world.images().items()
    }
    assert {image["status"] for image in photos.values()} == {"stored"}
    assert all(item["make"] == world.listings()[cid]["make"] for cid, item in items.items())
    # The log is the console's, up to the verdict.
    log = kept[LOG].decode()
    (said,) = [line for line in last_words(done).splitlines() if "extensions.verdict" in line]
    assert log.endswith(f"{said}\n")
    assert f"{said}\n" in done.stderr
    assert s3.secret_key not in log + done.stderr

    # Another bucket and prefix, for one run only, and without the log. (Nothing else is asked of either bucket.)
    settings = {"S3_OUTPUT_BUCKET": other.bucket, "S3_OUTPUT_PREFIX": "/nightly", "S3_OUTPUT_EXCLUDE": "*.log"}
    world.crawl(settings=settings)
    second = newest(world)["output"]
    assert second["s3Urls"] == [f"s3://{other.bucket}/nightly/{Path(second['folder']).name}/{ITEMS}"]
    assert other.keys() == [second["s3Urls"][0].removeprefix(f"s3://{other.bucket}/")]
    unchanged = gzip.decompress((Path(second["folder"]) / ITEMS).read_bytes()).splitlines()
    assert {json.loads(line)["external_id"] for line in unchanged} == items.keys()
    assert len(s3.keys("outputs/")) == 2


def test_an_upload_that_failed_is_mended_by_hand(new_world: Callable[..., World], rclone: services.RcloneS3) -> None:
    s3 = rclone.bucket("car-outputs")
    # Photos stay in the folder: bucket and credentials are named for the outputs only.
    env = {**s3.env, "USE_S3_STORAGE": "false", "AWS_S3_BUCKET": "", "S3_OUTPUT_BUCKET": s3.bucket}
    world = new_world(env=env | {"S3_OUTPUT_RETRIES": "0"}, cars=3, photos=1)
    rclone.stop()
    done = world.crawl(code=3, settings={"S3_UPLOAD_ON_COMPLETION": "true"})
    assert "S3 does not answer" in verdict(done)
    assert "success. 3 cars" in last_words(done), "the photos are kept all the same"
    row = newest(world)
    assert (row["status"], row["exit_code"]) == ("partial", 3)
    assert (row["output"]["status"], row["output"]["filesUploaded"], row["output"]["uploadedAt"]) == ("failed", 0, None)
    assert len(row["output"]["errors"]) == 2

    again = world.command("runs", "upload", str(row["id"]))
    assert (again.returncode, again.stdout) == (4, f"Run {row['id']}: 0 files uploaded (0 B).\n"), again
    assert again.stderr.count("S3 does not answer") == 2
    rclone.start()
    mended = world.command("runs", "upload", row["job_id"], "--json")
    assert mended.returncode == 0, mended
    assert json.loads(mended.stdout) == newest(world)["output"]
    assert newest(world)["output"]["status"] == "success"
    folder = Path(row["output"]["folder"])
    assert s3.objects() == {f"outputs/{folder.name}/{name}": (folder / name).read_bytes() for name in (ITEMS, LOG)}

    (folder / LOG).unlink()
    part = world.command("runs", "upload", str(row["id"]))
    assert (part.returncode, part.stderr) == (3, f"{folder / LOG} is not there.\n"), part
    shutil.rmtree(folder)

    def refused(run: object) -> str:
        said = world.command("runs", "upload", str(run))
        assert (said.returncode, said.stdout) == (4, ""), said
        assert said.stderr.count("\n") == 1
        assert s3.bucket not in said.stderr
        return said.stderr

    assert "are not there" in refused(row["id"])
    world.sql("UPDATE crawl_runs SET host = 'elsewhere'")
    assert "on elsewhere, which is not" in refused(row["id"])
    world.sql("UPDATE crawl_runs SET output = '{}'")
    assert "wrote no files" in refused(row["id"])
    assert "There is no run 'nobody'" in refused("nobody")


def test_a_run_under_way_is_not_uploaded(tmp_path: Path) -> None:
    since = datetime(2026, 11, 21)  # noqa: DTZ001 - as in rows
    record = RunRecord(id=7, spider="x", job_id="j", started_at=since, output={"folder": str(tmp_path)})
    with pytest.raises(ConfigurationError, match="still under way"):
        folder_of(record)
    record.status = "interrupted"
    assert folder_of(record) == tmp_path


def test_files_that_can_not_be_written_cost_no_photo(new_world: Callable[..., World]) -> None:
    world = new_world(cars=2, photos=1)
    (world.folder / "jobs").write_text("a file where the folder should be")
    done = world.crawl(code=3, settings={"OUTPUTS_DIR": "jobs"})
    assert len(done.lines("can't be written")) == 2, "once while it runs, once behind the verdict"
    assert "can't be written" in verdict(done)
    assert {row["status"] for row in world.images().values()} == {"stored"}
    assert len(world.images()) == 2
    assert (newest(world)["output"]["enabled"], newest(world)["output"]["status"]) == (False, "partial")

    world.site.reset()
    done = world.crawl(code=4, settings={"S3_UPLOAD_ON_COMPLETION": "true"})
    assert "AWS_S3_BUCKET is missing" in last_words(done)
    assert world.site.served.counts.total() == 0
