"""Manifests: every format, every fault, and memory that does not grow with the file."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import re
import zlib
from typing import TYPE_CHECKING, Any

import ijson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carscraper import manifest
from carscraper.exceptions import ConfigurationError
from carscraper.manifest import Manifest, ManifestEntry
from carscraper.manifest.formats import MAX_LINE

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
    entries = list(Manifest(path, **options))
    assert Manifest(path, **options).count() in {len(entries), None}
    return entries


def keys(path: Path, **options: Any) -> list[str]:
    entries = read(path, **options)
    assert [entry.problem for entry in entries] == [None] * len(entries)
    return [entry.key for entry in entries]


def problems(path: Path) -> list[tuple[str | None, str]]:
    return [(entry.problem, entry.where) for entry in read(path)]


def refused(path: Path) -> tuple[list[ManifestEntry], str]:
    """What a manifest gives before it breaks off, and what is said of it: raised if nothing of it can be read."""
    given: list[ManifestEntry] = []
    try:
        given.extend(Manifest(path))
    except ConfigurationError as error:
        assert given == []
        message = str(error)
    else:
        *given, broken = given
        assert [entry.of_file for entry in given] == [False] * len(given)
        assert broken.of_file
        message = f"The manifest '{broken.where}' {broken.problem}."
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
    "both.csv": f"Image_URL, URL ,key\n,{url(1)},\n{url(2)},,\n{url(3)},{url(9)},\n,,\n",
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


def test_an_entry_is_its_photo_and_its_thumbnail(tmp_path: Path) -> None:
    """The photo is at ``image_url``, else at ``url``; the lot's page may be there beside it."""
    entries: list[tuple[dict[str, Any], list[str], int]] = [
        ({"thumb_url": url(3), "image_url": url(2), "url": url(1)}, [key(2), key(3)], 1),
        ({"thumb_url": url(3), "image_url": " ", "url": url(1)}, [key(1), key(3)], 1),
        ({"thumb_url": url(3), "image_url": None, "url": 7}, [key(3)], 1),
        ({"thumb_url": url(2), "image_url": url(2), "url": url(1)}, [key(2)], 0),
        ({"thumb_url": url(3), "image_url": url(2), "key": "a.jpg"}, ["a.jpg", key(3)], 1),
        ({"thumb_url": url(3), "key": "a.jpg"}, ["a.jpg"], 1),
    ]
    for entry, expected, thumbs in entries:
        path = write(tmp_path / "a.jsonl", json.dumps(entry))
        assert keys(path) == expected, entry
        without = Manifest(path, thumbs=False)
        assert [each.key for each in without] == expected[: len(expected) - thumbs], entry
        assert without.left_out == thumbs, entry


def test_a_key_that_is_given_is_taken_as_it_is(tmp_path: Path) -> None:
    for name, text in {
        "a.jsonl": json.dumps({"url": f"{URL}?1", "key": "auctionimages/þ 1.jpg"}),
        "a.json": json.dumps([{"key": "auctionimages/þ 1.jpg", "url": URL}]),
        "a.csv": f"key,url\n auctionimages/þ 1.jpg ,{URL}\n",
    }.items():
        assert keys(write(tmp_path / name, text)) == ["auctionimages/þ 1.jpg"], name
    for empty in ("", "  ", None):
        assert keys(write(tmp_path / "b.jsonl", json.dumps({"url": URL, "key": empty}))) == [KEY], empty


def test_a_file_of_nothing_is_a_broken_one_whatever_its_name(tmp_path: Path) -> None:
    for suffix in ("", ".gz"):
        for name in ("a.jsonl", "a.ndjson", "a.json", "a.csv"):
            path = write(tmp_path / f"{name}{suffix}", "")
            assert "is empty; get it anew" in refusal(path), path
            with pytest.raises(ConfigurationError, match="is empty"):
                Manifest(path).count()
            path.unlink()
    for text in ("\n\n", "\ufeff"):
        assert "is empty" in refusal(write(tmp_path / "a.jsonl", text))


def test_a_list_may_be_empty(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.csv", "url\n")) == []
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
    entries = iter(Manifest(tmp_path / "array.json"))
    assert next(entries).key == key(1)
    del entries  # nothing complains that the rest isn't read
    for text in BROKEN:
        assert re.search("is no whole JSON document|is empty", refused(write(tmp_path / "b.json", text))[1])


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
    WHOLE.replace(b"}]", b', "title": "caf\xe9"}]'),
]
GIVEN = [0, 0, 0, 2, 2, 2, 1, 1]


def test_broken_json(tmp_path: Path) -> None:
    for text, after in zip(BROKEN, GIVEN, strict=True):
        for suffix in ("", ".gz"):
            said = refusal(write(tmp_path / f"a.json{suffix}", text), after=after)
            assert ("is no whole JSON document" if text else "is empty") in said


@pytest.mark.parametrize("before", [1, 200, 2000, 4000])
def test_a_huge_number_across_two_reads(tmp_path: Path, before: int) -> None:
    start = f'[{{"url": "{URL}"}},'
    text = f"{start.ljust((1 << 16) - before)}{'9' * 4400}]"
    assert "has more than 300 digits in a row" in refused(write(tmp_path / "a.json", text))[1]


def test_large_numbers_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", f'[{{"hash": {2**64 - 1}, "ratio": 1.5e400, "id": {"9" * 300}, "url": "{URL}"}}]')
    assert keys(path) == [KEY]
    assert "a number that is too large" in refusal(
        write(tmp_path / "b.json", f'[{{"url": "{URL}"}}, 1e{"9" * 30}]'), after=1
    )


def test_numbers_that_are_none_cost_nothing(tmp_path: Path) -> None:
    """Programs write them of what they don't know, though JSON does not have them."""
    for number in ("NaN", "-Infinity", "1e400", "9" * 6000, f"-0.{'3' * 6000}"):
        photos = [f'{{"size":{number},"url": "{url(1)}"}}', f'{{"url": "{url(2)}", "seen": [{number}, {number} ]}}']
        assert keys(write(tmp_path / "a.json", f"[{', '.join(photos)}]")) == [key(1), key(2)], number[:9]
        assert keys(write(tmp_path / "a.jsonl", "\n".join(photos))) == [key(1), key(2)], number[:9]
    address = f"{HOST}/a:NaN/-Infinity/NaN.jpg?{'9' * 310}"
    assert [entry.url for entry in read(write(tmp_path / "b.json", json.dumps([address])))] == [address]


NO_LIST = ('{"lot": 1}', "7", f'"{URL}"', '{"images": [{"id": 1}]}', '{"error": ["not found"]}')
NO_COLUMN = ("\n", f"{URL}\n", "lot,link\n1,2\n", f"lot;url\n1;{URL}\n", '"url\n', b"\xe9,url\n")
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
                Manifest(path).count()
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
    # Cut, all is kept that the rest of it holds; of damage in the middle what stands well before it.
    whole = len(zlib.decompressobj(31).decompress(bytes(data)).splitlines()) - 1 if damage == "cut" else 1
    assert whole <= len(entries) <= 3000
    assert re.search(r"a\.jsonl\.gz' is a broken gzip file \(.+\); get it anew\.$", message)
    assert Manifest(path).count() == len(entries) + 1


@settings(deadline=None)  # a disk may be slow
@given(st.lists(st.text(max_size=30), max_size=5), st.sampled_from(["a.jsonl", "a.csv", "a.json"]))
def test_no_text_is_an_error_of_another_kind(tmp_path_factory: pytest.TempPathFactory, lines: Any, name: str) -> None:
    path = tmp_path_factory.mktemp("any") / name
    start = "url\n" if name == "a.csv" else ""
    path.write_text(start + "\n".join(lines), "utf-8", errors="replace")
    try:
        entries = read(path)
    except ConfigurationError:
        assert name != "a.jsonl" or not "".join(lines).strip()
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
