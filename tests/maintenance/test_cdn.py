"""CloudFront: which paths name an object, how many go into a request, and what its refusals mean. Against moto."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.exceptions import ConfigurationError, StoreRefusedError, StoreUnavailableError
from carscraper.maintenance import cdn
from carscraper.maintenance.cdn import batches, invalidate, paths_of, requested_paths
from carscraper.storage.client import S3Options, open_client
from carscraper.storage.keys import published_bases
from tests import services

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "cars/bilasolur/2019/kia/rio/1_0123456789ab.jpg"
ODD = "a b/+%þ#?&*~'.jpg"


def options(s3: services.S3) -> S3Options:
    return S3Options(
        bucket=s3.bucket,
        region=s3.region,
        endpoint=s3.endpoint,
        general_endpoint=s3.endpoint,
        access_key=s3.access_key,
        secret_key=s3.secret_key,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[services.MotoS3]:
    """One of its own: a client for CloudFront takes longer to make than a test to run."""
    with services.MotoS3() as running:
        yield running


@pytest.fixture(scope="module")
def proxy(server: services.MotoS3) -> Iterator[services.S3Proxy]:
    with services.S3Proxy(server.endpoint) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: services.MotoS3, proxy: services.S3Proxy) -> Any:
    return open_client(options(server.bucket("car-photos-behind-a-cdn").via(proxy)), "cloudfront")


@pytest.fixture
def distribution(client: Any, proxy: services.S3Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(cdn, "_PAUSE", 0.01)
    yield new_distribution(client)
    proxy.heal()


def new_distribution(client: Any) -> str:
    origin = {"Id": "photos", "DomainName": "b.s3.amazonaws.com", "S3OriginConfig": {"OriginAccessIdentity": ""}}
    made = client.create_distribution(
        DistributionConfig={
            "CallerReference": uuid.uuid4().hex,
            "Origins": {"Quantity": 1, "Items": [origin]},
            "DefaultCacheBehavior": {"TargetOriginId": "photos", "ViewerProtocolPolicy": "redirect-to-https"},
            "Comment": "",
            "Enabled": True,
        }
    )
    found: str = made["Distribution"]["Id"]
    return found


def taken(client: Any, distribution: str) -> list[dict[str, Any]]:
    """What the server was asked to forget: its batches."""
    listed = client.list_invalidations(DistributionId=distribution)["InvalidationList"].get("Items", [])
    return [
        client.get_invalidation(DistributionId=distribution, Id=each["Id"])["Invalidation"]["InvalidationBatch"]
        for each in listed
    ]


class TestPaths:
    def test_a_key_that_a_crawl_makes_has_one_path(self) -> None:
        assert paths_of(KEY, None) == [f"/{KEY}"]

    @pytest.mark.parametrize("public", ["https://img.example.is/photos", "https://img.example.is/photos/"])
    def test_the_public_address_has_a_path_of_its_own(self, public: str) -> None:
        assert paths_of(KEY, public) == [f"/photos/{KEY}"]

    def test_every_odd_character_is_encoded_in_one_and_only_the_unsafe_ones_in_the_other(self) -> None:
        assert paths_of(ODD) == [
            "/a%20b/%2B%25%C3%BE%23%3F%26%2A~%27.jpg",
            "/a%20b/+%25%C3%BE%23%3F&%2A~'.jpg",
        ]

    def test_what_a_person_writes(self) -> None:
        bases = published_bases(bucket="b", endpoint=None, public_url="https://img.example.is")
        for text, path in [
            (KEY, f"/{KEY}"),
            (f"/{KEY}", f"/{KEY}"),
            (f"  {KEY}\n", f"/{KEY}"),
            (f"https://img.example.is/{KEY}", f"/{KEY}"),
            ("thumbnails/*", "/thumbnails/*"),
            ("*", "/*"),
            ("/*", "/*"),
            ("cars/þ*", "/cars/%C3%BE*"),
            ("https://img.example.is/*", "/*"),
            ("https://img.example.is/cars/*", "/cars/*"),
            ("https://b.s3.eu-north-1.amazonaws.com/a%20b.jpg", "/a%20b.jpg"),
            ("https://img.example.is/a%2A.jpg", "/a%2A.jpg"),
            ("https://img.example.is/a.jpg?v=1", "/a.jpg"),
        ]:
            assert requested_paths(text, bases, "https://img.example.is")[0] == path, text

    def test_what_is_refused(self) -> None:
        bases = published_bases(bucket="b", endpoint=None, public_url="https://img.example.is")
        for text, says in [
            ("", "names no object"),
            ("/", "names no object"),
            ("bilasolur/*/kia", "only at the end"),
            ("a**", "only at the end"),
            ("https://elsewhere.example/a.jpg", "no address of this bucket"),
            ("https://elsewhere.example/*", "no address of this bucket"),
            ("https://img.example.is/", "no address of this bucket"),
            ("þ" * 700, "longer than the 4,000 characters"),
        ]:
            with pytest.raises(ConfigurationError, match=says):
                requested_paths(text, bases)


class TestBatches:
    def test_within_cloudfronts_limits(self) -> None:
        singles = [f"/{number}.jpg" for number in range(6_001)]
        wild = [f"/{number}/*" for number in range(31)]
        found = batches([*wild, *singles, *singles[:10]])
        assert [len(batch) for batch in found] == [3_000, 3_000, 1, 15, 15, 1]
        assert [path for batch in found for path in batch] == singles + wild

    def test_nothing(self) -> None:
        assert batches([]) == []


class TestInvalidate:
    def test_the_server_gets_the_paths_encoded(self, client: Any, distribution: str) -> None:
        (made,) = invalidate(client, distribution, [*paths_of(KEY), *paths_of(ODD)])
        assert made.paths == (f"/{KEY}", *paths_of(ODD))
        (batch,) = taken(client, distribution)
        assert batch["Paths"] == {"Quantity": 3, "Items": list(made.paths)}

    def test_a_reference_is_never_used_for_other_paths(self, client: Any, distribution: str) -> None:
        invalidate(client, distribution, ["/a", "/b/*"])
        invalidate(client, distribution, ["/a"])
        assert len({batch["CallerReference"] for batch in taken(client, distribution)}) == 3

    def test_a_lost_reply_is_asked_for_again_under_the_same_reference(
        self, client: Any, distribution: str, proxy: services.S3Proxy
    ) -> None:
        with proxy.lose_reply(times=3, methods="POST") as fault:
            made = invalidate(client, distribution, ["/a"])
        assert fault.hits == 3
        assert len(made) == 1
        batches_taken = taken(client, distribution)
        assert len(batches_taken) == 4  # this server does not know them again; CloudFront does
        assert len({batch["CallerReference"] for batch in batches_taken}) == 1

    def test_too_many_in_progress_is_waited_for(self, client: Any, distribution: str, proxy: services.S3Proxy) -> None:
        said: list[str] = []
        with proxy.fail(400, "TooManyInvalidationsInProgress", methods="POST", times=6):
            (made,) = invalidate(client, distribution, ["/a"], say=said.append)
        assert made.paths == ("/a",)
        assert said == ["too many invalidations are in progress: waiting for room"] * 6

    def test_too_many_for_too_long(self, client: Any, distribution: str, proxy: services.S3Proxy) -> None:
        with (
            proxy.fail(400, "TooManyInvalidationsInProgress", methods="POST"),
            pytest.raises(StoreUnavailableError, match=r"3,000 paths and 15 with a wildcard.*wait some minutes"),
        ):
            invalidate(client, distribution, ["/a"], patience=0.05)
        assert taken(client, distribution) == []

    def test_a_server_that_is_busy_for_a_moment(self, client: Any, distribution: str, proxy: services.S3Proxy) -> None:
        with proxy.fail(503, "ServiceUnavailable", methods="POST", times=3):
            assert len(invalidate(client, distribution, ["/a"])) == 1

    def test_refusals_are_sentences(self, client: Any, distribution: str, proxy: services.S3Proxy) -> None:
        for status, code, error, says in [
            (403, "AccessDenied", StoreRefusedError, "allow cloudfront:CreateInvalidation"),
            (404, "NoSuchDistribution", StoreRefusedError, "check CLOUDFRONT_DISTRIBUTION_ID"),
            (403, "SignatureDoesNotMatch", StoreRefusedError, "check AWS_SECRET_ACCESS_KEY"),
            (400, "InvalidArgument", StoreRefusedError, "InvalidArgument"),
            (404, "NoSuchBucket", StoreRefusedError, "does not know CloudFront"),
            (503, "ServiceUnavailable", StoreUnavailableError, "answers 503 ServiceUnavailable"),
        ]:
            with proxy.fail(status, code, methods="POST"), pytest.raises(error, match=says) as caught:
                invalidate(client, distribution, ["/a"])
            assert str(caught.value).endswith("."), code
            assert "moto-secret" not in str(caught.value), code

    def test_a_server_that_is_away(self, client: Any, distribution: str, proxy: services.S3Proxy) -> None:
        proxy.down()
        try:
            with pytest.raises(StoreUnavailableError, match="CloudFront does not answer"):
                invalidate(client, distribution, ["/a"])
        finally:
            proxy.up()

    def test_a_plain_s3_server_is_not_harmed(self, rclone_s3: services.S3) -> None:
        rclone_s3.put(KEY, b"photo")
        with pytest.raises(StoreRefusedError, match="leave CLOUDFRONT_DISTRIBUTION_ID empty"):
            invalidate(open_client(options(rclone_s3), "cloudfront"), "E2QWRUHEXAMPLE", [f"/{KEY}"])
        assert rclone_s3.objects() == {KEY: b"photo"}
        assert [each["Name"] for each in rclone_s3.client.list_buckets()["Buckets"]] == [rclone_s3.bucket]
