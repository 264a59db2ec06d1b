"""One bucket of moto's and one proxy for each module: a boto3 client takes longer to make than most tests to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from carscraper.storage.client import S3Options
from tests import services

if TYPE_CHECKING:
    from collections.abc import Iterator

Proxied = tuple[services.S3, services.S3Proxy]


def options_of(s3: services.S3, **changes: Any) -> S3Options:
    """What opens the bucket."""
    its = {"bucket": s3.bucket, "region": s3.region, "endpoint": s3.endpoint}
    return S3Options(**{**its, "access_key": s3.access_key, "secret_key": s3.secret_key, **changes})


@pytest.fixture(scope="module")
def one_bucket(moto_server: services.MotoS3) -> services.S3:
    moto_server.reset()
    return moto_server.bucket("car-photos-of-this-module")


@pytest.fixture(scope="module")
def one_proxy(one_bucket: services.S3) -> Iterator[Proxied]:
    with services.S3Proxy(one_bucket.endpoint) as proxy:
        yield one_bucket.via(proxy), proxy


@pytest.fixture
def moto_s3(one_bucket: services.S3) -> services.S3:
    """The bucket, empty and private."""
    one_bucket.client.delete_bucket_policy(Bucket=one_bucket.bucket)
    for key in one_bucket.keys():  # noqa: SIM118 - no dict
        one_bucket.delete(key)
    return one_bucket


@pytest.fixture
def proxied(moto_s3: services.S3, one_proxy: Proxied) -> Proxied:
    """The same bucket behind a proxy that passes everything on."""
    one_proxy[1].heal()
    one_proxy[1].up()
    one_proxy[1].forget()
    return one_proxy
