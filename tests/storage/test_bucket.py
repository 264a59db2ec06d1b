"""The bucket: the difference between what is and what shall be as data, and what the thin client makes of answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.exceptions import ConfigurationError, StoreRefusedError
from carscraper.storage import bucket, lifecycle, policies
from carscraper.storage.bucket import BucketAdmin, Found, Notification, Step, Wanted
from carscraper.storage.client import S3Options, open_client
from carscraper.storage.policies import Scope
from tests import services

if TYPE_CHECKING:
    from collections.abc import Iterator

REGION = "eu-north-1"
SCOPE = Scope(bucket="car-photos", region=REGION)
TLS = policies.tls_only(SCOPE)
PUBLIC = policies.public_read(SCOPE)
LAMBDA = f"arn:aws:lambda:{REGION}:123456789012:function:resize"
SQS = f"arn:aws:sqs:{REGION}:123456789012:photos"


def step(part: str, there: Any = None, **wanted: Any) -> Step:
    """The step for one part of a bucket."""
    steps = bucket.plan(Found(parts={part: there}), Wanted(region=REGION, **wanted))
    return next(each for each in steps if each.part == part)


def block(**changes: bool) -> dict[str, Any]:
    names = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    return {"PublicAccessBlockConfiguration": {**dict.fromkeys(names, True), **changes}}


def encrypted(kind: str, *, key: str | None = None, bucket_key: bool = False, **more: Any) -> dict[str, Any]:
    default = {"SSEAlgorithm": kind, **({"KMSMasterKeyID": key} if key else {})}
    rule = {"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": bucket_key, **more}
    return {"ServerSideEncryptionConfiguration": {"Rules": [rule]}}


# --- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["ab", "x" * 64, "Car-photos", "car_photos", "-car", "car-", "car..photos", "192.168.5.4"]
)
def test_names_that_amazon_does_not_take(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no name for a bucket"):
        bucket.checked_name(name)


@pytest.mark.parametrize("name", ["xn--car", "car-s3alias", "sthree-car", "car--ol-s3"])
def test_names_that_amazon_keeps_for_itself(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no name for a bucket"):
        bucket.checked_name(name)


def test_a_suggestion_is_a_name() -> None:
    for name in ("car", "x" * 63, "a-" * 20 + "b", "car.photos.and.more.and.more.and.more"):
        assert bucket.checked_name(bucket.suggestion(name, "ap-southeast-1", "0a1b2c")).endswith(
            "-ap-southeast-1-0a1b2c"
        )


# --- plans ------------------------------------------------------------------------------------------------------


def test_the_first_region_takes_no_location() -> None:
    def arguments(region: str) -> Any:
        return bucket.plan(Found(exists=False), Wanted(region=region))[0].arguments

    assert arguments("us-east-1") == {}
    assert arguments(REGION) == {"CreateBucketConfiguration": {"LocationConstraint": REGION}}


def test_the_block_opens_before_a_public_policy_and_closes_after_it() -> None:
    def order(**wanted: Any) -> list[str]:
        return [each.part for each in bucket.plan(Found(), Wanted(region=REGION, **wanted))]

    opening, closing = order(public=PUBLIC), order(drop=(policies.PUBLIC_READ,))
    assert opening.index("public access") < opening.index("policy")
    assert closing.index("public access") > closing.index("policy")


def test_public_access() -> None:
    assert step("public access", block()).lines == ()
    assert step("public access").lines == ("+ blocked",)
    assert step("public access", block(BlockPublicPolicy=False)).arguments == block()
    opened = step("public access", block(), public=PUBLIC)
    assert opened.lines == ("~ blocked → open for bucket policies, blocked for ACLs",)
    assert opened.arguments == block(BlockPublicPolicy=False, RestrictPublicBuckets=False)
    assert not step("public access", opened.arguments, public=PUBLIC).lines


def test_ownership() -> None:
    there = {"OwnershipControls": {"Rules": [{"ObjectOwnership": "ObjectWriter"}]}}
    changed = step("ownership", there)
    assert changed.lines == ("~ ObjectWriter → BucketOwnerEnforced (no ACLs)",)
    assert not step("ownership", changed.arguments).lines


@pytest.mark.parametrize(
    ("there", "sse", "says"),
    [
        (None, None, "+ AES256"),
        (encrypted("AES256"), None, None),
        (encrypted("AES256", bucket_key=True), "AES256", None),
        (encrypted("aws:kms", key="1234"), None, None),  # nobody asked to weaken it
        (encrypted("aws:kms", key="1234"), "AES256", "~ aws:kms with the key 1234, bucket key off → AES256"),
        (
            encrypted("aws:kms", key="1234"),
            "aws:kms:1234",
            "~ aws:kms with the key 1234, bucket key off → aws:kms with the key 1234, bucket key on",
        ),
        (encrypted("aws:kms", key="1234", bucket_key=True), "aws:kms:1234", None),
        (encrypted("AES256"), "aws:kms", "~ AES256 → aws:kms with the key aws/s3, bucket key on"),
        (encrypted("aws:kms", bucket_key=True), "aws:kms", None),
    ],
)
def test_encryption(there: Any, sse: str | None, says: str | None) -> None:
    found = step("encryption", there, sse=sse)
    assert found.lines == ((says,) if says else ())
    if says:
        assert not step("encryption", found.arguments, sse=sse).lines


def test_what_else_the_encryption_says_stays() -> None:
    there = encrypted("AES256", BlockedEncryptionTypes={"EncryptionType": ["SSE-C"]})
    (rule,) = step("encryption", there, sse="aws:kms:1").arguments["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["BlockedEncryptionTypes"] == {"EncryptionType": ["SSE-C"]}


def test_versioning() -> None:
    assert step("versioning", {}).lines == ("+ Enabled",)
    assert step("versioning", {"Status": "Suspended"}).lines == ("~ Suspended → Enabled",)
    assert step("versioning", {"Status": "Suspended"}, versioning=False).lines == ()
    assert step("versioning", {"Status": "Enabled"}).lines == ()


FOREIGN = {
    "Sid": "Theirs",
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:DeleteBucket",
    "Resource": "arn:aws:s3:::b",
}
NAMELESS = {key: value for key, value in FOREIGN.items() if key != "Sid"}


def policy(*statements: Any) -> dict[str, Any]:
    return {"Policy": json.dumps(policies.document(*statements))}


def test_the_policy_keeps_what_others_put_there() -> None:
    found = step("policy", policy(FOREIGN, NAMELESS), tls_only=TLS)
    assert json.loads(found.arguments["Policy"])["Statement"] == [FOREIGN, NAMELESS, TLS]
    assert found.lines == ("+ CarscraperTlsOnly: who comes without TLS is refused",)
    assert found.unchanged == 2
    again = step("policy", found.arguments, tls_only=TLS)
    assert (again.lines, again.unchanged) == ((), 3)


def test_the_policy_in_another_form_is_the_same() -> None:
    stored = {**TLS, "Action": ["s3:*"], "Resource": TLS["Resource"][::-1]}
    assert not step("policy", policy(stored), tls_only=TLS).lines


def test_a_statement_of_ours_is_replaced_or_goes() -> None:
    narrow = PUBLIC | {"Resource": ["arn:aws:s3:::car-photos/*.jpg"]}
    changed = step("policy", policy(FOREIGN, PUBLIC), public=narrow)
    assert changed.lines == ("~ CarscraperPublicRead: everybody may read *.jpg",)
    gone = step("policy", policy(FOREIGN, PUBLIC), drop=(policies.PUBLIC_READ,))
    assert gone.lines == ("- CarscraperPublicRead",)
    assert json.loads(gone.arguments["Policy"])["Statement"] == [FOREIGN]
    empty = step("policy", policy(PUBLIC), drop=(policies.PUBLIC_READ,))
    assert (empty.operation, empty.arguments) == ("delete_bucket_policy", {})


def test_cors_rules_of_others_stay() -> None:
    theirs = {"AllowedOrigins": ["*"], "AllowedMethods": ["PUT"]}
    assert not step("CORS", {"CORSRules": [theirs]}).lines
    found = step("CORS", {"CORSRules": [theirs]}, cors_origins=("https://b.is", "https://a.is"))
    assert found.arguments["CORSConfiguration"]["CORSRules"][0] == theirs
    again = step("CORS", found.arguments["CORSConfiguration"], cors_origins=("https://a.is", "https://b.is"))
    assert (again.lines, again.unchanged) == ((), 2)
    other = step("CORS", found.arguments["CORSConfiguration"], cors_origins=("https://c.is",))
    assert other.lines == ("~ carscraper-cors: GET and HEAD from https://c.is",)
    assert len(other.arguments["CORSConfiguration"]["CORSRules"]) == 2


def test_setup_does_not_undo_what_lifecycle_was_told() -> None:
    there = {"Rules": [lifecycle.old_versions(365)]}
    found = step("lifecycle", there, rules=tuple(lifecycle.defaults("")))
    assert found.arguments["LifecycleConfiguration"]["Rules"][0] == lifecycle.old_versions(365)
    assert len(found.lines) == 2


def test_the_smallest_size_to_move_is_kept() -> None:
    there = {"Rules": [lifecycle.multipart(1)], "TransitionDefaultMinimumObjectSize": "varies_by_storage_class"}
    found = bucket.lifecycle_step(there, [lifecycle.multipart(2)])
    assert found.arguments["TransitionDefaultMinimumObjectSize"] == "varies_by_storage_class"
    assert "TransitionDefaultMinimumObjectSize" not in bucket.lifecycle_step(None, [lifecycle.multipart(2)]).arguments


def test_rules_in_the_old_form_are_sent_in_the_new_one() -> None:
    old = {"ID": "logs", "Status": "Enabled", "Prefix": "logs/", "Expiration": {"Days": 7}}
    found = bucket.lifecycle_step({"Rules": [old]}, [old, lifecycle.multipart(7)])
    assert [list(rule["Filter"]) for rule in found.arguments["LifecycleConfiguration"]["Rules"]] == [
        ["Prefix"],
        ["Prefix"],
    ]
    assert found.lines[-1] == "~ logs: stays, written in S3's newer form (it takes no mixture)"
    assert not bucket.lifecycle_step({"Rules": [old]}, [old]).lines


def test_the_last_rule_goes_by_delete() -> None:
    found = bucket.lifecycle_step({"Rules": [lifecycle.multipart(1)]}, [])
    assert (found.operation, found.arguments) == ("delete_bucket_lifecycle", {})


def test_notifications_of_others_stay() -> None:
    theirs = {"Id": "theirs", "TopicArn": "arn:aws:sns:x", "Events": ["s3:ObjectRemoved:*"]}
    there = {"TopicConfigurations": [theirs], "EventBridgeConfiguration": {}}
    wanted = (Notification(kind="lambda", arn=LAMBDA, prefix="cars/a b/", suffix=".jpg"),)
    found = step("notifications", there, notifications=wanted)
    sent = found.arguments["NotificationConfiguration"]
    assert sent["TopicConfigurations"] == [theirs]
    assert sent["EventBridgeConfiguration"] == {}
    (ours,) = sent["LambdaFunctionConfigurations"]
    assert ours["Id"] == "carscraper-lambda"
    rules = ours["Filter"]["Key"]["FilterRules"]
    assert rules == [{"Name": "prefix", "Value": "cars/a+b/"}, {"Name": "suffix", "Value": ".jpg"}]
    assert not step("notifications", sent, notifications=wanted).lines
    for rule in rules:
        rule["Name"] = rule["Name"].capitalize()  # so Amazon gives them back
    assert not step("notifications", sent, notifications=wanted).lines
    other = step("notifications", sent, notifications=(Notification(kind="lambda", arn=LAMBDA),))
    assert other.lines == (f"~ carscraper-lambda: {LAMBDA} hears of new objects of the whole bucket",)


@pytest.mark.parametrize(
    ("theirs", "overlap"),
    [
        ({"Events": ["s3:ObjectCreated:Put"]}, True),
        ({"Events": ["s3:ObjectRemoved:*"]}, False),
        (
            {"Events": ["s3:ObjectCreated:*"], "Filter": {"Key": {"FilterRules": [{"Name": "Prefix", "Value": "c"}]}}},
            True,
        ),
        (
            {"Events": ["s3:ObjectCreated:*"], "Filter": {"Key": {"FilterRules": [{"Name": "Prefix", "Value": "d"}]}}},
            False,
        ),
        (
            {"Events": ["s3:ObjectCreated:*"], "Filter": {"Key": {"FilterRules": [{"Name": "Suffix", "Value": "g"}]}}},
            True,
        ),
        (
            {"Events": ["s3:ObjectCreated:*"], "Filter": {"Key": {"FilterRules": [{"Name": "Suffix", "Value": "x"}]}}},
            False,
        ),
    ],
)
def test_two_notifications_for_the_same_objects(theirs: dict[str, Any], overlap: bool) -> None:
    there = {"QueueConfigurations": [{"Id": "theirs", "QueueArn": SQS, **theirs}]}
    wanted = (Notification(kind="lambda", arn=LAMBDA, prefix="cars/", suffix=".jpg"),)
    if not overlap:
        assert step("notifications", there, notifications=wanted).lines
        return
    with pytest.raises(ConfigurationError, match="carscraper-lambda and theirs are for the same objects"):
        step("notifications", there, notifications=wanted)


def test_two_of_ours_for_the_same_objects() -> None:
    wanted = (Notification(kind="lambda", arn=LAMBDA), Notification(kind="sqs", arn=SQS))
    with pytest.raises(ConfigurationError, match="carscraper-lambda and carscraper-sqs"):
        step("notifications", notifications=wanted)


def test_what_a_server_lacks_gets_no_step() -> None:
    found = Found(lacks=frozenset({"policy", "versioning"}))
    assert {"policy", "versioning"}.isdisjoint(each.part for each in bucket.plan(found, Wanted(region=REGION)))
    assert bucket.lacking(found) == "This server does not have versioning and bucket policies: nothing of that is sent."
    assert bucket.lacking(Found()) is None


# --- the client -------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(moto_s3: services.S3) -> Iterator[services.S3Proxy]:
    with services.S3Proxy(moto_s3.endpoint) as running:
        yield running


def admin(s3: services.S3, name: str | None = None) -> BucketAdmin:
    options = S3Options(
        bucket=name or s3.bucket,
        region=s3.region,
        endpoint=s3.endpoint,
        access_key=s3.access_key,
        secret_key=s3.secret_key,
    )
    return BucketAdmin(open_client(options), options.bucket, options.region)


def test_everything_at_once_and_nothing_twice(moto_s3: services.S3) -> None:
    wanted = Wanted(
        region=REGION,
        tls_only=TLS,
        public=PUBLIC,
        sse="aws:kms:1234-abcd",
        cors_origins=("https://www.example.com",),
        rules=(*lifecycle.defaults("cars/"), lifecycle.transitions("cars/bilasolur/", [(30, "STANDARD_IA")])),
        notifications=(Notification(kind="sqs", arn=SQS, prefix="cars/"),),
    )
    found = admin(moto_s3)
    assert found.exists()
    steps = bucket.plan(found.read(), wanted)
    assert all(each.lines for each in steps)
    for each in steps:
        found.apply(each)
    after = found.read()
    assert not after.lacks
    assert [each.part for each in bucket.plan(after, wanted) if each.lines] == []
    stored = json.loads(moto_s3.client.get_bucket_policy(Bucket=moto_s3.bucket)["Policy"])
    assert [each["Sid"] for each in stored["Statement"]] == [policies.TLS_ONLY, policies.PUBLIC_READ]
    rule = moto_s3.client.get_bucket_encryption(Bucket=moto_s3.bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "1234-abcd"}
    assert rule["BucketKeyEnabled"] is True


def test_a_server_that_overhears_questions_has_nothing(rclone_s3: services.S3) -> None:
    found = admin(rclone_s3).read()
    assert found.lacks == set(bucket.PARTS)
    assert not found.parts


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (405, "MethodNotAllowed")])
def test_a_server_that_says_no(moto_s3: services.S3, proxy: services.S3Proxy, status: int, code: str) -> None:
    with proxy.fail(status, code, methods="GET"):
        assert admin(moto_s3.via(proxy)).read().lacks == set(bucket.PARTS)


def test_a_read_that_is_refused_names_the_right(moto_s3: services.S3, proxy: services.S3Proxy) -> None:
    with (
        proxy.fail(403, "AccessDenied", methods="GET", skip=4),
        pytest.raises(StoreRefusedError, match="allow s3:GetBucketPolicy"),
    ):
        admin(moto_s3.via(proxy)).read()


def test_a_change_that_meets_another_is_sent_again(
    moto_s3: services.S3, proxy: services.S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket.time, "sleep", lambda _: None)
    found = admin(moto_s3.via(proxy))
    versions = step("versioning", {})
    with proxy.fail(409, "OperationAborted", methods="PUT", times=2) as fault:
        found.apply(versions)
    assert fault.hits == 2
    assert found.read(["versioning"]).parts["versioning"] == {"Status": "Enabled"}
    with (
        proxy.fail(409, "OperationAborted", methods="PUT"),
        pytest.raises(StoreRefusedError, match="OperationAborted"),
    ):
        found.apply(versions)


def test_a_change_that_the_server_does_not_have(moto_s3: services.S3, proxy: services.S3Proxy) -> None:
    with (
        proxy.fail(501, "NotImplemented", methods="PUT"),
        pytest.raises(StoreRefusedError, match="does not have versioning"),
    ):
        admin(moto_s3.via(proxy)).apply(step("versioning", {}))
