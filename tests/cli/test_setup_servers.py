"""``scrapy storage setup`` on servers that have less than Amazon's, or are odd: photos can be stored afterwards."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from carscraper.maintenance import policies
from tests import services
from tests.cli.in_front import InFront
from tests.cli.test_setup import ALL, WORKS
from tests.http_server import Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.conftest import Storage


def test_rclone_gets_a_bucket_and_keeps_its_objects(storage: Storage, rclone_s3: services.S3) -> None:
    objects = {"bilasolur/2019/kia/rio/1_0123456789ab.jpg": b"a" * 5000, "a b/þ+%#?.jpg": b"b"}
    for key, data in objects.items():
        rclone_s3.put(key, data, ContentType="image/jpeg", Metadata={"source": "x"})
    with services.S3Proxy(rclone_s3.endpoint) as running:
        s3 = replace(rclone_s3, bucket="new-car-photos")
        storage.settings = s3.via(running).env
        said = storage("setup", "--yes")
        assert "  + versioning: Enabled, if this server has it\n" in said.out
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
        assert (data["photo"], data["taken_back"]) == ("stored, read and removed", {}), feature
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


# --- servers that are odd in one thing or another ---------------------------------------------------------------

FEATURES = {
    "ownershipControls": "ownership",
    "encryption": "encryption",
    "versioning": "versioning",
    "policy": "policy",
    "cors": "CORS",
    "lifecycle": "lifecycle",
    "notification": "notifications",
    "publicAccessBlock": "public access",
}
SQS = "arn:aws:sqs:eu-north-1:123456789012:photos"
ASKED = ("--cors-origin", "https://www.example.com", "--notify-sqs", SQS, "--public")
DENIED = Response(403, "<Error><Code>AccessDenied</Code><Message>No</Message></Error>", "application/xml")


def error(status: int, code: str) -> Response:
    return Response(status, f"<Error><Code>{code}</Code><Message>Odd</Message></Error>", "application/xml")


class Odd(InFront):
    """Moto with answers of its own to questions about the bucket, and features with which it refuses photos."""

    def __init__(self, s3: services.S3) -> None:
        super().__init__(s3)
        self.answers: dict[tuple[str, str], Response] = {}
        """To a method and the question behind the bucket's name."""
        self.refuses: dict[str, bytes] = {}
        """What must not be in the body of a PUT to a question."""
        self.breaks: dict[str, bytes] = {}
        """Requests about photos are refused while a question's configuration holds this."""
        self.broken = {"PUT"}
        """Which of them."""
        self.spells: Callable[[str, bytes], bytes] = lambda _, body: body
        """How it gives back a configuration."""
        self.keeps_all = False
        """A DELETE is answered, and deletes nothing."""
        self.configured: dict[str, bytes] = {}

    @property
    def seen(self) -> services.S3:
        return replace(self.s3, endpoint=self.base_url)

    def respond(self, request: Request) -> Response:
        path, _, query = request.target.partition("?")
        if path.count("/") > 1 and path.strip("/") != self.s3.bucket:
            return self.about_photo(request)
        question, method = query.split("=")[0], request.method
        if (method, question) in self.answers:
            return self.answers[method, question]
        if method == "PUT" and question in self.refuses and self.refuses[question] in request.body:
            return error(400, "MalformedXML")
        answer = self.passed_on(request, request.target)
        if method in {"PUT", "DELETE"} and answer.status < 300:
            self.configured[question] = request.body
        if method == "GET" and answer.status == 200:
            return replace(answer, body=self.spells(question, answer.body))  # type: ignore[arg-type]
        return answer

    def about_photo(self, request: Request) -> Response:
        refused = any(words in self.configured.get(question, b"") for question, words in self.breaks.items())
        if request.method in self.broken and refused:
            return DENIED
        return (
            Response(204) if request.method == "DELETE" and self.keeps_all else self.passed_on(request, request.target)
        )


@pytest.fixture
def server(moto_s3: services.S3) -> Iterator[Odd]:
    with Odd(moto_s3) as running:
        yield running


def nothing_left(s3: services.S3) -> bool:
    found = s3.client.list_object_versions(Bucket=s3.bucket)
    return "Versions" not in found and "DeleteMarkers" not in found


def test_a_question_that_is_refused_stops_no_other(storage: Storage, server: Odd) -> None:
    answers = [
        *(error(400, "MalformedXML"), error(403, "AccessDenied"), error(404, "NoSuchKey"), error(500, "InternalError")),
        Response(200, "I am no XML", "text/plain"),
    ]
    cases = [(question, answers[number % 5]) for number, question in enumerate(FEATURES)]
    for number, (question, answer) in enumerate([*cases, *(("publicAccessBlock", each) for each in answers)]):
        s3 = server.s3 = replace(server.s3, bucket=f"odd-{number}")
        storage.settings = server.seen.env
        server.answers = {("GET", question): answer}
        data = storage("setup", "--yes", "--json", *ASKED, code=3).data
        assert list(data["refused"]) == [FEATURES[question]], (question, answer)
        assert "s3:Get" in data["refused"][FEATURES[question]], data["refused"]
        assert {*data["done"], FEATURES[question]} == {"bucket", *FEATURES.values()}, (question, answer)
        assert data["photo"] == "stored, read and removed"
        assert nothing_left(s3)
    server.answers = {("GET", "notification"): DENIED, ("GET", "cors"): error(400, "InvalidRequest")}
    assert storage("setup", "--yes", "--json").data["refused"] == {}, "nothing is wanted of these"


def test_a_change_that_is_refused_stops_no_other(storage: Storage, server: Odd) -> None:
    storage.settings = server.seen.env
    server.answers = {
        ("PUT", "publicAccessBlock"): error(409, "BucketAlreadyOwnedByYou"),
        ("PUT", "ownershipControls"): error(500, "InternalError"),
    }
    said = storage("setup", "--yes", "--public", code=3)
    assert "Done: encryption, versioning, policy, lifecycle." in said.out
    assert "Not done: ownership. S3 answers 500" in said.out
    assert "This server does not have: public access blocks." in said.out
    assert said.out.endswith(WORKS)


def test_two_features_that_each_break_photos(storage: Storage, server: Odd) -> None:
    storage.settings = server.seen.env
    server.breaks = {"publicAccessBlock": b"<BlockPublicAcls>true", "encryption": b"AES256"}
    said = storage("setup", "--yes", code=3)
    assert "Done: ownership, versioning, lifecycle." in said.out
    for title in ("default encryption", "public access blocks"):
        assert f"With {title} this server refuses photos (AccessDenied: No): that was taken back." in said.out
    assert "allow s3:" not in said.out
    assert said.out.endswith(WORKS)
    assert nothing_left(server.s3)
    block = server.s3.client.get_public_access_block(Bucket=server.s3.bucket)["PublicAccessBlockConfiguration"]
    assert [name for name, on in block.items() if not on] == ["BlockPublicAcls"]
    server.seen.put("a.jpg", b"a")
    # Encryption is tried again, and nothing else.
    said = storage("setup", "--yes", code=3)
    assert "Done" not in said.out
    assert said.out.count("that was taken back") == 1


def test_what_an_earlier_run_set_is_named_too(storage: Storage, server: Odd) -> None:
    storage.settings = server.seen.env
    storage("setup", "--yes")
    assert "  nothing to change\n" in storage("setup").out
    server.breaks = {"ownershipControls": b"BucketOwnerEnforced", "encryption": b"AES256"}
    said = storage("setup", "--yes", code=3)
    assert "nothing to change" not in said.out
    assert "With ownership controls this server refuses photos" in said.out
    assert "With default encryption this server refuses photos" in said.out
    assert said.out.endswith(WORKS)
    assert server.s3.client.get_bucket_versioning(Bucket=server.s3.bucket)["Status"] == "Enabled"
    assert all(
        server.s3.client.get_public_access_block(Bucket=server.s3.bucket)["PublicAccessBlockConfiguration"].values()
    )


def test_the_photo_of_the_test_goes_in_the_end(storage: Storage, server: Odd) -> None:
    storage.settings = server.seen.env
    server.breaks, server.broken = {"publicAccessBlock": b"<BlockPublicAcls>true"}, {"DELETE"}
    assert storage("setup", "--yes", code=3).out.endswith(WORKS)
    assert nothing_left(server.s3)
    # Suspended, it would leave a marker.
    server.breaks, server.broken = {"versioning": b"Enabled"}, {"PUT"}
    said = storage("setup", "--yes", code=3)
    assert "With versioning this server refuses photos" in said.out
    assert nothing_left(server.s3)


def test_a_deletion_that_deletes_nothing(storage: Storage, server: Odd) -> None:
    storage.settings = server.seen.env
    server.keeps_all = True
    said = storage("setup", "--yes", code=3)
    assert re.search(r"A photo, as a test: _test/setup-\w+\.jpg is still there after its deletion", said.out)
    left = re.search(r"Left in the bucket, to be removed by hand: (.+)\.", said.out)
    assert left
    assert sorted(left[1].split(", ")) == server.s3.keys()
    assert "taken back" not in said.out
    said = storage("setup", "--yes", code=4)
    assert "nothing to change" not in said.out


def test_a_rule_that_is_refused_is_left_out_alone(storage: Storage, server: Odd) -> None:
    storage.settings = server.seen.env
    server.refuses = {"lifecycle": b"Noncurrent", "notification": b"CloudFunction"}
    function = SQS.replace(":sqs:", ":lambda:").replace("photos", "function:photos")
    said = storage("setup", "--yes", "--notify-sqs", SQS, "--notify-lambda", function, code=3)
    assert "Done: ownership, encryption, versioning, lifecycle, notifications, public access." in said.out
    assert "Not done: lifecycle: carscraper-old-versions. S3 refuses s3:PutLifecycleConfiguration" in said.out
    assert "Not done: notifications: carscraper-lambda. S3 refuses s3:PutBucketNotification" in said.out
    rules = server.s3.client.get_bucket_lifecycle_configuration(Bucket=server.s3.bucket)["Rules"]
    assert [each["ID"] for each in rules] == ["carscraper-expire:_test/", "carscraper-multipart"]


def test_what_comes_back_in_another_spelling(storage: Storage, server: Odd) -> None:
    """MinIO's everybody; CORS rules without their names, or with those of the server."""

    def spelled(question: str, body: bytes) -> bytes:
        if question == "policy":
            policy = json.loads(body)
            for each in policy["Statement"]:
                each["Principal"], each["Action"] = {"AWS": ["*"]}, [each["Action"]]
            return json.dumps(policy).encode()
        return re.sub(rb"<ID>.*?</ID>", names[-1], body) if question == "cors" else body

    server.spells, names = spelled, []
    asked = ("--public", "--cors-origin", "https://www.example.com")
    for name in (b"", b"<ID>rule-1</ID>"):
        server.s3 = replace(server.s3, bucket=f"spelled-{len(name)}")
        storage.settings = server.seen.env
        names.append(name)
        assert "policy, CORS, lifecycle." in storage("setup", "--yes", *asked).out
        assert "nothing to change" in storage("setup", *asked).out
    (statement,) = json.loads(server.s3.client.get_bucket_policy(Bucket=server.s3.bucket)["Policy"])["Statement"]
    assert statement["Sid"] == policies.PUBLIC_READ
