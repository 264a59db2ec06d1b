"""Manifests: every format, every fault, and memory that does not grow with the file."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import re
from typing import TYPE_CHECKING, Any

import ijson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carscraper import manifest
from carscraper.exceptions import ConfigurationError
from carscraper.manifest import (
    MAX_LINE,
    ManifestEntry,
    count_entries,
    read_manifest,
)

if TYPE_CHECKING:
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


NO_LIST = ('{"lot": 1}', "7", f'"{URL}"', '{"images": [{"id": 1}]}', '{"error": ["not found"]}')
NO_COLUMN = ("", "\n", f"{URL}\n", "lot,link\n1,2\n", f"lot;url\n1;{URL}\n", '"url\n', b"\xe9,url\n")
REFUSED: list[tuple[str, str | bytes, str]] = [
    *(("a.json", text, "has no list of photos") for text in NO_LIST),
    *(("a.csv", text, "has no column url or image_url") for text in NO_COLUMN),
    *(
        (name, LINES.encode("utf-16"), "is written in UTF-16; save it in UTF-8")
        for name in ("a.jsonl", "a.csv", "a.json", "a.csv.gz")
    ),
    *((name, "[]", "is none that is known") for name in ("a.txt", "a", "a.json.zip", "a.jsonl.bz2", "jsonl", ".gz")),
    ("notes/a.txt", "", "is a folder without"),
]


def test_what_is_refused_at_once(tmp_path: Path) -> None:
    for name, text, words in REFUSED:
        path = write(tmp_path / name, text)
        assert words in refusal(path.parent if "/" in name else path), (name, text)
        if "column" in words:
            with pytest.raises(ConfigurationError, match="has no column"):
                count_entries(path)
        path.unlink()
    write(tmp_path / "a.json", "[]")
    for name in ("missing.jsonl", "a.json/b.json", "a\0.json"):
        assert "does not exist" in refusal(tmp_path / name), name


def test_json_with_a_value_without_end(tmp_path: Path) -> None:
    text = f'[{{"url": "{URL}"}}, "' + "x" * (2 * MAX_LINE)
    assert "has a value of more than 1 MiB" in refusal(write(tmp_path / "a.json", text), after=1)


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
