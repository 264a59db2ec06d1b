"""What each feature of a bucket becomes, beside what others have put there; names; lifecycle rules that S3 refuses."""

from __future__ import annotations

from typing import Any

import pytest

from carscraper.exceptions import ConfigurationError
from carscraper.maintenance import bucket, lifecycle, policies
from carscraper.maintenance.features import FEATURES, Notification, Wanted, lifecycle_plan, order
from carscraper.maintenance.lifecycle import CLASSES, expiry, merged_rules, multipart, old_versions, transitions
from carscraper.maintenance.policies import Scope

REGION = "eu-north-1"
SCOPE = Scope(bucket="car-photos", region=REGION)
TLS, PUBLIC = policies.tls_only(SCOPE), policies.public_read(SCOPE)
LAMBDA = f"arn:aws:lambda:{REGION}:123456789012:function:resize"


def plan(feature: str, there: Any = None, **wanted: Any) -> tuple[Any, list[str]]:
    """What a feature becomes; doing it twice changes nothing."""
    after, lines = FEATURES[feature].plan(there, Wanted(**wanted))
    assert not FEATURES[feature].plan(after, Wanted(**wanted))[1]
    return after, lines


def test_names_that_amazon_does_not_take() -> None:
    names = ["ab", "x" * 64, "Car-photos", "car_photos", "-car", "car-", "car..photos", "192.168.5.4"]
    for name in [*names, "car.-photos", "car-.photos", "xn--car", "car-s3alias", "sthree-car", "car--ol-s3"]:
        with pytest.raises(ConfigurationError, match="is no name for a bucket"):
            bucket.checked_name(name)
    for name in ("car", "x" * 63, "a-" * 20 + "b", "car.photos.and.more.and.more.and.more"):
        assert bucket.checked_name(bucket.suggestion(name, "ap-southeast-1"))


def test_the_block_opens_before_a_public_policy_and_closes_after_it() -> None:
    opening, closing = order(Wanted(public=PUBLIC)), order(Wanted())
    assert opening.index("public access") < opening.index("policy")
    assert closing.index("public access") > closing.index("policy")
    assert set(opening) == set(closing) == set(FEATURES)


def test_public_access() -> None:
    names = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    block = dict.fromkeys(names, True)
    opened = block | {"BlockPublicPolicy": False, "RestrictPublicBuckets": False}
    assert plan("public access", block) == (block, [])
    assert plan("public access") == (block, ["+ blocked"])
    assert plan("public access", opened)[0] == block
    assert plan("public access", block, public=PUBLIC) == (
        opened,
        ["~ blocked → open for bucket policies, blocked for ACLs"],
    )
    # What `setup` leaves on a server that refuses uploads else.
    assert plan("public access", block | {"BlockPublicAcls": False})[1] == []
    assert plan("public access", dict.fromkeys(names, False)) == (block, ["~ open → blocked"])


def test_ownership_and_versioning() -> None:
    assert plan("ownership", {"Rules": [{"ObjectOwnership": "ObjectWriter"}]})[1] == [
        "~ ObjectWriter → BucketOwnerEnforced (no ACLs)"
    ]
    assert plan("versioning", {})[1] == ["+ Enabled"]
    assert plan("versioning", {"Status": "Suspended"})[1] == ["~ Suspended → Enabled"]
    assert plan("versioning", {"Status": "Suspended"}, versioning=False)[1] == []


def encrypted(kind: str, *, key: str | None = None, bucket_key: bool = False, **more: Any) -> dict[str, Any]:
    default = {"SSEAlgorithm": kind, **({"KMSMasterKeyID": key} if key else {})}
    return {"Rules": [{"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": bucket_key, **more}]}


def test_encryption() -> None:
    weak, strong = "aws:kms with the key 1234, bucket key off", "aws:kms with the key 1234, bucket key on"
    for there, sse, says in [
        (None, None, "+ AES256"),
        (encrypted("AES256"), None, None),
        (encrypted("AES256", bucket_key=True), "AES256", None),
        (encrypted("aws:kms", key="1234"), None, None),  # nobody asked to weaken it
        (encrypted("aws:kms", key="1234"), "AES256", f"~ {weak} → AES256"),
        (encrypted("aws:kms", key="1234"), "aws:kms:1234", f"~ {weak} → {strong}"),
        (encrypted("aws:kms", key="1234", bucket_key=True), "aws:kms:1234", None),
        (encrypted("AES256"), "aws:kms", "~ AES256 → aws:kms with the key aws/s3, bucket key on"),
    ]:
        assert plan("encryption", there, sse=sse)[1] == ([says] if says else []), (there, sse)
    there = encrypted("AES256", BlockedEncryptionTypes={"EncryptionType": ["SSE-C"]})
    assert plan("encryption", there, sse="aws:kms:1")[0]["Rules"][0]["BlockedEncryptionTypes"]


def test_statements_of_others_stay() -> None:
    theirs = {"Sid": "Theirs", "Effect": "Deny", "Principal": "*", "Action": "s3:DeleteBucket", "Resource": "*"}
    nameless = {key: value for key, value in theirs.items() if key != "Sid"}
    after, lines = plan("policy", policies.document(theirs, nameless), tls_only=TLS)
    assert after["Statement"] == [theirs, nameless, TLS]
    assert lines == ["+ CarscraperTlsOnly: requests without TLS are refused"]
    stored = {**TLS, "Action": ["s3:*"], "Resource": TLS["Resource"][::-1]}  # the same in another form
    assert plan("policy", policies.document(stored), tls_only=TLS)[1] == []
    narrow = PUBLIC | {"Resource": ["arn:aws:s3:::car-photos/*.jpg"]}
    assert plan("policy", policies.document(theirs, PUBLIC), public=narrow)[1] == [
        "~ CarscraperPublicRead: everybody may read pictures"
    ]
    gone = plan("policy", policies.document(theirs, PUBLIC), drop=(policies.PUBLIC_READ,))
    assert gone == (policies.document(theirs), ["- CarscraperPublicRead"])
    assert plan("policy", policies.document(PUBLIC), drop=(policies.PUBLIC_READ,))[0] is None


def test_cors_rules_and_notifications_of_others_stay() -> None:
    theirs: dict[str, Any] = {"AllowedOrigins": ["*"], "AllowedMethods": ["PUT"]}
    assert plan("CORS", [theirs]) == ([theirs], [])
    after, _ = plan("CORS", [theirs], cors_origins=("https://b.is", "https://a.is"))
    assert after[0] == theirs
    assert plan("CORS", after, cors_origins=("https://c.is",))[1] == [
        "~ carscraper-cors: GET and HEAD from https://c.is"
    ]
    theirs = {"Id": "theirs", "TopicArn": "arn:aws:sns:x", "Events": ["s3:ObjectRemoved:*"]}
    there = {"TopicConfigurations": [theirs], "EventBridgeConfiguration": {}}
    wanted = (Notification(kind="lambda", arn=LAMBDA, prefix="cars/a b/", suffix=".jpg"),)
    after, lines = plan("notifications", there, notifications=wanted)
    assert {name: after[name] for name in there} == there
    assert lines == [f"+ carscraper-lambda: {LAMBDA} is told of new objects cars/a b/*.jpg"]
    (ours,) = after["LambdaFunctionConfigurations"]
    rules = ours["Filter"]["Key"]["FilterRules"]
    assert rules == [{"Name": "prefix", "Value": "cars/a+b/"}, {"Name": "suffix", "Value": ".jpg"}]
    for rule in rules:
        rule["Name"] = rule["Name"].capitalize()  # so Amazon gives them back
    assert plan("notifications", after, notifications=wanted)[1] == []


def test_lifecycle_rules_of_others_stay() -> None:
    theirs = {"ID": "logs", "Status": "Enabled", "Prefix": "logs/", "Expiration": {"Days": 7}}
    # Setup does not undo what lifecycle was told.
    there = {"Rules": [old_versions(365), theirs], "TransitionDefaultMinimumObjectSize": "varies_by_storage_class"}
    after, lines = plan("lifecycle", there, rules=tuple(lifecycle.defaults("")))
    assert after["Rules"][0] == old_versions(365)
    assert len(lines) == 2
    assert after["TransitionDefaultMinimumObjectSize"] == "varies_by_storage_class"
    # S3 takes no mixture of its two forms.
    assert after["Rules"][1] == {**{k: v for k, v in theirs.items() if k != "Prefix"}, "Filter": {"Prefix": "logs/"}}
    assert lifecycle_plan({"Rules": [multipart(1)]}, [], ["carscraper-multipart"])[0] is None
    (line,) = lifecycle_plan({"Rules": [multipart(1)]}, [multipart(2)])[1]
    assert line.startswith("~ carscraper-multipart: whole bucket: unfinished uploads dropped after 1 day → ")
    assert line.endswith("→ whole bucket: unfinished uploads dropped after 2 days")


# --- lifecycle rules --------------------------------------------------------------------------------------------

# From the table "Supported lifecycle transitions" of the User Guide; STANDARD goes everywhere.
SUPPORTED = {
    "STANDARD_IA": {"INTELLIGENT_TIERING", "ONEZONE_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"},
    "INTELLIGENT_TIERING": {"ONEZONE_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"},
    "ONEZONE_IA": {"GLACIER", "DEEP_ARCHIVE"},
    "GLACIER_IR": {"GLACIER", "DEEP_ARCHIVE"},
    "GLACIER": {"DEEP_ARCHIVE"},
    "DEEP_ARCHIVE": set(),
}


def test_objects_move_downhill_only() -> None:
    for first in CLASSES:
        for second in CLASSES:
            if second in SUPPORTED[first]:
                rule = transitions("cars/", [(200, second), (60, first)])
                assert rule["ID"] == "carscraper-transition:cars/"
                assert [(step["Days"], step["StorageClass"]) for step in rule["Transitions"]] == [
                    (60, first),
                    (200, second),
                ]
            else:
                with pytest.raises(ConfigurationError, match="cannot come before"):
                    transitions("cars/", [(60, first), (200, second)])


def test_days_that_s3_refuses() -> None:
    transitions("", [(0, "INTELLIGENT_TIERING"), (1, "GLACIER")])
    for steps, says in [
        ([(29, "STANDARD_IA")], r"29:STANDARD_IA is too early: S3 keeps objects in STANDARD for 30 days"),
        ([(29, "ONEZONE_IA")], "is too early"),
        ([(30, "STANDARD_IA"), (59, "GLACIER")], "day 60 at the earliest"),
        ([(30, "ONEZONE_IA"), (59, "DEEP_ARCHIVE")], "day 60 at the earliest"),
        ([(90, "GLACIER"), (90, "DEEP_ARCHIVE")], "a later day for each step"),
    ]:
        with pytest.raises(ConfigurationError, match=says):
            transitions("", steps)
    for make in (old_versions, multipart):
        make(1)
        for days in (0, -1, 2**31):
            with pytest.raises(ConfigurationError, match="whole days from 1 on"):
                make(days)
    move = transitions("cars/bilasolur/", [(30, "STANDARD_IA"), (90, "GLACIER")])
    for expire in ("", "cars/", "cars/bilasolur/"):
        with pytest.raises(ConfigurationError, match=r"after 90 days, but .* would move them on day 90"):
            merged_rules([], [move, expiry(expire, 90)])
        merged_rules([], [move, expiry(expire, 91)])
    merged_rules([], [transitions("", [(30, "STANDARD_IA")]), expiry("_test/", 1)])


def test_values_that_are_none() -> None:
    for text in ("30", "30:", "-1:GLACIER", "1.5:GLACIER", "٣:GLACIER", "30:STANDARD", "9999999999:GLACIER"):
        with pytest.raises(ConfigurationError, match="is no transition"):
            lifecycle.parse_transition(text)
    for text, says in [
        ("thumbnails/", "no expiry"),
        ("thumbnails/:", "no expiry"),
        ("thumbnails/:x", "no expiry"),
        (":30", "every object of the bucket"),
        ("thumbnails/:0", "whole days from 1 on"),
        ("a:9999999999", "whole days from 1 on"),
        ("/a:1", "begins without a slash"),
        ("a\nb:1", "no prefix"),
    ]:
        with pytest.raises(ConfigurationError, match=says):
            lifecycle.parse_expiry(text)


def test_a_rule_in_words() -> None:
    both = {"And": {"Prefix": "logs/", "Tags": []}}
    for rule, says in [
        ({"ID": "logs", "Status": "Enabled", "Filter": both, "Expiration": {"Days": 7}}, 'logs: where {"And": {"Pre'),
        (transitions("a/", [(30, "STANDARD_IA")]), "carscraper-transition:a/: below a/ to STANDARD_IA after 30 days"),
        ({"Status": "Disabled", "Prefix": "", "Expiration": {"Date": "2030-01-01"}}, "deleted on 2030-01-01 (switched"),
        ({"ID": "m", "Filter": {}, "Expiration": {"ExpiredObjectDeleteMarker": True}}, "ExpiredObjectDeleteMarker"),
    ]:
        assert says in lifecycle.describe(rule), rule


def test_warnings_about_photos() -> None:
    def said(*rules: dict[str, Any]) -> str:
        return "\n".join(lifecycle.warnings(rules, "cars/", ["bilasolur", "hekla"]))

    for storage_class in CLASSES:
        archived = storage_class in {"GLACIER", "DEEP_ARCHIVE"}
        assert ("do not answer" in said(transitions("cars/bilasolur/", [(60, storage_class)]))) == archived
        assert not said(transitions("cars/thumbnails/", [(60, storage_class)]))
    for prefix in ("cars/", "cars/bilasolur/2019/", "c"):
        assert "deletes photos" in said(expiry(prefix, 400))
    for prefix in ("cars/thumbnails/", "cars/outputs/"):
        assert not said(expiry(prefix, 400))
