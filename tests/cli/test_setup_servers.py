"""``scrapy storage setup`` on servers that have less than Amazon's, or are odd: photos can be stored afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests import services
from tests.cli.in_front import InFront
from tests.cli.test_setup import ALL, WORKS
from tests.http_server import Request, Response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Storage


def test_rclone_gets_a_bucket_and_keeps_its_objects(storage: Storage, rclone_s3: services.S3) -> None:
    objects = {"bilasolur/2019/kia/rio/1_0123456789ab.jpg": b"a" * 5000, "a b/þ+%#?.jpg": b"b"}
    for key, data in objects.items():
        rclone_s3.put(key, data, ContentType="image/jpeg", Metadata={"source": "x"})
    with services.S3Proxy(rclone_s3.endpoint) as running:
        s3 = replace(rclone_s3, bucket="new-car-photos")
        storage.settings = s3.via(running).env
        said = storage("setup", "--yes")
        assert "Done: bucket." in said.out
        assert (
            "This server does not have: ownership controls, default encryption, bucket policies, CORS, lifecycle "
            "rules, event notifications, public access blocks, versioning." in said.out
        )
        assert said.out.endswith(WORKS)
        puts = [(each.path, each.query) for each in running.requests if each.method == "PUT"]
        # Of versioning it says "off", as if it had it.
        assert puts[:2] == [("/new-car-photos", ""), ("/new-car-photos", "versioning")]
        assert len(puts) == 3
        storage.settings = rclone_s3.via(running).env
        said = storage("setup", "--yes", *ALL, code=3)
    assert "Asked for, but this server does not have it: policy, encryption, CORS, notifications." in said.out
    assert rclone_s3.objects() == objects
    assert all(rclone_s3.get(key)[1]["x-amz-meta-source"] == "x" for key in objects)


class OddServer(InFront):
    """A server like some that hosting providers run, made of moto.

    It answers questions that it does not know with the list of objects, and refuses every upload to a bucket whose
    ``BlockPublicAcls`` is on.
    """

    def blocks(self) -> bool:
        try:
            found = self.s3.client.get_public_access_block(Bucket=self.s3.bucket)["PublicAccessBlockConfiguration"]
        except self.s3.client.exceptions.ClientError:
            return False
        return bool(found["BlockPublicAcls"])

    def respond(self, request: Request) -> Response:
        path = request.target
        if path.endswith(("?ownershipControls", "?encryption")):
            path = path.partition("?")[0] + "?list-type=2"
        if request.method == "PUT" and "_test/" in path and self.blocks():
            return Response(status=403, body="<Error><Code>AccessDenied</Code><Message>No</Message></Error>")
        return self.passed_on(request, path)


@pytest.fixture
def odd(moto_s3: services.S3) -> Iterator[services.S3]:
    with OddServer(moto_s3) as server:
        yield replace(moto_s3, endpoint=server.base_url)


def test_a_server_that_refuses_uploads_for_a_block_ends_with_a_working_bucket(
    storage: Storage, odd: services.S3
) -> None:
    storage.settings = odd.env
    said = storage("setup", "--yes", code=3)
    assert "Done: versioning, lifecycle." in said.out
    assert "This server does not have: ownership controls, default encryption." in said.out
    assert "With public access blocks this server refuses photos (S3 refuses s3:PutObject" in said.out
    assert said.out.endswith(WORKS)
    block = odd.client.get_public_access_block(Bucket=odd.bucket)["PublicAccessBlockConfiguration"]
    assert [name for name, on in block.items() if not on] == ["BlockPublicAcls"], "ACLs are ignored all the same"
    assert odd.client.get_bucket_versioning(Bucket=odd.bucket)["Status"] == "Enabled"
    said = storage("setup")
    assert "nothing to change" in said.out
    assert said.out.endswith(WORKS)


def test_check_names_the_block_and_setup_takes_it_back(storage: Storage, odd: services.S3) -> None:
    """As an earlier version left it."""
    storage.settings = odd.env
    names = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    odd.client.put_public_access_block(Bucket=odd.bucket, PublicAccessBlockConfiguration=dict.fromkeys(names, True))
    said = storage("check", code=4)
    assert "✗ put                AccessDenied: No; BlockPublicAcls is on, for which some servers refuse" in said.out
    assert "scrapy storage setup takes it back if that is the cause; else allow s3:PutObject" in said.out
    assert storage("setup", "--yes", code=3).out.endswith(WORKS)
    assert "✓ put" in storage("check").out


def test_a_photo_that_is_refused_for_another_reason_takes_nothing_back(
    storage: Storage, moto_s3: services.S3, proxy: services.S3Proxy
) -> None:
    storage.settings = moto_s3.via(proxy).env
    with proxy.fail(403, "AccessDenied", methods="PUT", path="_test/"):
        said = storage("setup", "--yes", code=3)
    assert "A photo, as a test: S3 refuses s3:PutObject" in said.out
    assert "taken back" not in said.out
    assert "nothing to change" in storage("setup").out
