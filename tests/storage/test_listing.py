"""Listing a bucket: only what has to be read is read, in pages, and a HEAD for each object when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from carscraper.exceptions import StoreRefusedError, StoreUnavailableError
from carscraper.storage.keys import KeyParts, image_key, parse_key, parse_thumbnail, thumbnail_key
from carscraper.storage.listing import Selection, listed, selected

if TYPE_CHECKING:
    from tests import services


def key(number: int = 1, *, spider: str = "bilasolur", year: int | None = 2019, make: str = "toyota") -> str:
    return image_key(
        spider=spider,
        year=year,
        make=make,
        model="Yaris",
        external_id=str(number),
        sha256=f"{number:064x}"[::-1],
        extension="jpg",
    )


PHOTOS = [
    *(key(number, year=year, make=make) for number, (year, make) in enumerate([(2018, "kia"), (2019, "kia")])),
    *(key(number, year=2019, make="toyota") for number in (2, 3)),
    key(4, year=None, make="kia"),
    key(5, spider="br", year=2019, make="kia"),
]
OTHERS = [thumbnail_key("small", PHOTOS[0]), "_test/probe", "notes þ.txt"]


@pytest.fixture(params=["", "cars/"])
def prefix(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def bucket(s3: services.S3, prefix: str) -> services.S3:
    for name in PHOTOS + OTHERS:
        s3.put(prefix + name, b"x" * 10)
    if prefix:
        s3.put("elsewhere/2019/kia/rio/1_0123456789ab.jpg", b"x")
    return s3


class Recorder:
    """A client that notes which prefixes are listed."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.asked: list[str] = []

    def get_paginator(self, name: str) -> Any:
        paginator = self._client.get_paginator(name)
        recorder = self

        class Noting:
            def paginate(self, **arguments: Any) -> Any:
                recorder.asked.append(arguments["Prefix"])
                return paginator.paginate(**arguments)

        return Noting()


ONLY: list[tuple[Selection | None, list[str], str]] = [
    # what is wanted, what is found, what is listed for it
    (None, PHOTOS + OTHERS, ""),
    (Selection(source="bilasolur"), PHOTOS[:5], "bilasolur/"),
    (Selection(source="bilasolur", year=2019), PHOTOS[1:4], "bilasolur/2019/"),
    (Selection(source="bilasolur", year=2019, make="kia"), PHOTOS[1:2], "bilasolur/2019/kia/"),
    (Selection(source="bilasolur", make="kia"), [*PHOTOS[:2], PHOTOS[4]], "bilasolur/"),
    (Selection(year="unknown"), PHOTOS[4:5], ""),
    (Selection(source="bilasol"), [], "bilasol/"),
]
BELOW: list[tuple[str, Selection | None, list[str]]] = [
    ("bilasolur/2019", None, PHOTOS[1:4]),
    ("bilasolur/20", Selection(make="kia"), PHOTOS[:2]),
    ("bilasolur/2019/toyota/yaris/2", Selection(source="bilasolur"), PHOTOS[2:3]),
    ("bilasolur/2019/to", Selection(year=2019), PHOTOS[2:4]),
    ("b", Selection(year=2019), [*PHOTOS[1:4], PHOTOS[5]]),
    ("br/", Selection(source="bilasolur"), []),
    ("thumbnails/", None, OTHERS[:1]),
    ("thumbnails/", Selection(make="kia"), []),
]


class TestSelected:
    def test_a_filter_gives_its_photos_and_reads_no_more_than_it_has_to(self, bucket: services.S3, prefix: str) -> None:
        for only, wanted, asked in ONLY:
            client = Recorder(bucket.client)
            found = [each.name for each in selected(client, bucket.bucket, prefix, only=only)]
            assert sorted(found) == sorted(prefix + name for name in wanted), only
            assert client.asked == [prefix + asked], only

    def test_with_the_beginning_of_a_name(self, bucket: services.S3, prefix: str) -> None:
        for below, only, wanted in BELOW:
            found = [
                each.name for each in selected(bucket.client, bucket.bucket, prefix, below=prefix + below, only=only)
            ]
            assert sorted(found) == sorted(prefix + name for name in wanted), (below, only)


class TestListed:
    def test_what_an_object_says(self, s3: services.S3) -> None:
        s3.put(PHOTOS[0], b"12345")
        (found,) = listed(s3.client, s3.bucket)
        assert (found.name, found.size, found.storage_class) == (PHOTOS[0], 5, "STANDARD")
        assert found.etag == "827ccb0eea8a706c4c34a16891f84e7b"
        assert found.modified.tzinfo is not None

    def test_pages_are_read_as_they_are_needed(self, moto_s3: services.S3) -> None:
        client = moto_s3.client
        for number in range(5):
            moto_s3.put(f"{number}", b"")
        pages = []
        answer = client.meta.events.register
        answer("after-call.s3.ListObjectsV2", lambda **_: pages.append(1))

        class Small:
            def get_paginator(self, name: str) -> Any:
                paginator = client.get_paginator(name)

                class Two:
                    def paginate(self, **arguments: Any) -> Any:
                        return paginator.paginate(**arguments, PaginationConfig={"PageSize": 2})

                return Two()

        objects = listed(Small(), moto_s3.bucket)
        assert [next(objects).name for _ in range(2)] == ["0", "1"]
        assert len(pages) == 1
        assert [each.name for each in objects] == ["2", "3", "4"]
        assert len(pages) == 3

    def test_a_missing_bucket_is_a_sentence(self, s3: services.S3) -> None:
        with pytest.raises(StoreRefusedError, match="AWS_S3_BUCKET"):
            list(listed(s3.client, "no-such-bucket-here"))

    def test_a_server_that_is_away_is_a_sentence(self, rclone: services.RcloneS3, rclone_s3: services.S3) -> None:
        rclone.stop()
        with pytest.raises(StoreUnavailableError, match="does not answer"):
            list(listed(rclone_s3.client, rclone_s3.bucket))


class TestParseKey:
    def test_every_key_we_make_is_read(self) -> None:
        for name in PHOTOS:
            parts = parse_key(name)
            assert isinstance(parts, KeyParts)
            folder = f"{parts.spider}/{parts.year or 'unknown'}/{parts.make}/{parts.model}"
            assert f"{folder}/{parts.external_id}_{parts.hash}.{parts.extension}" == name
            assert parse_key(f"cars/is/{name}", "cars/is/") == parts

    def test_an_odd_external_id(self) -> None:
        odd = image_key(
            spider="br", year=None, make=None, model=None, external_id="A/1_b þ", sha256="f" * 64, extension="avif"
        )
        parts = parse_key(odd)
        assert parts
        assert (parts.year, parts.make, parts.hash, parts.extension) == (None, "unknown", "f" * 12, "avif")

    def test_what_is_no_photo(self) -> None:
        for name in (
            "",
            "bilasolur/2019/kia/rio/1_0123456789ab.jpg/",
            "bilasolur/2019/kia/rio/1_0123456789ab",
            "bilasolur/2019/kia/rio/1_0123456789AB.jpg",
            "bilasolur/2019/kia/rio/1_0123456789.jpg",
            "bilasolur/2019/kia/rio/_0123456789ab.jpg",
            "bilasolur/0/kia/rio/1_0123456789ab.jpg",
            "bilasolur/2019/Kia/rio/1_0123456789ab.jpg",
            "bilasolur/2019//rio/1_0123456789ab.jpg",
            "bilasolur/2019/kia/rio/1_0123456789ab.jpg\n",
            "thumbnails/2019/kia/rio/1_0123456789ab.jpg",
            "x/bilasolur/2019/kia/rio/1_0123456789ab.jpg",
            *OTHERS,
        ):
            assert parse_key(name) is None, name

    def test_another_prefix(self) -> None:
        assert parse_key(f"boats/{PHOTOS[0]}", "cars/") is None
        assert parse_thumbnail(f"boats/{OTHERS[0]}", "cars/") is None

    def test_thumbnails(self) -> None:
        assert parse_thumbnail(f"cars/{OTHERS[0]}", "cars/") == ("small", PHOTOS[0])
        assert parse_thumbnail(PHOTOS[0]) is None
