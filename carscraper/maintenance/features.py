"""The features of a bucket: how each is read and put, and what it should become. Pure functions.

On Amazon a new bucket has its public access blocked, its ACLs switched off and its objects encrypted from the start.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from carscraper.maintenance import lifecycle, policies
from carscraper.storage.client import encryption

if TYPE_CHECKING:
    from collections.abc import Iterable

    from carscraper.maintenance.lifecycle import Rule
    from carscraper.maintenance.policies import Statement

_NOTIFIED = {
    "lambda": ("LambdaFunctionConfigurations", "LambdaFunctionArn"),
    "sqs": ("QueueConfigurations", "QueueArn"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Notification:
    """A function or queue that is told of new photos."""

    kind: str
    """``lambda`` or ``sqs``."""
    arn: str
    prefix: str = ""
    suffix: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a bucket should be like."""

    tls_only: Statement | None = None
    public: Statement | None = None
    """Who reads without credentials; ``None``: nobody does."""
    drop: tuple[str, ...] = ()
    """The ``Sid`` of statements of ours that go."""
    sse: str | None = None
    """As ``S3_SSE``; ``None``: what is there, else ``AES256``."""
    versioning: bool = True
    """False leaves it as it is."""
    cors_origins: tuple[str, ...] = ()
    """None leaves the rules as they are."""
    cors_upload: bool = False
    """They may write, too."""
    rules: tuple[Rule, ...] = ()
    """Lifecycle rules; one that is there with the same id stays as it is, it may have been changed on purpose."""
    notifications: tuple[Notification, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One feature, as it is and as it should be; no change if there are no lines."""

    feature: str
    before: Any = None
    """``None``: nothing is set."""
    after: Any = None
    lines: tuple[str, ...] = ()
    """For people: what changes, each with ``+``, ``~`` or ``-`` before it."""


Planned = tuple[Any, list[str]]
"""What a feature becomes, and the lines that say so."""


def _arrow(before: str | None, after: str) -> list[str]:
    return [] if before == after else [f"~ {before} → {after}" if before else f"+ {after}"]


def _public_access(there: Any, wanted: Wanted) -> Planned:
    closed = wanted.public is None
    after = {
        # Off with ACLs ignored is as good, and what `setup` makes of it where a server refuses all uploads else.
        "BlockPublicAcls": not (there and there.get("IgnorePublicAcls") and not there.get("BlockPublicAcls")),
        "IgnorePublicAcls": True,
        "BlockPublicPolicy": closed,
        "RestrictPublicBuckets": closed,
    }
    if there and all(there.get(name, False) == value for name, value in after.items()):
        return there, []
    words = None
    if there:
        on = [name for name in after if there.get(name)]
        words = "blocked" if len(on) == len(after) else f"blocked only by {', '.join(on)}" if on else "open"
    return after, _arrow(words, "blocked" if closed else "open for bucket policies, blocked for ACLs")


def _ownership(there: Any, _: Wanted) -> Planned:
    before = there["Rules"][0]["ObjectOwnership"] if there and there.get("Rules") else None
    if before == "BucketOwnerEnforced":
        return there, []
    return {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}, _arrow(before, "BucketOwnerEnforced (no ACLs)")


def _encryption(there: Any, wanted: Wanted) -> Planned:
    rule = there["Rules"][0] if there and there.get("Rules") else {}
    default = rule.get("ApplyServerSideEncryptionByDefault", {})
    if default and wanted.sse is None:
        return there, []
    kind, key = encryption(wanted.sse or "AES256")
    chosen = {"SSEAlgorithm": kind, **({"KMSMasterKeyID": key} if key else {})}
    bucket_key = kind == "aws:kms"  # asks KMS once for many objects, which costs a hundredth
    before = _sse_words(default, bucket_key=rule.get("BucketKeyEnabled", False)) if default else None
    lines = _arrow(before, _sse_words(chosen, bucket_key=bucket_key))
    new = {**rule, "ApplyServerSideEncryptionByDefault": chosen, "BucketKeyEnabled": bucket_key}
    return ({"Rules": [new]}, lines) if lines else (there, [])


def _sse_words(default: dict[str, Any], *, bucket_key: bool) -> str:
    kind = default["SSEAlgorithm"]
    if kind == "AES256":
        return "AES256"  # a bucket key means nothing there
    return f"{kind} with the key {default.get('KMSMasterKeyID', 'aws/s3')}, bucket key {'on' if bucket_key else 'off'}"


def _versioning(there: Any, wanted: Wanted) -> Planned:
    before = there.get("Status")
    if before == "Enabled" or not wanted.versioning:
        return there, []
    return {"Status": "Enabled"}, _arrow(before, "Enabled")


def _policy(there: Any, wanted: Wanted) -> Planned:
    new_ones = [
        each
        for each in (wanted.tls_only, wanted.public)
        if each and not policies.same(policies.ours_among(policies.statements_of(there), each, name="Sid"), each)
    ]
    after = policies.merged_policy(there, new_ones, wanted.drop)
    # A statement needs no Sid; its text tells it from others then.
    old, new = (
        {str(each.get("Sid") or json.dumps(each, sort_keys=True)): each for each in policies.statements_of(it)}
        for it in (there, after)
    )
    words = {policies.TLS_ONLY: "requests without TLS are refused", policies.PUBLIC_READ: "everybody may read pictures"}
    lines = [f"+ {name}: {words[name]}" for name in new if name not in old]
    lines += [f"~ {name}: {words[name]}" for name in new if name in old and new[name] != old[name]]
    lines += [f"- {name}" for name in old if name not in new]
    return (after, lines) if lines else (there, [])


def _cors(there: Any, wanted: Wanted) -> Planned:
    origins = sorted(set(wanted.cors_origins))
    rule = {
        "ID": f"{lifecycle.OURS}cors",
        "AllowedOrigins": origins,
        "AllowedMethods": ["GET", "HEAD", *(("POST", "PUT") if wanted.cors_upload else ())],
        "AllowedHeaders": ["*"],
        "MaxAgeSeconds": 3600,
        **({"ExposeHeaders": ["ETag"]} if wanted.cors_upload else {}),
    }
    rules = list(there or ())
    old = policies.ours_among(rules, rule)
    if not wanted.cors_origins or policies.same(old, rule):
        return there, []
    methods = "GET, HEAD, POST and PUT" if wanted.cors_upload else "GET and HEAD"
    line = f"{'~' if old else '+'} {rule['ID']}: {methods} from {', '.join(origins)}"
    return policies.with_ours(rules, [rule]), [line]


def _lifecycle(there: Any, wanted: Wanted) -> Planned:
    known = [lifecycle.newer(each) for each in (there or {}).get("Rules", ())]
    return lifecycle_plan(there, [each for each in wanted.rules if not policies.ours_among(known, each)])


def lifecycle_plan(there: Any, put: Iterable[Rule], remove: Iterable[str] = ()) -> Planned:
    """Return the rules that are *there* with ours among them; see :func:`lifecycle.merged_rules`."""
    rules = list((there or {}).get("Rules", ()))
    after = lifecycle.merged_rules(rules, put, remove)

    def by_name(its: list[Rule]) -> dict[str, str]:
        return {str(each.get("ID") or json.dumps(each, default=str)): lifecycle.describe(each) for each in its}

    old, new = by_name(rules), by_name(after)
    lines = [f"+ {words}" for name, words in new.items() if name not in old]
    for name, words in new.items():
        if name in old and words != old[name]:
            lines.append(f"~ {old[name]} → {words.partition(': ')[2]}")
    lines += [f"- {words}" for name, words in old.items() if name not in new]
    return ({**(there or {}), "Rules": after} if after else None, lines) if lines else (there, [])


def _notifications(there: Any, wanted: Wanted) -> Planned:
    after, lines = dict(there), []
    for each in wanted.notifications:
        group, arn = _NOTIFIED[each.kind]
        # S3 wants these percent-encoded, a space as a plus.
        filters = [
            {"Name": name, "Value": quote_plus(value, safe="/!-_.*'()")}
            for name, value in (("prefix", each.prefix), ("suffix", each.suffix))
            if value
        ]
        new = {
            "Id": f"{lifecycle.OURS}{each.kind}",
            arn: each.arn,
            "Events": ["s3:ObjectCreated:*"],
            **({"Filter": {"Key": {"FilterRules": filters}}} if filters else {}),
        }
        old = policies.ours_among(after.get(group, ()), new, name="Id")
        if policies.same(old, new):
            continue
        after[group] = policies.with_ours(after.get(group, ()), [new], name="Id")
        where = f"{each.prefix}*{each.suffix}"
        lines.append(f"{'~' if old else '+'} {new['Id']}: {each.arn} is told of new objects {where}")
    return (after, lines) if lines else (there, [])


# --- the table --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Feature:
    """How boto3 reads, puts and deletes a feature."""

    title: str
    """In sentences."""
    plan: Callable[[Any, Wanted], Planned]
    method: str
    """Of boto3, behind ``get_`` or ``put_``."""
    key: str | None
    """Where the answer has it; ``None``: it is the answer, which is empty where nothing is set."""
    argument: str
    """Of the put."""
    action: str
    """IAM's name, behind ``s3:Get`` or ``s3:Put``."""
    unset: str = ""
    """The error that means: nothing is set."""

    @property
    def nothing(self) -> Any:
        """What it is while nothing is set."""
        return {} if self.key is None else None

    @property
    def delete(self) -> str | None:
        """boto3's method that unsets it, if there is one."""
        return None if self.key is None else f"delete_{self.method}".replace("lifecycle_configuration", "lifecycle")

    def value(self, answer: dict[str, Any]) -> Any:
        """Return the feature from boto3's *answer*; a ``KeyError`` or ``ValueError`` if it is about something else."""
        if self.argument == "Policy":
            return json.loads(answer["Policy"])
        if self.argument == "LifecycleConfiguration":
            size = "TransitionDefaultMinimumObjectSize"  # belongs to all rules; left out, S3 resets it
            return {"Rules": answer["Rules"], **({size: answer[size]} if size in answer else {})}
        return answer[self.key] if self.key else answer

    def arguments(self, value: Any) -> dict[str, Any]:
        """Return what boto3's put takes for *value*."""
        if self.argument == "Policy":
            return {"Policy": json.dumps(value)}
        if self.argument == "CORSConfiguration":
            return {self.argument: {"CORSRules": value}}
        if self.argument == "LifecycleConfiguration":
            rest = {name: its for name, its in value.items() if name != "Rules"}
            return {self.argument: {"Rules": value["Rules"]}, **rest}
        return {self.argument: value}


FEATURES = {
    "public access": Feature(
        *("public access blocks", _public_access, "public_access_block", "PublicAccessBlockConfiguration"),
        *("PublicAccessBlockConfiguration", "BucketPublicAccessBlock", "NoSuchPublicAccessBlockConfiguration"),
    ),
    "ownership": Feature(
        *("ownership controls", _ownership, "bucket_ownership_controls", "OwnershipControls"),
        *("OwnershipControls", "BucketOwnershipControls", "OwnershipControlsNotFoundError"),
    ),
    "encryption": Feature(
        *("default encryption", _encryption, "bucket_encryption", "ServerSideEncryptionConfiguration"),
        "ServerSideEncryptionConfiguration",
        *("EncryptionConfiguration", "ServerSideEncryptionConfigurationNotFoundError"),
    ),
    "versioning": Feature(
        *("versioning", _versioning, "bucket_versioning", None, "VersioningConfiguration", "BucketVersioning")
    ),
    "policy": Feature(
        *("bucket policies", _policy, "bucket_policy", "Policy", "Policy", "BucketPolicy", "NoSuchBucketPolicy")
    ),
    "CORS": Feature(
        *("CORS", _cors, "bucket_cors", "CORSRules", "CORSConfiguration", "BucketCORS", "NoSuchCORSConfiguration")
    ),
    "lifecycle": Feature(
        *("lifecycle rules", _lifecycle, "bucket_lifecycle_configuration", "Rules", "LifecycleConfiguration"),
        *("LifecycleConfiguration", "NoSuchLifecycleConfiguration"),
    ),
    "notifications": Feature(
        *("event notifications", _notifications, "bucket_notification_configuration", None),
        *("NotificationConfiguration", "BucketNotification"),
    ),
}
"""What ``scrapy storage setup`` looks at and changes, in its order for a bucket that is opened to the public."""


def order(wanted: Wanted) -> list[str]:
    """Return the features in the order in which they are changed.

    Amazon refuses a policy that lets everybody in as long as ``BlockPublicPolicy`` is on: the block is opened before
    such a policy is put, and closed after it is gone.
    """
    names = [name for name in FEATURES if name != "public access"]
    return ["public access", *names] if wanted.public else [*names, "public access"]


def parts(feature: str, wanted: Wanted) -> dict[str, Wanted]:
    """Return each thing that is wanted of *feature* by its name, to be tried alone: a server may take only some."""
    if feature == "lifecycle":
        return {each["ID"]: replace(wanted, rules=(each,)) for each in wanted.rules}
    if feature == "notifications":
        return {f"{lifecycle.OURS}{it.kind}": replace(wanted, notifications=(it,)) for it in wanted.notifications}
    if feature == "policy" and wanted.tls_only and wanted.public:
        return {policies.TLS_ONLY: replace(wanted, public=None), policies.PUBLIC_READ: replace(wanted, tls_only=None)}
    return {}


def without(change: Change) -> list[Any]:
    """Return what may stand in the place of what makes a server refuse photos, the best first.

    Of what this run changed that is what was there before. Of what was there already it is nothing, if that is what
    ``setup`` would set: neither somebody else's statements nor a key are touched, and ACLs stay ignored.
    """
    name, after = change.feature, change.after
    if name == "versioning":
        return [{"Status": "Suspended"}] if after.get("Status") == "Enabled" else []  # it can't be unset
    if change.lines:
        return [change.before, *([dict.fromkeys(after, False)] if name == "public access" else [])]
    if name == "public access":
        return weaker(change)
    if name == "policy" and any(each.get("Sid") == policies.TLS_ONLY for each in policies.statements_of(after)):
        return [policies.merged_policy(after, (), (policies.TLS_ONLY,))]
    default = name == "encryption" and after["Rules"][0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"]
    return [None] if name == "ownership" or default == "AES256" else []


def weaker(change: Change) -> list[Any]:
    """Return what does the same job, or most of it, and may be tried in the place of ``change.after``."""
    if change.feature == "public access" and change.after and change.after.get("BlockPublicAcls"):
        return [{**change.after, "BlockPublicAcls": False}]
    return []
