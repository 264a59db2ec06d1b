"""The steps of ``scrapy storage check``: every failure provoked, with the server's words and the fix."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.maintenance import check as check_module
from carscraper.maintenance import policies
from carscraper.maintenance.check import Step, check_bucket
from carscraper.storage.answers import FIXES
from carscraper.storage.client import S3Options, open_client
from tests import services
from tests.http_server import HttpServer, Response
from tests.storage.conftest import options_of
from tests.storage.scripted import certificate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.storage.conftest import Proxied

ALL = ["credentials", "bucket", "put", "get", "head", "list", "public address", "presigned address", "delete"]


def steps(s3: services.S3, *, public: bool | None = None, **changes: Any) -> dict[str, Step]:
    return {step.name: step for step in check_bucket(options_of(s3, **changes), public=public)}


def failed(s3: services.S3, name: str, *, public: bool | None = None, **changes: Any) -> tuple[str, str]:
    """The server's words and the fix of the one step that fails."""
    found = steps(s3, public=public, **changes)
    assert [step.name for step in found.values() if step.ok is False] == [name], found
    return found[name].detail, found[name].fix


def open_to_all(s3: services.S3) -> None:
    scope = policies.Scope(bucket=s3.bucket, region=s3.region)
    policy = json.dumps(policies.document(policies.public_read(scope)))
    s3.client.put_bucket_policy(Bucket=s3.bucket, Policy=policy)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client takes longer to make than all the rest of a check."""
    monkeypatch.setattr(check_module, "open_client", lambda its, **_: one_client(its))


@functools.cache
def one_client(its: S3Options) -> Any:
    made = open_client(its, attempts=1)
    made.close = lambda: None
    return made


def test_all_is_well_and_nothing_stays(s3: services.S3) -> None:
    found = steps(s3, prefix="cars þ+/")
    assert list(found) == ALL
    assert all(step.ok for step in found.values()), found
    assert found["credentials"].detail == "settings"
    assert found["put"].detail.startswith("cars þ+/_test/check-")
    assert s3.keys() == []


def test_what_is_configured_is_what_is_tried_and_nothing_more(proxied: Proxied) -> None:
    s3, proxy = proxied
    found = steps(s3, storage_class="STANDARD_IA", sse="aws:kms:1234-abcd", tags=(("a b", "c+d/2"),))
    assert all(step.ok for step in found.values()), found
    (put,) = [request for request in proxy.requests if request.method == "PUT"]
    assert put.headers["x-amz-storage-class"] == "STANDARD_IA"
    assert put.headers["x-amz-server-side-encryption"] == "aws:kms"
    assert put.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "1234-abcd"
    assert put.headers["x-amz-tagging"] == "a+b=c%2Bd%2F2"
    proxy.forget()
    steps(s3)
    assert not [name for request in proxy.requests for name in request.headers if "acl" in name or "tagging" in name]
    assert {each.key.partition("check-")[0] for each in proxy.requests if each.method in {"PUT", "DELETE"}} == {
        "_test/"
    }


def test_a_versioned_bucket_keeps_nothing(moto_server: services.MotoS3) -> None:
    s3 = moto_server.bucket("car-photos-versions")
    s3.client.put_bucket_versioning(Bucket=s3.bucket, VersioningConfiguration={"Status": "Enabled"})
    assert steps(s3)["delete"].detail == "nothing is left of it"
    versions = s3.client.list_object_versions(Bucket=s3.bucket)
    assert "Versions" not in versions
    assert "DeleteMarkers" not in versions


def test_credentials(moto_s3: services.S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = f"aws_access_key_id = {moto_s3.access_key}\naws_secret_access_key = {moto_s3.secret_key}\n"
    bare: dict[str, Any] = {"access_key": None, "secret_key": None}
    assert failed(moto_s3, "credentials", **bare) == (
        "There are no credentials for S3",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role",
    )
    assert failed(moto_s3, "credentials", secret_key=None) == (
        "AWS_SECRET_ACCESS_KEY is missing though its partner is set",
        "set both or neither",
    )
    assert failed(moto_s3, "credentials", **bare, profile="nobody")[0] == (
        "AWS_PROFILE=nobody is not in the AWS configuration files"
    )
    (tmp_path / "credentials").write_text(f"[default]\n{lines}[cars]\n{lines}[program]\ncredential_process = echo no\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    said, fix = failed(moto_s3, "credentials", **bare, profile="program")
    assert said == "The AWS credentials can't be had (Expecting value: line 1 column 1 (char 0))"
    assert fix == "correct the profile or role, or set AWS_ACCESS_KEY_ID"
    assert failed(moto_s3, "bucket", ca_bundle="/nowhere")[0] == (
        "AWS_CA_BUNDLE=/nowhere can't be read (No such file or directory)"
    )
    assert steps(moto_s3, **bare)["credentials"].detail == "shared credentials file"
    assert steps(moto_s3, **bare, profile="cars")["credentials"].detail == "profile cars (shared credentials file)"


def test_no_such_bucket_and_wrong_keys(rclone_s3: services.S3, moto_s3: services.S3) -> None:
    for s3 in (rclone_s3, moto_s3):
        said, fix = failed(s3, "bucket", bucket="no-such-bucket")
        assert said.startswith("NoSuchBucket: ")
        assert fix == "check AWS_S3_BUCKET, or make the bucket: scrapy storage setup"
    said, fix = failed(rclone_s3, "bucket", secret_key="wrong")
    assert said.startswith("SignatureDoesNotMatch")
    assert fix == FIXES["SignatureDoesNotMatch"]
    found = steps(rclone_s3, access_key="X")
    assert found["bucket"].detail.startswith("InvalidAccessKeyId")
    assert [(each.ok, each.detail) for each in list(found.values())[2:]] == [(None, "not tried without bucket")] * 7


def test_refusals_have_the_servers_words_and_a_fix(proxied: Proxied) -> None:
    s3, proxy = proxied
    for code in ("ExpiredToken", "InvalidToken", "AllAccessDisabled", "RequestTimeTooSkewed", "InvalidRegionName"):
        with proxy.fail(400, code):
            assert failed(s3, "bucket") == (f"{code}: {code}, said by the test", FIXES[code])
    with proxy.fail(409, "SomethingNew"):
        assert failed(s3, "bucket")[1] == "try again later"
    with proxy.fail(418, "SomethingNew"):
        assert failed(s3, "bucket") == (
            "SomethingNew: SomethingNew, said by the test",
            "check the AWS_… and S3_… settings, or ask who runs the server",
        )
    proxy.forget()
    with proxy.fail(503, "SlowDown"):
        said, fix = failed(s3, "bucket")
    assert (said, fix) == ("the server answers 503 SlowDown: SlowDown, said by the test", "try again later")
    assert proxy.count() == 2, "one try each, HEAD and the listing that says why"
    for code in ("InvalidStorageClass", "InvalidTag", "KMS.NotFoundException", "QuotaExceeded"):
        with proxy.fail(400, code, methods="PUT"):
            assert failed(s3, "put")[1] == FIXES[code]
    with proxy.fail(404, "NoSuchKey", methods="GET", path="_test/", times=1):
        assert failed(s3, "get")[0].startswith("NoSuchKey")


def test_missing_rights(proxied: Proxied) -> None:
    s3, proxy = proxied
    for methods, name, action in [
        ("PUT", "put", "s3:PutObject"),
        ("GET", "get", "s3:GetObject"),
        ("DELETE", "delete", "s3:DeleteObject"),
    ]:
        with proxy.fail(403, "AccessDenied", methods=methods, times=1, path="_test/"):
            said, fix = failed(s3, name)
        assert said.startswith("AccessDenied: ")
        assert fix.startswith(f"allow {action}")
        assert s3.keys() == [], "removed all the same"
    with proxy.fail(403, "AccessDenied", path=rf"^/{s3.bucket}/?$"):  # who may not list may put
        found = steps(s3)
    assert found["bucket"].detail.endswith("which these credentials may not list")
    assert [name for name, step in found.items() if not step.ok] == ["list"]
    assert found["list"].fix == "allow s3:ListBucket"


def test_the_region(moto_s3: services.S3, one_proxy: Proxied) -> None:
    found = steps(moto_s3, region="us-west-2")  # this server says another one, and does what is asked
    assert all(step.ok for step in found.values()), found
    s3, proxy = one_proxy
    for code in ("PermanentRedirect", "AuthorizationHeaderMalformed"):
        with proxy.fail(301, code, headers={"x-amz-bucket-region": "eu-west-1"}):
            assert failed(s3, "bucket")[1] == "set AWS_S3_REGION=eu-west-1"
        with proxy.fail(301, code):
            assert failed(s3, "bucket")[1] == FIXES[code]


def test_a_server_that_does_not_answer(proxied: Proxied, moto_s3: services.S3) -> None:
    s3, proxy = proxied
    port = services.free_port()
    said, fix = failed(s3, "bucket", endpoint=f"http://127.0.0.1:{port}")
    assert said == f"http://127.0.0.1:{port} refuses connections"
    assert fix == "see that its server runs, and that AWS_ENDPOINT_URL (or IMAGES_PUBLIC_URL) names it"
    assert failed(s3, "bucket", endpoint="http://s3.invalid")[0] == "there is no such host (s3.invalid)"
    with proxy.reset():
        assert "does not answer (Connection" in failed(s3, "bucket")[0]
    said, fix = failed(s3, "bucket", endpoint=moto_s3.endpoint.replace("http:", "https:"))
    assert said.endswith(": it does not speak TLS"), said
    assert fix == "write http:// instead of https:// in its address"
    with proxy.lose_reply(methods="PUT", times=1):
        failed(s3, "put")
    assert s3.keys() == [], "the probe goes when the answer to its put was lost"


def web_server(status: int, body: bytes = b"<html>hello</html>", context: Any = None) -> HttpServer:
    """A web server that is no S3 server."""
    return HttpServer(lambda _: Response(status=status, body=body), tls=context)


def test_a_server_that_is_no_s3(moto_s3: services.S3) -> None:
    for status in (404, 418):
        with web_server(status) as server:
            fix = failed(moto_s3, "bucket", endpoint=server.base_url)[1]
            assert fix.startswith(("check AWS_ENDPOINT_URL", "check the AWS_…")), status
    with web_server(200) as server:  # a captive portal
        said, fix = failed(moto_s3, "put", endpoint=server.base_url)
        assert said == f"{server.base_url}: what answers is no S3 server"
        assert fix == "check AWS_ENDPOINT_URL: it must be an S3 server's address"


def test_certificates(moto_s3: services.S3, tmp_path: Path) -> None:
    for name, days, trusted, cause, fix in [
        (
            "127.0.0.1",
            30,
            False,
            "its certificate can't be verified",
            "set AWS_CA_BUNDLE to the PEM file of its authority",
        ),
        ("elsewhere.example", 30, True, "its certificate is another host's", "use a name that it has"),
        ("127.0.0.1", -1, True, "its certificate has expired", "renew it on the server"),
    ]:
        path, context = certificate(tmp_path, name, days)
        with web_server(404, context=context) as server:
            said, found = failed(moto_s3, "bucket", endpoint=server.base_url, ca_bundle=str(path) if trusted else None)
        assert said == f"{server.base_url}: {cause}"
        assert found.startswith(fix)


def test_what_comes_back(proxied: Proxied) -> None:
    s3, proxy = proxied
    with proxy.flip(at=3, methods="GET", times=1, path="_test/"):
        assert failed(s3, "get")[0] == "64 bytes came back that are not the 64 that were put"
    for headers, cause in [
        ({"Content-Length": "64"}, "it says application/xml, 64 bytes"),
        ({"Content-Length": "63", "Content-Type": "image/jpeg"}, "it says image/jpeg, 63 bytes"),
    ]:
        with proxy.fail(200, "None", headers={"ETag": '"x"', **headers}, methods="HEAD", path="_test/", times=1):
            said, fix = failed(s3, "head")
        assert said == f"{cause}, for image/jpeg, 64 bytes"
        assert "use another server" in fix
    with proxy.fail(204, "None", methods="DELETE", times=1):
        said, fix = failed(s3, "delete")
    assert said.endswith(".jpg is still there")
    assert fix == "remove it by hand; retention or a cache may hold it"


def test_the_probe_goes_when_the_caller_does(moto_s3: services.S3) -> None:
    running = check_bucket(options_of(moto_s3))
    for step in running:
        if step.name == "put":
            assert moto_s3.keys() == [step.detail]
            break
    running.close()  # type: ignore[attr-defined]
    assert moto_s3.keys() == []


def test_public_or_private(moto_s3: services.S3, rclone_s3: services.S3) -> None:
    assert steps(moto_s3)["public address"].detail == "403 to requests without credentials, as it should be"
    said, fix = failed(rclone_s3, "public address", public=True)
    assert said.endswith(".jpg answers 400 to requests without credentials")
    assert fix == "scrapy storage setup --public opens the bucket to readers; if it should be private, say --private"
    open_to_all(moto_s3)
    base = f"{moto_s3.endpoint}/{moto_s3.bucket}"
    assert steps(moto_s3, prefix="þ /")["public address"].detail == f"{base} shows it to anybody"
    assert steps(moto_s3, public=True)["public address"].ok
    said, fix = failed(moto_s3, "public address", public=False)
    assert said.startswith(f"anybody can read {base}/_test/check-")
    assert fix == "scrapy storage setup blocks that; if it is meant, say --public"


def test_behind_a_distribution(moto_s3: services.S3) -> None:
    for status, cause, fix in [
        (403, "answers 403", "let the distribution read the bucket (scrapy storage policy --bucket-policy cloudfront)"),
        (200, "shows something else", "IMAGES_PUBLIC_URL must lead to the bucket's root"),
        (502, "answers 502", "let the distribution"),
    ]:
        with web_server(status) as server:
            found = steps(moto_s3, public_url=f"{server.base_url}/img")
        step = found["public address"]
        assert step.detail.startswith(f"{server.base_url}/img/{found['put'].detail} {cause}")
        assert step.fix.startswith(fix)
        assert found["direct address"].detail == "403 to requests without credentials, as it should be"
    port = services.free_port()
    said, _ = failed(moto_s3, "public address", public_url=f"http://127.0.0.1:{port}")
    assert said == f"http://127.0.0.1:{port} refuses connections"
    open_to_all(moto_s3)
    found = steps(moto_s3, public_url=moto_s3.endpoint.replace("127.0.0.1", "localhost") + f"/{moto_s3.bucket}")
    assert all(step.ok for step in found.values()), found
    found = steps(moto_s3, public=False, public_url=f"http://127.0.0.1:{port}")
    assert found["direct address"].detail.startswith("anybody can read http://127.0.0.1:")


def test_a_presigned_address_that_is_refused(proxied: Proxied) -> None:
    s3, proxy = proxied
    # get, the open one, the presigned one
    with proxy.fail(403, "SignatureDoesNotMatch", methods="GET", path="_test/", skip=2, times=1):
        said, fix = failed(s3, "presigned address")
    assert (said, fix) == ("it answers 403 SignatureDoesNotMatch", FIXES["SignatureDoesNotMatch"])
    with proxy.reset(methods="GET", path="_test/", skip=2, times=1):
        said, _ = failed(s3, "presigned address")
    assert "X-Amz" not in said
    assert s3.access_key not in said


def test_policies_that_open_a_bucket() -> None:
    everybody = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::cars/*"}
    for statement, opens in [
        ({}, True),
        ({"Principal": {"AWS": "*"}}, True),
        ({"Principal": {"AWS": ["arn:aws:iam::1:root", "*"]}}, True),
        ({"Action": ["s3:ListBucket", "s3:Get*"]}, True),
        ({"Action": "*", "Resource": "*"}, True),
        ({"Effect": "Deny"}, False),
        ({"Principal": {"AWS": "arn:aws:iam::1:root"}}, False),
        ({"Principal": {"Service": "cloudfront.amazonaws.com"}}, False),
        ({"Action": "s3:PutObject"}, False),
        ({"Resource": "arn:aws:s3:::cars/photos/*"}, False),
        ({"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}, False),
    ]:
        policy = {"Statement": [everybody | statement]}
        assert policies.everybody_reads(policy, "cars", "_test/x.jpg") is opens, statement
    for policy in (None, [], {}, {"Statement": None}, {"Statement": ["x", 3]}, "x"):
        assert not policies.everybody_reads(policy, "cars", "x")
