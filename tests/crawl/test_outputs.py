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


def metrics(world: World) -> set[str]:
    """Return which of the metrics that tell of success are 1."""
    text = (world.folder / "carscraper_bilasolur.prom").read_text()
    found = re.findall(r'^carscraper_run_(success|status|output)\{.*?(?:status="(\w+)")?\} 1\.0$', text, re.MULTILINE)
    return {" ".join(filter(None, each)) for each in found}


def test_an_upload_that_failed_is_mended_by_hand(new_world: Callable[..., World], rclone: services.RcloneS3) -> None:
    s3 = rclone.bucket("car-outputs")
    # Photos stay in the folder: bucket and credentials are named for the outputs only.
    env = {**s3.env, "USE_S3_STORAGE": "false", "AWS_S3_BUCKET": "", "S3_OUTPUT_BUCKET": s3.bucket, "METRICS_DIR": "."}
    world = new_world(env=env | {"S3_OUTPUT_RETRIES": "0"}, cars=3, photos=1)
    rclone.stop()
    done = world.crawl(code=3, settings={"S3_UPLOAD_ON_COMPLETION": "true", "LOG_LEVEL": "DEBUG"})
    found = done.stderr.index(" WARNING: S3 does not answer (")
    assert found < done.stderr.index("Crawled (200)"), "it is said before anything is fetched"
    error = r'items\.jsonl\.gz and run\.log: S3 does not answer \(EndpointConnectionError: .*: "http://[\d.:]+"\)\.'
    assert re.fullmatch(rf"bilasolur: partial\. Its outputs not all kept: {error}", verdict(done))
    assert "success. 3 cars" in last_words(done), "the photos are kept all the same"
    row = newest(world)
    assert (row["status"], row["exit_code"]) == ("partial", 3)
    assert (row["output"]["status"], row["output"]["filesUploaded"], row["output"]["uploadedAt"]) == ("failed", 0, None)
    assert re.fullmatch(error, *row["output"]["errors"])
    assert metrics(world) == {"status partial", "output failed"}

    again = world.command("runs", "upload", str(row["id"]))
    assert (again.returncode, again.stdout) == (4, f"Run {row['id']}: 0 files uploaded (0 B).\n"), again
    assert re.fullmatch(error, again.stderr.strip())
    assert newest(world)["why"] == row["why"], "it is said once"
    rclone.start()
    mended = world.command("runs", "upload", row["job_id"], "--json")
    assert mended.returncode == 0, mended
    now = newest(world)
    assert json.loads(mended.stdout) == now["output"]
    assert now["output"]["status"] == "success"
    assert (now["status"], now["exit_code"], now["why"]) == ("success", 0, row["why"].partition("\n")[0])
    assert metrics(world) == {"success", "status success", "output success"}
    folder = Path(row["output"]["folder"])
    assert s3.objects() == {f"outputs/{folder.name}/{name}": (folder / name).read_bytes() for name in (ITEMS, LOG)}

    (folder / LOG).unlink()
    part = world.command("runs", "upload", str(row["id"]))
    assert (part.returncode, part.stderr) == (3, f"{folder / LOG} is not there.\n"), part
    assert [newest(world)[name] for name in ("status", "exit_code")] == ["partial", 3]
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


def test_all_uploads_that_failed_are_found_and_mended_together(
    new_world: Callable[..., World], moto_s3: services.S3, postgres_url: str
) -> None:
    url = postgres_url.replace("postgresql:", "postgresql+psycopg:")
    with services.S3Proxy(moto_s3.endpoint) as proxy:
        env = moto_s3.via(proxy).env | {"S3_UPLOAD_ON_COMPLETION": "true", "S3_OUTPUT_RETRIES": "0"}
        world = new_world(database_url=url, env=env, cars=1, photos=1)
        with proxy.fail(path="outputs/"):
            world.crawl(code=3)
        with proxy.fail(path="items"):
            world.crawl(code=3)
        world.crawl()
        world.crawl(env={"S3_UPLOAD_ON_COMPLETION": "false"})
        world.crawl(env={"S3_UPLOAD_ON_COMPLETION": "false", "OUTPUTS_DIR": ""})

        def listed(*words: str) -> list[int]:
            return [each["id"] for each in json.loads(world.command("runs", "list", "--json", *words).stdout)]

        assert [listed("--output", word) for word in ("failed", "partial", "success", "off", "pending")] == [
            *([1], [2], [3], [5, 4], []),
        ]
        assert "whose upload is failed yet" in world.command("runs", "list", "--output=failed", "--spider=br").stdout
        with proxy.fail(path="outputs/", skip=2):
            part = world.command("runs", "upload", "--failed")
        assert part.returncode == 3, part
        assert re.search(r"^Run 1: run\.log: S3 answers 503 ", part.stderr, re.MULTILINE), part
        assert re.search(r"^Run 2: items\.jsonl\.gz and run\.log: S3 answers 503 ", part.stderr, re.MULTILINE), part
        assert "Run 2: what was uploaded before is still there, and its row goes on saying so.\n" in part.stderr, part
        world.sql("UPDATE crawl_runs SET status = 'interrupted', why = NULL WHERE id = 2")
        mended = world.command("runs", "upload", "--failed", "--json")
        assert mended.returncode == 0, mended
        assert [(each["run"], each["status"]) for each in json.loads(mended.stdout)] == [(1, "success"), (2, "success")]
        assert listed("--output", "success") == [3, 2, 1]
        assert listed("--status", "success") == [5, 4, 3, 1]
        none = world.command("runs", "upload", "--failed")
        assert (none.returncode, none.stdout) == (0, "There is no run whose upload failed.\n")
    assert len(moto_s3.keys("outputs/")) == 6
    for words in ([], ["1", "--failed"]):
        assert world.command("runs", "upload", *words).returncode == 2


def test_a_bucket_that_is_missing_or_refuses_is_found_before_the_crawl(
    new_world: Callable[..., World], rclone_s3: services.S3, moto_s3: services.S3
) -> None:
    to_folder = {"USE_S3_STORAGE": "false", "S3_UPLOAD_ON_COMPLETION": "true"}
    world = new_world(env={**rclone_s3.env, "S3_UPLOAD_ON_COMPLETION": "true"}, cars=1, photos=1)
    cases: list[tuple[dict[str, str], str]] = [
        ({"S3_OUTPUT_BUCKET": "no-such-bucket"}, "the bucket no-such-bucket (NoSuchBucket: "),
        (moto_s3.env | {"S3_OUTPUT_BUCKET": "no-such-bucket"}, "check S3_OUTPUT_BUCKET."),
        (to_folder | {"AWS_S3_BUCKET": "no-such-bucket"}, "check AWS_S3_BUCKET."),
        (to_folder | {"AWS_SECRET_ACCESS_KEY": "hunter2hunter2"}, "check AWS_SECRET_ACCESS_KEY."),
        (to_folder | {"AWS_ENDPOINT_URL": world.site.base_url}, "check AWS_ENDPOINT_URL"),
    ]
    for env, said in cases:
        world.site.reset()
        done = world.crawl(code=4, env=env)
        assert said in verdict(done), (env, done)
        assert verdict(done).startswith("bilasolur: failed. S3 refuses ") or "ENDPOINT" in said
        counts = world.site.served.counts
        assert counts["results"] == counts["photo"] == 0, env
    # A key that may put and not look is allowed to crawl.
    with (
        services.S3Proxy(moto_s3.endpoint) as proxy,
        proxy.fail(403, "AccessDenied", path=r"^/car-photos[^/]*/?$") as hidden,
    ):
        done = world.crawl(env=moto_s3.via(proxy).env | to_folder)
        assert hidden.hits == 2, done
    assert len(moto_s3.keys("outputs/")) == 2


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
    assert (newest(world)["output"]["enabled"], newest(world)["output"]["status"]) == (False, "off")

    world.site.reset()
    done = world.crawl(code=4, settings={"S3_UPLOAD_ON_COMPLETION": "true"})
    assert "AWS_S3_BUCKET is missing" in last_words(done)
    assert world.site.served.counts.total() == 0
