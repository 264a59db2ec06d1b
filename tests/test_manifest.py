"""Manifests: every format, every fault, and memory that does not grow with the file."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import re
import tracemalloc
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import ijson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carscraper import manifest
from carscraper.exceptions import ConfigurationError
from carscraper.manifest import (
    MAX_KEY,
    MAX_LINE,
    ManifestEntry,
    clean_key,
    count_entries,
    key_from_address,
    read_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

HOST = "https://d278yjzsv5tla9.cloudfront.net"
URL = f"{HOST}/auctionimages/3483/1713553344/i0178-1.jpg"
KEY = "3483/1713553344/i0178-1.jpg"


def url(number: int) -> str:
    return f"{HOST}/auctionimages/3483/1713553344/i{number:04}-1.jpg"


def key(number: int) -> str:
    return f"3483/1713553344/i{number:04}-1.jpg"


def write(path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.name.lower().endswith(".gz") else data)
    return path


def read(path: Path, **options: Any) -> list[ManifestEntry]:
    entries = list(read_manifest(path, **options))
    assert count_entries(path) in {len(entries), None}
    return entries


def keys(path: Path, **options: Any) -> list[str]:
    entries = read(path, **options)
    assert [entry.problem for entry in entries] == [None] * len(entries)
    return [entry.key for entry in entries]


def problems(path: Path) -> list[tuple[str | None, str]]:
    return [(entry.problem, entry.where) for entry in read(path)]


def refused(path: Path) -> tuple[list[ManifestEntry], str]:
    """What a manifest gives before it is refused, and the message with which it is."""
    given: list[ManifestEntry] = []
    with pytest.raises(ConfigurationError) as caught:
        given.extend(read_manifest(path))
    message = str(caught.value)
    assert message.startswith("The manifest '")
    assert message.endswith(".")
    assert "; " in message, "it says what is wrong and what mends it"
    assert "\n" not in message
    return given, message


def refusal(path: Path, *, after: int = 0) -> str:
    """The message, once there have been *after* entries."""
    given, message = refused(path)
    assert len(given) == after
    return message


# --- formats ----------------------------------------------------------------------------------------------------

OBJECTS: list[Any] = [{"url": url(1), "lot": 3483}, {"image_url": url(2), "key": None}, {"thumb_url": url(3)}]
LINES = "".join(f"{json.dumps(each)}\n" for each in OBJECTS)
FORMATS = {
    "a.jsonl": LINES,
    "a.ndjson": LINES.rstrip(),
    "crlf.jsonl": LINES.replace("\n", "\r\n"),
    "blank.jsonl": "\n" + LINES.replace("\n", "\n \t\n\n"),
    "strings.jsonl": "".join(f'"{url(number)}"\n' for number in (1, 2, 3)),
    "mixed.jsonl": f'{json.dumps(OBJECTS[0])}\n"{url(2)}"\n{json.dumps({"url": f" {url(3)} "})}',
    "a.csv": f"lot,url\n1,{url(1)}\n2,{url(2)}\n3,{url(3)}\n",
    "image_url.csv": f"image_url\r\n{url(1)}\r\n\r\n{url(2)}\r\n{url(3)}",
    "both.csv": f"Image_URL, URL ,key\n,{url(1)},\n{url(2)},,\n{url(9)},{url(3)},\n,,\n",
    "quoted.csv": f'url,title\n"{url(1)}","a, ""b""\nc"\n{url(2)},"\n\n"\n{url(3)}\n',
    "array.json": json.dumps(OBJECTS),
    "strings.json": json.dumps([url(1), url(2), url(3)], indent=1),
    "object.json": json.dumps({"lot": {"id": 1}, "images": OBJECTS}),
    "deep.json": json.dumps({"tags": ["red", 1, None, [], {"a": 1}], "data": {"none": [], "photos": {"all": OBJECTS}}}),
    "two.json": json.dumps({"front": OBJECTS[:1], "empty": [], "back": OBJECTS[1:]}),
    "nested.json": json.dumps([{"sizes": [{"url": "x"}], "more": {"url": "y"}, **each} for each in OBJECTS]),
}


def test_formats(tmp_path: Path) -> None:
    for name, text in (*FORMATS.items(), ("A.JSON", FORMATS["array.json"])):
        for suffix in ("", ".gz", ".GZ"):
            for bom in ("", "\ufeff"):
                path = write(tmp_path / f"{name}{suffix}", bom + text)
                assert keys(path) == [key(1), key(2), key(3)], (name, suffix, bom)


def test_what_an_entry_holds(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", f"\n{json.dumps({'url': f' {URL} '})}\n{{}}\n")
    assert read(path) == [
        ManifestEntry(url=URL, key=KEY, problem=None, where="a.jsonl:2"),
        ManifestEntry(url="", key="", problem="no url", where="a.jsonl:3"),
    ]


def test_the_first_address_that_is_there_counts(tmp_path: Path) -> None:
    lines = [
        {"thumb_url": url(3), "image_url": url(2), "url": url(1)},
        {"thumb_url": url(3), "image_url": url(2), "url": " "},
        {"thumb_url": url(3), "image_url": None, "url": 7},
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(json.dumps(each) for each in lines))
    assert keys(path) == [key(1), key(2), key(3)]


def test_a_key_that_is_given_is_taken_as_it_is(tmp_path: Path) -> None:
    for name, text in {
        "a.jsonl": json.dumps({"url": f"{URL}?1", "key": "auctionimages/þ 1.jpg"}),
        "a.json": json.dumps([{"key": "auctionimages/þ 1.jpg", "url": URL}]),
        "a.csv": f"key,url\n auctionimages/þ 1.jpg ,{URL}\n",
    }.items():
        assert keys(write(tmp_path / name, text)) == ["auctionimages/þ 1.jpg"], name
    for empty in ("", "  ", None):
        assert keys(write(tmp_path / "b.jsonl", json.dumps({"url": URL, "key": empty}))) == [KEY], empty


def test_a_list_may_be_empty(tmp_path: Path) -> None:
    for text in ("", "\n\n", "\ufeff"):
        for name in ("a.jsonl", "a.jsonl.gz", "a.ndjson"):
            assert read(write(tmp_path / name, text)) == [], (name, text)
            assert count_entries(tmp_path / name) == 0
    for text in ("[]", " [ ] ", '{"lot": 1, "images": []}', '{"images": [], "tags": ["red"]}'):
        assert read(write(tmp_path / "a.json", text)) == [], text


def test_the_prefix_is_the_callers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", f'"{URL}"\n')
    assert keys(path, strip_prefix="") == [f"auctionimages/{KEY}"]
    assert keys(path, strip_prefix="auctionimages/3483") == [KEY.removeprefix("3483/")]


@pytest.mark.parametrize("backend", ["yajl2_c", "python"])
def test_json_is_read_the_same_without_the_c_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr(ijson, "basic_parse", ijson.get_backend(backend).basic_parse)
    for name in ("array.json", "deep.json", "nested.json"):
        assert keys(write(tmp_path / name, FORMATS[name])) == [key(1), key(2), key(3)]
    entries = read_manifest(tmp_path / "array.json")
    assert next(entries).key == key(1)
    del entries  # nothing complains that the rest isn't read
    for text in BROKEN:
        assert "is no whole JSON document" in refused(write(tmp_path / "b.json", text))[1]


# --- folders ----------------------------------------------------------------------------------------------------


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
        (key(2), "a/deep/lot_9_images.json.gz:1"),
        (key(1), "a/lot_10_images.json:1"),
        (key(3), "b/lot_2_images.json:1"),
        (key(4), "b/lot_2_images.json:2"),
        (key(5), "lot_1_images.json:1"),
    ]
    assert count_entries(tmp_path) is None


def test_a_folder_of_other_manifests(tmp_path: Path) -> None:
    write(tmp_path / "z.jsonl.gz", f'"{url(4)}"\n')
    write(tmp_path / "b" / "a.csv", f"url\n{url(2)}\n")
    write(tmp_path / "b" / "b.ndjson", f'"{url(3)}"\n')
    write(tmp_path / "a.jsonl", f'"{url(1)}"\n')
    write(tmp_path / "notes.txt", "not a manifest")
    write(tmp_path / ".hidden.json", "not a manifest")
    write(tmp_path / ".git" / "a.json", "not a manifest")
    assert keys(tmp_path) == [key(1), key(2), key(3), key(4)]
    assert count_entries(tmp_path) == 4
    write(tmp_path / "c.json", json.dumps([url(5)]))
    assert keys(tmp_path) == [key(1), key(2), key(3), key(5), key(4)]
    assert count_entries(tmp_path) is None


def test_a_link_that_leads_back_does_not_go_round(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", f'"{URL}"\n')
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    assert keys(tmp_path) == [KEY]


def test_a_broken_file_of_a_folder_is_named(tmp_path: Path) -> None:
    write(tmp_path / "lot_1_images.json", lot(1))
    write(tmp_path / "x" / "lot_2_images.json", lot(2)[:-2])
    assert "x/lot_2_images.json' is no whole JSON document" in refusal(tmp_path, after=2)


# --- problems ---------------------------------------------------------------------------------------------------


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
    (b'{"url": "https://host/a.jpg", "key": "../a.jpg"}', "bad key"),
    (b'{"url": "https://host/a.jpg", "key": 7}', "bad key"),
    (b'{"url": "https://host/a.jpg", "key": {}}', "bad key"),
    (b'{"url": "https://host/"}', "bad key"),
    (b'{"url": "https://host/a.jpg"', "bad JSON"),
    (b"https://host/a.jpg", "bad JSON"),
    (b'"https://host/a.jpg" "https://host/b.jpg"', "bad JSON"),
    (b"[" * 100_000, "bad JSON"),
    (b'{"url": "https://host/a.jpg", "size": ' + b"9" * 5000 + b"}", "bad JSON"),
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
        assert bool(entries[1].url) == (problem in {"not a web address", "bad key"}), line[:50]


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
    (b"https://host/,7", "bad key"),
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
    first = next(read_manifest(path))
    assert tracemalloc.get_traced_memory()[1] < 40 * MAX_LINE
    tracemalloc.stop()
    assert (first.problem, first.where) == ("bad CSV", "a.csv:2")


def test_problems_in_json(tmp_path: Path) -> None:
    elements = [{"id": 1}, None, {"url": None}, "a.jpg", URL, [URL], {"url": URL, "key": []}, {"url": URL}]
    expected = ["no url", "no url", "no url", "not a web address", None, "no url", "bad key", None]
    numbered = [(problem, f"a.json:{number}") for number, problem in enumerate(expected, 1)]
    assert problems(write(tmp_path / "a.json", json.dumps(elements))) == numbered
    assert problems(write(tmp_path / "a.json", json.dumps({"tags": ["x"], "images": elements}))) == numbered


# --- refusals ---------------------------------------------------------------------------------------------------

WHOLE = json.dumps({"images": [{"url": url(1)}, {"url": url(2)}]}).encode()
BROKEN = [
    b"",
    b"\n",
    b"<html>",
    WHOLE[:-1],
    WHOLE[:-2],
    WHOLE + b"}",
    WHOLE.replace(b"}, {", b"} {"),
    WHOLE.replace(b"}]", b', "size": ' + b"9" * 5000 + b"}]"),
    WHOLE.replace(b"}]", b', "title": "caf\xe9"}]'),
]
GIVEN = [0, 0, 0, 2, 2, 2, 1, 0, 1]


def test_broken_json(tmp_path: Path) -> None:
    for text, after in zip(BROKEN, GIVEN, strict=True):
        for suffix in ("", ".gz"):
            assert "is no whole JSON document" in refusal(write(tmp_path / f"a.json{suffix}", text), after=after)


@pytest.mark.parametrize("before", [1, 200, 2000, 4000])
def test_a_huge_number_across_two_reads(tmp_path: Path, before: int) -> None:
    start = f'[{{"url": "{URL}"}},'
    text = f"{start.ljust((1 << 16) - before)}{'9' * 4400}]"
    assert "is no whole JSON document" in refused(write(tmp_path / "a.json", text))[1]


def test_large_numbers_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", f'[{{"hash": {2**64 - 1}, "ratio": 1.5e400, "id": {"9" * 300}, "url": "{URL}"}}]')
    assert keys(path) == [KEY]
    assert "is no whole" in refusal(write(tmp_path / "b.json", f'[{{"url": "{URL}"}}, 1e{"9" * 30}]'), after=1)


def test_json_without_a_list(tmp_path: Path) -> None:
    for text in ('{"lot": 1}', "7", f'"{URL}"', '{"images": [{"id": 1}]}', '{"error": ["not found"]}'):
        assert "has no list of photos" in refusal(write(tmp_path / "a.json", text)), text


def test_json_with_a_value_without_end(tmp_path: Path) -> None:
    text = f'[{{"url": "{URL}"}}, "' + "x" * (2 * MAX_LINE)
    tracemalloc.start()
    assert "has a value of more than 1 MiB" in refusal(write(tmp_path / "a.json", text), after=1)
    tracemalloc.stop()


def test_csv_without_a_column(tmp_path: Path) -> None:
    for text in ("", "\n", f"{URL}\n", "lot,link\n1,2\n", f"lot;url\n1;{URL}\n", '"url\n', b"\xe9,url\n"):
        assert "has no column url or image_url" in refusal(write(tmp_path / "a.csv", text)), text
        with pytest.raises(ConfigurationError, match="has no column"):
            count_entries(tmp_path / "a.csv")


def test_files_that_are_none(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv", "a.json", "a.csv.gz"):
        assert "is written in UTF-16; save it in UTF-8" in refusal(write(tmp_path / name, LINES.encode("utf-16"))), name
    for name in ("a.txt", "a", "a.json.zip", "a.jsonl.bz2", "jsonl", ".gz"):
        (tmp_path / name).write_bytes(b"[]")
        assert "is none that is known" in refusal(tmp_path / name), name
    for name in ("missing.jsonl", "a.json/b.json", "a\0.json"):
        assert "does not exist" in refusal(tmp_path / name), name


def test_a_folder_without_any(tmp_path: Path) -> None:
    write(tmp_path / "a" / "notes.txt", "")
    assert "is a folder without" in refusal(tmp_path)


def test_what_can_not_be_read(tmp_path: Path) -> None:
    loop = tmp_path / "a.json"
    loop.symlink_to(loop)
    assert "can't be read (Too many levels of symbolic links)" in refusal(loop)
    assert "can't be read (Too many levels of symbolic links)" in refusal(tmp_path)


def test_what_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.jsonl", LINES)

    def refuse(path: Any, *_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))  # root may read everything

    monkeypatch.setattr(os, "scandir", refuse)
    assert "can't be listed (Permission denied)" in refusal(tmp_path)
    monkeypatch.setattr(manifest, "_open", refuse)
    assert "can't be read (Permission denied)" in refusal(tmp_path / "a.jsonl")


@pytest.mark.parametrize("damage", ["cut", "checksum", "middle"])
def test_a_broken_gzip_file(tmp_path: Path, damage: str) -> None:
    text = "".join(f'"{HOST}/{hashlib.sha256(str(number).encode()).hexdigest()}.jpg"\n' for number in range(3000))
    data = bytearray(gzip.compress(text.encode()))
    if damage == "cut":
        del data[-5000:]
    elif damage == "checksum":
        data[-8] ^= 1
    else:
        data[len(data) // 2 : len(data) // 2 + 100] = b"\xff" * 100
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(data)
    entries, message = refused(path)
    assert 0 < len(entries) <= 3000
    assert re.search(r"a\.jsonl\.gz' is a broken gzip file \(.+\); get it anew\.$", message)
    with pytest.raises(ConfigurationError, match="broken gzip file"):
        count_entries(path)


# --- keys -------------------------------------------------------------------------------------------------------


KEYS = [
    ("/auctionimages/3483/1713553344/i0178-1.jpg", KEY),
    ("/auctionimages/a%20b/%C3%BE.jpg", "a b/þ.jpg"),
    ("/auctionimages/þ.jpg", "þ.jpg"),
    ("/auctionimages/auctionimages/a.jpg", "auctionimages/a.jpg"),
    ("/other/auctionimages/a.jpg", "other/auctionimages/a.jpg"),
    ("/auctionimagesmore/a.jpg", "auctionimagesmore/a.jpg"),
    ("/%61uctionimages/a.jpg", "a.jpg"),
    ("/a%2525.jpg", "a%25.jpg"),
    ("/a+b.jpg", "a+b.jpg"),
    ("/a.jpg#fragment", "a.jpg"),
    ("/a.jpg?", "a.jpg"),
    ("/a;b=1.jpg", "a;b=1.jpg"),
    ("/..a/b../...", "..a/b../..."),
]
NO_ADDRESSES = [
    *("", "a.jpg", "/a.jpg", "//example.com/a.jpg", "ftp://example.com/a.jpg", "file:///etc/passwd"),
    *("https:///a.jpg", "https://", "https:a.jpg", "https://:80/a.jpg", "https://user@/a.jpg"),
    *("https://[::1/a.jpg", "https://example.com:x/a.jpg", "https://example.com:99999/a.jpg"),
    *("https://exa\nmple.com/a.jpg", "https://example.com/a\t.jpg", "https://example.com/\x00.jpg"),
    *("https://example.com/\ud800.jpg", "https://a℀b.com/a.jpg", "data:image/png;base64,AA=="),
]
BAD_KEYS = [
    *("", "/", "/auctionimages/", "/a/", "/a/?1", "/?1", "//a.jpg", "/a//b.jpg", "/auctionimages//b.jpg"),
    *("/../a.jpg", "/a/../b.jpg", "/a/..", "/./a.jpg", "/%2e%2e/a.jpg", "/a%2F..%2Fb.jpg", "/a/%2e"),
    *("/a%00.jpg", "/a%0a.jpg", "/%7f", "/%C2%85.jpg", "/a%5Cb.jpg", "/a\\b.jpg", "/%ff.jpg", "/%ed%a0%80"),
    *(f"/{'x' * (MAX_KEY + 1)}", f"/{'%C3%BE' * (MAX_KEY // 2 + 1)}", f"/{'x' * (MAX_KEY - 5)}?1"),
]


def test_the_key_of_an_address() -> None:
    for path, made in KEYS:
        for prefix in ("auctionimages/", "auctionimages", "/auctionimages/"):
            assert key_from_address(f"https://example.com{path}", strip_prefix=prefix) == made
    for address in NO_ADDRESSES:
        assert attempt(key_from_address, address, strip_prefix="") == ("", "not a web address")
    for path in BAD_KEYS:
        assert attempt(key_from_address, f"https://example.com{path}", strip_prefix="auctionimages/") == ("", "bad key")
    for longest in ("x" * 255, "/".join(["x" * 224] * 4) + "x", "/".join(["þ" * 112] * 4) + "x"):
        assert len(longest.encode()) in {255, MAX_KEY}
        assert clean_key(longest) == longest
        assert attempt(clean_key, f"{longest}x") == ("", "bad key")


def test_a_query_is_part_of_the_name() -> None:
    digest = hashlib.sha256(b"w=1&h=2").hexdigest()[:8]
    for path, made in [("a.b/c.d.jpg", f"a.b/c.d-{digest}.jpg"), ("a.b/c", f"a.b/c-{digest}")]:
        assert key_from_address(f"https://example.com/{path}?w=1&h=2", strip_prefix="") == made
    others = {
        key_from_address(f"https://example.com/a.jpg{query}", strip_prefix="")
        for query in ("", "?1", "?2", "?%31", "?1=")
    }
    assert len(others) == 5


HOSTILE = st.lists(
    st.one_of(
        st.sampled_from([".", "..", "/", "\\", "%2e", "%2F", "%5c", "%00", "%ff", "?", "#", "\n", "\x85", "\ud800"]),
        st.sampled_from(["a", "b.jpg", "auctionimages", "þ", " ", "x" * 450, "🚗"]),
        st.text(max_size=5),
    ),
    max_size=8,
).map("".join)


def assert_safe(made: str) -> None:
    assert 0 < len(made.encode()) <= MAX_KEY
    assert not set(made.split("/")) & {"", ".", ".."}
    assert not re.search("[\x00-\x1f\x7f-\x9f\\\\]", made)


def attempt(function: Callable[..., str], *arguments: str, **options: str) -> tuple[str, str]:
    """The result or the problem."""
    try:
        return function(*arguments, **options), ""
    except ValueError as error:
        return "", str(error)


@given(
    address=st.one_of(HOSTILE, HOSTILE.map(f"{HOST}/".__add__), HOSTILE.map("https://".__add__)),
    prefix=st.one_of(st.just("auctionimages/"), HOSTILE),
)
def test_the_key_of_any_address_is_safe(address: str, prefix: str) -> None:
    made, problem = attempt(key_from_address, address, strip_prefix=prefix)
    assert problem in {"", "bad key", "not a web address"}
    if not problem:
        assert_safe(made)


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4).map("/".join))
def test_every_key_has_an_address_and_is_its_key(name: str) -> None:
    _, problem = attempt(clean_key, name)
    if not problem:
        assert key_from_address(f"{HOST}/{quote(name)}", strip_prefix="") == name


@settings(deadline=None)  # a disk may be slow
@given(st.lists(st.text(max_size=30), max_size=5), st.sampled_from(["a.jsonl", "a.csv", "a.json"]))
def test_no_text_is_an_error_of_another_kind(tmp_path_factory: pytest.TempPathFactory, lines: Any, name: str) -> None:
    path = tmp_path_factory.mktemp("any") / name
    start = "url\n" if name == "a.csv" else ""
    path.write_text(start + "\n".join(lines), "utf-8", errors="replace")
    try:
        entries = read(path)
    except ConfigurationError:
        assert name != "a.jsonl"
    else:
        assert all(bool(entry.key) == (entry.problem is None) for entry in entries)


@settings(deadline=None)  # a disk may be slow
@given(st.lists(st.fixed_dictionaries({"title": st.text(alphabet=st.characters(exclude_characters="\0"))}), max_size=5))
def test_other_columns_never_matter(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["title", "url"])
    writer.writeheader()
    writer.writerows({**row, "url": URL} for row in rows)
    path = tmp_path_factory.mktemp("any") / "a.csv"
    path.write_bytes(text.getvalue().encode("utf-8", "replace"))
    assert keys(path) == [KEY] * len(rows)


# --- size -------------------------------------------------------------------------------------------------------


def write_many(path: Path, pieces: Iterable[str]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(pieces)
    return path


def peak(path: Path, expected: int) -> float:
    """MB of memory that reading took at most."""
    tracemalloc.start()
    try:
        assert sum(1 for entry in read_manifest(path) if entry.key) == expected
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def test_60_000_lines_take_no_memory(tmp_path: Path) -> None:
    count = 60_000
    path = write_many(tmp_path / "a.jsonl", (f'{{"url": "{url(number)}"}}\n' for number in range(count)))
    assert count_entries(path) == count
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
