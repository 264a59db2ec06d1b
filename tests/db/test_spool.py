"""Cars that wait for the database: every field comes back, and no line takes another with it."""

from __future__ import annotations

import errno
import os
import threading
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carscraper.db.spool import CarSpool, dump, load
from carscraper.items import CarImage, CarItem, GoneCar

if TYPE_CHECKING:
    from pathlib import Path

TEXT = st.none() | st.text()
NUMBER = st.none() | st.integers()
CARS = st.builds(
    CarItem,
    source=st.text(),
    external_id=st.text(),
    url=st.text(),
    title=TEXT,
    description=TEXT,
    price=NUMBER,
    price_excludes_vat=st.none() | st.booleans(),
    city_consumption=st.none() | st.floats(allow_nan=False),
    source_updated_at=st.none() | st.dates(),
    details_at=st.none() | st.datetimes(),
    image_urls=st.lists(st.text(), max_size=3),
    images=st.lists(st.builds(CarImage, identity=st.text(), source_url=st.text(), key=TEXT, bytes=NUMBER), max_size=3),
)
GONE = st.builds(GoneCar, source=st.text(), external_id=st.text(), url=st.text())


def car(number: int = 1, **changes: Any) -> CarItem:
    return CarItem(source="Bilasolur", external_id=str(number), url=f"https://x/{number}", **changes)


@given(CARS | GONE)
def test_what_goes_in_comes_out(item: CarItem | GoneCar) -> None:
    line = dump(item)
    assert line.isascii()
    assert "\n" not in line
    assert load(line) == item


def test_dates_come_back_as_dates() -> None:
    item = load(dump(car(source_updated_at=date(2026, 2, 2), details_at=datetime(2026, 2, 2, 3, 4))))  # noqa: DTZ001
    assert isinstance(item, CarItem)
    assert type(item.source_updated_at) is date
    assert type(item.details_at) is datetime


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "null", "5", '{"type": "CarItem"}', '{"type": "GoneCar", "x": 1}', "{}"]
)
def test_something_else_is_refused(line: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        load(line)


def test_a_run_leaves_a_file_and_the_next_one_finds_it(tmp_path: Path) -> None:
    spool = CarSpool(tmp_path / "spool")
    assert spool.waiting() == []
    items = [car(1), GoneCar(source="Bilasolur", external_id="2", url="u"), car(3, title="a\u2028b\r\nc\x85")]
    for item in items:
        spool.add(item)
    (path,) = CarSpool(tmp_path / "spool").waiting()
    assert CarSpool.read(path) == items


def test_a_line_that_a_crash_cut_short_takes_no_other_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for left in (1, 10, 60):
        spool = CarSpool(tmp_path / str(left))
        spool.add(car(1))
        whole = spool.waiting()[0].read_bytes()
        spool.waiting()[0].write_bytes(whole + dump(car(2)).encode()[:left])
        spool.add(car(3))
        assert CarSpool.read(spool.waiting()[0]) == [car(1), car(3)], left
    assert caplog.text.count("can't be read") == 3


def test_a_car_of_an_earlier_version_or_of_another_database_is_written_whole() -> None:
    line = dump(car(1, listing_id=7, images=[CarImage(identity="1/1", source_url="u")]))
    old = line.replace('"identity"', '"no_longer": 1, "identity"').replace('"source"', '"news": "new", "source"')
    assert load(old) == load(line) == car(1, images=[CarImage(identity="1/1", source_url="u")])


def test_lines_that_are_no_cars_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "cars-1-1.jsonl"
    lines = ["garbage", dump(car(1)), "[]", "", '{"type": "Car"}', dump(car(2)), "null", "\x00" * 100]
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe")
    assert CarSpool.read(path) == [car(1), car(2)]


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    spool = CarSpool(tmp_path)
    cars = [car(n, description="þ" * 5000) for n in range(24)]
    threads = [threading.Thread(target=spool.add, args=(each,)) for each in cars]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = CarSpool.read(spool.waiting()[0])
    assert sorted(int(item.external_id) for item in found) == list(range(24))


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        CarSpool(tmp_path).add(car())


def test_only_one_process_takes_a_file(tmp_path: Path) -> None:
    spool = CarSpool(tmp_path)
    spool.add(car(1))
    (path,) = spool.waiting()
    claimed = spool.claim(path)
    assert claimed
    assert spool.claim(path) is None
    spool.add(car(2))
    assert CarSpool.read(claimed) == [car(1)], "what is added later goes to a new file"
    assert len(spool.waiting()) == 2, "should this process die now, the next run finds both"
