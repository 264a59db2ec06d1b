"""Lifecycle rules: what S3 refuses is refused before, with a sentence; rules of others stay."""

from __future__ import annotations

from typing import Any

import pytest

from carscraper.exceptions import ConfigurationError
from carscraper.storage import lifecycle
from carscraper.storage.lifecycle import CLASSES, expiry, merged, multipart, old_versions, transitions

FOREIGN = {
    "ID": "logs",
    "Status": "Enabled",
    "Filter": {"And": {"Prefix": "logs/", "Tags": [{"Key": "a", "Value": "b"}]}},
    "Expiration": {"Days": 7},
}

# From the table "Supported lifecycle transitions" of the User Guide; STANDARD goes everywhere.
SUPPORTED = {
    ("STANDARD_IA", "INTELLIGENT_TIERING"),
    ("STANDARD_IA", "ONEZONE_IA"),
    ("STANDARD_IA", "GLACIER_IR"),
    ("STANDARD_IA", "GLACIER"),
    ("STANDARD_IA", "DEEP_ARCHIVE"),
    ("INTELLIGENT_TIERING", "ONEZONE_IA"),
    ("INTELLIGENT_TIERING", "GLACIER_IR"),
    ("INTELLIGENT_TIERING", "GLACIER"),
    ("INTELLIGENT_TIERING", "DEEP_ARCHIVE"),
    ("ONEZONE_IA", "GLACIER"),
    ("ONEZONE_IA", "DEEP_ARCHIVE"),
    ("GLACIER_IR", "GLACIER"),
    ("GLACIER_IR", "DEEP_ARCHIVE"),
    ("GLACIER", "DEEP_ARCHIVE"),
}


@pytest.mark.parametrize("first", CLASSES)
@pytest.mark.parametrize("second", CLASSES)
def test_objects_move_downhill_only(first: str, second: str) -> None:
    steps = [(60, first), (200, second)]
    if (first, second) in SUPPORTED:
        assert transitions("cars/", steps)["Transitions"] == [
            {"Days": 60, "StorageClass": first},
            {"Days": 200, "StorageClass": second},
        ]
        return
    with pytest.raises(ConfigurationError, match="twice" if first == second else "cannot come before"):
        transitions("cars/", steps)


@pytest.mark.parametrize("storage_class", CLASSES)
def test_the_first_day_of_each_class(storage_class: str) -> None:
    infrequent = storage_class in {"STANDARD_IA", "ONEZONE_IA"}
    transitions("", [(30 if infrequent else 0, storage_class)])
    if infrequent:
        with pytest.raises(ConfigurationError, match=r"29:.* is too early: S3 keeps objects in STANDARD for 30 days"):
            transitions("", [(29, storage_class)])


@pytest.mark.parametrize("first", ["STANDARD_IA", "ONEZONE_IA"])
@pytest.mark.parametrize("second", ["GLACIER", "DEEP_ARCHIVE"])
def test_thirty_days_between(first: str, second: str) -> None:
    transitions("", [(30, first), (60, second)])
    with pytest.raises(ConfigurationError, match=r"comes 29 days after 30:.* so day 60 at the earliest"):
        transitions("", [(30, first), (59, second)])
    transitions("", [(0, "INTELLIGENT_TIERING"), (1, second)])


def test_two_classes_on_one_day() -> None:
    with pytest.raises(ConfigurationError, match="both for day 90"):
        transitions("", [(90, "GLACIER"), (90, "DEEP_ARCHIVE")])


def test_steps_are_put_in_order() -> None:
    rule = transitions("cars/", [(90, "GLACIER"), (30, "STANDARD_IA")])
    assert [step["Days"] for step in rule["Transitions"]] == [30, 90]
    assert rule["ID"] == "carscraper-transition:cars/"
    assert rule["Filter"] == {"Prefix": "cars/"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("30", "no transition"),
        ("30:", "no transition"),
        ("-1:GLACIER", "no transition"),
        ("1.5:GLACIER", "no transition"),
        ("٣:GLACIER", "no transition"),
        ("30:STANDARD", "no class"),
        ("30:REDUCED_REDUNDANCY", "no class"),
        ("9999999999:GLACIER", "more days than"),
    ],
)
def test_what_is_no_transition(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        lifecycle.parse_transition(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("thumbnails/", "no expiry"),
        ("thumbnails/:", "no expiry"),
        ("thumbnails/:x", "no expiry"),
        (":30", "every object of the bucket"),
        ("thumbnails/:0", "whole days from 1 on"),
        ("a:9999999999", "whole days from 1 on"),
        ("/a:1", "begins with a slash"),
        ("a\nb:1", "no prefix"),
        ("þ" * 513 + ":1", "no prefix"),
    ],
)
def test_what_is_no_expiry(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        lifecycle.parse_expiry(text)


@pytest.mark.parametrize("make", [old_versions, multipart])
def test_days_begin_with_one(make: Any) -> None:
    make(1)
    for days in (0, -1, 2**31):
        with pytest.raises(ConfigurationError, match="whole days from 1 on"):
            make(days)


@pytest.mark.parametrize("expire", ["", "cars/", "cars/bilasolur/"])
def test_an_expiry_comes_after_the_last_transition(expire: str) -> None:
    move = transitions("cars/bilasolur/", [(30, "STANDARD_IA"), (90, "GLACIER")])
    with pytest.raises(ConfigurationError, match=r"deletes objects after 90 days, but .* would move them on day 90"):
        merged([], [move, expiry(expire, 90)])
    merged([], [move, expiry(expire, 91)])


def test_a_part_may_expire_before_the_whole_moves() -> None:
    merged([], [transitions("", [(30, "STANDARD_IA")]), expiry("_test/", 1)])


def test_a_thousand_rules_and_no_more() -> None:
    there = [{**FOREIGN, "ID": f"rule {number}"} for number in range(999)]
    assert len(merged(there, [multipart(7)])) == 1000
    with pytest.raises(ConfigurationError, match="would have 1,001 lifecycle rules; S3 takes 1,000"):
        merged(there, [multipart(7), old_versions(30)])


def test_rules_of_others_stay_and_ours_keep_their_place() -> None:
    there = [multipart(7), FOREIGN, expiry("_test/", 1)]
    after = merged(there, [multipart(3), old_versions(9)], [lifecycle.rule_id("expire", "_test/")])
    assert after == [multipart(3), FOREIGN, old_versions(9)]
    assert there == [multipart(7), FOREIGN, expiry("_test/", 1)]


def test_only_ours_are_removed() -> None:
    with pytest.raises(ConfigurationError, match="'logs' is not ours"):
        merged([FOREIGN], [], ["logs"])
    with pytest.raises(ConfigurationError, match="has no lifecycle rule 'carscraper-multipart'"):
        merged([FOREIGN], [], ["carscraper-multipart"])
    with pytest.raises(ConfigurationError, match="set and removed at once"):
        merged([multipart(1)], [multipart(2)], ["carscraper-multipart"])


def test_ids_are_unique_and_short_enough() -> None:
    long = [lifecycle.rule_id("expire", "x" * 400 + end) for end in "ab"]
    assert len(set(long)) == 2
    assert all(len(each) <= 255 for each in long)
    assert lifecycle.rule_id("expire", "a/b") != lifecycle.rule_id("expire", "a-b")


def test_the_old_form_is_translated_and_means_the_same() -> None:
    old = {"ID": "logs", "Status": "Enabled", "Prefix": "logs/", "Expiration": {"Days": 7}}
    (new,) = lifecycle.sendable([old])
    assert new == {"ID": "logs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 7}}
    assert lifecycle.same(old, new)
    assert not lifecycle.same(old, {**new, "Status": "Disabled"})
    assert lifecycle.sendable([FOREIGN]) == [FOREIGN]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (
            FOREIGN,
            'logs: where {"And": {"Prefix": "logs/", "Tags": [{"Key": "a", "Value": "b"}]}}: deleted after 7 days',
        ),
        (transitions("a/", [(30, "STANDARD_IA")]), "carscraper-transition:a/: below a/ to STANDARD_IA after 30 days"),
        (multipart(1), "carscraper-multipart: whole bucket: unfinished uploads dropped after 1 day"),
        (
            {"Status": "Disabled", "Prefix": "", "Expiration": {"Date": "2030-01-01"}},
            "deleted on 2030-01-01 (switched off)",
        ),
        (
            {"ID": "m", "Status": "Enabled", "Filter": {}, "Expiration": {"ExpiredObjectDeleteMarker": True}},
            "delete markers",
        ),
        (
            {
                "Status": "Enabled",
                "Filter": {},
                "NoncurrentVersionTransitions": [{"NoncurrentDays": 30, "StorageClass": "GLACIER"}],
                "NoncurrentVersionExpiration": {"NoncurrentDays": 90},
            },
            "old versions to GLACIER after 30 days, then old versions deleted after 90 days",
        ),
    ],
)
def test_a_rule_in_words(rule: dict[str, Any], says: str) -> None:
    assert says in lifecycle.describe(rule)


def warnings_of(*rules: dict[str, Any], prefix: str = "cars/") -> str:
    return "\n".join(lifecycle.warnings(rules, prefix, ["bilasolur", "hekla"]))


@pytest.mark.parametrize("storage_class", CLASSES)
def test_archived_photos_do_not_answer(storage_class: str) -> None:
    said = warnings_of(transitions("cars/bilasolur/", [(60, storage_class)]))
    assert ("do not answer at their public address" in said) == (storage_class in {"GLACIER", "DEEP_ARCHIVE"})
    assert "do not answer" not in warnings_of(transitions("cars/thumbnails/", [(60, storage_class)]))


def test_a_wide_prefix_catches_thumbnails() -> None:
    assert "also moves thumbnails" in warnings_of(transitions("cars/", [(60, "STANDARD_IA")]))
    assert "also moves thumbnails" in warnings_of(transitions("", [(60, "STANDARD_IA")]))
    assert "--prefix cars/bilasolur/" in warnings_of(transitions("cars/", [(60, "STANDARD_IA")]))
    assert not warnings_of(transitions("cars/bilasolur/", [(60, "STANDARD_IA")]))


@pytest.mark.parametrize(
    ("prefix", "deletes"),
    [
        ("cars/", True),
        ("cars/bilasolur/2019/", True),
        ("c", True),
        ("cars/thumbnails/", False),
        ("cars/outputs/", False),
    ],
)
def test_an_expiry_that_deletes_photos(prefix: str, deletes: bool) -> None:
    assert ("deletes photos" in warnings_of(expiry(prefix, 400))) == deletes


def test_a_prefix_beside_ours() -> None:
    assert "thumbnails/ is not below S3_PREFIX (cars/)" in warnings_of(expiry("thumbnails/", 400))
    assert not warnings_of(expiry("thumbnails/", 400), prefix="")
