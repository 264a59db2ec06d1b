"""``scrapy storage setup``: the plan is shown, the second run has nothing to do, what others made stays."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.maintenance import lifecycle, policies
from carscraper.maintenance.bucket import Bucket
from carscraper.maintenance.features import FEATURES
from tests import services

if TYPE_CHECKING:
    from tests.cli.conftest import Storage
    from tests.commands import Said

WRITES = ("PUT", "POST", "DELETE")
SQS = "arn:aws:sqs:eu-north-1:123456789012:photos"
ALL = ("--public", "--sse", "aws:kms:1234-abcd", "--cors-origin", "https://www.example.com", "--notify-sqs", SQS)
WORKS = "A photo, as a test: stored, read and removed\n"


@pytest.fixture
def new(moto_s3: services.S3) -> services.S3:
    """A bucket that is not there yet."""
    return replace(moto_s3, bucket="new-car-photos")


def no_secret(said: Said, s3: services.S3) -> None:
    assert s3.secret_key not in said.out + said.err
    assert s3.access_key not in said.out + said.err


def test_a_new_bucket(storage: Storage, new: services.S3) -> None:
    storage.settings = new.env
    planned = storage("setup", "--dry-run")
    assert "  + bucket: it is made\n" in planned.out
    assert "  + public access: blocked\n" in planned.out
    assert new.bucket not in {each["Name"] for each in new.client.list_buckets()["Buckets"]}
    said = storage("setup", "--yes")
    assert said.out.startswith(planned.out)
    assert "Done: bucket, ownership, encryption, versioning, lifecycle, public access." in said.out
    assert said.out.endswith(WORKS)
    no_secret(said, new)
    client, name = new.client, {"Bucket": new.bucket}
    assert "Versions" not in client.list_object_versions(**name), "the photo of the test left nothing"
    assert client.get_bucket_location(**name)["LocationConstraint"] == "eu-north-1"
    assert all(client.get_public_access_block(**name)["PublicAccessBlockConfiguration"].values())
    owner = client.get_bucket_ownership_controls(**name)["OwnershipControls"]["Rules"]
    assert owner == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    assert client.get_bucket_versioning(**name)["Status"] == "Enabled"
    rule = client.get_bucket_encryption(**name)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    rules = client.get_bucket_lifecycle_configuration(**name)["Rules"]
    assert [each["ID"] for each in rules] == [each["ID"] for each in lifecycle.defaults("")]


def test_the_first_region_has_no_location(storage: Storage, new: services.S3) -> None:
    storage.settings = new.env | {"AWS_S3_REGION": "us-east-1"}
    storage("setup", "--yes")
    assert new.client.get_bucket_location(Bucket=new.bucket)["LocationConstraint"] is None


def test_the_second_time_there_is_nothing_to_change(
    storage: Storage, new: services.S3, proxy: services.S3Proxy
) -> None:
    storage.settings = new.via(proxy).env
    said = storage("setup", "--dry-run", "--json", *ALL)
    assert proxy.count(*WRITES) == 0
    assert (said.data["done"], said.data["photo"]) == ([], "not tried")
    assert {each["feature"] for each in said.data["plan"] if each["lines"]} == set(FEATURES)
    storage("setup", "--yes", *ALL)
    puts = [request for request in proxy.requests if request.method in WRITES and "setup-" not in request.path]
    assert len(puts) == len(FEATURES) + 1
    assert all("content-md5" in each.headers for each in puts if "lifecycle" in each.query or "policy" in each.query)
    proxy.forget()
    said = storage("setup", *ALL)  # nobody is there to answer, and nobody is asked
    assert "nothing to change" in said.out
    writes = [request for request in proxy.requests if request.method in WRITES]
    assert [(each.method, each.key.split("setup-")[0]) for each in writes] == [("PUT", "_test/"), ("DELETE", "_test/")]


def test_public_is_opened_and_closed_again(storage: Storage, new: services.S3) -> None:
    storage.settings = new.env | {"S3_PREFIX": "cars/"}
    storage("setup", "--yes", "--public")
    (statement,) = json.loads(new.client.get_bucket_policy(Bucket=new.bucket)["Policy"])["Statement"]
    assert (statement["Principal"], statement["Action"]) == ("*", "s3:GetObject")
    assert statement["Resource"] == [f"arn:aws:s3:::{new.bucket}/cars/*.{ending}" for ending in policies.PICTURES]
    block = new.client.get_public_access_block(Bucket=new.bucket)["PublicAccessBlockConfiguration"]
    assert block == {
        "BlockPublicAcls": True,
        "IgnorePublicAcls": True,
        "BlockPublicPolicy": False,
        "RestrictPublicBuckets": False,
    }
    said = storage("setup", "--yes")
    assert "  - policy: CarscraperPublicRead" in said.out
    assert "will not answer at their public address any more" in said.err
    assert said.out.index("policy") < said.out.index("public access")
    assert all(new.client.get_public_access_block(Bucket=new.bucket)["PublicAccessBlockConfiguration"].values())
    with pytest.raises(new.client.exceptions.ClientError, match="NoSuchBucketPolicy"):
        new.client.get_bucket_policy(Bucket=new.bucket)


def test_what_others_made_stays(storage: Storage, moto_s3: services.S3) -> None:
    client, name = moto_s3.client, {"Bucket": moto_s3.bucket}
    rule = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 7}}
    statement = {
        "Sid": "Theirs",
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{moto_s3.bucket}/open/*",
    }
    cors = {"ID": "theirs", "AllowedOrigins": ["https://them.example"], "AllowedMethods": ["PUT"]}
    queue = {"Id": "theirs", "QueueArn": f"{SQS}-gone", "Events": ["s3:ObjectRemoved:*"]}
    client.put_bucket_lifecycle_configuration(**name, LifecycleConfiguration={"Rules": [rule]})
    client.put_bucket_policy(**name, Policy=json.dumps(policies.document(statement)))
    client.put_bucket_cors(**name, CORSConfiguration={"CORSRules": [cors]})
    client.put_bucket_notification_configuration(**name, NotificationConfiguration={"QueueConfigurations": [queue]})
    storage.settings = moto_s3.env
    storage("setup", "--yes", *ALL)
    assert client.get_bucket_lifecycle_configuration(**name)["Rules"][0] == rule
    assert len(client.get_bucket_lifecycle_configuration(**name)["Rules"]) == 4
    stored = json.loads(client.get_bucket_policy(**name)["Policy"])["Statement"]
    assert (stored[0], stored[1]["Sid"]) == (statement, policies.PUBLIC_READ)
    assert client.get_bucket_cors(**name)["CORSRules"][0] == cors
    assert [each["Id"] for each in client.get_bucket_notification_configuration(**name)["QueueConfigurations"]] == [
        "theirs",
        "carscraper-sqs",
    ]
    said = storage("setup", "--yes")
    assert "A statement of the bucket's policy (Theirs) lets everybody in" in said.err
    assert json.loads(client.get_bucket_policy(**name)["Policy"])["Statement"] == [statement]


def test_options_that_leave_things_as_they_are(storage: Storage, moto_s3: services.S3) -> None:
    storage.settings = moto_s3.env
    storage("setup", "--yes", "--no-versioning", "--no-lifecycle", settings={"S3_SSE": "aws:kms:1234"})
    assert "Status" not in moto_s3.client.get_bucket_versioning(Bucket=moto_s3.bucket)
    with pytest.raises(moto_s3.client.exceptions.ClientError, match="NoSuchLifecycleConfiguration"):
        moto_s3.client.get_bucket_lifecycle_configuration(Bucket=moto_s3.bucket)
    # Nobody asked to weaken the encryption.
    assert "nothing to change" in storage("setup", "--no-versioning", "--no-lifecycle").out
    weaker = storage("setup", "--dry-run", "--sse", "AES256").out
    assert "~ encryption: aws:kms with the key 1234, bucket key on → AES256" in weaker


def test_tls_only_is_for_endpoints_with_tls(
    storage: Storage, moto_s3: services.S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.settings = moto_s3.env
    assert policies.TLS_ONLY not in storage("setup", "--dry-run").out  # it would lock us out
    # Reached by http, whatever the setting says.
    monkeypatch.setattr("carscraper.maintenance.bucket.Bucket", lambda _, options: Bucket(moto_s3.client, options))
    storage.settings |= {"AWS_ENDPOINT_URL": moto_s3.endpoint.replace("http:", "https:")}
    assert f"+ policy: {policies.TLS_ONLY}: requests without TLS are refused" in storage("setup", "--dry-run").out
    assert policies.TLS_ONLY not in storage("setup", "--dry-run", "--no-tls-only").out


# --- names that others have -------------------------------------------------------------------------------------


def test_a_name_that_is_taken(storage: Storage, new: services.S3, proxy: services.S3Proxy) -> None:
    storage.settings = new.via(proxy).env
    with proxy.fail(403, "AccessDenied", path=rf"^/{new.bucket}/?$"):
        said = storage("setup", "--yes", code=4)
        assert f"S3 does not let us into the bucket {new.bucket} (AccessDenied" in said.err
        assert "the name belongs to somebody else" in said.err
        assert f"{new.bucket}-eu-north-1-" in said.err
        assert "is free just now" in said.err
        assert proxy.count(*WRITES) == 0
        no_secret(said, new)
        said = storage("setup", "--yes", "--public", "--fallback-bucket", "our-car-photos")
        assert "Trying our-car-photos" in said.err
        assert "Set AWS_S3_BUCKET=our-car-photos before the first crawl" in said.out
        again = storage("setup", "--yes", "--public", "--json", "--fallback-bucket", "our-car-photos")
    assert (again.data["settings"], again.data["done"]) == ({"AWS_S3_BUCKET": "our-car-photos"}, [])
    statement = json.loads(new.client.get_bucket_policy(Bucket="our-car-photos")["Policy"])["Statement"][0]
    assert all(each.startswith("arn:aws:s3:::our-car-photos/") for each in statement["Resource"])


def test_a_name_that_is_taken_meanwhile(storage: Storage, new: services.S3, proxy: services.S3Proxy) -> None:
    storage.settings = new.via(proxy).env
    with proxy.fail(409, "BucketAlreadyExists", methods="PUT"):
        said = storage("setup", "--yes", code=4)
    assert f"The name {new.bucket} belongs to somebody else. Choose another name: {new.bucket}-eu-north-1-" in said.err
    assert proxy.count(*WRITES) == 1


def test_a_bucket_that_we_made_a_moment_ago(storage: Storage, moto_s3: services.S3, proxy: services.S3Proxy) -> None:
    storage.settings = moto_s3.via(proxy).env
    with proxy.fail(404, "NoSuchBucket", methods="HEAD", times=1):
        said = storage("setup", "--yes")  # moto answers BucketAlreadyOwnedByYou
    assert next(request.status for request in proxy.requests if request.method == "PUT") == 409
    assert "Done: bucket, ownership" in said.out


def test_another_region_and_useless_credentials(
    storage: Storage, moto_s3: services.S3, proxy: services.S3Proxy
) -> None:
    storage.settings = moto_s3.via(proxy).env
    with proxy.fail(301, "PermanentRedirect", headers={"x-amz-bucket-region": "eu-west-1"}):
        said = storage("setup", "--yes", code=4)
    assert f"The bucket {moto_s3.bucket} is in the region eu-west-1, not eu-north-1: set AWS_S3_REGION=" in said.err
    with proxy.fail(403, "SignatureDoesNotMatch"):
        said = storage("setup", "--yes", code=4)
    assert "check AWS_SECRET_ACCESS_KEY" in said.err
    assert "somebody else" not in said.err


# --- what goes wrong --------------------------------------------------------------------------------------------


def test_one_step_is_refused(storage: Storage, moto_s3: services.S3, proxy: services.S3Proxy) -> None:
    storage.settings = moto_s3.via(proxy).env
    with proxy.fail(403, "AccessDenied", methods="PUT", skip=2, times=1):
        said = storage("setup", "--yes", "--json", code=3)
    assert said.data["done"] == ["ownership", "encryption", "lifecycle", "public access"]
    assert list(said.data["refused"]) == ["versioning"]
    assert "allow s3:PutBucketVersioning" in said.data["refused"]["versioning"]
    assert "Done: versioning." in storage("setup", "--yes").out


def test_nothing_is_allowed(storage: Storage, moto_s3: services.S3, proxy: services.S3Proxy) -> None:
    storage.settings = moto_s3.via(proxy).env
    with proxy.fail(403, "AccessDenied", methods="PUT"):
        said = storage("setup", "--yes", "--public", code=4)
    assert "Not done: public access. S3 refuses s3:PutBucketPublicAccessBlock" in said.out
    assert "Not done: policy. S3 refuses s3:PutBucketPolicy" in said.out
    assert "A photo, as a test: S3 refuses s3:PutObject" in said.out
    assert "Done:" not in said.out


def test_the_server_goes_away(storage: Storage, moto_s3: services.S3, proxy: services.S3Proxy) -> None:
    storage.settings = moto_s3.via(proxy).env
    with proxy.fail(503, "SlowDown", methods="PUT", skip=1):
        said = storage("setup", "--yes", code=3)
    assert "Done: ownership." in said.out
    assert "Not done: encryption. S3 answers 503 SlowDown" in said.out
    for feature in ("versioning", "lifecycle", "public access"):
        assert f"Not done: {feature}. S3 answers 503 SlowDown" in said.out


def test_reads_are_refused(storage: Storage, new: services.S3, moto_s3: services.S3, proxy: services.S3Proxy) -> None:
    storage.settings = moto_s3.via(proxy).env
    with proxy.fail(403, "AccessDenied", methods="GET"):
        said = storage("setup", "--yes", code=4)
        assert "Not done: ownership. S3 refuses s3:GetBucketOwnershipControls" in said.out
        assert [each.key[:6] for each in proxy.requests if each.method in WRITES] == ["_test/"] * 2, "the photo"
        storage.settings = new.via(proxy).env
        said = storage("setup", "--yes", code=3)
    assert "Done: bucket." in said.out
    assert "Not done: public access. S3 refuses s3:GetBucketPublicAccessBlock" in said.out


def test_a_change_that_meets_another_is_sent_again(
    storage: Storage, moto_s3: services.S3, proxy: services.S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carscraper.maintenance.bucket.time.sleep", lambda _: None)
    storage.settings = moto_s3.via(proxy).env
    with proxy.fail(409, "OperationAborted", methods="PUT", times=2):
        assert "Done: ownership, encryption" in storage("setup", "--yes").out


def test_a_change_that_is_accepted_and_not_kept(
    storage: Storage, moto_s3: services.S3, proxy: services.S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carscraper.maintenance.bucket.time.sleep", lambda _: None)
    storage.settings = moto_s3.via(proxy).env
    with proxy.fail(200, "None", methods="PUT", skip=2, times=1):
        said = storage("setup", "--yes", code=3)
    assert "Not done: versioning. The server accepted the change, and shows another one when it is read." in said.out


def test_it_asks(storage: Storage, new: services.S3, proxy: services.S3Proxy) -> None:
    storage.settings = new.via(proxy).env
    assert "say --yes, or --dry-run" in storage("setup", code=4).err
    storage.answer = "n"
    said = storage("setup")
    assert "Change the bucket new-car-photos like this? [y/N]" in said.err
    assert "Done" not in said.out
    assert proxy.count(*WRITES) == 0
    storage.answer = "y"
    said = storage("setup", "--json")
    assert said.data["done"]
    assert "+ versioning: Enabled" in said.err  # the plan, for whoever is asked


def test_somebody_changes_the_bucket_in_the_meantime(
    storage: Storage, moto_s3: services.S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.settings = moto_s3.env

    def confirm(*_: Any) -> bool:
        moto_s3.client.put_bucket_versioning(Bucket=moto_s3.bucket, VersioningConfiguration={"Status": "Suspended"})
        return True

    monkeypatch.setattr("carscraper.console.Console.confirm", confirm)
    assert "changed by somebody else in the meantime" in storage("setup", code=4).err
    assert moto_s3.client.get_bucket_versioning(Bucket=moto_s3.bucket)["Status"] == "Suspended"


def test_wrong_options(storage: Storage, moto_s3: services.S3) -> None:
    storage.settings = moto_s3.env
    for options, code, says in [
        (["--sse", "rot13"], 2, "is no encryption"),
        (["--cors-origin", "https://www.example.com/path"], 2, "is no origin"),
        (["--cors-origin", "www.example.com"], 2, "is no origin"),
        (["--cors-origin", "https://a@b.is"], 2, "is no origin"),
        (["--cors-origin", "https://[::1"], 2, "is no origin"),
        (["--notify-lambda", SQS], 2, "write arn:aws:lambda:REGION:ACCOUNT:function:NAME"),
        (["--notify-sqs", f"{SQS}.fifo"], 2, "S3 sends nothing to FIFO queues"),
        (["--fallback-bucket", "No"], 2, "is no name for a bucket"),
        (["--notify-prefix", "cars/"], 4, "need --notify-lambda or --notify-sqs"),
        (["--notify-sqs", SQS.replace("eu-north-1", "eu-west-1")], 4, "is not in the bucket's region eu-north-1"),
    ]:
        assert says in storage("setup", "--yes", *options, code=code).err, options
