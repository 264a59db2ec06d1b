"""Lifecycle rules as plain dicts: ours, those of others, and what S3 would refuse. Pure functions.

What S3 takes is described in its User Guide, "Transitioning objects using Amazon S3 Lifecycle"
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/lifecycle-transition-general-considerations.html), in
"Lifecycle configuration elements" (…/userguide/intro-lifecycle-rules.html) and in the API reference under Transition
and PutBucketLifecycleConfiguration. No test server refuses what S3 refuses, so it is checked here.

Our rules' ids begin with ``carscraper-``. Each of them does one thing, and its id says what and where:
``carscraper-expire:_test/``.
"""

from __future__ import annotations

import hashlib
import json
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from carscraper.exceptions import ConfigurationError
from carscraper.storage.keys import THUMBNAILS
from carscraper.storage.policies import PROBES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Rule = dict[str, Any]
"""One rule, as boto3 takes it."""

OURS = "carscraper-"
"""What the ids of our rules begin with."""
MOST_RULES = 1000
"""S3 takes no more for a bucket."""
ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")
"""Classes whose objects must be restored, for hours, before they can be read."""

# From which class to which S3 moves objects: downhill only. STANDARD goes everywhere.
_DOWNHILL: dict[str, tuple[str, ...]] = {
    "STANDARD_IA": ("INTELLIGENT_TIERING", "ONEZONE_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"),
    "INTELLIGENT_TIERING": ("ONEZONE_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"),
    "ONEZONE_IA": ("GLACIER", "DEEP_ARCHIVE"),
    "GLACIER_IR": ("GLACIER", "DEEP_ARCHIVE"),
    "GLACIER": ("DEEP_ARCHIVE",),
    "DEEP_ARCHIVE": (),
}
CLASSES = tuple(_DOWNHILL)
"""Storage classes that a rule can move objects to."""
# Days in STANDARD before one of the next two, and in one of these before another class. The guide demands the latter
# for ONEZONE_IA, GLACIER and DEEP_ARCHIVE; to leave earlier for the other classes costs the 30 days all the same.
_NOT_BEFORE = 30
_INFREQUENT = ("STANDARD_IA", "ONEZONE_IA")
_MOST_DAYS = 2**31 - 1
_LONGEST_ID, _LONGEST_PREFIX = 255, 1024  # characters; bytes, as a key's


# --- what people type -------------------------------------------------------------------------------------------


def parse_transition(text: str) -> tuple[int, str]:
    """Read ``DAYS:CLASS``.

    Raises:
        ConfigurationError: it is nothing like that.

    >>> parse_transition("90:glacier_ir")
    (90, 'GLACIER_IR')
    """
    found = re.fullmatch(r"([0-9]{1,10}):([A-Za-z_]+)", text)
    if not found:
        raise ConfigurationError(f"{text!r} is no transition; write DAYS:CLASS such as 90:STANDARD_IA.")
    days, storage_class = int(found[1]), found[2].upper()
    if storage_class not in _DOWNHILL:
        raise ConfigurationError(f"{text!r} names no class that S3 moves objects to; write {', '.join(CLASSES)}.")
    if days > _MOST_DAYS:
        raise ConfigurationError(f"{text!r} is more days than S3 can count.")
    return days, storage_class


def parse_expiry(text: str) -> tuple[str, int]:
    """Read ``PREFIX:DAYS``; the prefix may hold colons.

    Raises:
        ConfigurationError: it is nothing like that.

    >>> parse_expiry("thumbnails/small:30")
    ('thumbnails/small', 30)
    """
    prefix, colon, number = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,10}", number):
        raise ConfigurationError(f"{text!r} is no expiry; write PREFIX:DAYS such as thumbnails/:30.")
    if not prefix:
        raise ConfigurationError(
            f"{text!r} has no prefix, so every object of the bucket would be deleted; name a prefix."
        )
    checked_prefix(prefix)
    return prefix, _days(int(number), f"the expiry of {prefix}")


def checked_prefix(prefix: str) -> str:
    """Give *prefix* back if objects' names can begin with it.

    Raises:
        ConfigurationError: they can't.
    """
    if len(prefix.encode("utf-8", "surrogatepass")) > _LONGEST_PREFIX or not prefix.isprintable():
        raise ConfigurationError(f"{prefix[:80]!r} is no prefix: up to 1,024 bytes of printable text are.")
    if prefix.startswith("/"):
        raise ConfigurationError(f"{prefix!r} begins with a slash, and no object's name does; leave it out.")
    return prefix


def _days(days: int, what: str) -> int:
    if not 1 <= days <= _MOST_DAYS:
        raise ConfigurationError(f"{days} days for {what}: S3 takes whole days from 1 on.")
    return days


# --- our rules --------------------------------------------------------------------------------------------------


def rule(kind: str, prefix: str, action: Mapping[str, Any]) -> Rule:
    """Make a rule of ours: *kind* and *prefix* (nothing: the whole bucket) make its id."""
    return {"ID": rule_id(kind, prefix), "Status": "Enabled", "Filter": {"Prefix": prefix}, **action}


def rule_id(kind: str, prefix: str) -> str:
    """Give the id of our rule of this *kind* for *prefix*: two prefixes never share one.

    >>> rule_id("expire", "_test/"), rule_id("multipart", "")
    ('carscraper-expire:_test/', 'carscraper-multipart')
    """
    text = f"{OURS}{kind}:{prefix}" if prefix else f"{OURS}{kind}"
    if len(text) <= _LONGEST_ID:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{text[: _LONGEST_ID - 13]}-{digest}"


def transitions(prefix: str, steps: Iterable[tuple[int, str]]) -> Rule:
    """Make the rule that moves what is below *prefix*, step by step.

    Raises:
        ConfigurationError: S3 would refuse it; the sentence says why.
    """
    ordered = sorted(steps)
    _check_steps(ordered)
    moves = [{"Days": days, "StorageClass": storage_class} for days, storage_class in ordered]
    return rule("transition", prefix, {"Transitions": moves})


def expiry(prefix: str, days: int) -> Rule:
    """Make the rule that deletes what is below *prefix* after *days*."""
    return rule("expire", prefix, {"Expiration": {"Days": _days(days, f"the expiry of {prefix}")}})


def old_versions(days: int) -> Rule:
    """Make the rule that deletes versions that were overwritten or deleted *days* ago."""
    return rule("old-versions", "", {"NoncurrentVersionExpiration": {"NoncurrentDays": _days(days, "old versions")}})


def multipart(days: int) -> Rule:
    """Make the rule that drops uploads that were not finished within *days*; their parts are paid for."""
    days = _days(days, "unfinished uploads")
    return rule("multipart", "", {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days}})


def defaults(prefix: str) -> list[Rule]:
    """Give the rules that every bucket of ours should have; *prefix* is ``S3_PREFIX``."""
    return [expiry(f"{prefix}{PROBES}", 1), multipart(7), old_versions(30)]


def _check_steps(steps: Sequence[tuple[int, str]]) -> None:
    """Refuse what S3 refuses within one rule: *steps* are in the order of their days."""
    for days, storage_class in steps:
        if storage_class in _INFREQUENT and days < _NOT_BEFORE:
            raise ConfigurationError(
                f"{days}:{storage_class} is too early: S3 keeps objects in STANDARD for {_NOT_BEFORE} days before "
                f"{storage_class}."
            )
    for (before, first), (after, second) in pairwise(steps):
        if first == second:
            raise ConfigurationError(f"{second} stands there twice, for day {before} and for day {after}.")
        if before == after:
            raise ConfigurationError(f"{first} and {second} are both for day {before}: S3 wants a later day for one.")
        if second not in _DOWNHILL[first]:
            below = ", ".join(_DOWNHILL[first]) or "nothing"
            raise ConfigurationError(
                f"{before}:{first} cannot come before {after}:{second}: from {first} S3 moves objects only to {below}."
            )
        if first in _INFREQUENT and after - before < _NOT_BEFORE:
            raise ConfigurationError(
                f"{after}:{second} comes {after - before} days after {before}:{first}: S3 wants {_NOT_BEFORE} days in "
                f"{first}, so day {before + _NOT_BEFORE} at the earliest."
            )


# --- all rules of a bucket --------------------------------------------------------------------------------------


def merged(there: Sequence[Rule], put: Iterable[Rule], remove: Iterable[str] = ()) -> list[Rule]:
    """Put our rules among those that are *there*.

    Args:
        there: what the bucket has; rules of others stay, in their order.
        put: rules of ours; each takes the place of the one with its id.
        remove: ids of rules of ours that shall go.

    Raises:
        ConfigurationError: an id in *remove* is not ours or not there; S3 would refuse the result.
    """
    gone = set(remove)
    for each in gone:
        if not each.startswith(OURS):
            raise ConfigurationError(f"{each!r} is not ours to remove: our rules' ids begin with {OURS}")
        if each not in {found.get("ID") for found in there}:
            raise ConfigurationError(
                f"The bucket has no lifecycle rule {each!r}; `scrapy storage lifecycle show` lists them."
            )
    ours = {each["ID"]: each for each in put}
    both = sorted(gone & set(ours))
    if both:
        raise ConfigurationError(f"{both[0]!r} would be set and removed at once; say only one of it.")
    kept = []
    for found in there:
        name = found.get("ID", "")
        if name in ours:
            kept.append(ours.pop(name))
        elif name not in gone:
            kept.append(found)
    kept += ours.values()
    check(kept)
    return kept


def check(rules: Sequence[Rule]) -> None:
    """Refuse what S3 refuses in all rules together, and what would make rules of ours pointless.

    Raises:
        ConfigurationError: the sentence names the rules.
    """
    if len(rules) > MOST_RULES:
        raise ConfigurationError(
            f"The bucket would have {len(rules):,} lifecycle rules; S3 takes {MOST_RULES:,}. Remove some first."
        )
    ours = [each for each in rules if each.get("ID", "").startswith(OURS)]
    for moving in (each for each in ours if each.get("Transitions")):
        last = max(step["Days"] for step in moving["Transitions"])
        where = prefix_of(moving) or ""
        for ending in ours:
            days = ending.get("Expiration", {}).get("Days")
            if days is not None and where.startswith(prefix_of(ending) or "") and days <= last:
                raise ConfigurationError(
                    f"{ending['ID']} deletes objects after {_in_days(days)}, but {moving['ID']} would move them on day "
                    f"{last}: an expiry comes after the last transition."
                )


def sendable(rules: Iterable[Rule]) -> list[Rule]:
    """Give *rules* in the newer of S3's two forms: it takes no mixture.

    A rule in the old form has its ``Prefix`` outside of a ``Filter``; its meaning stays.
    """
    sent = []
    for each in rules:
        if "Filter" in each or "Prefix" not in each:
            sent.append(each)
        else:
            sent.append(
                {
                    **{name: value for name, value in each.items() if name != "Prefix"},
                    "Filter": {"Prefix": each["Prefix"]},
                }
            )
    return sent


def prefix_of(found: Rule) -> str | None:
    """Give the prefix a rule is for, in whichever form it has it; ``None`` if it is not for a prefix alone."""
    chosen = found.get("Filter")
    if chosen is None:
        prefix: str = found.get("Prefix", "")
        return prefix
    if set(chosen) <= {"Prefix"}:
        whole: str = chosen.get("Prefix", "")
        return whole
    return None


def same(one: Rule, other: Rule) -> bool:
    """Tell whether two rules say the same, whatever form they have.

    >>> same({"ID": "a", "Prefix": "b"}, {"ID": "a", "Filter": {"Prefix": "b"}})
    True
    """
    first, second = sendable([one, other])
    return _plain(first) == _plain(second)


def _plain(found: Rule) -> str:
    plain = dict(found)
    if not plain.get("Filter") or plain["Filter"] == {"Prefix": ""}:
        plain["Filter"] = {}  # no filter, or an empty one: the whole bucket
    if "Transitions" in plain:
        plain["Transitions"] = sorted(plain["Transitions"], key=lambda step: step.get("Days", 0))
    return json.dumps(plain, sort_keys=True, default=str)


def describe(found: Rule) -> str:
    """Say in a line what a rule does.

    >>> describe(expiry("_test/", 1))
    'carscraper-expire:_test/: below _test/ deleted after 1 day'
    """
    where = _where(found)
    does = [
        *(f"to {step['StorageClass']} {_when(step)}" for step in _ordered(found.get("Transitions", ()))),
        *(_expiration(found["Expiration"]) if "Expiration" in found else ()),
        *(
            f"old versions to {step['StorageClass']} after {_in_days(step.get('NoncurrentDays', 0))}"
            for step in found.get("NoncurrentVersionTransitions", ())
        ),
    ]
    if days := found.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays"):
        does.append(f"old versions deleted after {_in_days(days)}")
    if days := found.get("AbortIncompleteMultipartUpload", {}).get("DaysAfterInitiation"):
        does.append(f"unfinished uploads dropped after {_in_days(days)}")
    off = "" if found.get("Status") == "Enabled" else " (switched off)"
    return f"{found.get('ID') or 'without an id'}: {where} {', then '.join(does) or 'nothing'}{off}"


def _ordered(steps: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(steps, key=lambda step: step.get("Days", 0))


def _where(found: Rule) -> str:
    prefix = prefix_of(found)
    if prefix is not None:
        return f"below {prefix}" if prefix else "whole bucket:"
    return f"where {json.dumps(found['Filter'], sort_keys=True)}:"


def _when(step: Mapping[str, Any]) -> str:
    return f"after {_in_days(step['Days'])}" if "Days" in step else f"on {step.get('Date')}"


def _expiration(found: Mapping[str, Any]) -> list[str]:
    if "Days" in found or "Date" in found:
        return [f"deleted {_when(found)}"]
    return ["delete markers without versions removed"] if found.get("ExpiredObjectDeleteMarker") else []


def _in_days(days: int) -> str:
    return "1 day" if days == 1 else f"{days:,} days"


# --- what people should know before -----------------------------------------------------------------------------


def warnings(rules: Iterable[Rule], prefix: str, folders: Iterable[str]) -> list[str]:
    """Say what *rules* (those that change) will do that is easily overlooked.

    Args:
        rules: ours.
        prefix: ``S3_PREFIX``.
        folders: the first parts of photos' keys, one for each dealer.
    """
    homes = sorted(f"{prefix}{folder}/" for folder in folders)
    said = []
    for each in rules:
        where, name = prefix_of(each) or "", each["ID"]
        photos = [home for home in homes if home.startswith(where) or where.startswith(home)]
        classes = {step["StorageClass"] for step in each.get("Transitions", ())}
        if photos and classes & set(ARCHIVES):
            said.append(
                f"{name}: photos in GLACIER or DEEP_ARCHIVE do not answer at their public address any more: they must "
                "be restored first, which takes hours. GLACIER_IR answers at once."
            )
        if classes and f"{prefix}{THUMBNAILS}/".startswith(where):
            place = f"below {where}" if where else "in the bucket"
            said.append(
                f"{name} also moves thumbnails and all else {place}, as far as it has 128 KB or more; for photos alone "
                f"name a dealer's folder: {' '.join(f'--prefix {home}' for home in photos[:1])}"
            )
        if "Expiration" in each and photos:
            said.append(f"{name} deletes photos: the database goes on naming them, and their addresses answer 404.")
        if (classes or "Expiration" in each) and not (where.startswith(prefix) or prefix.startswith(where)):
            said.append(f"{name}: {where} is not below S3_PREFIX ({prefix}), where this program puts things.")
    return said
