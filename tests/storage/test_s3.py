"""The bucket: what objects carry, which failures pass by themselves, what the one check says, whose credentials."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.exceptions import StoreRefusedError, StoreUnavailableError
from carscraper.items import utcnow
from carscraper.storage import s3 as s3_module
from carscraper.storage import turns
from carscraper.storage.answers import FIXES
from carscraper.storage.keys import Upload
from carscraper.storage.s3 import S3Store
from tests import services
from tests.cli.in_front import Odd
from tests.storage.conftest import options_of

if TYPE_CHECKING:
    from tests.storage.conftest import Proxied

DATA = os.urandom(50_000)
KEY = "bilasolur/2019/toyota/yaris/296487_0123456789ab.jpg"
SOURCE_URL = "https://bilasolur.is/CarImage.aspx?s=16&c=296487&p=3777561&w=1280"


def upload(name: str = KEY, data: bytes = DATA, **changes: Any) -> Upload:
    metadata = {"source": "Bílasölur þæö", "external-id": "296487", "source-url": SOURCE_URL}
    return Upload(**{"name": name, "data": data, "content_type": "image/jpeg", "metadata": metadata, **changes})


def store(s3: services.S3, **changes: Any) -> S3Store:
    return S3Store(options_of(s3, **{"timeout": 10, "retries": 3, **changes}))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "_FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(turns, "_EVERY", 0.01)


# --- objects ----------------------------------------------------------------------------------------------------


def test_an_object_has_its_bytes_and_type(s3: services.S3) -> None:
    backend = store(s3, prefix="cars/")
    backend.check()
    name = backend.object_name(KEY)
    backend.put(upload(name))
    assert s3.keys() == [f"cars/{KEY}"]
    data, headers = s3.get(name)
    assert data == DATA
    assert headers["content-type"] == "image/jpeg"
    assert headers["cache-control"] == "public, max-age=31536000, immutable"
    assert backend.url(name) == f"{s3.endpoint}/{s3.bucket}/cars/{KEY}"
    assert backend.location == f"s3://{s3.bucket}"


@pytest.mark.parametrize("way", ["", "v2 without token", "v1"])
def test_a_list_without_tokens_does_not_end_at_its_first_page(moto_s3: services.S3, way: str) -> None:
    names = {f"cars/{number}.jpg": number for number in range(1, 6)}
    for name, size in names.items():
        moto_s3.put(name, b"x" * size)
    with Odd(moto_s3) as server:
        server.way = way
        backend = store(replace(moto_s3, endpoint=server.base_url), prefix="cars/")
        later = utcnow() + timedelta(days=1)
        assert sorted(backend.older_than(later)) == sorted(names)
        assert backend.older_than(later - timedelta(days=2)) == []
        found = backend.sizes([*names, "cars/0.jpg", "cars/9.jpg"])
    # Without order behind a name the rest is not known: it is stored once more.
    assert found == (names if way != "v1" else {name: names[name] for name in ("cars/1.jpg", "cars/2.jpg")})


def test_metadata_is_ascii_and_readable(moto_s3: services.S3) -> None:
    store(moto_s3).put(upload())
    found = moto_s3.client.head_object(Bucket=moto_s3.bucket, Key=KEY)
    assert found["Metadata"] == {
        "source": "B%C3%ADlas%C3%B6lur %C3%BE%C3%A6%C3%B6",
        "external-id": "296487",
        "source-url": SOURCE_URL,
    }
    assert "ServerSideEncryption" not in found or found["ServerSideEncryption"] == "AES256"
    assert found.get("StorageClass", "STANDARD") == "STANDARD"
    assert moto_s3.client.get_object_tagging(Bucket=moto_s3.bucket, Key=KEY)["TagSet"] == []


def test_hostile_metadata_adds_no_header_and_long_ones_are_cut(proxied: Proxied) -> None:
    s3, proxy = proxied
    for value in ("a\r\nx-amz-acl: public-read", "\x00", "🚗" * 50, '"<>', "=cmd|' /C calc'!A0"):
        proxy.forget()
        store(s3).put(upload(metadata={"source": value}))
        (request,) = proxy.requests
        assert not [name for name in request.headers if "acl" in name], value
        assert request.headers["x-amz-meta-source"].isprintable(), value
    proxy.forget()
    store(s3).put(upload(metadata=dict.fromkeys(("source", "external-id", "source-url"), "þ" * 5000)))
    headers = proxy.requests[0].headers
    # S3 takes 2 KB, and refuses the photo for more.
    assert sum(len(name) + len(value) for name, value in headers.items() if "x-amz-meta-" in name) < 2048


def test_storage_class_and_encryption(moto_s3: services.S3) -> None:
    key = "arn:aws:kms:eu-north-1:1:key/ab"
    for options, expected in [
        ({"storage_class": "STANDARD_IA"}, {"StorageClass": "STANDARD_IA"}),
        ({"sse": "AES256"}, {"ServerSideEncryption": "AES256"}),
        ({"sse": "aws:kms"}, {"ServerSideEncryption": "aws:kms"}),
        ({"sse": "aws:kms:1234-abcd"}, {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "1234-abcd"}),
        ({"sse": f"aws:kms:{key}"}, {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key}),
    ]:
        store(moto_s3, **options).put(upload())
        found = moto_s3.client.head_object(Bucket=moto_s3.bucket, Key=KEY)
        assert {name: found.get(name) for name in expected} == expected, options


def test_tags(moto_s3: services.S3) -> None:
    store(moto_s3, tags=(("project", "cars + more/2"), ("team", "x y"))).put(upload())
    tags = moto_s3.client.get_object_tagging(Bucket=moto_s3.bucket, Key=KEY)["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"project": "cars + more/2", "team": "x y"}


def test_one_signed_request_a_photo_without_acl_or_tags(proxied: Proxied) -> None:
    s3, proxy = proxied
    store(s3).put(upload())
    (request,) = proxy.requests
    assert (request.method, request.query, request.signed) == ("PUT", "", True)
    assert request.headers["content-length"] == str(len(DATA))
    assert len(request.headers["x-amz-content-sha256"]) == 64, "signed over the payload"
    assert not [name for name in request.headers if "acl" in name or "tagging" in name]


# --- failures ---------------------------------------------------------------------------------------------------

PASSING = [
    *((503, "SlowDown"), (502, "BadGateway"), (429, "TooManyRequests"), (408, "RequestTimeout")),
    *((409, "OperationAborted"), (400, "BadDigest")),
]


def test_passing_trouble_is_tried_again(proxied: Proxied) -> None:
    s3, proxy = proxied
    for status, code in PASSING:
        proxy.forget()
        proxy.fail(status, code, times=2)
        store(s3).put(upload())
        assert [request.status for request in proxy.requests] == [status, status, 200]
    assert s3.objects() == {KEY: DATA}


def test_a_broken_connection_is_tried_again(proxied: Proxied) -> None:
    s3, proxy = proxied
    for fault, options in [("reset", {}), ("reset", {"after": 20_000}), ("lose_reply", {}), ("cut", {})]:
        getattr(proxy, fault)(times=2, methods="PUT", **options)
        store(s3).put(upload(f"{fault}.jpg"))
        proxy.heal()
        assert s3.get(f"{fault}.jpg")[0] == DATA, fault


def test_trouble_that_lasts_is_unavailable_not_refused(proxied: Proxied) -> None:
    s3, proxy = proxied
    proxy.fail(503, "SlowDown")
    with pytest.raises(StoreUnavailableError, match="S3 answers 503 SlowDown to s3:PutObject"):
        store(s3, retries=2).put(upload())
    assert proxy.count() == 3


def test_one_upload_has_one_deadline_for_all_its_tries(proxied: Proxied) -> None:
    s3, proxy = proxied
    begin = time.monotonic()
    with proxy.hang(methods="PUT"), pytest.raises(StoreUnavailableError):
        store(s3, timeout=1, retries=50).put(upload())
    assert time.monotonic() - begin < 3


def test_a_reply_whose_checksum_differs_is_not_believed(proxied: Proxied) -> None:
    s3, proxy = proxied
    proxy.fail(200, "None", headers={"ETag": f'"{"0" * 32}"'}, times=1)
    store(s3).put(upload())
    assert proxy.count("PUT") == 2
    assert s3.objects() == {KEY: DATA}
    proxy.fail(200, "None", headers={"ETag": f'"{"0" * 32}"'})
    with pytest.raises(StoreUnavailableError, match="checksum"):
        store(s3, retries=1).put(upload())


def test_an_etag_that_only_looks_like_an_md5_is_found_out_once(proxied: Proxied) -> None:
    """As in a bucket that encrypts with a KMS key by default: neither server here has such ETags."""
    s3, proxy = proxied
    its = store(s3)
    for number in range(3):
        s3.put(f"a/{number}.jpg", DATA)
        proxy.fail(200, "None", headers={"ETag": f'"{number:032x}"'}, methods="PUT", times=1)
        its.put(upload(f"a/{number}.jpg"))
    assert proxy.count("GET") == 1
    assert proxy.count("PUT") == 3 + 3, "the test's own and one of each upload"


def test_other_bytes_under_such_an_etag_are_put_again(proxied: Proxied) -> None:
    s3, proxy = proxied
    s3.put("a.jpg", DATA + b"more")
    proxy.fail(200, "None", headers={"ETag": f'"{1:032x}"'}, methods="PUT", times=1)
    store(s3).put(upload("a.jpg"))
    assert s3.get("a.jpg")[0] == DATA
    assert proxy.count("PUT") == 1 + 2, "the test's own and two of the upload"


def test_a_key_that_may_only_put_relies_on_the_signed_payload(proxied: Proxied) -> None:
    s3, proxy = proxied
    proxy.fail(200, "None", headers={"ETag": f'"{1:032x}"'}, methods="PUT", times=1)
    proxy.fail(403, "AccessDenied", methods="GET")
    store(s3).put(upload("a.jpg"))
    assert proxy.count("PUT") == 1


def test_a_checksum_that_is_no_md5_is_none(proxied: Proxied) -> None:
    s3, proxy = proxied
    for etag in ('"abc-2"', '"0123"', "anything"):
        proxy.forget()
        with proxy.fail(200, "None", headers={"ETag": etag}):
            store(s3).put(upload())
        assert proxy.count() == 1, etag


# --- the one check ----------------------------------------------------------------------------------------------


def test_a_bucket_in_another_region(proxied: Proxied) -> None:
    s3, proxy = proxied
    for status, code in ((301, "PermanentRedirect"), (400, "BadRequest"), (403, "Forbidden")):
        with (
            proxy.fail(status, code, headers={"x-amz-bucket-region": "eu-west-1"}, methods="HEAD"),
            pytest.raises(StoreRefusedError, match=r"is in the region eu-west-1, .*AWS_S3_REGION=eu-west-1"),
        ):
            store(s3).check()
    store(s3, region="us-west-2").check()  # this server says another one, and does what is asked


def test_a_key_that_may_only_put_goes_on(proxied: Proxied) -> None:
    s3, proxy = proxied
    proxy.fail(403, "AccessDenied", methods=["HEAD", "GET"])
    backend = store(s3)
    backend.check()
    backend.put(upload())


def test_head_says_403_the_listing_says_why(proxied: Proxied) -> None:
    s3, proxy = proxied
    for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"):
        with proxy.fail(403, code, methods=["HEAD", "GET"]), pytest.raises(StoreRefusedError) as caught:
            store(s3).check()
        assert str(caught.value) == (
            f"S3 refuses s3:ListBucket on the bucket {s3.bucket} ({code}: {code}, said by the test): {FIXES[code]}."
        )


def test_away_is_not_refused(proxied: Proxied) -> None:
    s3, proxy = proxied
    with proxy.fail(503, "SlowDown"), pytest.raises(StoreUnavailableError):
        store(s3).check()
    proxy.down()
    with pytest.raises(StoreUnavailableError):
        store(s3).check()
    proxy.up()
