"""``scrapy storage invalidate``, against moto's CloudFront."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests import services
from tests.maintenance.test_cdn import new_distribution

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Storage

KEY = "bilasolur/2019/kia/rio/1_0123456789ab.jpg"


@pytest.fixture(scope="module")
def server() -> Iterator[services.MotoS3]:
    with services.MotoS3() as running:
        yield running


@pytest.fixture(scope="module")
def cloudfront(server: services.MotoS3) -> Any:
    """A client that looks into CloudFront."""
    import boto3

    return boto3.session.Session().client(
        "cloudfront",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )


@pytest.fixture
def distribution(server: services.MotoS3, cloudfront: Any, storage: Storage) -> str:
    found = new_distribution(cloudfront)
    storage.settings = {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_S3_BUCKET": "car-photos",
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "IMAGES_PUBLIC_URL": "https://img.example.is",
        "CLOUDFRONT_DISTRIBUTION_ID": found,
    }
    return found


def taken(cloudfront: Any, distribution: str) -> list[list[str]]:
    listed = cloudfront.list_invalidations(DistributionId=distribution)["InvalidationList"].get("Items", [])
    return [
        cloudfront.get_invalidation(DistributionId=distribution, Id=each["Id"])["Invalidation"]["InvalidationBatch"][
            "Paths"
        ]["Items"]
        for each in listed
    ]


def test_keys_addresses_and_wildcards(storage: Storage, cloudfront: Any, distribution: str) -> None:
    said = storage("invalidate", KEY, "https://img.example.is/a%20b.jpg", "thumbnails/*", f"/{KEY}", "--yes", "--json")
    singles, wild = [f"/{KEY}", "/a%20b.jpg"], ["/thumbnails/*"]
    assert taken(cloudfront, distribution) == [singles, wild]
    assert said.data["distribution"] == distribution
    assert sorted(said.data["paths"]) == sorted(singles + wild)
    assert [each["paths"] for each in said.data["invalidations"]] == [2, 1]
    assert said.data["problem"] is None


def test_dry_run_sends_nothing(storage: Storage, cloudfront: Any, distribution: str) -> None:
    out = storage("invalidate", "a b.jpg", "c*", "--dry-run").out
    assert out == (
        f"The distribution {distribution} would be sent an invalidation (paths: 2, requests: 2):\n  /a%20b.jpg\n  /c*\n"
    )
    assert storage("invalidate", "a b.jpg", "--dry-run", "--json").data == {
        "distribution": distribution,
        "paths": ["/a%20b.jpg"],
        "dry_run": True,
    }
    assert taken(cloudfront, distribution) == []


def test_it_asks(storage: Storage, cloudfront: Any, distribution: str) -> None:
    storage.answer = "n"
    said = storage("invalidate", KEY)
    assert f"Send the distribution {distribution} this invalidation (paths: 1, requests: 1)? [y/N]" in said.err
    assert f"  /{KEY}\n" in said.err
    assert taken(cloudfront, distribution) == []
    storage.answer = "y"
    storage("invalidate", KEY)
    assert taken(cloudfront, distribution) == [[f"/{KEY}"]]


def test_from_a_file_and_from_stdin(
    storage: Storage, cloudfront: Any, distribution: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(f"{KEY}\r\n\nþ.jpg\n{KEY}\n", "utf-8-sig")
    storage("invalidate", "x.jpg", "--from-file", file, "--yes")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y.jpg\nz.jpg"))
    storage("invalidate", "--from-file", "-", "--yes")
    assert taken(cloudfront, distribution) == [["/x.jpg", f"/{KEY}", "/%C3%BE.jpg"], ["/y.jpg", "/z.jpg"]]


def test_many_are_sent_in_several_requests(
    storage: Storage, cloudfront: Any, distribution: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys.txt"
    file.write_text("".join(f"{number}.jpg\n" for number in range(3_001)), "utf-8")
    out = storage("invalidate", "--from-file", file, "--yes").out
    assert out.endswith(": accepted; it takes CloudFront some minutes (paths: 1)\n")
    assert [len(paths) for paths in taken(cloudfront, distribution)] == [3_000, 1]


def test_a_part_that_was_taken_is_told(
    storage: Storage, cloudfront: Any, distribution: str, server: services.MotoS3
) -> None:
    with services.S3Proxy(server.endpoint) as proxy:
        proxy.fail(403, "AccessDenied", methods="POST", skip=1)
        said = storage(
            "invalidate", KEY, "thumbnails/*", "--yes", settings={"AWS_ENDPOINT_URL": proxy.endpoint}, code=3
        )
    assert taken(cloudfront, distribution) == [[f"/{KEY}"]]
    assert said.err.startswith("1 of 2 requests were accepted. CloudFront refuses cloudfront:CreateInvalidation")


def test_what_is_refused(storage: Storage, distribution: str) -> None:
    """Nobody to ask, too."""
    for words, changes, says in [
        ([KEY, "--yes"], {"CLOUDFRONT_DISTRIBUTION_ID": None}, "CLOUDFRONT_DISTRIBUTION_ID is missing"),
        ([KEY, "--yes"], {"CLOUDFRONT_DISTRIBUTION_ID": "E2QWRUHEXAMPLE"}, "check CLOUDFRONT_DISTRIBUTION_ID"),
        ([KEY, "--yes"], {"CLOUDFRONT_DISTRIBUTION_ID": "d11.cloudfront.net"}, "write a distribution's id such as"),
        ([], {}, "There is no PATH"),
        (["bilasolur/*/kia"], {}, "only at the end"),
        (["--from-file", "/no/such/file"], {}, "can't be read"),
    ]:
        said = storage("invalidate", *words, settings=changes, code=4)
        assert says in said.err, words
        assert (said.out, said.err.count("\n")) == ("", 1), words
        assert "moto-secret" not in said.err
