"""What S3 answers is no reason to lose a photo: crawls that are refused, and whose S3 is away, seen from outside."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.helpers import World, assert_nothing_lost, photo_count
from tests.storage.amazon import REGION, Amazon
from tests.storage.scripted import Scripted, certificate

if TYPE_CHECKING:
    from pathlib import Path

    from tests import services
    from tests.services import S3Proxy

# What was once "Store away … uploaded by the next run", for ever: the answer to an upload, and what the sentence names.
REFUSALS: dict[str, tuple[int, str, dict[str, Any], str]] = {
    "R2 with Amazon's region": (400, "InvalidRegionName", {}, "AWS_S3_REGION"),
    "keys of KMS on another server": (400, "InvalidArgument", {"S3_SSE": "aws:kms"}, "S3_SSE"),
    "a class that it does not have": (400, "InvalidStorageClass", {"S3_STORAGE_CLASS": "COLD"}, "S3_STORAGE_CLASS"),
    "object lock": (400, "InvalidRequest", {}, "AWS_… and S3_…"),
    "a bucket elsewhere": (307, "TemporaryRedirect", {}, "AWS_ENDPOINT_URL"),
    "a bucket in another region": (301, "PermanentRedirect", {}, "AWS_S3_REGION"),
    "a web server": (405, "MethodNotAllowed", {}, "AWS_ENDPOINT_URL"),
    "a captive portal": (200, "Login", {}, "AWS_ENDPOINT_URL"),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_a_refusal_ends_the_crawl_before_a_second_photo_is_sent(world: World, why: str) -> None:
    status, code, settings, named = REFUSALS[why]
    with world.proxy.fail(status, code, methods={"PUT", "HEAD", "GET"} if code == "Login" else {"PUT"}):
        done = world.crawl(**settings)
    assert done.code == 4, done
    assert world.puts() == 1
    assert done.said.count("failed.") == 1
    assert named in done.said
    assert status < 400 or code in done.said
    assert done.count("s3:PutObject") == 1, "one sentence for the whole run"
    assert not done.crawl.lines("Store away"), done
    assert "Traceback" not in done.crawl.stderr
    spooled = world.statuses()["pending", "spooled"]
    assert spooled == len(world.spooled_uploads()) == world.photos_served() > 0
    assert_nothing_lost(world)
    if why in {"object lock", "a captive portal"}:  # the rest is the same for all
        world.finish()
        assert world.photos_served() == photo_count(world.site), "none was fetched twice"


def test_a_bucket_with_object_lock_gets_all_photos(world: World) -> None:
    with Scripted() as server:
        server.want_md5()
        done = world.crawl(env={"AWS_ENDPOINT_URL": server.endpoint})
        puts = ["content-md5" in headers for method, _, headers in server.requests if method == "PUT"]
    assert done.code == 0, done
    assert puts == [False] + [True] * photo_count(world.site)


def requests_of_ten_seconds(proxy: S3Proxy) -> list[float]:
    """When requests came after the first one failed, in seconds."""
    requests = list(proxy.requests)
    failed = min(each.at + each.seconds for each in requests if each.fault)
    return [each.at - failed for each in requests if failed < each.at < failed + 10]


@pytest.mark.parametrize("skip", [0, 60])
def test_s3_that_is_away_is_sent_one_request_a_second(world: World, skip: int) -> None:
    """From the start, and in the middle of 16 uploads at a time."""
    world.site.photo_latency = 0.01
    with world.proxy.fail(503, "SlowDown", skip=skip):
        done = world.crawl(alone=True, S3_MAX_PARALLEL_UPLOADS=16)
        assert time.monotonic() - world.proxy.requests[-1].at < 5
    assert done.code == 3, done
    assert done.count("Store away") == 1, "one message for the whole run"
    moments = requests_of_ten_seconds(world.proxy)
    # Uploads that had their turn before the first one failed come within a moment of it.
    later = [moment for moment in moments if moment > 0.9]
    assert len(moments) - len(later) <= 16, moments
    assert 5 <= len(later) <= 10, moments
    assert all(after - before > 0.9 for before, after in pairwise(later)), moments
    assert_nothing_lost(world)
    world.finish()
    assert world.photos_served() == photo_count(world.site), "none was fetched twice"


def test_amazon_by_its_own_names(world: World, moto_s3: services.S3, tmp_path: Path) -> None:
    """A bucket with dots has no certificate there: that is said before anything is fetched."""
    there = {"LocationConstraint": REGION}
    moto_s3.client.create_bucket(Bucket="car.photos", CreateBucketConfiguration=there)
    with Amazon(tmp_path, moto_s3.endpoint) as amazon:
        keys = {"AWS_ACCESS_KEY_ID": moto_s3.access_key, "AWS_SECRET_ACCESS_KEY": moto_s3.secret_key}
        env = {**amazon.env, **keys, "AWS_ENDPOINT_URL": ""}
        done = world.crawl(env={**env, "AWS_S3_BUCKET": "car.photos"})
        assert done.code == 4, done
        assert "its certificate is another host's" in done.said
        assert done.count("certificate") == 1
        assert not world.site.served.requests
        done = world.crawl(env={**env, "AWS_S3_BUCKET": moto_s3.bucket})
    assert done.code == 0, done
    assert len(moto_s3.keys()) == photo_count(world.site)


def test_what_is_no_s3_server_is_asked_for_no_photo(world: World, tmp_path: Path) -> None:
    """A captive portal, and http:// and https:// where the other one is spoken."""
    _, context = certificate(tmp_path, "127.0.0.1")
    with Scripted() as plain, Scripted(context) as by_tls:
        plain.say("200 <html>")
        for endpoint, said in [
            (plain.endpoint, "what answers is no S3 server"),
            (f"http://{by_tls.address}", "write https:// instead of http://"),
            (f"https://{plain.address}", "write http:// instead of https://"),
            (f"https://{by_tls.address}", "set AWS_CA_BUNDLE"),
        ]:
            done = world.crawl(env={"AWS_ENDPOINT_URL": endpoint})
            assert done.code == 4, done
            assert said in done.said
            assert done.count("S3 can't be used") == 1
            assert not world.site.served.requests
        assert not [method for method, *_ in plain.requests if method == "PUT"]
