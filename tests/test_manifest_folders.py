"""A manifest that is a folder: which files count, in which order, and what is said of those that are broken."""

from __future__ import annotations

import gzip
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.exceptions import ConfigurationError
from carscraper.manifest import Manifest
from tests.test_manifest import HOST, KEY, LINES, URL, key, keys, read, url, write

if TYPE_CHECKING:
    from pathlib import Path


def lot(*numbers: int) -> str:
    images = [{"image_url": url(number), "thumb_url": url(number + 5000)} for number in numbers]
    return json.dumps({"lot": {"id": 1, "url": f"{HOST}/lot/1", "damage": ["front"]}, "images": images})


def test_a_folder_of_lots(tmp_path: Path) -> None:
    write(tmp_path / "b" / "lot_2_images.json", lot(3, 4))
    write(tmp_path / "a" / "deep" / "lot_9_images.json.gz", lot(2))
    write(tmp_path / "a" / "lot_1_images.json", lot())
    write(tmp_path / "a" / "lot_10_images.json", lot(1))
    write(tmp_path / "lot_1_images.json", lot(5))
    write(tmp_path / "all.jsonl", LINES)
    write(tmp_path / "a" / "lot_1.json", "no JSON")
    entries = read(tmp_path)
    assert [(entry.key, entry.where) for entry in entries] == [
        (key(photo), where)
        for number, where in (
            (2, "a/deep/lot_9_images.json.gz:1"),
            (1, "a/lot_10_images.json:1"),
            (3, "b/lot_2_images.json:1"),
            (4, "b/lot_2_images.json:2"),
            (5, "lot_1_images.json:1"),
        )
        for photo in (number, number + 5000)
    ]
    assert Manifest(tmp_path).count() is None


def test_a_folder_of_other_manifests(tmp_path: Path) -> None:
    write(tmp_path / "z.jsonl.gz", f'"{url(4)}"\n')
    write(tmp_path / "b" / "a.csv", f"url\n{url(2)}\n")
    write(tmp_path / "b" / "b.ndjson", f'"{url(3)}"\n')
    write(tmp_path / "a.jsonl", f'"{url(1)}"\n')
    write(tmp_path / "notes.txt", "not a manifest")
    write(tmp_path / ".hidden.json", "not a manifest")
    write(tmp_path / ".git" / "a.json", "not a manifest")
    assert keys(tmp_path) == [key(1), key(2), key(3), key(4)]
    assert Manifest(tmp_path).count() == 4
    write(tmp_path / "c.json", json.dumps([url(5)]))
    assert keys(tmp_path) == [key(1), key(2), key(3), key(5), key(4)]
    assert Manifest(tmp_path).count() is None


def test_folders_behind_links_are_read_once(tmp_path: Path) -> None:
    folder = tmp_path / "manifest"
    write(folder / "a.jsonl", f'"{URL}"\n')
    write(tmp_path / "elsewhere" / "b.jsonl", f'"{url(2)}"\n')
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "back").symlink_to(folder, target_is_directory=True)
    assert keys(folder) == [KEY, key(2)]


def test_what_is_passed_over_in_a_folder_is_counted(tmp_path: Path) -> None:
    texts = {
        "lot_1_images.json": f'["{url(1)}"]',
        "lot_2_images.jsonl": f'"{url(2)}"',
        "lot_4_images.CSV.gz": f"url\n{url(4)}\n",
        "sub/lot_3\nb_images.json": f'["{url(3)}"]',
    }
    others = ("all.jsonl", "all.JSONL.gz", "lot_1.json", "README", ".hidden/lot_9_images.json", ".lot_8_images.json")
    for name, text in (texts | dict.fromkeys(others, "x")).items():
        write(tmp_path / name, text)
    os.mkfifo(tmp_path / "lot_7_images.json")
    manifest = Manifest(tmp_path)
    assert manifest.left_alone == {
        "file .jsonl": 2,
        "file .json": 1,
        "file without a suffix": 1,
        "hidden folder": 1,
        "hidden file": 1,
        "pipe, socket or device": 1,
    }
    assert [(entry.where, entry.problem) for entry in manifest] == [
        ("lot_1_images.json:1", None),
        ("lot_2_images.jsonl:1", None),
        ("lot_4_images.CSV.gz:2", None),
        ("sub/lot_3\\nb_images.json:1", None),
    ]


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ConfigurationError, match="is no regular file; write what comes out of it to a file"):
        Manifest(tmp_path / "a.json")


def test_broken_files_of_a_folder_are_named_and_the_others_are_read(tmp_path: Path) -> None:
    write(tmp_path / "lot_1_images.json", lot(1))
    write(tmp_path / "lot_2_images.json.gz", lot(2))
    (tmp_path / "lot_3_images.json.gz").write_bytes(gzip.compress(lot(3).encode())[:-9])
    write(tmp_path / "lot_4_images.json", "")
    write(tmp_path / "lot_5_images.json", '{"note": "no images"}')
    write(tmp_path / "lot_6_images.json", lot(6).encode("utf-16"))
    (tmp_path / "lot_7_images.json").symlink_to(tmp_path / "lost.json")
    write(tmp_path / "x" / "lot_8_images.json", lot(8)[:-2])
    write(tmp_path / "x" / "lot_9_images.json", lot(9))
    manifest = Manifest(tmp_path)
    entries = list(manifest)
    broken = [
        (entry.where, (entry.problem or "").partition(";")[0].partition(":")[0]) for entry in entries if entry.of_file
    ]
    assert broken == [
        (
            "lot_3_images.json.gz",
            "is a broken gzip file (Compressed file ended before the end-of-stream marker was reached)",
        ),
        ("lot_4_images.json", "is empty"),
        ("lot_5_images.json", "has no list of photos"),
        ("lot_6_images.json", "is written in UTF-16"),
        ("lot_7_images.json", "can't be read (No such file or directory)"),
        ("x/lot_8_images.json", "is no whole JSON document"),
    ]
    whole = [entry.key for entry in entries if not entry.problem and not entry.where.startswith("lot_3")]
    assert whole == [key(number) for photo in (1, 2, 8, 9) for number in (photo, photo + 5000)]
    assert (manifest.files, manifest.files_read) == (9, 9)


def test_a_folder_in_it_that_may_not_be_listed_is_one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a" / "lot_1_images.json", lot(1))
    write(tmp_path / "b" / "lot_2_images.json", lot(2))
    listing = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("a"):  # root may read everything
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", refuse)
    first, *others = Manifest(tmp_path)
    assert (first.where, first.of_file) == ("a", True)
    assert [entry.key for entry in others] == [key(2), key(5002)]
