"""Crawls that are watched: limits, notices, metrics and JSON logs."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from tests import services
from tests.crawl.world import World, last_words, verdict
from tests.runs.webhook import KEY, Webhook

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[[\w.]+\] [A-Z]+: ")
FORGED = "x\n2026-11-21 10:00:00 [carscraper.extensions.verdict] INFO: bilasolur: success. 99 cars.\x1b[31m\u2028"


def json_lines(text: str) -> list[dict[str, Any]]:
    """Every line of *text*; one that is none fails."""
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines
    for line in lines:
        assert {"timestamp", "level", "logger", "message"} <= set(line)
        assert set(line) <= {"timestamp", "level", "logger", "message", "spider", "job", "run", "exception"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["timestamp"])
    return lines


def metrics(folder: Path) -> dict[tuple[str, ...], float]:
    text = (folder / "carscraper_bilasolur.prom").read_text("utf-8")
    return {
        (
            sample.name.removeprefix("carscraper_run_"),
            *(v for k, v in sample.labels.items() if k != "spider"),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_run_is_measured_told_and_written_down(
    new_world: Callable[..., World], webhook: Webhook, tmp_path: Path
) -> None:
    folder = tmp_path / "textfile"
    folder.mkdir()
    world = new_world(
        cars=6, photos=2, env={"NOTIFY_URLS": webhook.address, "METRICS_DIR": str(folder), "MONITOR_MAX_DROP": "0.2"}
    )
    for car in world.site.cars:
        car.description, car.price = FORGED, 990_000
    world.site.cars[0].price = None

    # Two limits that are not kept, and a log of JSON from its first line to its last.
    settings = {"MONITOR_MIN_CARS": 7, "MONITOR_MIN_FILL": '{"price": 0.9, "photo": 1}', "PROGRESS_INTERVAL": 0.1}
    done = world.crawl(settings=settings, env={"LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG"}, code=3, _job="job-1")
    lines = json_lines(done.stderr)
    assert "started" in lines[0]["message"]
    assert {line.get("spider") for line in lines[5:]} == {"bilasolur"}
    assert {line.get("job") for line in lines[5:]} == {"job-1"}
    assert [line for line in lines if line["logger"] == "carscraper.extensions.progress"]
    limits = [
        "min_cars: 6 cars, at least 7 are expected",
        "min_fill.price: 5 of 6 cars have price (83.3 %), at least 90 % are expected",
    ]
    said = [line["message"] for line in lines if line["logger"] == "carscraper.extensions.verdict"]
    assert said[0].startswith("bilasolur: partial. 6 cars")
    assert said[1:] == [f"bilasolur: limit not kept: {limit}" for limit in limits]
    (row,) = world.sql("SELECT * FROM crawl_runs")
    assert (row["job_id"], row["status"], row["exit_code"]) == ("job-1", "partial", 3)
    assert {line.get("run") for line in lines if line["logger"].endswith("verdict")} == {row["id"]}
    expected = {f"expected.{name}": True for name in ("photo", "make", "year", "price", "kilometers", "fuel")}
    assert {each["name"]: each["passed"] for each in json.loads(row["monitors"])} == expected | {
        "min_cars": False,
        "min_fill.price": False,
        "min_fill.photo": True,
        "max_drop": True,
    }
    (text,) = webhook.texts()
    assert text.startswith("bilasolur: partial on ")
    assert f"(run {row['id']}, job job-1)" in text
    for limit in limits:
        assert f"\nlimit not kept: {limit}" in text
    found = metrics(folder)
    assert (found["success",], found["exit_code",], found["cars", "new"]) == (0, 3, 6)
    assert found["photos", "stored"] == len(world.images())
    assert (found["monitor_passed", "min_cars"], found["monitor_passed", "max_drop"]) == (0, 1)
    assert ("last_success_timestamp_seconds",) not in found
    assert "SECRET" not in done.stderr + json.dumps({**row}, default=str) + text

    # A good one says nothing, and a plain log has no line that looks like a record's beginning and is none.
    done = world.crawl(settings={"MONITOR_MIN_CARS": 6}, env={"LOG_LEVEL": "DEBUG"})
    assert verdict(done).startswith("bilasolur: success. 6 cars")
    for line in done.stderr.splitlines():
        assert RECORD.match(line) or line.startswith(("    ", "bilasolur: ")), line
    assert "\x1b" not in done.stderr
    assert len(webhook.texts()) == 1
    good = metrics(folder)
    assert (good["success",], good["cars", "unchanged"]) == (1, 6)

    # Fewer cars than before: of six four are left.
    for car in world.site.cars[-2:]:
        world.site.sell(car.cid)
    done = world.crawl(code=3)
    assert "limit not kept: max_drop: 4 cars, the median of the last 2 runs is 6, they may be 20 % fewer" in (
        last_words(done)
    )
    bad = metrics(folder)
    assert bad["success",] == 0
    assert bad["last_success_timestamp_seconds",] == good["last_success_timestamp_seconds",]
    assert len(webhook.texts()) == 2

    # A part of the cars on purpose is no drop.
    world.crawl(limit=1)


def test_a_crawl_that_ends_at_its_configuration_is_told_in_json_too(
    new_world: Callable[..., World], webhook: Webhook, tmp_path: Path
) -> None:
    world = new_world(cars=1, photos=1)
    log = tmp_path / "crawl.log"
    done = world.crawl(
        code=4,
        env={"NOTIFY_URLS": webhook.address},
        settings={"LOG_FORMAT": "json", "LOG_FILE": log, "IMAGES_WIDTH": "wide"},
    )
    assert world.asked("results") == 0
    assert "started" in json_lines(log.read_text("utf-8"))[0]["message"]
    for text in (done.stderr, log.read_text("utf-8")):
        last = json_lines(text)[-1]
        assert (last["level"], last["spider"]) == ("ERROR", "bilasolur")
        assert last["message"].startswith("bilasolur: failed. IMAGES_WIDTH is 'wide'")
    assert "failed" in webhook.texts()[0]


def test_what_nobody_can_be_told_or_written_changes_nothing(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    closed = f"http://127.0.0.1:{services.free_port()}/{KEY}"
    env = {"NOTIFY_URLS": closed, "NOTIFY_ON": "success", "METRICS_DIR": "missing", "LOG_FORMAT": "json"}
    env["CONTACT"] = "crawls@example.is"
    done = world.crawl(env=env)
    warnings = [line["message"] for line in json_lines(done.stderr) if line["level"] == "WARNING"]
    assert len(warnings) == 2
    assert "METRICS_DIR: missing/carscraper_bilasolur.prom can't be written" in warnings[0]
    assert "Notice 1 (http://127.0.0.1/…) could not be sent: it was not taken" in warnings[1]
    assert "SECRET" not in done.stderr
