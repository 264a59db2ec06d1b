"""``scrapy storage thumbnails``: photos that were stored before get theirs, and only those that have none."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

from PIL import Image

from carscraper.storage.keys import image_key, thumbnail_key
from tests import services
from tests.images import photos

if TYPE_CHECKING:
    from tests.cli.conftest import Storage

PHOTO = photos()["jpeg"][1]


def key(number: int, data: bytes = PHOTO, *, year: int = 2019) -> str:
    digest = hashlib.sha256(data).hexdigest()
    car = {"spider": "br", "year": year, "make": "kia", "model": "rio", "external_id": str(number)}
    return image_key(**car, sha256=digest, extension="jpg")  # type: ignore[arg-type]


def test_stored_photos_get_the_thumbnails_that_they_do_not_have(storage: Storage, s3: services.S3) -> None:
    keys = [key(number, year=2017 + number % 3) for number in range(9)]
    cut = key(20, PHOTO[:500])
    with services.S3Proxy(s3.endpoint) as proxy:
        storage.settings = {**s3.via(proxy).env, "S3_PREFIX": "cars", "IMAGES_THUMBS": '{"small": [32, 24]}'}
        for each in keys:
            s3.put(f"cars/{each}", PHOTO)
        s3.put(f"cars/{cut}", PHOTO[:500])
        s3.put("cars/notes.txt", b"no photo")
        s3.put(f"elsewhere/{keys[0]}", PHOTO)
        there = thumbnail_key("small", keys[0])
        s3.put(f"cars/{there}", b"as it was made then")
        before = s3.keys()
        for words in ([], ["--make", "--dry-run"]):
            said = storage("thumbnails", *words, code=3)
            assert said.out == "Photos 10; thumbnails missing 9, made 0.\n", words
        assert "Nobody is there to answer" in storage("thumbnails", "--make", code=4).err
        assert s3.keys() == before
        said = storage("thumbnails", "br/2018", "--make", "--yes", "--json")
        assert said.data == {"photos": 3, "missing": 3, "made": 3, "left": 0}
        proxy.forget()
        said = storage("thumbnails", "--make", "--yes", code=3)
        assert f"left: cars/{thumbnail_key('small', cut)} (not-a-photo: " in said.err
        assert said.out == "Photos 10; thumbnails missing 6, made 5.\n"
        read = [each.key for each in proxy.requests if each.method == "GET" and each.key]
        assert sorted(read) == sorted(
            f"cars/{each}" for each in [*keys, cut] if "/2018/" not in each and each != keys[0]
        )
        for each in keys[1:]:
            data, headers = s3.get(f"cars/{thumbnail_key('small', each)}")
            with Image.open(io.BytesIO(data)) as picture:
                assert (picture.format, max(picture.size) <= 32) == ("JPEG", True)
            assert headers["content-type"] == "image/jpeg"
        assert s3.get(f"cars/{there}")[0] == b"as it was made then"
        said = storage("thumbnails", settings={"IMAGES_THUMBS": '{"small": [32, 24], "big": [64, 48]}'}, code=3)
        assert "thumbnails missing 11," in said.out
        assert "IMAGES_THUMBS is empty: set it" in storage("thumbnails", settings={"IMAGES_THUMBS": "{}"}, code=4).err
