"""The rows of runs over both databases."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from carscraper.db import runs
from carscraper.runs.record import RunRecord

if TYPE_CHECKING:
    from sqlalchemy import Engine

START = datetime(2026, 11, 21, 7, 0, 0)  # noqa: DTZ001 - as the tables hold it


def record(number: int = 0, **changes: Any) -> RunRecord:
    known: dict[str, Any] = {
        "spider": "bilasolur",
        "source": "Bilasolur",
        "job_id": f"job-{number}",
        "arguments": {"makes": "Kia", "base_url": "x"},
        "started_at": START + timedelta(minutes=number),
    }
    return RunRecord(**{**known, **changes})


def add(engine: Engine, *records: RunRecord) -> list[int]:
    with engine.begin() as connection:
        return [runs.start(connection, asdict(each)) for each in records]


def test_every_field_comes_back(engine: Engine) -> None:
    whole = record(
        settings={"CRAWL_LOCK": False, "x": None, "þ": "\udcff\0"},
        version="1",
        host="h",
        pid=7,
        finished_at=START,
        status="partial",
        exit_code=3,
        why="þ",
        complete=True,
        cars_new=1,
        cars_changed=2,
        cars_unchanged=3,
        cars_gone=4,
        images_stored=5,
        images_linked=6,
        images_known=7,
        images_failed={"http-404": 8},
        bytes=2**40,
        requests=9,
        safe_p50=0.1,
        safe_p95=2.5,
        monitors=[{"name": "a", "passed": False, "said": "b"}],
        output={"status": "pending", "s3Urls": ["s3://b/k"]},
    )
    (run_id,) = add(engine, whole)
    with engine.connect() as connection:
        found = runs.find_run(connection, str(run_id))
    assert found is not None
    whole.id = run_id
    assert RunRecord(**found) == whole
    assert whole.cars == 6


def test_start_and_finish(engine: Engine) -> None:
    first = record()
    (first.id, other) = add(engine, first, record(1))
    first.status, first.cars_new, first.images_failed = "failed", 12, {"timeout": 1}
    with engine.begin() as connection:
        runs.finish(connection, asdict(first))
    with engine.connect() as connection:
        found = RunRecord(**runs.find_run(connection, str(first.id)) or {})
        assert (found.status, found.cars_new, found.images_failed) == ("failed", 12, {"timeout": 1})
        untouched = runs.find_run(connection, str(other))
        assert untouched is not None
        assert untouched["status"] == "running"


def test_by_row_or_job(engine: Engine) -> None:
    one, two, named = add(engine, record(1, job_id="x"), record(2, job_id="x"), record(3, job_id="77"))
    asked = {"x": two, str(one): one, "77": named, "78": None, "y": None, "": None, "9" * 40: None, "²": None}
    with engine.connect() as connection:
        for given, wanted in asked.items():
            found = runs.find_run(connection, given)
            assert (found and found["id"]) == wanted, given


def test_lists_are_the_newest_first(engine: Engine) -> None:
    ids = add(engine, record(2), record(1), record(3, spider="br", status="failed"), record(3, status="failed"))
    with engine.connect() as connection:

        def listed(**which: Any) -> list[int]:
            return [ids.index(each["id"]) for each in runs.listed(connection, **which)]

        assert listed() == [3, 2, 0, 1]
        assert listed(limit=2) == [3, 2]
        assert listed(spider="bilasolur") == [3, 0, 1]
        assert listed(spider="bilasolur", status="failed") == [3]
        assert listed(spider="hekla") == []


def test_earlier_runs_are_whole_ones_of_the_same_kind(engine: Engine) -> None:
    good = {"status": "success", "complete": True}
    reordered = {"base_url": "x", "makes": "Kia"}
    ids = add(
        engine,
        record(0, **good),
        record(1, status="partial", complete=True, arguments=reordered),
        record(2, status="partial"),
        record(3, status="failed", complete=True),
        record(4, **good, spider="br"),
        record(5, **good, arguments={"makes": "Kia"}),
        record(6),
        record(7, **good),
    )
    now = asdict(record(8))
    with engine.connect() as connection:
        assert [ids.index(each["id"]) for each in runs.earlier(connection, now, 10)] == [7, 1, 0]
        assert [ids.index(each["id"]) for each in runs.earlier(connection, now, 1)] == [7]
        now["id"] = ids[7]
        assert [ids.index(each["id"]) for each in runs.earlier(connection, now, 10)] == [1, 0]


def test_who_has_the_lock_knows_that_others_are_dead(engine: Engine) -> None:
    with engine.begin() as connection:
        killed, of_another, ended, no_source = (
            runs.start(connection, asdict(each))
            for each in (
                record(0),
                record(1, source="BR", spider="br"),
                record(2, status="success"),
                record(3, source=None, spider="backfill"),
            )
        )
        assert set(runs.locked(connection)) == {"BR", "Bilasolur", "backfill"}
        found = runs.under_way(connection, "Bilasolur")
        assert found is not None
        assert found["id"] == killed
    with engine.begin() as connection:
        dead = runs.interrupt(connection, "Bilasolur")
        assert [(each["id"], each["status"]) for each in dead] == [(killed, "interrupted")]
        assert runs.interrupt(connection, "Bilasolur") == [], "it is told once"
        assert [each["id"] for each in runs.interrupt(connection, "backfill")] == [no_source]
        statuses = {each["id"]: each["status"] for each in runs.listed(connection)}
        assert statuses == {
            killed: "interrupted",
            of_another: "running",
            ended: "success",
            no_source: "interrupted",
        }
        # It was only the lock that was lost: what the run itself says counts.
        runs.finish(connection, asdict(record(0, id=killed, status="success")))
        found = runs.find_run(connection, str(killed))
        assert found is not None
        assert found["status"] == "success"
