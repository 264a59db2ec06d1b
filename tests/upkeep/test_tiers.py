"""Reading access logs and walking a large folder; tests/cli/test_tiers.py has the rest."""

from __future__ import annotations

import gzip
import io
import tracemalloc
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, update

from carscraper.db.models import CarImageRow, CarListing
from carscraper.storage import hot
from carscraper.upkeep import tiers
from carscraper.upkeep.accesslog import LONGEST, Log
from tests.cli.shop import Shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIME = "[20/Nov/2026:10:00:00 +0100]"


def read(data: bytes, start: int = 0) -> list[tuple[bytes | None, bool]]:
    log = Log(io.BytesIO(data))
    if log.fingerprint() is None:
        return []
    return [(line.view.path if line.view else None, line.is_bad) for line in log.lines(start)]


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (f'1.2.3.4 - - {TIME} "GET /a.jpg HTTP/1.1" 200 5', b"/a.jpg"),
        (f'2001:db8::1 - bob {TIME} "GET /a.jpg HTTP/2.0" 304 - "https://x/" "Mozilla"', b"/a.jpg"),
        (f'www.example.is:443 1.2.3.4 - - {TIME} "GET /a.jpg?w=1 HTTP/1.1" 206 5 "-" "-"', b"/a.jpg"),
        (f'1.2.3.4 - - {TIME} "GET https://img.example.is/a%20b.jpg HTTP/1.1" 200 5', b"/a%20b.jpg"),
        (f'1.2.3.4 - - {TIME} "GET /a\\xC3\\xBE\\".jpg HTTP/1.1" 200 5', b'/a\xc3\xbe".jpg'),
        (f'1.2.3.4 - - {TIME} "GET /a.jpg HTTP/1.1" 404 5', None),
        (f'1.2.3.4 - - {TIME} "HEAD /a.jpg HTTP/1.1" 200 5', None),
        (f'1.2.3.4 - - {TIME} "POST /a.jpg HTTP/1.1" 200 5', None),
    ],
)
def test_lines_of_web_servers(line: str, path: bytes | None) -> None:
    assert read(f"{line}\n".encode()) == [(path, False)]


def test_times_are_utc() -> None:
    log = Log(io.BytesIO(f'1.2.3.4 - - {TIME} "GET /a.jpg HTTP/1.1" 200 5\n'.encode()))
    log.fingerprint()
    (line,) = log.lines(0)
    assert line.view
    assert line.view.at == datetime(2026, 11, 20, 9)  # noqa: DTZ001 - as the tables hold it


@pytest.mark.parametrize("packed", [False, True])
def test_it_goes_on_where_it_ended(packed: bool) -> None:
    lines = [f'1.2.3.4 - - {TIME} "GET /{number}.jpg HTTP/1.1" 200 5\n'.encode() for number in range(5)]
    lines[2] = b"x" * (2 * LONGEST) + b"\n"
    whole = b"".join(lines)
    data = gzip.compress(whole) if packed else whole
    everything = read(data)
    assert [bad for _, bad in everything] == [False, False, True, False, False]
    for number in range(6):
        assert read(data, sum(map(len, lines[:number]))) == everything[number:]
    assert read(data, len(whole) + 1000) == []


def test_the_name_of_a_log_is_its_first_line() -> None:
    line = f'1.2.3.4 - - {TIME} "GET /0.jpg HTTP/1.1" 200 5\n'.encode()
    names = {Log(io.BytesIO(data)).fingerprint() for data in (line, line + b"more\n", gzip.compress(line + b"x"))}
    assert len(names) == 1
    assert Log(io.BytesIO(b"#Version: 1.0\n" + line)).fingerprint() in names
    assert Log(io.BytesIO(line[:-1])).fingerprint() is None
    assert Log(io.BytesIO(b"")).fingerprint() is None
    assert Log(io.BytesIO(line.replace(b"/0", b"/1"))).fingerprint() not in names


# --- many files -------------------------------------------------------------------------------------------------

MANY = 3_000


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Many small hot copies."""
    folder = tmp_path_factory.mktemp("crowd")
    shop = Shop(f"sqlite:///{folder}/cars.db", folder / "images", None)
    shop.add("1", "seed.jpg")
    with shop.engine.begin() as connection:
        listing = connection.execute(CarListing.__table__.select()).one().id
        rows = [
            {
                "listing_id": listing,
                "position": number,
                "identity": f"1/{number}",
                "source_url": "x",
                "status": "stored",
                "store": "s3://b",
                "key": f"d{number % 50}/{number:06d}.jpg",
                "bytes": 4,
                "sha256": "0" * 64,
                "first_seen_at": datetime(2026, 1, 1),  # noqa: DTZ001 - as the tables hold it
            }
            for number in range(1, MANY + 1)
        ]
        connection.execute(insert(CarImageRow.__table__), rows)
        connection.execute(
            update(CarImageRow.__table__).where(CarImageRow.__table__.c.key == "seed.jpg").values(store="s3://b")
        )
    for row in rows:
        shop.file(str(row["key"]), b"1234")
    yield shop
    shop.engine.dispose()


def test_showing_needs_no_memory_for_each_file(crowd: Shop) -> None:
    tiers.show(crowd.engine, crowd.folder, "")
    tracemalloc.start()
    report = tiers.show(crowd.engine, crowd.folder, "")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.files == {"hot": MANY + 1}
    assert peak < 2_000_000


def test_of_all_files_only_those_that_leave_are_held(crowd: Shop) -> None:
    plan = tiers.enforce(crowd.engine, crowd.folder, "", None, 4 * (MANY - 10))
    assert plan.files <= 14
    assert plan.bytes >= 40
    assert plan.over == 0


@pytest.mark.parametrize("name", ["", "/", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/.", "a\0b"])
def test_names_that_can_be_no_file_of_the_folder(tmp_path: Path, name: str) -> None:
    assert hot.local_path(tmp_path, name) is None
    assert hot.look(tmp_path, name) is None
    assert not hot.remove(tmp_path, name)


def test_names_that_can(tmp_path: Path) -> None:
    assert hot.local_path(tmp_path, "a b/þ#1?%2e.jpg") == tmp_path / "a b" / "þ#1?%2e.jpg"
    assert hot.look(tmp_path, "a/" * 3000 + "x") is None
    assert not hot.remove(tmp_path, "not/there.jpg")
