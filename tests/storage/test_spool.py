"""The spool of uploads: bounded, durable, shared, and no file stops it."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import pytest

from carscraper.exceptions import StoreUnavailableError
from carscraper.storage.keys import Upload
from carscraper.storage.spool import Spool


def upload(number: int = 1, *, identity: str = "1/1", data: bytes = b"\x00photo\n\xff") -> Upload:
    return Upload(
        name=f"bilasolur/2019/toyota/yaris/{number}_ab.jpg",
        data=data,
        content_type="image/jpeg",
        metadata={"source": "Bilasolur", "external-id": "þ"},
        row={"source": "Bilasolur", "external_id": "1", "identity": identity, "bytes": len(data), "url": None},
    )


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", location="s3://car-photos", max_bytes=10_000)


def test_nothing_is_made_before_it_is_needed(spool: Spool, tmp_path: Path) -> None:
    assert spool.waiting() == []
    assert list(tmp_path.iterdir()) == []


def test_what_goes_in_comes_out(spool: Spool) -> None:
    bare = dataclasses.replace(upload(), row=None, metadata={})
    for item in (upload(), upload(data=b""), upload(data=bytes(range(256))), bare):
        spool.add(item)
        (path,) = spool.waiting()
        assert spool.read(path) == item
        spool.remove(path)
        assert spool.waiting() == []


def test_a_later_run_finds_it(spool: Spool, tmp_path: Path) -> None:
    spool.add(upload())
    again = Spool(tmp_path / "spool", location="s3://car-photos", max_bytes=10_000)
    assert [again.read(path) for path in again.waiting()] == [upload()]


def test_each_store_has_its_own(spool: Spool, tmp_path: Path) -> None:
    spool.add(upload())
    assert Spool(tmp_path / "spool", location="s3://other", max_bytes=10_000).waiting() == []


def test_two_photos_with_the_same_bytes_wait_both(spool: Spool) -> None:
    spool.add(upload(identity="1/1"))
    spool.add(upload(identity="1/2"))
    rows = [spool.read(path) for path in spool.waiting()]
    assert {row.row["identity"] for row in rows if row and row.row} == {"1/1", "1/2"}


def test_it_is_bounded(spool: Spool, tmp_path: Path) -> None:
    spool.add(upload(1, data=bytes(4000)))
    spool.add(upload(2, data=bytes(4000)))
    with pytest.raises(StoreUnavailableError, match="SPOOL_MAX_BYTES"):
        spool.add(upload(3, data=bytes(4000)))
    assert len(spool.waiting()) == 2
    spool.remove(spool.waiting()[0])
    spool.add(upload(3, data=bytes(4000)))
    later = Spool(tmp_path / "spool", location="s3://car-photos", max_bytes=10_000)
    with pytest.raises(StoreUnavailableError):
        later.add(upload(4, data=bytes(4000)))


def test_the_same_photo_again_takes_no_more_room(spool: Spool) -> None:
    for _ in range(10):
        spool.add(upload(1, data=bytes(4000)))
    spool.add(upload(2, data=bytes(4000)))
    assert len(spool.waiting()) == 2


def test_a_bound_of_nothing_takes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError):
        Spool(tmp_path, location="s3://b", max_bytes=0).add(upload())


def test_a_full_disk_leaves_no_part(spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreUnavailableError, match="No space left on device"):
            spool.add(upload())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    spool.add(upload())


def test_a_damaged_file_is_moved_aside(spool: Spool) -> None:
    for content in (b"", b"{", b"[]\nphoto", b'{"name": 1}\nphoto', b"\xff\xfe\nphoto", b'{"x": 1}\n'):
        spool.add(upload())
        (path,) = spool.waiting()
        path.write_bytes(content)
        assert spool.read(path) is None, content
        assert spool.waiting() == []
        assert path.with_suffix(".damaged").read_bytes() == content


def test_one_that_another_process_has_taken_is_no_error(spool: Spool) -> None:
    spool.add(upload())
    (path,) = spool.waiting()
    path.unlink()
    assert spool.read(path) is None
    spool.remove(path)
