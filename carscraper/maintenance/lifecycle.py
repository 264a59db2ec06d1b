"""Lifecycle rules as plain dicts: ours, those of others, and what S3 would refuse. Pure functions.

S3's rules: https://docs.aws.amazon.com/AmazonS3/latest/userguide/lifecycle-transition-general-considerations.html.
Our rules' ids begin with ``carscraper-``; each does one thing, and its id says what and where:
``carscraper-expire:_test/``.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from carscraper.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Rule = dict[str, Any]
"""One rule, as boto3 takes it."""

OURS = "carscraper-"
"""What the ids of our rules, of CORS and notifications too, begin with."""
ARCHIVES = {"GLACIER", "DEEP_ARCHIVE"}
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
_INFREQUENT, _INFREQUENT_DAYS = ("STANDARD_IA", "ONEZONE_IA"), 30  # days in STANDARD before, and in these after
_MOST_DAYS = 2**31 - 1


def parse_transition(text: str) -> tuple[int, str]:
    """Read ``DAYS:CLASS``.

    Raises:
        ConfigurationError: it is nothing like that.

    >>> parse_transition("90:glacier_ir")
    (90, 'GLACIER_IR')
    """
    found = re.fullmatch(r"([0-9]{1,9}):([A-Za-z_]+)", text, re.ASCII)
    if not found or found[2].upper() not in _DOWNHILL:
        raise ConfigurationError(
            f"{text!r} is no transition; write DAYS:CLASS such as 90:STANDARD_IA, with one of {', '.join(CLASSES)}."
        )
    return int(found[1]), found[2].upper()


def parse_expiry(text: str) -> tuple[str, int]:
    """Read ``PREFIX:DAYS``; the prefix may hold colons.

    Raises:
        ConfigurationError: it is nothing like that.

    >>> parse_expiry("thumbnails/small:30")
    ('thumbnails/small', 30)
    """
    prefix, _, number = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,10}", number, re.ASCII) or (not prefix and ":" not in text):
        raise ConfigurationError(f"{text!r} is no expiry; write PREFIX:DAYS such as thumbnails/:30.")
    if not prefix:
        raise ConfigurationError(
            f"{text!r} has no prefix, so every object of the bucket would be deleted; name a prefix."
        )
    return checked_prefix(prefix), _days(int(number))


def checked_prefix(prefix: str) -> str:
    """Return *prefix* if objects' names can begin with it.

    Raises:
        ConfigurationError: they can't.
    """
    if not prefix.isprintable() or prefix.startswith("/"):
        raise ConfigurationError(f"{prefix[:80]!r} is no prefix: write printable text that begins without a slash.")
    return prefix


def _days(days: int) -> int:
    if not 1 <= days <= _MOST_DAYS:
        raise ConfigurationError(f"{days} days: S3 takes whole days from 1 on.")
    return days


# --- our rules --------------------------------------------------------------------------------------------------


def rule(kind: str, prefix: str, action: dict[str, Any]) -> Rule:
    """Return a rule of ours: *kind* and *prefix* (nothing: the whole bucket) make its id."""
    name = f"{OURS}{kind}:{prefix}" if prefix else f"{OURS}{kind}"
    return {"ID": name, "Status": "Enabled", "Filter": {"Prefix": prefix}, **action}


def transitions(prefix: str, steps: Iterable[tuple[int, str]]) -> Rule:
    """Return the rule that moves what is below *prefix*, step by step.

    Raises:
        ConfigurationError: S3 would refuse it; the sentence says why.
    """
    ordered = sorted(steps)
    for days, storage_class in ordered:
        if storage_class in _INFREQUENT and days < _INFREQUENT_DAYS:
            raise ConfigurationError(
                f"{days}:{storage_class} is too early: S3 keeps objects in STANDARD for {_INFREQUENT_DAYS} days before "
                f"{storage_class}."
            )
    for (before, first), (after, second) in pairwise(ordered):
        if before == after or second not in _DOWNHILL[first]:
            raise ConfigurationError(
                f"{before}:{first} cannot come before {after}:{second}: S3 wants a later day for each step, and moves "
                f"objects from {first} only to {', '.join(_DOWNHILL[first]) or 'nothing'}."
            )
        if first in _INFREQUENT and after - before < _INFREQUENT_DAYS:
            raise ConfigurationError(
                f"{after}:{second} is too early: S3 wants {_INFREQUENT_DAYS} days in {first}, so day "
                f"{before + _INFREQUENT_DAYS} at the earliest."
            )
    moves = [{"Days": days, "StorageClass": storage_class} for days, storage_class in ordered]
    return rule("transition", prefix, {"Transitions": moves})


def expiry(prefix: str, days: int) -> Rule:
    """Return the rule that deletes what is below *prefix* after *days*."""
    return rule("expire", prefix, {"Expiration": {"Days": _days(days)}})


def old_versions(days: int) -> Rule:
    """Return the rule that deletes versions that were overwritten or deleted *days* ago."""
    return rule("old-versions", "", {"NoncurrentVersionExpiration": {"NoncurrentDays": _days(days)}})


def multipart(days: int) -> Rule:
    """Return the rule that drops uploads that were not finished within *days*; their parts are paid for."""
    return rule("multipart", "", {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _days(days)}})


def defaults(prefix: str) -> list[Rule]:
    """Return the rules that every bucket of ours should have; *prefix* is ``S3_PREFIX``."""
    from carscraper.storage.keys import PROBES  # noqa: PLC0415 - a help text needs no makes of cars

    return [expiry(f"{prefix}{PROBES}", 1), multipart(7), old_versions(30)]


# --- all rules of a bucket --------------------------------------------------------------------------------------


def merged_rules(there: Iterable[Rule], put: Iterable[Rule], remove: Iterable[str] = ()) -> list[Rule]:
    """Return the rules that are *there* (those of others stay) with ours in the place of those with their id.

    S3 takes no mixture of its two forms of a rule, so all are written in the newer one.

    Args:
        there: what the bucket has.
        put: rules of ours.
        remove: ids of rules of ours that go.

    Raises:
        ConfigurationError: an id in *remove* is not ours or not there; S3 would refuse the result.
    """
    from carscraper.maintenance.policies import with_ours  # noqa: PLC0415 - a help text needs no botocore

    kept, ours, gone = [newer(each) for each in there], list(put), set(remove)
    can_go = {str(each.get("ID")) for each in kept} - {each["ID"] for each in ours}
    for name in gone:
        if not name.startswith(OURS) or name not in can_go:
            raise ConfigurationError(
                f"{name!r} is no rule of ours that can be removed; `scrapy storage lifecycle show` marks ours with *."
            )
    after = with_ours(kept, ours, gone)
    _check_expiries([each for each in after if str(each.get("ID")).startswith(OURS)])
    return after


def _check_expiries(ours: Sequence[Rule]) -> None:
    for moving in (each for each in ours if each.get("Transitions")):
        last = max(step["Days"] for step in moving["Transitions"])
        for ending in ours:
            days = ending.get("Expiration", {}).get("Days")
            if days is not None and days <= last and _prefix(moving).startswith(_prefix(ending)):
                raise ConfigurationError(
                    f"{ending['ID']} deletes objects after {days} days, but {moving['ID']} would move them on day "
                    f"{last}: an expiry comes after the last transition."
                )


def newer(found: Rule) -> Rule:
    """Return a rule in S3's newer form; its meaning stays.

    >>> newer({"ID": "a", "Prefix": "b"}), newer({"Filter": {}})
    ({'ID': 'a', 'Filter': {'Prefix': 'b'}}, {'Filter': {'Prefix': ''}})
    """
    plain = {name: value for name, value in found.items() if name != "Prefix"}
    plain["Filter"] = found.get("Filter") or {"Prefix": found.get("Prefix", "")}
    return plain


def _prefix(found: Rule) -> str:
    return str(found["Filter"].get("Prefix", ""))


def describe(found: Rule) -> str:
    """Return in a line what a rule does.

    >>> describe(expiry("_test/", 1))
    'carscraper-expire:_test/: below _test/ deleted after 1 day'
    """
    found = newer(found)
    where = f"below {_prefix(found)}" if _prefix(found) else "whole bucket:"
    if set(found["Filter"]) != {"Prefix"}:
        where = f"where {json.dumps(found['Filter'], sort_keys=True)}:"
    does = [
        f"to {step['StorageClass']} {_when(step)}"
        for step in sorted(found.get("Transitions", ()), key=lambda step: step.get("Days", 0))
    ]
    for part, words in (
        ("Expiration", "deleted"),
        ("NoncurrentVersionExpiration", "old versions deleted"),
        ("AbortIncompleteMultipartUpload", "unfinished uploads dropped"),
    ):
        if when := _when(found.get(part, {})):
            does.append(f"{words} {when}")
    known = {"ID", "Status", "Filter", "Transitions"}
    does = does or [json.dumps({name: found[name] for name in sorted(set(found) - known)}, default=str)]
    off = "" if found.get("Status") == "Enabled" else " (switched off)"
    return f"{found.get('ID') or 'without an id'}: {where} {', then '.join(does)}{off}"


def _when(step: dict[str, Any]) -> str:
    if "Date" in step:
        return f"on {step['Date']}"
    days = next((step[name] for name in ("Days", "NoncurrentDays", "DaysAfterInitiation") if name in step), None)
    return "" if days is None else f"after {days:,} {'day' if days == 1 else 'days'}"


def warnings(rules: Iterable[Rule], prefix: str, folders: Iterable[str]) -> list[str]:
    """Return what *rules* (those that change) will do to photos that is easily overlooked.

    Args:
        rules: ours.
        prefix: ``S3_PREFIX``.
        folders: the first parts of photos' keys, one for each dealer.
    """
    homes = [f"{prefix}{folder}/" for folder in folders]
    said = []
    for each in rules:
        where = _prefix(each)
        if not any(home.startswith(where) or where.startswith(home) for home in homes):
            continue
        if ARCHIVES & {step["StorageClass"] for step in each.get("Transitions", ())}:
            said.append(
                f"{each['ID']}: photos in GLACIER or DEEP_ARCHIVE do not answer at their public address any more: they "
                "must be restored first, which takes hours. GLACIER_IR answers at once."
            )
        if "Expiration" in each:
            said.append(
                f"{each['ID']} deletes photos: the database goes on naming them, and their addresses answer 404."
            )
    return said
