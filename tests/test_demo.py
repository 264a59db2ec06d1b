"""``make demo`` keeps what it promises, without a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

import pytest
from parsel import Selector

from tests import demo, services
from tests.contact_sheet import Car, contact_sheet
from tests.dealers.bilasolur import SimulatedBilasolur

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERYTHING = demo.CARS * demo.PHOTOS


class Run(NamedTuple):
    folder: Path
    port: int
    code: int
    out: str
    err: str


def three_free_ports() -> int:
    while True:
        first = services.free_port()
        if all(map(demo._is_free, (first + 1, first + 2))):
            return first


EXPORTED = {
    "DATABASE_URL": "postgresql://127.0.0.1:1/cars",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
    "http_proxy": "http://127.0.0.1:1",
    "NO_PROXY": "",
}
"""A developer's own, which must not steer the demo, least of all into a real database."""


def start(folder: Path, port: int, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.demo", "--folder", str(folder), "--port", str(port), *options],
        cwd=services.REPO,
        env=os.environ | EXPORTED,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        # Who runs the tests in the background of a shell has Ctrl+C switched off, and so would the demo.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - one call
    )


def run(folder: Path, port: int) -> Run:
    with start(folder, port) as process:
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    return Run(folder, port, process.returncode, out, err)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, installed: None) -> Run:
    """A newcomer's first run. The folder's name has what a path may have."""
    return run(tmp_path_factory.mktemp("demo") / "a demo's føld%er", three_free_ports())


@pytest.fixture(scope="module")
def installed() -> None:
    try:
        services.rclone_binary()
    except services.MissingService as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))


@pytest.fixture(scope="module")
def site() -> SimulatedBilasolur:
    """The same site once more, as the truth to compare with; it is asked directly, not served."""
    return SimulatedBilasolur(
        cars=demo.CARS, photos=demo.PHOTOS, layout="2026", photo_bytes_average=demo.PHOTO_BYTES, labelled=True
    )


def left_running(*marks: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if any(mark in command for mark in marks):
                found.append(command)
    return found


def test_it_says_what_was_kept_and_proves_it(first: Run) -> None:
    assert first.code == 0, first
    say = first.out
    assert f"http://127.0.0.1:{first.port}" in say
    assert f"{demo.CARS} cars " in say
    assert f"{EVERYTHING} photos " in say
    assert re.search(rf"GET http://127\.0\.0\.1:{first.port + 2}/bilasolur/\d{{4}}/.*\.jpg ", say)
    digests = re.findall(r"SHA-256 (\w{24})…", say)
    assert len(digests) == 3
    assert len(set(digests)) == 1
    assert f"All {EVERYTHING} permanent URLs were asked, and for each the three agree." in say
    assert "The same command a second time:" in say
    assert "3 result pages, 0 details pages and 0 photos, and sent 1 request to S3" in say
    assert first.err.count("bilasolur: success.") == 2
    assert re.search(r"^bilasolur: \d+ pages, \d+ cars, \d+ photos, ", first.err, re.MULTILINE)
    assert "Traceback" not in first.err
    assert "Traceback" not in (first.folder / "crawl.log").read_text()


def test_it_leaves_nothing_running(first: Run) -> None:
    assert not left_running(str(first.folder), f"127.0.0.1:{first.port}")
    assert all(map(demo._is_free, range(first.port, first.port + 3)))


def test_the_contact_sheet_shows_every_car_and_photo_without_a_server(first: Run, site: SimulatedBilasolur) -> None:
    sheet = Selector((first.folder / "index.html").read_text("utf-8"))
    articles = sheet.css("article")
    assert len(articles) == demo.CARS
    for article, car in zip(articles, sorted(site.cars, key=lambda car: car.cid), strict=True):
        text = " ".join(article.css(".about ::text").getall()).replace("\xa0", "")
        assert car.make.casefold() in text.casefold()
        assert str(car.year) in text
        assert (f"{car.price} kr." if car.price else "Price on request") in text
        assert car.kilometers is None or f"{car.kilometers} km" in text
        files = [first.folder / unquote(place) for place in article.css("img::attr(src)").getall()]
        shown = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        served = [hashlib.sha256(site.photo_bytes(car.cid, p.p, 1280)).hexdigest() for p in car.photos]
        assert shown == served
        urls = article.css("li::text").getall()
        assert urls == [
            f"http://127.0.0.1:{first.port + 2}/{file.relative_to(first.folder / 's3/car-photos')}" for file in files
        ]
    places = sheet.css("[src]::attr(src), [href]::attr(href)").getall()
    assert all(place.startswith("s3/") for place in places)
    totals = dict(zip(sheet.css("dt::text").getall(), sheet.css("dd::text").getall(), strict=True))
    assert totals["cars"] == str(demo.CARS)
    assert totals["photos"] == str(EVERYTHING)


def rows(folder: Path) -> list[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "carscraper.db")) as database:
        return database.execute("SELECT key, url, sha256, stored_at FROM car_images ORDER BY id").fetchall()


@contextlib.contextmanager
def taken(*ports: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


def test_run_again_it_fetches_nothing_even_where_all_ports_are_taken(first: Run) -> None:
    """And the command that it prints can be repeated while its servers stay."""
    before = rows(first.folder)
    with taken(*range(first.port, first.port + 3)), start(first.folder, first.port, "--stay") as process:
        assert process.stdout is not None
        try:
            said = "".join(itertools.takewhile(lambda line: "servers stay until" not in line, process.stdout))
            (command,) = re.findall(r"^\$ (.+)$", said, re.MULTILINE)
            done = subprocess.run(
                command,
                shell=True,
                cwd=services.REPO,
                env=os.environ | EXPORTED,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert "from an earlier run" in said
    assert "0 details pages and 0 photos, and sent 1 request to S3" in said
    assert "a second time" not in said
    assert f"when the public address was http://127.0.0.1:{first.port + 2}. Their rows keep that" in said
    assert done.returncode == 0, (command, done)
    assert f"success. {demo.CARS} cars (0 new, 0 gone); 0 photos stored" in done.stderr
    assert rows(first.folder) == before
    assert not left_running(str(first.folder), f"127.0.0.1:{first.port}")


def test_a_photo_that_was_spoiled_is_noticed(first: Run) -> None:
    file = first.folder / "s3" / "car-photos" / rows(first.folder)[7][0]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    try:
        with demo._stage(first.folder, first.port) as stage, pytest.raises(demo.DemoError) as caught:
            demo._prove(first.folder, stage, demo._read(first.folder))
    finally:
        file.write_bytes(whole)
    assert f"{file.name} differ" in str(caught.value)
    assert "To begin anew: rm -r " in str(caught.value)


def test_interrupted_it_leaves_nothing_running_and_goes_on_later(tmp_path: Path, installed: None) -> None:
    port = three_free_ports()
    with start(tmp_path, port) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the first progress line: photos are under way
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert time.monotonic() - began < 15
    assert "nothing is left running" in out
    assert "stopped on request" in err
    assert "Traceback" not in out + err
    assert not left_running(str(tmp_path), f"127.0.0.1:{port}")
    kept = [row for row in rows(tmp_path) if row[0]]
    assert 0 < len(kept) < EVERYTHING
    later = run(tmp_path, port)
    assert later.code == 0, later
    assert f"All {EVERYTHING} permanent URLs were asked, and for each the three agree." in later.out
    assert set(kept) <= set(rows(tmp_path))


def test_a_missing_program_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> Path:
        raise services.MissingService("rclone is not installed: make setup")

    monkeypatch.setattr("tests.s3_servers.rclone_binary", missing)
    assert demo.main(["--folder", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "\nThe demo stops here: rclone is not installed: make setup\n"


def test_two_demos_do_not_work_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert demo.main(["--folder", str(tmp_path)]) == 1
    assert "another demo works in" in capsys.readouterr().err


def test_a_folder_that_can_not_be_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert demo.main(["--folder", str(tmp_path / "file" / "demo")]) == 1
    assert "can't be written (Not a directory)" in capsys.readouterr().err


def test_the_contact_sheet_escapes_what_a_dealer_writes() -> None:
    nasty = """</h2><script>alert("1")</script>'"&{0}"""
    photo = SimpleNamespace(
        identity="1/2", key=f"bilasolur/{nasty}#?.jpg", url=f"http://cdn/{nasty}", bytes=1, source_url=nasty
    )
    words = ("external_id", "display_make", "display_name", "fuel", "transmission", "dealer_name")
    numbers = ("year", "price", "price_before_offer", "price_excludes_vat", "kilometers")
    car = Car(**dict.fromkeys(words, nasty), **dict.fromkeys(numbers), photos=[photo])
    sheet = Selector(contact_sheet([car], "car-photos"))
    assert not sheet.css("script")
    assert nasty in "".join(sheet.css("h2 ::text").getall())
    assert unquote(sheet.css("img::attr(src)").get("")) == f"s3/car-photos/{photo.key}"
    assert sheet.css("li::text").get() == photo.url
    assert not sheet.css("article *::attr(onerror)")
