"""Single objects on real servers: every key as it is, and no byte without the server's confirmation."""

from __future__ import annotations

import functools
import hashlib
import urllib.error
import urllib.parse
import urllib.request
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.exceptions import StoreRefusedError, StoreUnavailableError
from carscraper.storage import client as client_module
from carscraper.storage import listing, objects
from carscraper.storage.client import S3Options, contradicts
from carscraper.storage.keys import IMMUTABLE, Upload
from tests import services
from tests.storage.conftest import options_of

if TYPE_CHECKING:
    from tests.storage.conftest import Proxied

open_client = functools.cache(client_module.open_client)  # one takes longer to make than most tests to run
KEY = "cars/1.jpg"
DATA = b"\xff\xd8 not much of a photo" * 50


def put(s3: services.S3, data: bytes = DATA, key: str = KEY, *, replace: bool = False, **changes: Any) -> None:
    its = options_of(s3, **changes)
    upload = Upload(name=key, data=data, content_type="image/jpeg")
    objects.put(open_client(its), its, upload, replace=replace, cache_control=IMMUTABLE)


def test_put_head_get(s3: services.S3) -> None:
    put(s3)
    client = open_client(options_of(s3))
    head = objects.head(client, s3.bucket, KEY)
    assert head is not None
    assert (head.size, head.content_type) == (len(DATA), "image/jpeg")
    assert head.etag == hashlib.md5(DATA, usedforsecurity=False).hexdigest()
    found = objects.get(client, s3.bucket, KEY)
    assert found
    assert (found.data, found.sha256) == (DATA, hashlib.sha256(DATA).hexdigest())
    assert objects.head(client, s3.bucket, "cars/2.jpg") is None
    assert objects.get(client, s3.bucket, "cars/2.jpg") is None


def test_one_request_signed_over_the_bytes(proxied: Proxied) -> None:
    s3, proxy = proxied
    put(s3)
    (request,) = proxy.requests
    assert request.headers["x-amz-content-sha256"] == hashlib.sha256(DATA).hexdigest()
    assert request.headers["content-length"] == str(len(DATA))
    assert request.headers["if-none-match"] == "*"
    assert not [name for name in request.headers if "acl" in name or "tagging" in name or "checksum" in name]


# --- never over another object ----------------------------------------------------------------------------------


def test_another_object_is_not_replaced(moto_s3: services.S3) -> None:
    moto_s3.put(KEY, b"another")
    with pytest.raises(StoreRefusedError, match=r"cars/1\.jpg is there already, with other bytes: nothing"):
        put(moto_s3)
    assert moto_s3.objects() == {KEY: b"another"}
    put(moto_s3, replace=True)
    assert moto_s3.objects() == {KEY: DATA}


def test_a_lost_answer_is_not_taken_for_somebody_elses_object(proxied: Proxied) -> None:
    s3, proxy = proxied
    proxy.lose_reply(methods="PUT", times=1)
    put(s3)
    assert [request.status for request in proxy.requests if request.method == "PUT"] == [0, 412]
    assert s3.objects() == {KEY: DATA}


def test_a_server_without_conditions(proxied: Proxied) -> None:
    s3, proxy = proxied
    proxy.fail(501, "NotImplemented", methods="PUT", times=1)
    put(s3)
    assert [request.headers.get("if-none-match") for request in proxy.requests] == ["*", None]
    assert s3.objects() == {KEY: DATA}
    proxy.fail(501, "NotImplemented", methods="PUT")
    with pytest.raises(StoreRefusedError, match="leave S3_TAGS, S3_SSE and S3_STORAGE_CLASS empty"):
        put(s3, key="cars/2.jpg")


# --- what servers do --------------------------------------------------------------------------------------------


def test_a_confirmation_of_other_bytes_is_looked_into(moto_s3: services.S3) -> None:
    its = options_of(moto_s3)
    client = client_module.open_client(its)
    says = {"ETag": f'"{"0" * 32}"'}
    client.meta.events.register("after-call.s3.PutObject", lambda parsed, **_: parsed.update(says))
    upload = Upload(name=KEY, data=DATA, content_type="image/jpeg")
    objects.put(
        client, its, upload, replace=False, cache_control=None
    )  # an ETag that is no MD5: what is there is right
    client.meta.events.register("after-call.s3.PutObject", lambda **_: moto_s3.put(KEY, b"damaged"))
    with pytest.raises(StoreUnavailableError, match=r"What the server has of cars/1\.jpg is not what was put"):
        objects.put(client, its, upload, replace=True, cache_control=None)
    says["ServerSideEncryption"] = "aws:kms"
    objects.put(client, its, upload, replace=True, cache_control=None)  # with a KMS key an ETag is no MD5


def test_what_an_etag_says() -> None:
    md5 = hashlib.md5(DATA, usedforsecurity=False).hexdigest()
    none = "0" * 32
    for etag, sse, no in [
        *((md5, None, False), (none, None, True), (none, "AES256", True), (none, "aws:kms", False)),
        *((f"{none}-2", None, False), ("", None, False)),
    ]:
        assert contradicts(etag, sse, DATA) is no, (etag, sse)


def test_refusals_are_sentences(proxied: Proxied) -> None:
    s3, proxy = proxied
    client = open_client(options_of(s3))
    proxy.fail(403, "AccessDenied")
    with pytest.raises(StoreRefusedError, match="allow s3:PutObject"):
        put(s3)
    with pytest.raises(StoreRefusedError, match="allow s3:GetObject"):
        objects.get(client, s3.bucket, KEY)
    with pytest.raises(StoreRefusedError, match="allow s3:ListBucket"):
        objects.head(client, s3.bucket, KEY)


def test_head_finds_out_why(rclone_s3: services.S3) -> None:
    client = open_client(options_of(rclone_s3, secret_key="wrong"))
    with pytest.raises(StoreRefusedError, match=r"SignatureDoesNotMatch.*check AWS_SECRET_ACCESS_KEY"):
        objects.head(client, rclone_s3.bucket, KEY)


def test_an_object_that_may_be_listed_and_not_read(proxied: Proxied) -> None:
    s3, proxy = proxied
    proxy.fail(403, "AccessDenied", methods="HEAD")
    with pytest.raises(StoreRefusedError, match="allow s3:GetObject"):
        objects.head(open_client(options_of(s3)), s3.bucket, KEY)


@pytest.mark.parametrize("fault", ["down", "fail", "cut"])
def test_away(proxied: Proxied, fault: str) -> None:
    s3, proxy = proxied
    s3.put(KEY, DATA)
    proxy.down() if fault == "down" else getattr(proxy, fault)(**({"at": 9} if fault == "cut" else {}))
    client = open_client(options_of(s3))
    with pytest.raises(StoreUnavailableError):
        objects.get(client, s3.bucket, KEY)
    if fault != "cut":
        with pytest.raises(StoreUnavailableError):
            put(s3, key="cars/2.jpg")
        with pytest.raises(StoreUnavailableError):
            objects.head(client, s3.bucket, KEY)


def test_too_large_for_memory(moto_s3: services.S3, monkeypatch: pytest.MonkeyPatch) -> None:
    put(moto_s3)
    monkeypatch.setattr(objects, "MAX_BYTES", 10)
    with pytest.raises(StoreRefusedError, match=rf"{KEY} has {len(DATA)} bytes: .*presign"):
        objects.get(open_client(options_of(moto_s3)), moto_s3.bucket, KEY)


# --- addresses --------------------------------------------------------------------------------------------------


def test_a_presigned_type_is_signed(rclone_s3: services.S3) -> None:
    client = open_client(options_of(rclone_s3))
    url = objects.presign(
        client, rclone_s3.bucket, KEY, expires=timedelta(hours=1), put=True, content_type="image/jpeg"
    )
    request = urllib.request.Request(url, data=DATA, method="PUT", headers={"Content-Type": "text/html"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=5)
    caught.value.close()
    assert caught.value.code == 403
    assert rclone_s3.keys() == []


def test_amazons_presigned_address_names_the_region() -> None:
    its = S3Options(bucket="car-photos", region="eu-north-1", access_key="AKID", secret_key="x" * 40)
    url = objects.presign(open_client(its), "car-photos", "a b.jpg", expires=objects.MAX_EXPIRES)
    parts = urllib.parse.urlsplit(url)
    assert (parts.netloc, parts.path) == ("car-photos.s3.eu-north-1.amazonaws.com", "/a%20b.jpg")
    assert urllib.parse.parse_qs(parts.query)["X-Amz-Expires"] == ["604800"]


# --- the list ---------------------------------------------------------------------------------------------------


class TestListed:
    def test_what_an_object_says(self, s3: services.S3) -> None:
        s3.put(KEY, b"12345")
        (found,) = listing.list_objects(s3.client, s3.bucket)
        assert (found.name, found.size, found.storage_class) == (KEY, 5, "STANDARD")
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
            def list_objects_v2(self, **arguments: Any) -> Any:
                return client.list_objects_v2(**arguments, MaxKeys=2)

        found = listing.list_objects(Small(), moto_s3.bucket)
        assert [next(found).name for _ in range(2)] == ["0", "1"]
        assert len(pages) == 1
        assert [each.name for each in found] == ["2", "3", "4"]
        assert len(pages) == 3

    def test_a_missing_bucket_is_a_sentence(self, s3: services.S3) -> None:
        with pytest.raises(StoreRefusedError, match="AWS_S3_BUCKET"):
            list(listing.list_objects(s3.client, "no-such-bucket-here"))

    def test_a_server_that_is_away_is_a_sentence(self, rclone: services.RcloneS3, rclone_s3: services.S3) -> None:
        rclone.stop()
        with pytest.raises(StoreUnavailableError, match="does not answer"):
            list(listing.list_objects(rclone_s3.client, rclone_s3.bucket))
