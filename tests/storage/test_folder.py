"""The folder store: a file is whole or not there."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

from carscraper.exceptions import StoreRefusedError
from carscraper.storage.folder import FolderStore, write_atomically
from carscraper.storage.keys import Upload

DATA = os.urandom(300_000)


def upload(name: str = "bilasolur/2019/toyota/yaris/1_ab.jpg", data: bytes = DATA) -> Upload:
    return Upload(name=name, data=data, content_type="image/jpeg")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class TestWriteAtomically:
    def test_it_writes_and_makes_the_folders(self, tmp_path: Path) -> None:
        path = tmp_path / "a" / "b" / "photo.jpg"
        write_atomically(path, DATA)
        assert path.read_bytes() == DATA
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert files(tmp_path) == ["a/b/photo.jpg"]

    def test_it_replaces(self, tmp_path: Path) -> None:
        path = tmp_path / "photo.jpg"
        write_atomically(path, b"old")
        write_atomically(path, DATA)
        assert path.read_bytes() == DATA
        assert files(tmp_path) == ["photo.jpg"]

    def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_it_returns(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "photo.jpg"
        told: list[str] = []
        fsync, replace = os.fsync, Path.replace

        def noting_fsync(descriptor: int) -> None:
            kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
            told.append(f"fsync {kind} {path.exists()}")
            fsync(descriptor)

        def noting_replace(self: Path, target: Path) -> Path:
            told.append("rename")
            return replace(self, target)

        monkeypatch.setattr(os, "fsync", noting_fsync)
        monkeypatch.setattr(Path, "replace", noting_replace)
        write_atomically(path, DATA)
        assert told == ["fsync file False", "rename", "fsync folder True"]

    def test_a_crash_in_the_middle_leaves_what_was(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "photo.jpg"
        errors = (OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt())
        for before, where, error in itertools.product((None, b"old"), ("fsync", "chmod", "replace"), errors):
            crash = Mock(side_effect=error)
            if before:
                path.write_bytes(before)
            with monkeypatch.context() as patch:
                patch.setattr(os if where == "fsync" else Path, where, crash)
                with pytest.raises(type(error)):
                    write_atomically(path, DATA)
            assert files(tmp_path) == (["photo.jpg"] if before else []), (before, where, error)
            assert not before or path.read_bytes() == before

    def test_a_reader_never_sees_a_part(self, tmp_path: Path) -> None:
        path = tmp_path / "photo.jpg"
        contents = [bytes([n]) * 200_000 for n in range(2)]
        over = threading.Event()
        seen: set[bytes] = set()

        def read() -> None:
            while not over.is_set():
                if path.exists():
                    seen.add(path.read_bytes())

        reader = threading.Thread(target=read)
        reader.start()
        for n in range(40):
            write_atomically(path, contents[n % 2])
        over.set()
        reader.join()
        assert seen <= set(contents)


class TestFolderStore:
    def test_put_and_url(self, tmp_path: Path) -> None:
        store = FolderStore(tmp_path / "images", public_url="https://img.example.is/")
        store.check()
        store.put(upload())
        assert files(tmp_path) == ["images/bilasolur/2019/toyota/yaris/1_ab.jpg"]
        assert store.object_name("a/b.jpg") == "a/b.jpg"
        assert store.url("a/b.jpg") == "https://img.example.is/a/b.jpg"
        assert store.location == "folder"
        store.close()

    def test_without_a_public_url_there_is_none(self, tmp_path: Path) -> None:
        assert FolderStore(tmp_path, public_url=None).url("a.jpg") is None

    def test_the_check_leaves_nothing_but_the_folder(self, tmp_path: Path) -> None:
        FolderStore(tmp_path / "a" / "b", public_url=None).check()
        assert (tmp_path / "a" / "b").is_dir()
        assert files(tmp_path) == []

    def test_a_folder_that_is_a_file_is_one_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "images").write_text("not a folder")
        with pytest.raises(StoreRefusedError, match=r"^The folder IMAGES_STORE=.*images can't be written"):
            FolderStore(tmp_path / "images", public_url=None).check()

    def test_a_full_disk_is_one_sentence(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        store = FolderStore(tmp_path, public_url=None)
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreRefusedError, match="No space left on device"):
            store.put(upload())
        assert files(tmp_path) == []
