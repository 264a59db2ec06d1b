"""The steps of ``scrapy storage check``: every failure provoked, and the sentence that it gets."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import json
import ssl
import threading
import urllib.request
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

from carscraper.storage import probe as probe_module
from carscraper.storage.client import FATAL, S3Options, open_client
from carscraper.storage.probe import Step, allows_anonymous_read, probe
from tests import services

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALL = ["credentials", "bucket", "region", "put", "get", "head", "list", "public address", "presigned address", "delete"]
DISTRIBUTION = (
    "let the distribution read the bucket (scrapy storage policy --bucket-policy cloudfront), its root at "
    "IMAGES_PUBLIC_URL"
)
LOOK = "see that its server runs, and that AWS_ENDPOINT_URL (or IMAGES_PUBLIC_URL) names it"


def options(s3: services.S3, **changes: Any) -> S3Options:
    its = {
        "bucket": s3.bucket,
        "region": s3.region,
        "endpoint": s3.endpoint,
        "access_key": s3.access_key,
        "secret_key": s3.secret_key,
    }
    return S3Options(**{**its, **changes})


def steps(s3: services.S3, *, public: bool | None = None, **changes: Any) -> dict[str, Step]:
    found = list(probe(options(s3, **changes), public=public))
    assert len({step.name for step in found}) == len(found)
    return {step.name: step for step in found}


def failed(s3: services.S3, name: str, *, public: bool | None = None, **changes: Any) -> tuple[str, str]:
    """Cause and cure of the one step that fails."""
    found = steps(s3, public=public, **changes)
    assert [step.name for step in found.values() if step.ok is False] == [name], found
    assert list(found) == [each for each in [*ALL[:8], "direct address", *ALL[8:]] if each in found]
    return found[name].cause, found[name].cure


def open_to_all(s3: services.S3, **changes: Any) -> None:
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{s3.bucket}/*",
        **changes,
    }
    s3.client.put_bucket_policy(
        Bucket=s3.bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client takes longer to make than all the rest of a probe."""
    monkeypatch.setattr(probe_module, "open_client", lambda its, found: signer(its))


@functools.cache
def signer(its: S3Options) -> Any:
    made = open_client(its)
    made.close = lambda: None
    return made


@pytest.fixture(scope="module")
def one_bucket(moto_server: services.MotoS3) -> services.S3:
    """One bucket for the whole module: a boto3 client takes longer to make than most of these tests to run."""
    moto_server.reset()
    return moto_server.bucket("car-photos-of-this-module")


@pytest.fixture(scope="module")
def one_proxy(one_bucket: services.S3) -> Iterator[tuple[services.S3, services.S3Proxy]]:
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
def proxied(
    moto_s3: services.S3, one_proxy: tuple[services.S3, services.S3Proxy]
) -> tuple[services.S3, services.S3Proxy]:
    """The same bucket behind a proxy that passes everything on."""
    one_proxy[1].heal()
    one_proxy[1].forget()
    return one_proxy


# --- all is well ------------------------------------------------------------------------------------------------


def test_all_is_well_and_nothing_stays(s3: services.S3) -> None:
    found = steps(s3, prefix="cars þ+/")
    assert list(found) == ALL
    assert [step.ok for step in found.values()] == [True, True, s3.kind == "moto" or None, *[True] * 7]
    assert found["credentials"].detail == "settings"
    assert found["put"].detail.startswith("cars þ+/_test/check-")
    assert s3.keys() == []


def test_two_probes_have_two_names(moto_s3: services.S3) -> None:
    assert steps(moto_s3)["put"].detail != steps(moto_s3)["put"].detail


def test_what_is_configured_is_what_is_tried(proxied: tuple[services.S3, services.S3Proxy]) -> None:
    s3, proxy = proxied
    found = steps(s3, storage_class="STANDARD_IA", sse="aws:kms:1234-abcd", tags=(("a b", "c+d/2"),))
    assert all(step.ok for step in found.values()), found
    (put,) = [request for request in proxy.requests if request.method == "PUT"]
    assert put.headers["x-amz-storage-class"] == "STANDARD_IA"
    assert put.headers["x-amz-server-side-encryption"] == "aws:kms"
    assert put.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "1234-abcd"
    assert put.headers["x-amz-tagging"] == "a+b=c%2Bd%2F2"


def test_nothing_that_could_damage_is_sent(proxied: tuple[services.S3, services.S3Proxy]) -> None:
    s3, proxy = proxied
    steps(s3)
    assert not [name for request in proxy.requests for name in request.headers if "acl" in name or "tagging" in name]
    assert not [request for request in proxy.requests if "acl" in request.query or "tagging" in request.query]
    assert {request.path for request in proxy.requests if request.method in {"PUT", "DELETE"}} == {
        f"/{s3.bucket}/{request.key}" for request in proxy.requests if request.method == "PUT"
    }


def test_a_versioned_bucket_keeps_nothing(moto_server: services.MotoS3) -> None:
    moto_s3 = moto_server.bucket("car-photos-versions")
    moto_s3.client.put_bucket_versioning(Bucket=moto_s3.bucket, VersioningConfiguration={"Status": "Enabled"})
    assert steps(moto_s3)["delete"].detail == "nothing is left of it"
    versions = moto_s3.client.list_object_versions(Bucket=moto_s3.bucket)
    assert "Versions" not in versions
    assert "DeleteMarkers" not in versions


# --- credentials ------------------------------------------------------------------------------------------------

NONE = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role"


@pytest.mark.parametrize(
    ("changes", "cause", "cure"),
    [
        (
            {"access_key": None, "secret_key": None},
            "There are no credentials for S3",
            NONE,
        ),
        (
            {"secret_key": None},
            "AWS_SECRET_ACCESS_KEY is missing though its partner is set",
            "set both or neither",
        ),
        (
            {"access_key": None, "secret_key": None, "profile": "nobody"},
            "AWS_PROFILE=nobody is not in the AWS configuration files",
            "name one that is there, or leave AWS_PROFILE empty",
        ),
    ],
)
def test_no_credentials(moto_s3: services.S3, changes: dict[str, Any], cause: str, cure: str) -> None:
    assert failed(moto_s3, "credentials", **changes) == (cause, cure)
    rest = list(probe(options(moto_s3, **changes)))[1:]
    assert [(step.name, step.ok, step.detail) for step in rest] == [
        (name, None, "without credentials") for name in ALL[1:]
    ]


def test_where_credentials_come_from(moto_s3: services.S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = f"aws_access_key_id = {moto_s3.access_key}\naws_secret_access_key = {moto_s3.secret_key}\n"
    (tmp_path / "credentials").write_text(f"[default]\n{lines}[cars]\n{lines}")
    (tmp_path / "config").write_text("[profile run]\ncredential_process = /nonexistent/program\n")
    bare = {"access_key": None, "secret_key": None}
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert steps(moto_s3, **bare)["credentials"].detail == "shared credentials file"
    assert steps(moto_s3, **bare, profile="cars")["credentials"].detail == "profile cars (shared credentials file)"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto_s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto_s3.secret_key)
    assert steps(moto_s3, **bare)["credentials"].detail == "environment"


# --- the bucket -------------------------------------------------------------------------------------------------


def test_no_such_bucket(s3: services.S3) -> None:
    assert failed(s3, "bucket", bucket="no-such-bucket") == (
        f"NoSuchBucket: {s3.endpoint} has no bucket no-such-bucket",
        "check AWS_S3_BUCKET, or make it: scrapy storage setup",
    )
    assert "no-such-bucket" not in str(s3.client.list_buckets()["Buckets"])


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"secret_key": "wrong"}, "SignatureDoesNotMatch"), ({"access_key": "X"}, "InvalidAccessKeyId")],
)
def test_wrong_keys(rclone_s3: services.S3, changes: dict[str, str], code: str) -> None:
    cause, _, cure = FATAL[code].partition(": ")
    assert failed(rclone_s3, "bucket", **changes) == (f"{code}: {cause}", cure)


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken", "TokenRefreshRequired", "AllAccessDisabled"])
def test_who_is_refused_at_the_door(proxied: tuple[services.S3, services.S3Proxy], code: str) -> None:
    s3, proxy = proxied
    proxy.fail(400, code)
    cause, _, cure = FATAL[code].partition(": ")
    assert failed(s3, "bucket") == (f"{code}: {cause}", cure)


@pytest.mark.parametrize(
    ("off", "said"),
    [
        (dt.timedelta(minutes=-20), "20 minutes ahead of"),
        (dt.timedelta(minutes=42), "42 minutes behind"),
        (dt.timedelta(hours=5), "5 hours behind"),
    ],
)
def test_a_wrong_clock(proxied: tuple[services.S3, services.S3Proxy], off: dt.timedelta, said: str) -> None:
    s3, proxy = proxied
    theirs = format_datetime(dt.datetime.now(dt.UTC) + off, usegmt=True)
    proxy.fail(403, "RequestTimeTooSkewed", headers={"Date": theirs})
    assert failed(s3, "bucket") == (
        f"this machine's clock is {said} the server's",
        "set the clock by NTP, then check again",
    )


def test_a_wrong_clock_beside_a_server_without_a_date(proxied: tuple[services.S3, services.S3Proxy]) -> None:
    s3, proxy = proxied
    proxy.fail(403, "RequestTimeTooSkewed")
    assert failed(s3, "bucket")[0] == "this machine's clock is wrong"


def test_a_server_in_trouble(proxied: tuple[services.S3, services.S3Proxy]) -> None:
    s3, proxy = proxied
    proxy.fail(503, "SlowDown")
    assert failed(s3, "bucket") == ("the server answers 503 SlowDown", "try again later")
    assert proxy.count() == 2, "one try each, HEAD and the listing that says why"


def test_what_no_sentence_is_made_for(proxied: tuple[services.S3, services.S3Proxy]) -> None:
    s3, proxy = proxied
    proxy.fail(409, "SomethingNew")
    assert failed(s3, "bucket") == ("the server refuses s3:ListBucket (409 SomethingNew)", "ask who runs the server")


def test_who_may_not_list_may_put(proxied: tuple[services.S3, services.S3Proxy]) -> None:
    s3, proxy = proxied
    proxy.fail(403, "AccessDenied", path=rf"^/{s3.bucket}/?$")
    found = steps(s3)
    assert found["bucket"].detail.endswith("which these credentials may not list")
    assert (found["list"].cause, found["list"].cure) == (
        "AccessDenied: these credentials may not s3:ListBucket",
        f"allow s3:ListBucket on {s3.bucket}",
    )
    assert [name for name, step in found.items() if not step.ok] == ["region", "list"]


# --- the region -------------------------------------------------------------------------------------------------


def test_the_region_by_the_servers_own_word(moto_s3: services.S3) -> None:
    assert failed(moto_s3, "region", region="us-west-2") == (
        "the bucket is in eu-north-1, not in us-west-2",
        "set AWS_S3_REGION=eu-north-1",
    )
    assert {step.detail for step in list(probe(options(moto_s3, region="us-west-2")))[3:]} == {
        "until the region is right"
    }


@pytest.mark.parametrize("code", ["PermanentRedirect", "AuthorizationHeaderMalformed"])
def test_the_region_of_a_redirect(proxied: tuple[services.S3, services.S3Proxy], code: str) -> None:
    s3, proxy = proxied
    fault = proxy.fail(301, code, headers={"x-amz-bucket-region": "eu-west-1"})
    assert failed(s3, "region") == ("the bucket is in eu-west-1, not in eu-north-1", "set AWS_S3_REGION=eu-west-1")
    fault.stop()
    proxy.fail(301, code)
    assert failed(s3, "region") == (
        "the bucket is not in eu-north-1, and the server does not say where",
        "check AWS_S3_REGION",
    )


# --- the server -------------------------------------------------------------------------------------------------


def test_a_refused_connection(moto_s3: services.S3) -> None:
    port = services.free_port()
    assert failed(moto_s3, "bucket", endpoint=f"http://127.0.0.1:{port}") == (
        f"127.0.0.1:{port} refuses connections",
        LOOK,
    )


def test_a_host_that_is_not_there(moto_s3: services.S3) -> None:
    assert failed(moto_s3, "bucket", endpoint="http://s3.invalid") == (
        "there is no host s3.invalid",
        "check the name in AWS_ENDPOINT_URL (or IMAGES_PUBLIC_URL)",
    )


def test_a_server_that_never_answers(
    proxied: tuple[services.S3, services.S3Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    s3, proxy = proxied
    assert probe_module._TIMEOUT == 5
    monkeypatch.setattr(probe_module, "_TIMEOUT", 0.3)
    with proxy.hang():
        host = s3.endpoint.removeprefix("http://")
        assert failed(s3, "bucket") == (f"{host} takes the request and does not answer for 0.3 s", LOOK)


def test_a_connection_that_breaks(proxied: tuple[services.S3, services.S3Proxy]) -> None:
    s3, proxy = proxied
    proxy.reset()
    cause, cure = failed(s3, "bucket")
    assert cause.startswith(f"{s3.endpoint.removeprefix('http://')} breaks the connection off (")
    assert cure == LOOK


@contextlib.contextmanager
def web_server(
    status: int, body: bytes = b"<html>hello</html>", headers: dict[str, str] | None = None, context: Any = None
) -> Iterator[str]:
    """A web server that is no S3 server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_PUT = do_DELETE = do_GET  # noqa: N815 - names that http.server asks for

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_is_no_s3(moto_s3: services.S3) -> None:
    with web_server(404) as endpoint:
        assert failed(moto_s3, "bucket", endpoint=endpoint) == (
            "the server answers 404 without a word of S3's",
            "check AWS_ENDPOINT_URL: it must be an S3 server's address",
        )


def certificate(folder: Path, name: str, days: int) -> tuple[Path, ssl.SSLContext]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    import ipaddress

    alternative: x509.GeneralName = (
        x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=30))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = folder / "server.key"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, private)
    return path, context


@pytest.mark.parametrize(
    ("name", "days", "trusted", "cause", "cure"),
    [
        (
            "127.0.0.1",
            30,
            False,
            "the certificate of {host} is signed by an authority that is not known here",
            "name its certificate (a PEM file) in AWS_CA_BUNDLE",
        ),
        (
            "elsewhere.example",
            30,
            True,
            "the certificate of {host} is another host's",
            "use the name that it has (Amazon has none for a bucket with dots in its name)",
        ),
        ("127.0.0.1", -1, True, "the certificate of {host} has expired", "renew it on the server"),
        (
            "127.0.0.1",
            30,
            True,
            "the server answers 404 without a word of S3's",
            "check AWS_ENDPOINT_URL: it must be an S3 server's address",
        ),
    ],
)
def test_certificates(
    moto_s3: services.S3, tmp_path: Path, name: str, days: int, trusted: bool, cause: str, cure: str
) -> None:
    path, context = certificate(tmp_path, name, days)
    with web_server(404, context=context) as endpoint:
        host = endpoint.removeprefix("https://")
        found = failed(moto_s3, "bucket", endpoint=endpoint, ca_bundle=str(path) if trusted else None)
    assert found == (cause.format(host=host), cure)


@pytest.mark.parametrize(("content", "why"), [(None, "No such file or directory"), ("x", "no certificate is in it")])
def test_a_wrong_certificate_file(moto_s3: services.S3, tmp_path: Path, content: str | None, why: str) -> None:
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    found = failed(moto_s3, "bucket", endpoint="https://127.0.0.1:1", ca_bundle=str(path))
    assert found == (
        f"AWS_CA_BUNDLE={path} can't be used ({why})",
        "name a PEM file with the certificate of the server's authority",
    )


def test_tls_to_a_server_without(moto_s3: services.S3) -> None:
    endpoint = moto_s3.endpoint.replace("http:", "https:")
    cause, cure = failed(moto_s3, "bucket", endpoint=endpoint)
    assert cause == f"{endpoint.removeprefix('https://')} does not speak TLS"
    assert cure == "write http:// instead of https:// in its address"


# --- rights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("methods", "skip", "name", "action"),
    [("PUT", 0, "put", "s3:PutObject"), ("GET", 0, "get", "s3:GetObject"), ("DELETE", 0, "delete", "s3:DeleteObject")],
)
def test_a_missing_right(
    proxied: tuple[services.S3, services.S3Proxy], methods: str, skip: int, name: str, action: str
) -> None:
    s3, proxy = proxied
    proxy.fail(403, "AccessDenied", methods=methods, skip=skip, times=1, path="_test/")
    found = steps(s3)
    assert found[name].cause == f"AccessDenied: these credentials may not {action}"
    assert found[name].cure.startswith(f"allow {action} on {s3.bucket}")
    assert [each.name for each in found.values() if each.ok is False] == [name]
    assert services.S3(**vars(s3)).keys() == [], "removed all the same"


def test_what_a_real_policy_lacks(moto_server: services.MotoS3, moto_s3: services.S3) -> None:
    """Moto as Amazon does it: a user, a policy, signatures that are checked."""
    iam = boto3.client(
        "iam",
        endpoint_url=moto_s3.endpoint,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(proxies={}),
    )
    iam.create_user(UserName="crawler")
    keys = iam.create_access_key(UserName="crawler")["AccessKey"]
    allowed = ["s3:ListBucket", "s3:GetObject", "s3:PutObject"]
    iam.put_user_policy(
        UserName="crawler",
        PolicyName="p",
        PolicyDocument=json.dumps(
            {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": allowed, "Resource": "*"}]}
        ),
    )
    its = {"access_key": keys["AccessKeyId"], "secret_key": keys["SecretAccessKey"]}

    def authenticate(after: str) -> None:
        request = urllib.request.Request(
            f"{moto_s3.endpoint}/moto-api/reset-auth", data=after.encode(), headers={"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(request, timeout=5).close()

    authenticate("0")
    try:
        found = steps(moto_s3, **its)
    finally:
        authenticate("inf")
    # (moto looks for a signature in the headers only.)
    assert [name for name, step in found.items() if step.ok is False] == ["presigned address", "delete"]
    assert found["delete"].cause == "AccessDenied: these credentials may not s3:DeleteObject"
    assert found["delete"].cure == f"allow s3:DeleteObject on {moto_s3.bucket}; {found['put'].detail} stays until then"
    assert moto_s3.keys() == [found["put"].detail]


def test_amazons_own_word_on_what_is_missing(moto_s3: services.S3) -> None:
    body = (
        b"<Error><Code>AccessDenied</Code><Message>User: arn:aws:iam::1:user/x is not authorized to perform: "
        b"kms:GenerateDataKey on resource: arn:aws:kms:x because no policy allows it</Message></Error>"
    )
    answer = probe_module._Answer(403, {}, body)
    its = probe_module._Probe(options=options(moto_s3), public=None, name="x")
    told = its.refused(answer, "s3:PutObject")
    assert (told.cause, told.cure) == (
        "AccessDenied: these credentials may not kms:GenerateDataKey",
        f"allow kms:GenerateDataKey on {moto_s3.bucket}",
    )


@pytest.mark.parametrize("code", ["InvalidStorageClass", "InvalidTag", "KMS.NotFoundException", "QuotaExceeded"])
def test_a_put_that_the_settings_spoil(proxied: tuple[services.S3, services.S3Proxy], code: str) -> None:
    s3, proxy = proxied
    proxy.fail(400, code, methods="PUT")
    cause, _, cure = FATAL[code].partition(": ")
    assert failed(s3, "put") == (f"{code}: {cause}", cure)
    rest = list(probe(options(s3)))[4:]
    assert [(step.ok, step.detail) for step in rest] == [(None, "nothing was put")] * 6


# --- what comes back --------------------------------------------------------------------------------------------


def test_a_flipped_byte(proxied: tuple[services.S3, services.S3Proxy]) -> None:
    s3, proxy = proxied
    proxy.flip(at=3, methods="GET", times=1, path="_test/")
    assert failed(s3, "get") == (
        "64 bytes came back that are not the 64 that were put",
        "do not store photos there before it is known what changes them: the server, or a proxy on the way",
    )


def test_an_answer_that_is_cut(proxied: tuple[services.S3, services.S3Proxy]) -> None:
    s3, proxy = proxied
    proxy.cut(at=10, methods="GET", times=1, path="_test/")
    assert failed(s3, "get")[0] == "10 bytes came back that are not the 64 that were put"


@pytest.mark.parametrize(
    ("headers", "cause"),
    [
        ({"Content-Length": "64"}, "it says application/xml for image/jpeg"),
        ({"Content-Length": "64", "Content-Type": ""}, "it says no content type for image/jpeg"),
        ({"Content-Length": "63", "Content-Type": "image/jpeg"}, "it says 63 bytes for 64"),
    ],
)
def test_a_head_that_is_not_what_was_put(
    proxied: tuple[services.S3, services.S3Proxy], headers: dict[str, str], cause: str
) -> None:
    s3, proxy = proxied
    proxy.fail(200, "None", headers=headers, methods="HEAD", path="_test/", times=1)
    found = failed(s3, "head")
    assert found[0] == cause
    assert "use another server" in found[1] or "is at fault" in found[1]


def test_what_is_put_and_not_found(proxied: tuple[services.S3, services.S3Proxy]) -> None:
    s3, proxy = proxied
    proxy.fail(404, "NoSuchKey", methods=["GET"], path="_test/", times=1)
    assert failed(s3, "get") == (
        "the server does not find what was just put",
        "use a server that shows an object at once",
    )


def test_what_can_not_be_removed(proxied: tuple[services.S3, services.S3Proxy]) -> None:
    s3, proxy = proxied
    proxy.fail(204, "None", methods="DELETE", times=1)
    cause, cure = failed(s3, "delete")
    assert cause.endswith(".jpg is still there")
    assert cure == "remove it by hand; retention or a cache may hold it"


def test_the_probe_goes_when_the_listener_does(moto_s3: services.S3) -> None:
    running = probe(options(moto_s3))
    for step in running:
        if step.name == "put":
            assert moto_s3.keys() == [step.detail]
            break
    running.close()  # type: ignore[attr-defined]
    assert moto_s3.keys() == []


def test_the_probe_goes_when_the_answer_to_its_put_was_lost(proxied: tuple[services.S3, services.S3Proxy]) -> None:
    s3, proxy = proxied
    proxy.lose_reply(methods="PUT", times=1)
    cause, _ = failed(s3, "put")
    assert "breaks the connection off (" in cause
    assert proxy.count("DELETE") == 1
    proxy.heal()
    assert s3.keys() == []


# --- addresses --------------------------------------------------------------------------------------------------


def test_a_private_bucket_is_private(moto_s3: services.S3) -> None:
    assert steps(moto_s3)["public address"].detail == "403 to whoever has no credentials, as it shall be"
    assert steps(moto_s3, public=False)["public address"].ok


def test_a_public_bucket_is_public_by_its_policy(moto_s3: services.S3) -> None:
    open_to_all(moto_s3)
    base = f"{moto_s3.endpoint}/{moto_s3.bucket}"
    assert steps(moto_s3, prefix="þ /")["public address"].detail == f"{base} shows it to anybody"
    assert steps(moto_s3, public=True)["public address"].ok


def test_public_though_it_shall_not(moto_s3: services.S3) -> None:
    open_to_all(moto_s3)
    cause, cure = failed(moto_s3, "public address", public=False)
    assert cause.startswith(f"anybody can read {moto_s3.endpoint}/{moto_s3.bucket}/_test/check-")
    assert cure == "scrapy storage setup blocks that; if it is meant, say --public"


def test_private_though_it_shall_not(s3: services.S3) -> None:
    status = {"moto": 403, "rclone": 400}[s3.kind]
    cause, cure = failed(s3, "public address", public=True)
    assert cause.endswith(f".jpg answers {status} to whoever has no credentials")
    assert cure == "scrapy storage setup --public opens the bucket to readers; if it shall be private, say --private"


class TestBehindADistribution:
    def test_it_shows_the_photos(self, moto_s3: services.S3) -> None:
        open_to_all(moto_s3)
        found = steps(moto_s3, public_url=moto_s3.endpoint.replace("127.0.0.1", "localhost") + f"/{moto_s3.bucket}")
        assert all(step.ok for step in found.values()), found
        assert found["public address"].detail.startswith("http://localhost:")
        assert found["direct address"].detail.startswith("http://127.0.0.1:")

    @pytest.mark.parametrize(
        ("status", "headers", "cause", "cure"),
        [
            (
                403,
                {},
                "{url} answers 403",
                DISTRIBUTION,
            ),
            (200, {}, "{url} shows something else", "IMAGES_PUBLIC_URL must lead to the bucket's root"),
            (
                301,
                {"Location": "https://img.example.is/somewhere?secret"},
                "{url} answers 301 and sends to https://img.example.is",
                "set IMAGES_PUBLIC_URL to the address where photos are in the end",
            ),
            (502, {}, "{url} answers 502", "ask again later; if it stays, look at its server"),
        ],
    )
    def test_what_it_does_wrong(
        self, moto_s3: services.S3, status: int, headers: dict[str, str], cause: str, cure: str
    ) -> None:
        with web_server(status, headers=headers) as address:
            found = steps(moto_s3, public_url=f"{address}/img")
        step = found["public address"]
        assert step.cause == cause.format(url=f"{address}/img/{found['put'].detail}")
        assert step.cure == cure
        assert found["direct address"].detail == "403 to whoever has no credentials, as it shall be"

    def test_it_is_away(self, moto_s3: services.S3) -> None:
        port = services.free_port()
        assert failed(moto_s3, "public address", public_url=f"http://127.0.0.1:{port}") == (
            f"127.0.0.1:{port} refuses connections",
            LOOK,
        )

    def test_a_way_round_it(self, moto_s3: services.S3) -> None:
        open_to_all(moto_s3)
        port = services.free_port()
        found = steps(moto_s3, public=False, public_url=f"http://127.0.0.1:{port}")
        assert found["direct address"].cause.startswith("anybody can read http://127.0.0.1:")


def test_a_presigned_address_that_is_refused(proxied: tuple[services.S3, services.S3Proxy]) -> None:
    s3, proxy = proxied
    # get, the open one, the presigned one
    proxy.fail(403, "SignatureDoesNotMatch", methods="GET", path="_test/", skip=2, times=1)
    cause, cure = failed(s3, "presigned address")
    assert cause == "SignatureDoesNotMatch: the secret key is wrong"
    assert cure == "check AWS_SECRET_ACCESS_KEY"


def test_no_address_with_a_signature_is_told(proxied: tuple[services.S3, services.S3Proxy]) -> None:
    s3, proxy = proxied
    proxy.reset(methods="GET", path="_test/", skip=2, times=1)
    cause, _ = failed(s3, "presigned address")
    assert "X-Amz" not in cause
    assert s3.access_key not in cause


@pytest.mark.parametrize(
    ("statement", "opens"),
    [
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
        ({"Resource": "arn:aws:s3:::cars"}, False),
        ({"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}, False),
    ],
)
def test_policies_that_open_a_bucket(statement: dict[str, Any], opens: bool) -> None:
    whole = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": "arn:aws:s3:::cars/*",
        **statement,
    }
    assert allows_anonymous_read({"Statement": [whole]}, "cars", "_test/x.jpg") is opens


@pytest.mark.parametrize("policy", [None, [], {}, {"Statement": None}, {"Statement": ["x", 3]}, "x"])
def test_policies_that_are_none(policy: Any) -> None:
    assert not allows_anonymous_read(policy, "cars", "x")
