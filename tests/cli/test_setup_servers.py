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


class LacksOne(InFront):
    """Answers one *question* with the list of objects, and what is put there with 200: it makes a bucket of it."""

    def __init__(self, s3: services.S3, question: str) -> None:
        super().__init__(s3)
        self.question = question
        self.refused: list[str] = []

    def respond(self, request: Request) -> Response:
        path, _, query = request.target.partition("?")
        if query.split("=")[0] != self.question:
            return self.passed_on(request, request.target)
        self.refused.append(request.method)
        return self.passed_on(request, f"{path}?list-type=2") if request.method == "GET" else Response()


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
    assert "With public access blocks this server refuses photos (AccessDenied: No): that was taken back." in said.out
    assert "s3:PutObject" not in said.out + said.err, "the block is the cause, not a right"
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
    odd.client.put_bucket_versioning(Bucket=odd.bucket, VersioningConfiguration={"Status": "Enabled"})
    said = storage("check", code=4)
    assert "✗ put                AccessDenied: No; BlockPublicAcls is on, for which some servers refuse" in said.out
    assert "→ scrapy storage setup: it tries a photo, and takes the block back if that is the cause\n" in said.out
    assert "s3:PutObject" not in said.out, "the block, not a right"
    assert "Versions" not in odd.client.list_object_versions(Bucket=odd.bucket)
    assert "DeleteMarkers" not in odd.client.list_object_versions(Bucket=odd.bucket)
    with services.S3Proxy(odd.endpoint) as proxy, proxy.fail(403, "AccessDenied", methods="DELETE"):
        said = storage("check", settings=odd.via(proxy).env, code=4)
    assert "→ allow s3:PutObject, or scrapy storage setup: it tries a photo" in said.out, "it may be either"
    assert storage("setup", "--yes", code=3).out.endswith(WORKS)
    assert "✓ put" in storage("check").out


def test_each_feature_is_tried_by_itself(storage: Storage, moto_s3: services.S3) -> None:
    """A server without one of them, which answers with the list of objects, has all the others."""
    questions = {
        "ownershipControls": "ownership",
        "encryption": "encryption",
        "versioning": "versioning",
        "lifecycle": "lifecycle",
        "cors": "CORS",
        "publicAccessBlock": "public access",
    }
    asked = ("--cors-origin", "https://www.example.com")
    for question, feature in questions.items():
        bucket = replace(moto_s3, bucket=f"without-{question.lower()}")
        with LacksOne(bucket, question) as server:
            storage.settings = replace(bucket, endpoint=server.base_url).env
            data = storage("setup", "--yes", "--json", *asked, code=3 if feature == "CORS" else 0).data
        assert data["lacks"] == [feature]
        assert {*data["done"], feature} == {"bucket", *questions.values()}, feature
        assert (data["photo"], data["taken_back"]) == ("stored, read and removed", None), feature
        assert not [each for each in server.refused if each != "GET"], "what is not there is not put"


def test_a_photo_that_is_refused_for_another_reason_takes_nothing_back(
    storage: Storage, moto_s3: services.S3, proxy: services.S3Proxy
) -> None:
    storage.settings = moto_s3.via(proxy).env
    with proxy.fail(403, "AccessDenied", methods="PUT", path="_test/"):
        said = storage("setup", "--yes", code=3)
    assert "A photo, as a test: S3 refuses s3:PutObject" in said.out
    assert "taken back" not in said.out
    assert "nothing to change" in storage("setup").out
