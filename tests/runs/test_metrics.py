"""The file for the node exporter, read as Prometheus reads it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from carscraper.runs.metrics import write_metrics
from carscraper.runs.record import FAILED, PARTIAL, SKIPPED, RunRecord
from tests.fakes import make_settings
from tests.runs.records import a_run


def samples(path: Path) -> dict[tuple[str, ...], float]:
    """Name and label values (the spider's first) → value."""
    found = {}
    for family in text_string_to_metric_families(path.read_text("utf-8")):
        assert family.type == "gauge"
        assert family.documentation
        for sample in family.samples:
            name = sample.name.removeprefix("carscraper_run_")
            assert name != sample.name
            spider = sample.labels.pop("spider")
            assert spider == "bilasolur"
            assert (name, *sample.labels.values()) not in found
            found[name, *sample.labels.values()] = sample.value
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "textfile"
    found.mkdir()
    return found


def write(folder: Path, record: RunRecord) -> dict[tuple[str, ...], float]:
    write_metrics(make_settings(METRICS_DIR=str(folder)), record)
    assert [path.name for path in folder.iterdir()] == ["carscraper_bilasolur.prom"]
    return samples(folder / "carscraper_bilasolur.prom")


FULL: dict[str, Any] = {
    "cars": 20,
    "cars_new": 3,
    "cars_changed": 2,
    "cars_gone": 1,
    "images_stored": 30,
    "images_linked": 4,
    "images_known": 100,
    "images_failed": {"http-404": 2, "truncated": 1},
    "bytes": 6_450_000,
    "requests": 77,
    "safe_p50": 0.25,
    "safe_p95": 1.5,
    "output": {"status": "failed"},
    "monitors": [
        {"name": "min_cars", "passed": True, "said": "x"},
        {"name": "min_fill.price", "passed": False, "said": "y"},
    ],
}


def test_all_numbers(folder: Path) -> None:
    mask = os.umask(0o077)
    try:
        found = write(folder, a_run(1, **FULL))
    finally:
        os.umask(mask)
    finished = 1_793_588_490.0  # 2026-11-02 03:01:30 UTC
    assert found == {
        ("last_started_timestamp_seconds",): finished - 90,
        ("last_finished_timestamp_seconds",): finished,
        ("last_success_timestamp_seconds",): finished,
        ("duration_seconds",): 90,
        ("success",): 1,
        ("status", "success"): 1,
        ("status", "partial"): 0,
        ("status", "failed"): 0,
        **{("output", word): word == "failed" for word in ("off", "pending", "success", "partial", "failed")},
        ("exit_code",): 0,
        ("cars", "new"): 3,
        ("cars", "changed"): 2,
        ("cars", "unchanged"): 20,
        ("cars", "gone"): 1,
        ("photos", "stored"): 30,
        ("photos", "linked"): 4,
        ("photos", "known"): 100,
        ("photos", "failed"): 3,
        ("photos_failed", "http-404"): 2,
        ("photos_failed", "truncated"): 1,
        ("stored_bytes",): 6_450_000,
        ("requests",): 77,
        ("photo_safe_seconds", "0.5"): 0.25,
        ("photo_safe_seconds", "0.95"): 1.5,
        ("monitor_passed", "min_cars"): 1,
        ("monitor_passed", "min_fill.price"): 0,
    }
    path = folder / "carscraper_bilasolur.prom"
    assert path.stat().st_mode & 0o777 == 0o644, "another user reads it, whatever the umask"


def test_the_last_good_run_is_remembered_through_bad_ones(folder: Path) -> None:
    good = write(folder, a_run(1))["last_success_timestamp_seconds",]
    for number, (word, code) in enumerate([(FAILED, 4), (PARTIAL, 3), (FAILED, 4)], 2):
        found = write(folder, a_run(number, status=word, exit_code=code))
        assert found["last_success_timestamp_seconds",] == good
        assert found["last_finished_timestamp_seconds",] > good
        assert (found["success",], found["exit_code",], found["status", word]) == (0, code, 1)
    assert write(folder, a_run(9))["last_success_timestamp_seconds",] > good


def test_a_run_that_was_skipped_changes_nothing(folder: Path) -> None:
    before = write(folder, a_run(1, **FULL))
    assert write(folder, a_run(2, status=SKIPPED)) == before


def test_the_first_run_was_bad(folder: Path) -> None:
    assert ("last_success_timestamp_seconds",) not in write(folder, a_run(1, status=FAILED, exit_code=4))


@pytest.mark.parametrize("damaged", [b"{{{{ no metrics", b"\xff\xfe", b'carscraper_run_last{spider="x', b"a b c d e f"])
def test_a_damaged_file_is_replaced(folder: Path, damaged: bytes) -> None:
    (folder / "carscraper_bilasolur.prom").write_bytes(damaged)
    assert write(folder, a_run(1))["success",] == 1


def test_hostile_words_make_no_time_series(folder: Path) -> None:
    lost = {'x"} 1\nforged{a="': 2, "þ": 3, "a" * 61: 4, "http-404": 5}
    found = write(folder, a_run(1, images_failed=lost))
    assert {key: value for key, value in found.items() if key[0] == "photos_failed"} == {
        ("photos_failed", "other"): 9,
        ("photos_failed", "http-404"): 5,
    }


def test_a_name_leaves_no_folder(folder: Path) -> None:
    write_metrics(make_settings(METRICS_DIR=str(folder)), a_run(spider="../../etc/x"))
    assert [path.name for path in folder.iterdir()] == ["carscraper_______etc_x.prom"]


@pytest.mark.parametrize("what", ["missing", "a file"])
def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    place = tmp_path / "place"
    if what == "a file":
        place.write_text("")
    write_metrics(make_settings(METRICS_DIR=str(place)), a_run())
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("METRICS_DIR: ")
    assert "can't be written" in line


def test_off_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_metrics(make_settings(), a_run())
    assert list(tmp_path.iterdir()) == []


def test_nobody_sees_half_a_file(folder: Path) -> None:
    write(folder, a_run(0, **FULL))
    path, broken, done = folder / "carscraper_bilasolur.prom", [], threading.Event()

    def look() -> None:
        while not done.is_set():
            text = path.read_text("utf-8")
            if "monitor_passed" not in text:
                broken.append(text)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(50):
        write(folder, a_run(number, **FULL)) if number % 10 == 0 else write_metrics(
            make_settings(METRICS_DIR=str(folder)), a_run(number, **FULL)
        )
    done.set()
    reader.join()
    assert broken == []
