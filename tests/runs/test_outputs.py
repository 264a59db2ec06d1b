"""A run's folder: names, lines, what is left after an abrupt end, a disk that is full, and which folders go."""

from __future__ import annotations

import errno
import gzip
import json
import logging
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from carscraper import logs
from carscraper.exceptions import ConfigurationError
from carscraper.items import CarImage, CarItem, GoneCar
from carscraper.runs import outputs
from carscraper.runs.outputs import ITEMS, LOG, JobFolder, folder_name, line_of, selected, upload_outputs
from tests import services
from tests.fakes import make_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STARTED = datetime(2026, 11, 21, 7, 4, 9)  # noqa: DTZ001 - as all times in rows
NAME = "20261121_070409_job"
SECRET = "wJalrXUtnFEMI/K7MDENG"


def car(number: int = 1, **fields: Any) -> CarItem:
    return CarItem(source="Bilasolur", external_id=str(number), url=f"https://a.is/{number}", **fields)


@pytest.fixture
def new_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., JobFolder]]:
    """Opens a run's folder below the test's own; its log is closed at the end."""
    made: list[JobFolder] = []
    caplog.set_level(logging.DEBUG)

    def make(**settings: Any) -> JobFolder:
        folder = JobFolder.from_settings(
            make_settings(**{"OUTPUTS_DIR": tmp_path / "jobs", "LOG_LEVEL": "INFO", **settings}),
            job_id="job",
            started_at=STARTED,
        )
        assert folder is not None
        made.append(folder)
        folder.open()
        return folder

    yield make
    for folder in made:
        folder.close_items()
        folder.close_log()


# --- names and lines --------------------------------------------------------------------------------------------

HOSTILE = [
    "../../etc/passwd",
    "..",
    "",
    "a/b",
    "a\\b",
    "a\nb",
    "x" * 300,
    "-rf",
    "þór",
    "\udc80",
    "a b",
    "C:x",
    ".ssh",
    "😀",
]


def test_a_job_id_is_a_name_of_a_folder_whatever_it_says() -> None:
    names = [folder_name(STARTED, job) for job in HOSTILE]
    assert len(set(names)) == len(names), "two jobs never share a folder"
    for name in names:
        assert re.fullmatch(r"20261121_070409_[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name)
        assert outputs._OURS.fullmatch(name), "it is known again when it is old"
    assert folder_name(STARTED, "job") == NAME


def test_a_line_is_the_car_and_its_photos() -> None:
    image = CarImage(
        identity="1/2",
        source_url="https://a.is/temporary",
        status="failed",
        reason="http-404",
        url=None,
        key=None,
    )
    item = car(
        make="Škoda",
        description='þ "\n\u2028\udc80',
        source_updated_at=date(2026, 11, 2),
        details_at=STARTED,
        image_urls=["https://a.is/temporary"],
        images=[image],
    )
    line = line_of(item)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    read = json.loads(line)
    assert read["images"] == [{"identity": "1/2", "url": None, "key": None, "status": "failed", "reason": "http-404"}]
    assert (read["source_updated_at"], read["details_at"]) == ("2026-11-02", "2026-11-21T07:04:09")
    assert (read["make"], read["description"], read["price"]) == ("Škoda", item.description, None)
    assert "Škoda".encode() in line
    assert b"temporary" not in line, "the dealer's addresses are dead soon"
    gone = json.loads(line_of(GoneCar(source="BR", external_id="7", url="https://a.is/7")))
    assert gone == {"source": "BR", "external_id": "7", "url": "https://a.is/7", "gone": True}


# --- while a run lasts ------------------------------------------------------------------------------------------


def test_items_and_log(new_folder: Callable[..., JobFolder]) -> None:
    folder = new_folder()
    logging.getLogger("carscraper.test").info("seen %s", "\n2026-11-21 07:04:09 [x] INFO: forged")
    logging.getLogger("carscraper.test").debug("not shown on the console")
    for number in range(3):
        folder.write(car(number))
    folder.write({"not": "a car"})
    assert folder.output() == {
        "enabled": False,
        "status": "off",
        "uploadedAt": None,
        "s3Urls": [],
        "filesUploaded": 0,
        "bytesUploaded": 0,
        "errors": [],
        "folder": str(folder.path),
    }
    folder.close_items()
    folder.close_log()
    folder.write(car(9))
    logging.getLogger("carscraper.test").error("too late")
    assert folder.troubles == []
    assert folder.path.name == NAME
    assert folder.path.is_absolute()
    assert sorted(each.name for each in folder.path.iterdir()) == [ITEMS, LOG]
    lines = gzip.decompress((folder.path / ITEMS).read_bytes()).splitlines()
    assert [json.loads(line)["external_id"] for line in lines] == ["0", "1", "2"]
    log = (folder.path / LOG).read_text("utf-8").splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[carscraper\.test\] INFO: seen ", log[0])
    assert log[1] == "    2026-11-21 07:04:09 [x] INFO: forged", "as the console shows it"
    assert len(log) == 2


def test_no_secret_gets_into_the_log(new_folder: Callable[..., JobFolder]) -> None:
    url = "postgresql://cars:pw@h/d"
    folder = new_folder(
        AWS_SECRET_ACCESS_KEY=SECRET, DATABASE_URL=url, AWS_ACCESS_KEY_ID="AKIDEXAMPLE", LOG_FORMAT="json"
    )
    try:
        int(f"?key={SECRET.replace('/', '%2F')}")
    except ValueError:
        logging.getLogger("carscraper.test").exception("plain %s, %s, %s", SECRET, url, "postgresql+psycopg://u:pw@h/d")
    folder.close_log()
    (line,) = (folder.path / LOG).read_text("utf-8").splitlines()
    assert json.loads(line)["message"] == "plain ***, postgresql://***@h/d, postgresql+psycopg://***@h/d"
    assert "?key=***" in json.loads(line)["exception"]


KILLED = """
import logging, sys, time
from datetime import datetime
from carscraper.items import CarItem
from carscraper.runs.outputs import JobFolder
from tests.fakes import make_settings
folder = JobFolder.from_settings(
    make_settings(OUTPUTS_DIR=sys.argv[1]), job_id="job", started_at=datetime(2026, 11, 21, 7, 4, 9)
)
folder.open()
for number in range(5000):
    folder.write(CarItem(source="B", external_id=str(number), url="u" * 200))
time.sleep(1.1)
folder.write(CarItem(source="B", external_id="last", url="u"))
logging.getLogger("x").warning("logged")
print("ready", flush=True)
time.sleep(60)
"""


def test_after_kill_9_all_that_was_flushed_can_be_read(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=services.crawl_environment(tmp_path),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    lines = []
    with gzip.open(tmp_path / NAME / ITEMS) as items, pytest.raises(EOFError):
        lines += iter(items.readline, b"")
    assert [json.loads(line)["external_id"] for line in lines] == [*map(str, range(5000)), "last"]
    assert (tmp_path / NAME / LOG).read_text("utf-8").endswith("WARNING: logged\n")


# --- what the disk does -----------------------------------------------------------------------------------------


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "carscraper.runs.outputs"]


def test_a_folder_that_can_not_be_made_costs_the_files_only(
    tmp_path: Path, new_folder: Callable[..., JobFolder], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "jobs").write_text("a file")
    folder = new_folder()
    folder.write(car())
    folder.close_items()
    folder.close_log()
    assert len(told(caplog)) == 1
    assert str(folder.path) in told(caplog)[0]
    assert folder.output()["errors"] == folder.troubles
    about: Any = {"job_id": "job", "started_at": STARTED, "spider": "x", "troubles": folder.troubles}
    asked = make_settings(S3_OUTPUT_BUCKET="car-outputs", S3_UPLOAD_ON_COMPLETION="true")
    for settings, enabled, status in ((make_settings(), False, "off"), (asked, True, "failed")):
        found = upload_outputs(settings, folder.path, **about)
        assert (found["enabled"], found["status"], found["errors"]) == (enabled, status, folder.troubles)


FULL = Path("/dev/full")


def on_full_disk(handler: logging.FileHandler) -> logging.FileHandler:
    before = handler.setStream(FULL.open("w"))
    assert before is not None
    before.close()
    return handler


@pytest.mark.skipif(not FULL.exists(), reason="Linux has a device that is always full")
@pytest.mark.parametrize("which", [ITEMS, LOG])
def test_a_full_disk_is_told_once(
    which: str,
    new_folder: Callable[..., JobFolder],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outputs, "_FLUSH_EVERY", 0)
    make_handler = outputs._log_file
    if which == LOG:
        monkeypatch.setattr(outputs, "_log_file", lambda path, settings: on_full_disk(make_handler(path, settings)))
    folder = new_folder()
    if which == ITEMS:
        assert folder._items is not None
        folder._items.myfileobj.close()
        folder._items.fileobj = folder._items.myfileobj = FULL.open("wb")
    for number in range(20):
        logging.getLogger("carscraper.test").info("line %d", number)
        folder.write(car(number))
    # What comes later would only stand behind a hole.
    assert folder._items is None or which == LOG
    assert [each for each in logging.root.handlers if isinstance(each, logs.LogFile)] == (
        [folder._handler] if which == ITEMS else []
    )
    folder.close_items()
    folder.close_log()
    said = f"{folder.path / which} can't be written ({os.strerror(errno.ENOSPC)}); it is not whole."
    assert (folder.troubles, told(caplog)) == ([said], [f"{said} The crawl goes on."])
    assert "Logging error" not in capsys.readouterr().err
    if which == LOG:
        assert len(gzip.decompress((folder.path / ITEMS).read_bytes()).splitlines()) == 20, "the other file goes on"
    else:
        assert "line 19" in (folder.path / LOG).read_text("utf-8")


# --- old folders ------------------------------------------------------------------------------------------------


def test_old_folders_of_ours_go_and_nothing_else(
    tmp_path: Path, new_folder: Callable[..., JobFolder], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    jobs = tmp_path / "jobs"
    now = datetime.now(UTC).replace(tzinfo=None)

    def add(name: str, *files: str, days: float = 31, changed: float = 31) -> None:
        if "{}" in name:
            name = name.format((now - timedelta(days=days)).strftime("%Y%m%d_%H%M%S"))
        (jobs / name).mkdir(parents=True)
        at = (now - timedelta(days=changed)).replace(tzinfo=UTC).timestamp()
        for file in files:
            (jobs / name / file).write_text("x")
            os.utime(jobs / name / file, (at, at))

    add("{}_old", ITEMS, LOG)
    add("{}_empty")
    add("{}_young", ITEMS, days=29)
    add("{}_under-way", ITEMS, LOG, changed=1)
    add("{}_to-be-uploaded", ITEMS, outputs._MARK)
    add("{}_with-notes", ITEMS, "notes.txt")
    add("20260101_notatime_job", ITEMS)
    add("20251399_000000_no-day", ITEMS)
    add("photos", ITEMS)
    add("../elsewhere", ITEMS)
    (jobs / "20200101_000000_link").symlink_to(tmp_path / "elsewhere")
    (jobs / "20200101_000000_file").write_text("x")
    new_folder(OUTPUTS_KEEP_DAYS=0)
    assert len(list(jobs.iterdir())) == 12, "0 keeps all"
    outputs.remove_old(jobs, now, timedelta(days=30))
    left = {re.sub(r"^\d{8}_\d{6}_", "", each.name) for each in jobs.iterdir()}
    assert left == {
        *("young", "under-way", "to-be-uploaded", "with-notes", "20260101_notatime_job", "job", "no-day", "photos"),
        *("link", "file"),
    }
    assert (tmp_path / "elsewhere" / ITEMS).exists()
    assert told(caplog)[-1:] == [f"1 old folders of runs stay in {jobs}: they are still to be uploaded"]


# --- what is uploaded -------------------------------------------------------------------------------------------


def test_patterns() -> None:
    cases = [
        ("*", "", [ITEMS, LOG]),
        ("*.log", "", [LOG]),
        ("items.*, nothing", "", [ITEMS]),
        ("*", "*.log", [ITEMS]),
        ("run.*,*.gz", "run.?og", [ITEMS]),
    ]
    for include, exclude, names in cases:
        found = selected(make_settings(S3_OUTPUT_INCLUDE=include, S3_OUTPUT_EXCLUDE=exclude))
        assert found == names, (include, exclude)


def test_what_can_not_be_uploaded_is_said_at_the_start() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"S3_OUTPUT_INCLUDE": "*.csv"}, "leave nothing to upload of items.jsonl.gz and run.log"),
        ({"S3_OUTPUT_EXCLUDE": "*"}, "leave nothing to upload"),
        ({"OUTPUTS_DIR": ""}, "OUTPUTS_DIR is empty"),
        ({"S3_OUTPUT_BUCKET": ""}, "AWS_S3_BUCKET is missing"),
        ({}, "There are no credentials for S3"),
    ]
    for settings, said in cases:
        full = make_settings(**{"S3_UPLOAD_ON_COMPLETION": "true", "S3_OUTPUT_BUCKET": "car-outputs", **settings})
        with pytest.raises(ConfigurationError, match=re.escape(said)):
            JobFolder.from_settings(full, job_id="job", started_at=STARTED)


def test_off_is_off(tmp_path: Path) -> None:
    assert JobFolder.from_settings(make_settings(OUTPUTS_DIR=""), job_id="j", started_at=STARTED) is None
    found = upload_outputs(make_settings(), tmp_path, job_id="job", started_at=STARTED, spider="x")
    assert (found["enabled"], found["status"]) == (False, "off")


def test_upload(new_folder: Callable[..., JobFolder], rclone_s3: services.S3) -> None:
    settings = {**rclone_s3.env, "USE_S3_STORAGE": "false", "S3_UPLOAD_ON_COMPLETION": "true"}
    folder = new_folder(**settings)
    mark = folder.path / outputs._MARK
    assert mark.exists(), "as long as it is there, the folder is not removed"
    folder.write(car())
    folder.close_items()
    folder.close_log()

    def go(**changes: Any) -> dict[str, Any]:
        full = make_settings(**{**settings, **changes})
        return upload_outputs(full, folder.path, job_id="job", started_at=STARTED, spider="bilasolur")

    away = go(AWS_ENDPOINT_URL=f"http://127.0.0.1:{services.free_port()}", S3_OUTPUT_RETRIES=0)
    assert (away["enabled"], away["status"], away["uploadedAt"], away["s3Urls"]) == (True, "failed", None, [])
    assert away["errors"][0].startswith(f"{ITEMS} and {LOG}: S3 does not answer (")
    assert mark.exists()
    done = go(S3_OUTPUT_PREFIX="runs")
    assert done["errors"] == []
    assert (done["status"], done["filesUploaded"]) == ("success", 2)
    assert done["s3Urls"] == [f"s3://car-photos/runs/{NAME}/{name}" for name in (ITEMS, LOG)]
    assert datetime.fromisoformat(done["uploadedAt"]).utcoffset() == timedelta(0)
    stored = rclone_s3.objects()
    assert stored == {f"runs/{NAME}/{name}": (folder.path / name).read_bytes() for name in (ITEMS, LOG)}
    assert done["bytesUploaded"] == sum(map(len, stored.values()))
    assert not mark.exists()
    (folder.path / LOG).unlink()
    part = go()
    assert (part["status"], part["filesUploaded"], part["errors"]) == (
        "partial",
        1,
        [f"{folder.path / LOG} is not there."],
    )
