"""``scrapy storage policy``: what it prints is enough, and no more."""

from __future__ import annotations

import fnmatch
import itertools
import json
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from carscraper.exceptions import StoreRefusedError
from carscraper.runs.outputs import FILE_KINDS, folder_name
from carscraper.storage import outputs
from carscraper.storage.client import S3Options, open_client
from carscraper.storage.keys import Upload
from carscraper.storage.s3 import S3Store
from tests import services
from tests.cli.shop import NO_BUCKET
from tests.dealers.bilasolur import SimulatedBilasolur
from tests.fakes import make_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cli.conftest import Storage

KEY = "bilasolur/2019/toyota/yaris/1_0123456789ab.jpg"
DATA = b"\xff\xd8" + b"x" * 500 + b"\xff\xd9"
QUICK = {"DOWNLOAD_DELAY": 0, "AUTOTHROTTLE_ENABLED": "false"}
DISTRIBUTION = "arn:aws:cloudfront::123456789012:distribution/E2QWRUHEXAMPLE"


@pytest.fixture
def user(moto_s3: services.S3) -> Iterator[Callable[[str], S3Options]]:
    """Makes a user with a policy, on a server that from then on holds users to theirs."""

    def enforce(after: str) -> None:
        request = urllib.request.Request(
            f"{moto_s3.endpoint}/moto-api/reset-auth", after.encode(), {"Content-Type": "text/plain"}, method="POST"
        )
        urllib.request.urlopen(request, timeout=10).close()

    def make(document: str) -> S3Options:
        iam = boto3.client(
            "iam",
            endpoint_url=moto_s3.endpoint,
            region_name=moto_s3.region,
            aws_access_key_id=moto_s3.access_key,
            aws_secret_access_key=moto_s3.secret_key,
        )
        iam.create_user(UserName="user")
        iam.put_user_policy(UserName="user", PolicyName="user", PolicyDocument=document)
        key = iam.create_access_key(UserName="user")["AccessKey"]
        enforce("0")
        return S3Options(
            bucket=moto_s3.bucket,
            region=moto_s3.region,
            endpoint=moto_s3.endpoint,
            prefix="cars/",
            access_key=key["AccessKeyId"],
            secret_key=key["SecretAccessKey"],
            timeout=10,
            retries=0,
        )

    yield make
    enforce("inf")


def upload(name: str) -> Upload:
    return Upload(name=name, data=DATA, content_type="image/jpeg", metadata={})


def refused(call: Callable[..., Any], **arguments: Any) -> None:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def printed(storage: Storage, s3: services.S3, *words: str, **settings: Any) -> str:
    storage.settings = s3.env | {"S3_PREFIX": "cars", **settings}
    return storage("policy", *words).out


def test_a_crawl_may_put_and_look_and_no_more(
    storage: Storage, moto_s3: services.S3, user: Callable[[str], S3Options]
) -> None:
    options = user(printed(storage, moto_s3, "crawl"))
    store = S3Store(options)
    store.check()
    store.put(upload(store.object_name(KEY)))
    with pytest.raises(StoreRefusedError):
        store.put(upload(f"others/{KEY}"))
    with pytest.raises(StoreRefusedError):
        store.get(store.object_name(KEY), max_bytes=1000)
    client = open_client(options)
    refused(client.delete_object, Bucket=options.bucket, Key=store.object_name(KEY))
    refused(client.get_bucket_policy, Bucket=options.bucket)
    refused(client.put_bucket_versioning, Bucket=options.bucket, VersioningConfiguration={"Status": "Suspended"})


def test_a_crawl_needs_no_more(
    storage: Storage,
    moto_s3: services.S3,
    user: Callable[[str], S3Options],
    crawl: Callable[..., services.CompletedCrawl],
) -> None:
    """A real one, with the policy that deploy/iam-crawl-policy.json has as well."""
    options = user(printed(storage, moto_s3, "crawl"))
    environment = moto_s3.env | {"S3_PREFIX": "cars/", "IMAGES_THUMBS": '{"small": [320, 240]}'}
    environment |= {"AWS_ACCESS_KEY_ID": str(options.access_key), "AWS_SECRET_ACCESS_KEY": str(options.secret_key)}
    with SimulatedBilasolur(cars=3, photos=2) as site:
        done = crawl("bilasolur", spider_arguments={"base_url": site.base_url}, env=environment, settings=QUICK)
    assert done.returncode == 0, done
    assert done.lines("6 photos stored"), done


def test_a_backfill_may_also_read_and_clear_its_rehearsal(
    storage: Storage, moto_s3: services.S3, user: Callable[[str], S3Options]
) -> None:
    options = user(printed(storage, moto_s3, "backfill"))
    store = S3Store(options)
    store.check()
    for name in (store.object_name(KEY), store.object_name(f"_test/{KEY}")):
        store.put(upload(name))
        assert store.get(name, max_bytes=1000) == DATA
    # One by one: S3Store sends the bulk request, for which moto wants the right on the bucket, not on its objects.
    client = open_client(options)
    client.delete_object(Bucket=options.bucket, Key=store.object_name(f"_test/{KEY}"))
    refused(client.delete_object, Bucket=options.bucket, Key=store.object_name(KEY))
    refused(client.get_bucket_lifecycle_configuration, Bucket=options.bucket)


def test_the_administration_may_set_up_and_change_rules(
    storage: Storage, moto_s3: services.S3, user: Callable[[str], S3Options]
) -> None:
    document = json.loads(printed(storage, moto_s3, "admin"))
    # moto's own name for what is s3:ListBucket in IAM; others that it does not tell apart are s3:CreateBucket to it.
    document["Statement"][0]["Action"].append("s3:HeadBucket")
    options = user(json.dumps(document))
    storage.settings = moto_s3.env | {
        "AWS_ACCESS_KEY_ID": options.access_key,
        "AWS_SECRET_ACCESS_KEY": options.secret_key,
    }
    queue = "arn:aws:sqs:eu-north-1:123456789012:photos"
    storage("setup", "--yes", "--public", "--cors-origin", "https://a.is", "--notify-sqs", queue)
    storage("lifecycle", "apply", "--yes", "--transition", "30:STANDARD_IA")
    storage("setup", "--yes")  # takes the public statement away
    client = open_client(options)
    client.put_object(Bucket=options.bucket, Key=KEY, Body=DATA)
    assert client.get_object(Bucket=options.bucket, Key=KEY)["Body"].read() == DATA
    client.delete_object(Bucket=options.bucket, Key=KEY)
    refused(client.delete_bucket, Bucket=options.bucket)
    refused(client.list_buckets)


@pytest.mark.parametrize("role", ["crawl", "backfill"])
def test_outputs_may_be_put_tagged_and_compared_and_never_deleted(
    role: str, storage: Storage, moto_s3: services.S3, user: Callable[[str], S3Options], tmp_path: Path
) -> None:
    moto_s3.client.create_bucket(Bucket="car-outputs", CreateBucketConfiguration={"LocationConstraint": moto_s3.region})
    asked = {"S3_UPLOAD_ON_COMPLETION": "true", "S3_OUTPUT_BUCKET": "car-outputs", "S3_OUTPUT_PREFIX": "runs"}
    options = user(printed(storage, moto_s3, role, **asked))
    files = []
    for name, data in (("run.log", DATA), ("items.jsonl.gz", b"x" * (2 * outputs.PART))):
        (tmp_path / name).write_bytes(data)
        files.append(
            outputs.OutputFile(
                path=tmp_path / name, key=f"runs/a/{name}", kind="log", date="2026-11-21", content_type="text/plain"
            )
        )
    its = outputs.OutputOptions(s3=replace(options, bucket="car-outputs"), prefix="runs/", client="us", retries=0)
    done = outputs.upload_files(its, files)
    assert done.errors == []
    assert len(done.urls) == 2
    client = open_client(options)
    assert client.get_object(Bucket="car-outputs", Key="runs/a/run.log")["Body"].read() == DATA
    parts = client.create_multipart_upload(Bucket="car-outputs", Key="runs/a/b")
    client.abort_multipart_upload(Bucket="car-outputs", Key="runs/a/b", UploadId=parts["UploadId"])
    refused(client.delete_object, Bucket="car-outputs", Key="runs/a/run.log")
    refused(client.put_object, Bucket="car-outputs", Key="others/a", Body=b"")
    beside = replace(files[0], key="others/run.log")
    assert "allow s3:PutObject" in outputs.upload_files(its, [beside]).errors[0]


def test_outputs_have_no_rights_unless_they_are_uploaded(storage: Storage, moto_s3: services.S3) -> None:
    for role in ("crawl", "backfill", "admin"):
        off = json.loads(printed(storage, moto_s3, role, S3_OUTPUT_BUCKET="car-outputs"))
        on = json.loads(printed(storage, moto_s3, role, S3_UPLOAD_ON_COMPLETION="true", S3_OUTPUT_TAGS="false"))
        (added,) = [each for each in on["Statement"] if each not in off["Statement"]]
        assert added == {
            "Sid": "StoreOutputs",
            "Effect": "Allow",
            "Action": ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"],
            "Resource": f"arn:aws:s3:::{moto_s3.bucket}/outputs/*",
        }
        assert "car-outputs" not in str(off)


def test_the_public_never_reads_outputs(storage: Storage, moto_s3: services.S3) -> None:
    """Whatever S3_PREFIX and S3_OUTPUT_PREFIX are, and whatever a job is called."""
    for prefix in ("", "outputs", "cars"):
        settings = {"S3_PREFIX": prefix, "S3_UPLOAD_ON_COMPLETION": "true", "S3_OUTPUT_PREFIX": "outputs"}
        storage.settings = moto_s3.env | settings
        (statement,) = json.loads(storage("policy", "--bucket-policy", "public").out)["Statement"]
        its = outputs.OutputOptions.from_settings(make_settings(**storage.settings))
        for job, name in itertools.product(("job", "a.jpg", "b.png"), FILE_KINDS):
            arn = f"arn:aws:s3:::{moto_s3.bucket}/{its.key(folder_name(datetime.now(UTC), job), name)}"
            assert not [each for each in statement["Resource"] if fnmatch.fnmatchcase(arn, each)], (prefix, arn)


def test_it_is_for_the_bucket_and_prefix_of_the_settings(storage: Storage, moto_s3: services.S3) -> None:
    found = json.loads(printed(storage, moto_s3, "crawl", S3_TAGS='{"project": "cars"}'))
    assert found["Statement"][0] == {
        "Sid": "StorePhotos",
        "Effect": "Allow",
        "Action": ["s3:PutObject", "s3:PutObjectTagging"],
        "Resource": f"arn:aws:s3:::{moto_s3.bucket}/cars/*",
    }
    chinese = printed(storage, moto_s3, "backfill", AWS_S3_REGION="cn-north-1", S3_SSE="aws:kms:1234")
    assert '"arn:aws-cn:kms:cn-north-1:*:key/1234"' in chinese
    assert "arn:aws:" not in chinese
    assert "E2QWRUHEXAMPLE" in printed(storage, moto_s3, "admin", CLOUDFRONT_DISTRIBUTION_ID="E2QWRUHEXAMPLE")


def test_json_is_what_it_prints_anyway(storage: Storage, moto_s3: services.S3) -> None:
    assert printed(storage, moto_s3, "admin") == printed(storage, moto_s3, "admin", "--json")
    assert moto_s3.secret_key not in printed(storage, moto_s3, "admin")


def test_policies_of_the_bucket(storage: Storage, moto_s3: services.S3) -> None:
    for words, sid in [
        (["tls"], "CarscraperTlsOnly"),
        (["public"], "CarscraperPublicRead"),
        (["cloudfront", "--distribution-arn", DISTRIBUTION], "CarscraperCloudFrontRead"),
    ]:
        document = printed(storage, moto_s3, "--bucket-policy", *words)
        (statement,) = json.loads(document)["Statement"]
        assert statement["Sid"] == sid
        assert ("AWS:SourceArn" in document) == (words[0] == "cloudfront")
        moto_s3.client.put_bucket_policy(Bucket=moto_s3.bucket, Policy=document)


def test_one_policy_at_a_time(storage: Storage, moto_s3: services.S3) -> None:
    storage.settings = moto_s3.env
    for words in (
        [],
        ["crawl", "--bucket-policy", "tls"],
        ["--bucket-policy", "cloudfront"],
        ["crawl", "--distribution-arn", DISTRIBUTION],
    ):
        said = storage("policy", *words, code=4)
        assert (said.out, said.err.count("\n")) == ("", 1), words


def test_what_is_no_distribution(storage: Storage) -> None:
    words = ["--bucket-policy", "cloudfront", "--distribution-arn", "E2QWRUHEXAMPLE"]
    assert "is no distribution" in storage("policy", *words, code=2).err
    assert "invalid choice" in storage("policy", "everything", code=2).err


def test_no_bucket_is_named(storage: Storage) -> None:
    assert "AWS_S3_BUCKET is missing" in storage("policy", "crawl", settings={"USE_S3_STORAGE": "true"}, code=4).err
    assert NO_BUCKET in storage("policy", "crawl", code=4).err
