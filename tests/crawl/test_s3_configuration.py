"""Both clients of S3 go by one configuration: settings, else the AWS profile; nothing that one of them reads alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
import pytest

from carscraper.exceptions import ConfigurationError
from carscraper.storage.client import S3Options, open_client
from tests import services
from tests.conftest import service
from tests.crawl.world import World, last_words
from tests.fakes import make_settings

if TYPE_CHECKING:
    from collections.abc import Callable

DEAD = "http://127.0.0.1:9"
OURS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"}
# Of obstore's documented variables, one that it believes; the others are switches or addresses.
PLAUSIBLE = {
    "AWS_CHECKSUM_ALGORITHM": "sha256",
    "AWS_SERVER_SIDE_ENCRYPTION": "aws:kms",
    "AWS_SSE_KMS_KEY_ID": "1234",
    "AWS_REGION": "us-west-2",
    "AWS_DEFAULT_REGION": "us-west-2",
    "AWS_ENDPOINT": DEAD,
    "AWS_METADATA_ENDPOINT": DEAD,
    "AWS_STS_ENDPOINT": DEAD,
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": DEAD,
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere/token",
    "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/nobody",
    "AWS_TOKEN": "token",
    # What it takes for its connections.
    "AWS_PROXY_URL": DEAD,
    "AWS_TIMEOUT": "1ms",
    "AWS_ALLOW_HTTP": "false",
    "AWS_HTTP2_ONLY": "true",
    "AWS_DEFAULT_CONTENT_TYPE": "text/html",
    # What boto3 alone reads.
    "AWS_USE_DUALSTACK_ENDPOINT": "true",
    "AWS_USE_FIPS_ENDPOINT": "true",
    # A proxy for one of the two.
    "ALL_PROXY": DEAD,
}


def documented() -> set[str]:
    """The variables of the environment that obstore reads."""
    text = (Path(obstore.__file__).parent / "_store" / "_aws.pyi").read_text()
    found = set(re.findall(r"`(AWS_\w+)`", text))
    assert len(found) > 30
    return found - OURS


def test_what_the_environment_says_to_one_client_alone_changes_nothing(
    new_world: Callable[..., World], rclone_s3: services.S3
) -> None:
    harmful = {name: PLAUSIBLE.get(name, "true") for name in documented() | PLAUSIBLE.keys()}
    for environment in (harmful, dict.fromkeys(documented(), "nonsense")):
        with services.S3Proxy(rclone_s3.endpoint) as proxy:
            world = new_world(cars=1, photos=2, env=environment | rclone_s3.via(proxy).env)
            assert "2 photos stored" in last_words(world.crawl())
            requests = [request for request in proxy.requests if request.method == "PUT"]
        assert len(requests) == 2
        for put in requests:
            amazons = {name for name in put.headers if name.startswith("x-amz")} - {"x-amz-date"}
            assert {name for name in amazons if not name.startswith("x-amz-meta-")} == {"x-amz-content-sha256"}
            assert (put.access_key, len(put.headers["x-amz-content-sha256"])) == (rclone_s3.access_key, 64)
            assert put.headers["content-type"] == "image/jpeg"
        world.sql("DELETE FROM car_images")
        for key in rclone_s3.keys():  # noqa: SIM118 - no dict
            rclone_s3.delete(key)


def test_boto3_goes_where_obstore_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_USE_DUALSTACK_ENDPOINT": "true", "AWS_USE_FIPS_ENDPOINT": "true"}.items():
        monkeypatch.setenv(name, value)
    for changes in (
        {},
        {"endpoint": "https://s3.example"},
        {"endpoint": "https://s3.example", "addressing_style": "virtual"},
        {"endpoint": "http://127.0.0.1:9000", "addressing_style": "virtual"},
        {"addressing_style": "path"},
        {"bucket": "car.photos"},
        {"bucket": "car.photos", "addressing_style": "virtual"},
        {"bucket": "car.photos", "endpoint": "http://s3.example", "addressing_style": "virtual"},
    ):
        known: dict[str, Any] = {"bucket": "car-photos", "region": "eu-north-1", "access_key": "A", "secret_key": "b"}
        its = S3Options(**known | changes)
        url = open_client(its).generate_presigned_url("get_object", Params={"Bucket": its.bucket, "Key": "a.jpg"})
        assert url.partition("?")[0] == f"{its.direct_base}/a.jpg", changes


PROFILE = """[profile cars]
region = eu-west-1
endpoint_url = http://general.example
ca_bundle = /nowhere/ca.pem
services = local
s3 =
  addressing_style = virtual
[services local]
s3 =
  endpoint_url = http://s3.example
[profile plain]
endpoint_url = http://general.example
[profile wrong]
endpoint_url = s3.example
[profile dangling]
services = nobody
[profile flat]
services = flat
[services flat]
s3 = http://s3.example
"""


@pytest.mark.parametrize(
    ("settings", "env", "expected"),
    [
        ({}, {}, ("eu-north-1", None, None, "auto")),
        ({}, {"AWS_DEFAULT_REGION": "eu-west-3"}, ("eu-west-3", None, None, "auto")),
        ({"AWS_PROFILE": "cars"}, {}, ("eu-west-1", "http://s3.example", "/nowhere/ca.pem", "virtual")),
        ({"AWS_PROFILE": "plain"}, {}, ("eu-north-1", "http://general.example", None, "auto")),
        (
            {"AWS_PROFILE": "cars"},
            {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            ("eu-west-1", None, "/nowhere/ca.pem", "virtual"),
        ),
        (
            {
                "AWS_PROFILE": "cars",
                "AWS_S3_REGION": "eu-north-1",
                "AWS_ENDPOINT_URL": "http://ours.example",
                "AWS_CA_BUNDLE": "ours.pem",
                "S3_ADDRESSING_STYLE": "path",
            },
            {"AWS_DEFAULT_REGION": "eu-west-3"},
            ("eu-north-1", "http://ours.example", "ours.pem", "path"),
        ),
        (
            {},
            {"AWS_CONFIG_FILE": __file__},
            f"The AWS configuration files can't be read (Unable to parse config file: {__file__}); correct them.",
        ),
        (
            {"AWS_PROFILE": "dangling"},
            {},
            "The AWS profile names services = nobody, which are not in the configuration file; correct it.",
        ),
        (
            {"AWS_PROFILE": "flat"},
            {},
            "The AWS configuration files can't be read ('str' object has no attribute 'get'); correct them.",
        ),
        (
            {},
            {"AWS_DEFAULT_REGION": "EU North"},
            "region in the AWS profile (or AWS_DEFAULT_REGION) is 'EU North'; write a region such as eu-north-1.",
        ),
        ({"AWS_PROFILE": "nobody"}, {}, "AWS_PROFILE=nobody is not in the AWS configuration files."),
        (
            {"AWS_PROFILE": "wrong"},
            {},
            "endpoint_url in the AWS profile is 's3.example'; write a whole address such as https://images.example.com.",
        ),
    ],
)
def test_the_settings_win_and_the_profile_says_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], env: dict[str, str], expected: Any
) -> None:
    (tmp_path / "config").write_text(PROFILE)
    for name, value in ({"AWS_CONFIG_FILE": str(tmp_path / "config")} | env).items():
        monkeypatch.setenv(name, value)
    read = make_settings(**{"AWS_S3_BUCKET": "car-photos", "AWS_CA_BUNDLE": ""} | settings)
    if isinstance(expected, str):
        with pytest.raises(ConfigurationError) as caught:
            S3Options.from_settings(read)
        assert str(caught.value) == expected
        return
    its = S3Options.from_settings(read)
    assert (its.region, its.endpoint, its.ca_bundle, its.addressing_style) == expected
    assert its.general_endpoint == settings.get("AWS_ENDPOINT_URL"), "S3's own is none of CloudFront's"


def test_a_crawl_by_a_profile_through_a_proxy_with_the_bucket_in_the_hosts_name(
    new_world: Callable[..., World], tmp_path: Path
) -> None:
    """The check at the start, uploads and boto3 alike; nobody but the proxy knows the host."""
    with (
        service(lambda: services.RcloneS3(tmp_path / "s3", flags=["--force-path-style=false"])) as server,
        services.S3Proxy(server.endpoint) as proxy,
    ):
        bucket = server.bucket()
        (tmp_path / "config").write_text(PROFILE.replace("ca_bundle = /nowhere/ca.pem\n", ""))
        env = bucket.env | {
            "AWS_ENDPOINT_URL": "",
            "AWS_S3_REGION": "",
            "AWS_PROFILE": "cars",
            "AWS_CONFIG_FILE": str(tmp_path / "config"),
            "HTTP_PROXY": proxy.endpoint,
            "NO_PROXY": "127.0.0.1",
        }
        world = new_world(cars=1, photos=2, env=env)
        assert "2 photos stored" in last_words(world.crawl())
        assert proxy.counts() == {"HEAD": 1, "PUT": 2}
        assert {request.headers["host"] for request in proxy.requests} == {"car-photos.s3.example"}
        rows = list(world.images().values())
        assert [row["url"] for row in rows] == [f"http://car-photos.s3.example/{row['key']}" for row in rows]
        assert {row["key"] for row in rows} == {
            str(path.relative_to(bucket.folder)) for path in bucket.folder.rglob("*.jpg")
        }
        proxy.forget()
        said = world.command("storage", "check")
        assert said.returncode == 0, said
        assert proxy.count() >= 8


def test_a_stray_session_token_is_no_part_of_the_profiles_keys(
    new_world: Callable[..., World], rclone_s3: services.S3, tmp_path: Path
) -> None:
    """The AWS command line ignores it, too."""
    keys = f"aws_access_key_id = {rclone_s3.access_key}\naws_secret_access_key = {rclone_s3.secret_key}\n"
    (tmp_path / "credentials").write_text(f"[default]\n{keys}")
    stray = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "old"}
    files = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")}
    world = new_world(cars=1, photos=2, env=rclone_s3.env | stray | files)
    assert "2 photos stored" in last_words(world.crawl())
    for command in ("check", "list"):
        done = world.command("storage", command)
        assert done.returncode == 0, done
