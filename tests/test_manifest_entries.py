"""Entries of a manifest that are no photos are told of one by one, and memory does not grow with the file."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from carscraper.manifest import Manifest
from carscraper.manifest.formats import MAX_LINE
from tests.test_manifest import KEY, URL, key, problems, read, url, write

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

BAD_LINES = [
    (b"{}", "no url"),
    (b"null", "no url"),
    (b"17", "no url"),
    (b"[]", "no url"),
    (b'""', "no url"),
    (b'{"url": "", "image_url": null, "thumb_url": {}}', "no url"),
    (b'{"key": "a.jpg"}', "no url"),
    (b'"a.jpg"', "not a web address"),
    (b'{"url": "//host/a.jpg", "key": "a.jpg"}', "not a web address"),
    (b'{"url": "https://me:pw@host/a.jpg"}', "an address with a user in it"),
    (b'{"url": "https://host/a.jpg", "key": "../a.jpg"}', "bad key: a part of it is empty, one dot or two"),
    (b'{"url": "https://host/a.jpg", "key": "a//b.jpg"}', "bad key: a part of it is empty, one dot or two"),
    (b'{"url": "https://host/a.jpg", "key": "dir/"}', "bad key: it ends with a slash"),
    (b'{"url": "https://host/a.jpg", "key": "' + b"x" * 304 + b'"}', "bad key: a part of it has more than 255 bytes"),
    (b'{"url": "https://host/a.jpg", "key": 7}', "bad key: it is no text"),
    (b'{"url": "https://host/a.jpg", "key": {}}', "bad key: it is no text"),
    (b'{"url": "https://host/"}', "bad key: it has no name"),
    (b'{"url": "https://host/a.jpg"', "bad JSON"),
    (b"https://host/a.jpg", "bad JSON"),
    (b'"https://host/a.jpg" "https://host/b.jpg"', "bad JSON"),
    (b"[" * 100_000, "bad JSON"),
    (b'"https://host/\xe9.jpg"', "not UTF-8"),
    (b'"https://host/\\ud800.jpg"', "not a web address"),
    (b'"' + b"x" * MAX_LINE + b'"', "line too long"),
    (b" " * (MAX_LINE + 1), "line too long"),
]


def test_a_bad_line_is_told_of_and_the_next_ones_are_read(tmp_path: Path) -> None:
    good = f'"{URL}"\n'.encode()
    for line, problem in BAD_LINES:
        entries = read(write(tmp_path / "a.jsonl", good + line + b"\n" + good + line))
        assert [(entry.problem, entry.where, entry.key) for entry in entries] == [
            (None, "a.jsonl:1", KEY),
            (problem, "a.jsonl:2", ""),
            (None, "a.jsonl:3", KEY),
            (problem, "a.jsonl:4", ""),
        ], line[:50]
        assert bool(entries[1].url) == ("address" in problem or "bad key" in problem), line[:50]


def test_the_longest_line(tmp_path: Path) -> None:
    line = f'"{URL}"'.ljust(MAX_LINE)
    assert len(line) == MAX_LINE
    assert problems(write(tmp_path / "a.jsonl", f"{line}\n{line} \n{line}")) == [
        (None, "a.jsonl:1"),
        ("line too long", "a.jsonl:2"),
        (None, "a.jsonl:3"),
    ]


BAD_ROWS = [
    (b",7", "no url"),
    (b"a.jpg,7", "not a web address"),
    (b"https://host/,7", "bad key: it has no name"),
    (b'"https://host/a.jpg"x,7', "bad CSV"),
    (b'"https://host/a.jpg,7', "bad CSV"),
    (b"https://host/a.jpg,caf\xe9", "not UTF-8"),
    (b"https://host/a.jpg," + b"x" * 140_000, "bad CSV"),
    (b"https://host/a.jpg," + b"x" * MAX_LINE, "line too long"),
]


def test_a_bad_row_is_told_of_and_the_next_ones_are_read(tmp_path: Path) -> None:
    good = [f'{url(number)},"1\n2"\n'.encode() for number in (1, 2, 3)]
    for row, problem in BAD_ROWS:
        entries = read(write(tmp_path / "a.csv", b"url,size\n" + good[0] + row + b"\n" + good[1] + good[2] + row))
        assert [(entry.problem, entry.where, entry.key) for entry in entries] == [
            (None, "a.csv:2", key(1)),
            (problem, "a.csv:4", ""),
            (None, "a.csv:5", key(2)),
            (None, "a.csv:7", key(3)),
            (problem, "a.csv:9", ""),
        ], row[:50]


def test_a_quote_that_stays_open_takes_nothing_with_it(tmp_path: Path) -> None:
    rows = [f"{url(number)},x\n" for number in range(4000)]  # more than a field may hold
    rows.insert(10, f'"{URL},x\n')
    entries = read(write(tmp_path / "a.csv", "url,title\n" + "".join(rows)))
    assert [entry.where for entry in entries if entry.problem] == ["a.csv:12"]
    assert [entry.key for entry in entries if not entry.problem] == [key(number) for number in range(4000)]
    assert entries[-1].where == "a.csv:4002"


def test_a_row_without_end_takes_no_memory(tmp_path: Path) -> None:
    # Each line ends inside quotes, and no field is long.
    path = write(tmp_path / "a.csv", f'url,title\n{URL},"' + '\n","' * (MAX_LINE // 2))
    tracemalloc.start()
    first = next(iter(Manifest(path)))
    assert tracemalloc.get_traced_memory()[1] < 40 * MAX_LINE
    tracemalloc.stop()
    assert (first.problem, first.where) == ("bad CSV", "a.csv:2")


def test_problems_in_json(tmp_path: Path) -> None:
    elements = [{"id": 1}, None, {"url": None}, "a.jpg", URL, [URL], {"url": URL, "key": []}, {"url": URL}]
    expected = ["no url", "no url", "no url", "not a web address", None, "no url", "bad key: it is no text", None]
    numbered = [(problem, f"a.json:{number}") for number, problem in enumerate(expected, 1)]
    assert problems(write(tmp_path / "a.json", json.dumps(elements))) == numbered
    assert problems(write(tmp_path / "a.json", json.dumps({"tags": ["x"], "images": elements}))) == numbered


# --- size -------------------------------------------------------------------------------------------------------


def write_many(path: Path, pieces: Iterable[str]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(pieces)
    return path


def peak(path: Path, expected: int) -> float:
    """MB of memory that reading took at most."""
    tracemalloc.start()
    try:
        assert sum(1 for entry in Manifest(path) if entry.key) == expected
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def test_60_000_lines_take_no_memory(tmp_path: Path) -> None:
    count = 60_000
    path = write_many(tmp_path / "a.jsonl", (f'{{"url": "{url(number)}"}}\n' for number in range(count)))
    assert Manifest(path).count() == count
    assert peak(path, count) < 5


@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_other_formats_take_none_either(tmp_path: Path, name: str) -> None:
    count = 30_000
    start, between, end = (
        ("url", "\n{}", "\n") if name == "a.csv" else ('{"tags": ["a"], "images": [""', ', "{}"', "]}")
    )
    lines = (between.format(url(number)) for number in range(count))
    assert peak(write_many(tmp_path / name, [start, *lines, end]), count) < 2


def test_an_endless_line_takes_none(tmp_path: Path) -> None:
    path = write_many(tmp_path / "a.jsonl", ["x" * MAX_LINE] * 30)
    tracemalloc.start()
    assert problems(path) == [("line too long", "a.jsonl:1")]
    assert tracemalloc.get_traced_memory()[1] < 5 * MAX_LINE
    tracemalloc.stop()
