"""Amazon's own addresses: the bucket's name stands before the host, over TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from carscraper.exceptions import StoreRefusedError
from carscraper.maintenance.check import check_bucket
from carscraper.storage.client import S3Options
from carscraper.storage.keys import Upload
from carscraper.storage.s3 import S3Store
from tests.storage.amazon import REGION, Amazon
from tests.storage.scripted import Scripted, certificate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests import services


@pytest.fixture
def amazon(moto_s3: services.S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Amazon]:
    with Amazon(tmp_path, moto_s3.endpoint) as running:
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        yield running


def store(s3: services.S3, amazon: Amazon, **changes: Any) -> S3Store:
    its = {"bucket": s3.bucket, "region": REGION, "access_key": s3.access_key, "secret_key": s3.secret_key}
    return S3Store(S3Options(**its | {"ca_bundle": str(amazon.ca_bundle), "timeout": 5, "retries": 0} | changes))


def test_a_photo_gets_there(moto_s3: services.S3, amazon: Amazon) -> None:
    its = store(moto_s3, amazon, storage_class="GLACIER_IR", sse="aws:kms", tags=(("a", "b"),))
    its.check()
    its.put(Upload(name="a.jpg", data=b"bytes", content_type="image/jpeg"))
    assert moto_s3.objects() == {"a.jpg": b"bytes"}
    assert set(amazon.asked) == {f"{moto_s3.bucket}.s3.{REGION}.amazonaws.com:443"}


def test_what_keeps_it_from_getting_there_is_a_refusal(moto_s3: services.S3, amazon: Amazon) -> None:
    there = {"LocationConstraint": REGION}
    moto_s3.client.create_bucket(Bucket="car.photos", CreateBucketConfiguration=there)
    for changes, said in [
        ({"bucket": "car.photos"}, "its certificate is another host's"),
        ({"bucket": "no-such-bucket"}, "NoSuchBucket"),
        ({"region": "eu-west-1"}, "its certificate is another host's"),
        ({"ca_bundle": None}, "set AWS_CA_BUNDLE"),
    ]:
        its = store(moto_s3, amazon, **changes)
        for ask in (its.check, lambda its=its: its.put(Upload(name="a.jpg", data=b"x", content_type="image/jpeg"))):
            with pytest.raises(StoreRefusedError) as caught:
                ask()
            assert said in str(caught.value), changes
    assert moto_s3.keys() == []


def test_an_authority_as_a_server_is_a_refusal(tmp_path: Path) -> None:
    """What ``openssl req -x509`` makes, and obstore does not accept."""
    path, context = certificate(tmp_path, "127.0.0.1", ca=True)
    with Scripted(context) as server:
        keys: dict[str, Any] = {"access_key": "AKID", "secret_key": "secret", "ca_bundle": str(path)}
        options = S3Options(bucket="b-1", region=REGION, endpoint=f"https://{server.address}", **keys)
        its = S3Store(options)
        for ask in (its.check, lambda: its.put(Upload(name="a.jpg", data=b"x", content_type="image/jpeg"))):
            with pytest.raises(StoreRefusedError, match="make one with CA:FALSE"):
                ask()
        assert not [method for method, *_ in server.requests if method == "PUT"]
        found = {step.name: step for step in check_bucket(options)}
        assert (found["bucket"].ok, found["bucket"].fix) == (False, "make one with CA:FALSE")
