"""One boto3 client for many tests: making one takes longer than most tests of these verbs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from carscraper.storage.client import open_client
from tests import services

if TYPE_CHECKING:
    from collections.abc import Callable

BUCKET = "car-photos"

one_client: Callable[..., object] = functools.cache(open_client)
"""In the place of ``open_client``: the same options give the same client."""


@functools.cache
def _bucket(endpoint: str, access_key: str, secret_key: str) -> services.S3:
    return services.S3(
        endpoint=endpoint,
        bucket=BUCKET,
        region=services.REGION,
        access_key=access_key,
        secret_key=secret_key,
        kind="moto",
    )


def empty_bucket(server: services.MotoS3) -> services.S3:
    """A new bucket on a server that has forgotten all before, always of the same name."""
    server.reset()
    s3 = _bucket(server.endpoint, server.access_key, server.secret_key)
    location = {"LocationConstraint": s3.region}
    s3.client.create_bucket(Bucket=s3.bucket, CreateBucketConfiguration=location)
    return s3


def healthy(proxy: services.S3Proxy) -> services.S3Proxy:
    """The proxy, as if it had just been started."""
    proxy.heal()
    proxy.forget()
    return proxy
