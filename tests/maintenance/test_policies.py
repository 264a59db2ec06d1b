"""Policies: no action that does not exist, no right too many, foreign statements left alone."""

from __future__ import annotations

import fnmatch
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest

from carscraper.maintenance import policies
from carscraper.maintenance.policies import Outputs, Scope
from tests.services import REPO

if TYPE_CHECKING:
    from collections.abc import Iterator

SCOPE = Scope(bucket="car-photos", region="eu-north-1", prefix="cars/")
KEY = "arn:aws:kms:eu-north-1:123456789012:key/1234-abcd"
FULL = Scope(
    bucket="car-photos",
    region="eu-north-1",
    tags=True,
    sse=f"aws:kms:{KEY}",
    distribution="E2QWRUHEXAMPLE",
    outputs=Outputs(bucket="car-outputs", prefix="outputs/"),
)
DISTRIBUTION = "arn:aws:cloudfront::123456789012:distribution/E2QWRUHEXAMPLE"

# Where IAM's name is not the operation's, the operations that the action is for (AWS Service Authorization Reference).
OTHER_NAMES = {
    "s3:ListBucket": {"ListObjectsV2", "HeadBucket"},
    "s3:ListBucketVersions": {"ListObjectVersions"},
    "s3:DeleteObjectVersion": {"DeleteObject"},
    "s3:GetObjectVersion": {"GetObject", "HeadObject", "CopyObject"},
    "s3:GetObjectVersionTagging": {"GetObjectTagging", "CopyObject"},
    "s3:GetBucketCORS": {"GetBucketCors"},
    "s3:PutBucketCORS": {"PutBucketCors", "DeleteBucketCors"},
    "s3:GetBucketNotification": {"GetBucketNotificationConfiguration"},
    "s3:PutBucketNotification": {"PutBucketNotificationConfiguration"},
    "s3:GetBucketPublicAccessBlock": {"GetPublicAccessBlock"},
    "s3:PutBucketPublicAccessBlock": {"PutPublicAccessBlock"},
    "s3:GetEncryptionConfiguration": {"GetBucketEncryption"},
    "s3:PutEncryptionConfiguration": {"PutBucketEncryption"},
    "s3:GetLifecycleConfiguration": {"GetBucketLifecycleConfiguration"},
    "s3:PutLifecycleConfiguration": {"PutBucketLifecycleConfiguration", "DeleteBucketLifecycle"},
}


def statements() -> Iterator[dict[str, Any]]:
    for scope in (SCOPE, FULL):
        for make in (policies.crawl, policies.backfill, policies.admin):
            yield from make(scope)["Statement"]
        yield policies.public_read(scope)
        yield policies.cloudfront_read(scope, DISTRIBUTION)


def actions_of(*found: dict[str, Any]) -> set[str]:
    listed = [each["Action"] for each in found]
    return {action for each in listed for action in ([each] if isinstance(each, str) else each)}


ACTIONS = sorted(actions_of(*statements()))


def test_every_action_exists() -> None:
    session = botocore.session.get_session()
    operations = {name: set(session.get_service_model(name).operation_names) for name in ("s3", "kms", "cloudfront")}
    for action in ACTIONS:
        service, name = action.split(":")
        assert OTHER_NAMES.get(action, {name}) <= operations[service], action
    assert set(OTHER_NAMES) <= set(ACTIONS)
    assert len(ACTIONS) > 20


def test_a_backfill_reads_too_and_deletes_below_test_only() -> None:
    found = {each["Sid"]: each for each in policies.backfill(SCOPE)["Statement"]}
    assert actions_of(*found.values()) == {"s3:PutObject", "s3:ListBucket", "s3:GetObject", "s3:DeleteObject"}
    assert found["ClearRehearsals"]["Resource"] == "arn:aws:s3:::car-photos/cars/_test/*"


def test_tags_and_a_key_need_more() -> None:
    assert actions_of(*policies.crawl(FULL)["Statement"]) >= {"s3:PutObjectTagging", "kms:GenerateDataKey"}
    # Parts of an upload, and what is read back, are decrypted.
    assert "kms:Decrypt" in actions_of(*policies.crawl(FULL)["Statement"])
    assert "kms:Decrypt" not in actions_of(*policies.crawl(replace(FULL, outputs=None))["Statement"])
    assert actions_of(*policies.backfill(FULL)["Statement"]) >= {"kms:Decrypt"}
    assert "s3:PutObjectTagging" in actions_of(*policies.admin(FULL)["Statement"])


def test_the_key_is_named_as_iam_knows_it() -> None:
    for sse, resource in [
        *((None, None), ("AES256", None), ("aws:kms", None), ("aws:kms:dsse", None)),
        ("aws:kms:1234-abcd", "arn:aws:kms:eu-north-1:*:key/1234-abcd"),
        (f"aws:kms:{KEY}", KEY),
        ("aws:kms:alias/photos", "arn:aws:kms:eu-north-1:*:key/*"),
        ("aws:kms:arn:aws:kms:eu-north-1:123456789012:alias/photos", "arn:aws:kms:eu-north-1:123456789012:key/*"),
    ]:
        found = policies.crawl(Scope(bucket="b", region="eu-north-1", sse=sse))["Statement"]
        keys = [each for each in found if each["Sid"] == "UseTheKey"]
        assert [each["Resource"] for each in keys] == ([resource] if resource else []), sse
        aliases = [each["Condition"]["ForAnyValue:StringEquals"] for each in keys if "Condition" in each]
        assert aliases == ([{"kms:ResourceAliases": "alias/photos"}] if sse and "alias" in sse else []), sse


def test_the_administration_invalidates_only_a_distribution_that_is_set() -> None:
    assert "cloudfront:CreateInvalidation" in actions_of(*policies.admin(FULL)["Statement"])
    assert "cloudfront:CreateInvalidation" not in actions_of(*policies.admin(SCOPE)["Statement"])


def test_arns_begin_as_the_region_wants() -> None:
    for region, begin in [
        *(("eu-north-1", "arn:aws:"), ("cn-north-1", "arn:aws-cn:"), ("us-gov-west-1", "arn:aws-us-gov:")),
    ]:
        scope = Scope(bucket="b", region=region, sse="aws:kms:1234", distribution="E2QWRUHEXAMPLE")
        whole = [*policies.admin(scope)["Statement"], policies.tls_only(scope), policies.public_read(scope)]
        named = [each["Resource"] for each in whole]
        resources = [one for each in named for one in ([each] if isinstance(each, str) else each)]
        assert len(resources) > 6
        assert all(each.startswith(begin) for each in resources), region


# --- the bucket's own -------------------------------------------------------------------------------------------


def test_without_tls_neither_the_bucket_nor_its_objects() -> None:
    found = policies.tls_only(SCOPE)
    assert (found["Effect"], found["Principal"], found["Action"]) == ("Deny", "*", "s3:*")
    assert found["Resource"] == ["arn:aws:s3:::car-photos", "arn:aws:s3:::car-photos/*"]
    assert found["Condition"] == {"BoolIfExists": {"aws:SecureTransport": "false"}}


@pytest.mark.parametrize("prefix", ["", "cars/"])
def test_everybody_reads_photos_and_nothing_else(prefix: str) -> None:
    found = policies.public_read(Scope(bucket="b", region="eu-north-1", prefix=prefix))

    def readable(name: str) -> bool:
        return any(fnmatch.fnmatchcase(f"arn:aws:s3:::b/{prefix}{name}", each) for each in found["Resource"])

    assert found["Action"] == "s3:GetObject"
    assert readable("bilasolur/2019/toyota/yaris/1_0123456789ab.jpg")
    assert readable("thumbnails/small/bilasolur/2019/toyota/yaris/1_0123456789ab.jpg")
    assert readable("auctionimages/1234/1.JPG"), "what an earlier program put there"
    assert not readable("outputs/2026-11-21.jsonl")
    assert not readable("cars.jsonl")


def test_cloudfront_is_one_distribution() -> None:
    found = policies.cloudfront_read(SCOPE, DISTRIBUTION)
    assert found["Principal"] == {"Service": "cloudfront.amazonaws.com"}
    assert found["Condition"] == {"StringEquals": {"AWS:SourceArn": DISTRIBUTION}}


FOREIGN = {"Sid": "Backup", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::123456789012:root"}, "Action": "s3:*"}


def test_foreign_statements_stay_where_they_are() -> None:
    ours = policies.tls_only(SCOPE)
    before = {"Version": "2008-10-17", "Id": "theirs", "Statement": [{"Sid": ours["Sid"], "Effect": "Allow"}, FOREIGN]}
    after = policies.merged_policy(before, [ours])
    assert after == {"Version": "2008-10-17", "Id": "theirs", "Statement": [ours, FOREIGN]}
    assert policies.merged_policy({"Version": "2012-10-17", "Statement": FOREIGN}, [ours]) == policies.document(
        FOREIGN, ours
    )


def test_a_statement_of_ours_goes_alone() -> None:
    ours = policies.public_read(SCOPE)
    assert policies.merged_policy(policies.document(ours, FOREIGN), [], [policies.PUBLIC_READ]) == policies.document(
        FOREIGN
    )
    assert policies.merged_policy(policies.document(ours), [], [policies.PUBLIC_READ]) is None
    assert policies.merged_policy(None, [], [policies.PUBLIC_READ]) is None


def test_who_lets_everybody_in() -> None:
    assert policies.lets_everybody_in(policies.public_read(SCOPE))
    assert policies.lets_everybody_in({"Effect": "Allow", "Principal": {"AWS": ["*"]}})
    assert not policies.lets_everybody_in(FOREIGN)
    assert not policies.lets_everybody_in(policies.tls_only(SCOPE))
    assert not policies.lets_everybody_in({"Effect": "Allow", "Principal": "*", "Condition": {"IpAddress": {}}})


def test_the_file_in_deploy_is_what_the_command_prints(request: pytest.FixtureRequest) -> None:
    path = REPO / "deploy" / "iam-crawl-policy.json"
    made = json.dumps(policies.crawl(Scope(bucket="BUCKET", region="eu-north-1", prefix="PREFIX/")), indent=4) + "\n"
    if request.config.getoption("--regenerate"):
        path.write_text(made, "utf-8")
    assert path.read_text("utf-8") == made
