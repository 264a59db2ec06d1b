"""The bucket itself: what it is, what it shall be, and the difference as plain data; a thin client reads and applies.

What Amazon does and the servers of the tests do not: a new bucket has its public access blocked, its ACLs switched off
(``BucketOwnerEnforced``) and its objects encrypted (``AES256``) from the start, so for a new bucket most steps find
nothing to do. A request with an ACL is refused there; none is ever sent. A policy that lets everybody in is refused as
long as ``BlockPublicPolicy`` is on, for the bucket or for the whole account: so the block is opened before such a
policy is put, and closed after it is gone.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from carscraper.exceptions import ConfigurationError, StoreRefusedError, StoreUnavailableError
from carscraper.storage import lifecycle, policies
from carscraper.storage.client import explained
from carscraper.storage.encryption import encryption

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from carscraper.storage.lifecycle import Rule
    from carscraper.storage.policies import Statement

CORS_ID, NOTIFICATION_ID = "carscraper-cors", "carscraper-"
_EVENTS = ["s3:ObjectCreated:*"]
_KINDS = {
    "lambda": ("LambdaFunctionConfigurations", "LambdaFunctionArn"),
    "sqs": ("QueueConfigurations", "QueueArn"),
    "sns": ("TopicConfigurations", "TopicArn"),
}
_DEFAULT_SIZES = "all_storage_classes_128K"
_FIRST_REGION = "us-east-1"  # the one that takes no location constraint
_LONGEST_NAME = 63
_SUGGESTIONS = 5
_PATIENCE = 20.0  # seconds until a new bucket must be seen
_CONFLICTS = 4  # tries of a change while S3 is still busy with the one before
_NOT_THERE = {"NotImplemented", "MethodNotAllowed", "XNotImplemented", "NotSupported", "501", "405"}


class BucketTakenError(StoreRefusedError):
    """The name belongs to somebody else, or to somebody who may not look. Raised by :class:`BucketAdmin`."""


# --- names ------------------------------------------------------------------------------------------------------


def checked_name(name: str) -> str:
    """Give *name* back if Amazon takes it for a bucket.

    Raises:
        ConfigurationError: it doesn't.

    >>> checked_name("car-photos")
    'car-photos'
    """
    if (
        not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", name)
        or ".." in name
        or re.fullmatch(r"[0-9]+(\.[0-9]+){3}", name)
        or name.startswith(("xn--", "sthree-", "amzn-s3-demo-"))
        or name.endswith(("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"))
    ):
        raise ConfigurationError(
            f"{name!r} is no name for a bucket; write 3 to 63 lower-case letters, digits and hyphens: car-photos, say."
        )
    return name


def suggestion(name: str, region: str, digits: str) -> str:
    """Make another name from *name*.

    >>> suggestion("car-photos", "eu-north-1", "0a1b2c"), len(suggestion("x" * 63, "eu-north-1", "0a1b2c"))
    ('car-photos-eu-north-1-0a1b2c', 63)
    """
    tail = f"-{region}-{digits}"
    return name[: _LONGEST_NAME - len(tail)].rstrip("-.") + tail


# --- what is and what shall be ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a bucket is like."""

    exists: bool = True
    parts: Mapping[str, Any] = field(default_factory=dict)
    """boto3's answer for each part, ``None`` where nothing is set."""
    lacks: frozenset[str] = frozenset()
    """Parts that the server does not have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Notification:
    """Somebody who shall hear of new photos."""

    kind: str
    """``lambda`` or ``sqs``."""
    arn: str
    prefix: str = ""
    suffix: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a bucket shall be like."""

    region: str
    tls_only: Statement | None = None
    public: Statement | None = None
    """Who reads without credentials; ``None``: nobody does."""
    drop: tuple[str, ...] = ()
    """The ``Sid`` of statements of ours that shall not be there."""
    sse: str | None = None
    """As ``S3_SSE``; ``None``: what is there, else ``AES256``."""
    versioning: bool = True
    """False leaves it as it is."""
    cors_origins: tuple[str, ...] = ()
    """None leaves the rules as they are."""
    rules: tuple[Rule, ...] = ()
    """Lifecycle rules; one that is there with the same id stays as it is, it may have been changed on purpose."""
    notifications: tuple[Notification, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One part of the bucket, and the request that changes it."""

    part: str
    lines: tuple[str, ...] = ()
    """What changes, each with ``+``, ``~`` or ``-`` before it; none: it is as it shall be."""
    unchanged: int = 0
    """How many things of this part stay: rules, statements, the setting itself."""
    before: Any = None
    after: Any = None
    operation: str = ""
    """boto3's method."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    action: str = ""
    """What IAM must allow."""


@dataclass(frozen=True, slots=True)
class _Part:
    read: str
    """boto3's method."""
    action: str
    unset: str
    """The error that means: nothing is set."""
    title: str
    """In the sentence about what a server lacks."""


PARTS = {
    "public access": _Part(
        "get_public_access_block",
        "s3:GetBucketPublicAccessBlock",
        "NoSuchPublicAccessBlockConfiguration",
        "public access blocks",
    ),
    "ownership": _Part(
        "get_bucket_ownership_controls",
        "s3:GetBucketOwnershipControls",
        "OwnershipControlsNotFoundError",
        "ownership controls",
    ),
    "encryption": _Part(
        "get_bucket_encryption",
        "s3:GetEncryptionConfiguration",
        "ServerSideEncryptionConfigurationNotFoundError",
        "default encryption",
    ),
    "versioning": _Part("get_bucket_versioning", "s3:GetBucketVersioning", "", "versioning"),
    "policy": _Part("get_bucket_policy", "s3:GetBucketPolicy", "NoSuchBucketPolicy", "bucket policies"),
    "CORS": _Part("get_bucket_cors", "s3:GetBucketCORS", "NoSuchCORSConfiguration", "CORS"),
    "lifecycle": _Part(
        "get_bucket_lifecycle_configuration",
        "s3:GetLifecycleConfiguration",
        "NoSuchLifecycleConfiguration",
        "lifecycle rules",
    ),
    "notifications": _Part(
        "get_bucket_notification_configuration", "s3:GetBucketNotification", "", "event notifications"
    ),
}
"""The parts of a bucket that are looked at and changed."""


def plan(found: Found, wanted: Wanted) -> list[Step]:
    """Give a step for each part that the server has, in the order in which they are taken.

    Raises:
        ConfigurationError: S3 would refuse what is wanted.
    """
    makers = {
        "public access": _public_access,
        "ownership": _ownership,
        "encryption": _encryption,
        "versioning": _versioning,
        "policy": _policy,
        "CORS": _cors,
        "lifecycle": _lifecycle,
        "notifications": _notifications,
    }
    order = list(makers)
    if not wanted.public:
        order.remove("public access")
        order.insert(order.index("policy") + 1, "public access")  # see the top
    steps = [] if found.exists else [_creation(wanted.region)]
    for part in order:
        if part not in found.lacks:
            steps.append(makers[part](found.parts.get(part), wanted))  # noqa: PERF401 - reads better
    return steps


def lacking(found: Found) -> str | None:
    """Say in a sentence what the server does not have, ``None`` if it has all."""
    titles = [part.title for name, part in PARTS.items() if name in found.lacks]
    if not titles:
        return None
    listed = titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"
    return f"This server does not have {listed}: nothing of that is sent."


def _creation(region: str) -> Step:
    arguments: dict[str, Any] = {}
    if region != _FIRST_REGION:
        arguments["CreateBucketConfiguration"] = {"LocationConstraint": region}
    return Step(
        part="bucket",
        lines=(f"+ made in {region}",),
        after={"region": region},
        operation="create_bucket",
        arguments=arguments,
        action="s3:CreateBucket",
    )


def _public_access(there: Any, wanted: Wanted) -> Step:
    before = (there or {}).get("PublicAccessBlockConfiguration") or {}
    closed = wanted.public is None
    after = {
        "BlockPublicAcls": True,
        "IgnorePublicAcls": True,
        "BlockPublicPolicy": closed,
        "RestrictPublicBuckets": closed,
    }
    if all(before.get(name, False) == value for name, value in after.items()):
        return Step(part="public access", unchanged=1, before=before, after=before)
    words = "blocked" if closed else "open for bucket policies, blocked for ACLs"
    return Step(
        part="public access",
        lines=(f"~ {_access_words(before)} → {words}" if before else f"+ {words}",),
        before=before or None,
        after=after,
        operation="put_public_access_block",
        arguments={"PublicAccessBlockConfiguration": after},
        action="s3:PutBucketPublicAccessBlock",
    )


def _access_words(block: Mapping[str, bool]) -> str:
    if all(block.values()):
        return "blocked"
    if not any(block.values()):
        return "open"
    return f"blocked only by {', '.join(name for name, on in block.items() if on)}"


def _ownership(there: Any, _: Wanted) -> Step:
    rules = ((there or {}).get("OwnershipControls") or {}).get("Rules", [])
    before = rules[0]["ObjectOwnership"] if rules else None
    after = "BucketOwnerEnforced"
    if before == after:
        return Step(part="ownership", unchanged=1, before=before, after=after)
    return Step(
        part="ownership",
        lines=(f"~ {before} → {after} (no ACLs)" if before else f"+ {after} (no ACLs)",),
        before=before,
        after=after,
        operation="put_bucket_ownership_controls",
        arguments={"OwnershipControls": {"Rules": [{"ObjectOwnership": after}]}},
        action="s3:PutBucketOwnershipControls",
    )


def _encryption(there: Any, wanted: Wanted) -> Step:
    rules = ((there or {}).get("ServerSideEncryptionConfiguration") or {}).get("Rules", [])
    rule = rules[0] if rules else {}
    default = rule.get("ApplyServerSideEncryptionByDefault", {})
    before = _sse_words(default, bucket_key=rule.get("BucketKeyEnabled", False)) if default else None
    if wanted.sse is None and default:
        return Step(part="encryption", unchanged=1, before=before, after=before)
    kind, key = encryption(wanted.sse or "AES256")
    chosen = {"SSEAlgorithm": kind, **({"KMSMasterKeyID": key} if key else {})}
    with_key = kind == "aws:kms"  # asks KMS once for many objects, which costs a hundredth
    after = _sse_words(chosen, bucket_key=with_key)
    if before == after:
        return Step(part="encryption", unchanged=1, before=before, after=after)
    return Step(
        part="encryption",
        lines=(f"~ {before} → {after}" if before else f"+ {after}",),
        before=before,
        after=after,
        operation="put_bucket_encryption",
        arguments={
            "ServerSideEncryptionConfiguration": {
                "Rules": [{**rule, "ApplyServerSideEncryptionByDefault": chosen, "BucketKeyEnabled": with_key}]
            }
        },
        action="s3:PutEncryptionConfiguration",
    )


def _sse_words(default: Mapping[str, Any], *, bucket_key: bool) -> str:
    kind = default["SSEAlgorithm"]
    if kind == "AES256":
        return "AES256"  # a bucket key means nothing there
    key = default.get("KMSMasterKeyID")
    return f"{kind} with {f'the key {key}' if key else 'the key aws/s3'}, bucket key {'on' if bucket_key else 'off'}"


def _versioning(there: Any, wanted: Wanted) -> Step:
    before = (there or {}).get("Status")
    if before == "Enabled" or not wanted.versioning:
        return Step(part="versioning", unchanged=1, before=before, after=before)
    return Step(
        part="versioning",
        lines=(f"~ {before} → Enabled" if before else "+ Enabled",),
        before=before,
        after="Enabled",
        operation="put_bucket_versioning",
        arguments={"VersioningConfiguration": {"Status": "Enabled"}},
        action="s3:PutBucketVersioning",
    )


def _policy(there: Any, wanted: Wanted) -> Step:
    before = json.loads(there["Policy"]) if there else None
    put = [statement for statement in (wanted.tls_only, wanted.public) if statement]
    after = policies.merged(before, put, wanted.drop)
    old = {_sid(each): each for each in policies.statements_of(before)}
    lines = []
    for statement in policies.statements_of(after):
        name = _sid(statement)
        if name not in old:
            lines.append(f"+ {name}: {_statement_words(statement)}")
        elif not policies.same(old[name], statement):
            lines.append(f"~ {name}: {_statement_words(statement)}")
    left = {_sid(each) for each in policies.statements_of(after)}
    lines += [f"- {name}" for name in old if name not in left]
    unchanged = len(left) - sum(line[0] in "+~" for line in lines)
    if not lines:
        return Step(part="policy", unchanged=unchanged, before=before, after=before)
    return Step(
        part="policy",
        lines=tuple(lines),
        unchanged=unchanged,
        before=before,
        after=after,
        operation="put_bucket_policy" if after else "delete_bucket_policy",
        arguments={"Policy": json.dumps(after)} if after else {},
        action="s3:PutBucketPolicy" if after else "s3:DeleteBucketPolicy",
    )


def _sid(statement: Statement) -> str:
    # A statement needs no Sid; its text tells it from others then.
    return str(statement.get("Sid") or json.dumps(statement, sort_keys=True))


def _statement_words(statement: Statement) -> str:
    if statement["Sid"] == policies.TLS_ONLY:
        return "who comes without TLS is refused"
    below = [each.partition(":::")[2].partition("/")[2] for each in statement["Resource"]]
    return f"everybody may read {', '.join(below)}"


def _cors(there: Any, wanted: Wanted) -> Step:
    before = list((there or {}).get("CORSRules", []))
    if not wanted.cors_origins:
        return Step(part="CORS", unchanged=len(before), before=before, after=before)
    origins = sorted(set(wanted.cors_origins))
    rule = {
        "ID": CORS_ID,
        "AllowedOrigins": origins,
        "AllowedMethods": ["GET", "HEAD"],
        "AllowedHeaders": ["*"],
        "MaxAgeSeconds": 3600,
    }
    old = next((each for each in before if each.get("ID") == CORS_ID), None)
    if old is not None and _unordered(old) == _unordered(rule):
        return Step(part="CORS", unchanged=len(before), before=before, after=before)
    after = [rule if each is old else each for each in before] if old else [*before, rule]
    return Step(
        part="CORS",
        lines=(f"{'~' if old else '+'} {CORS_ID}: GET and HEAD from {', '.join(origins)}",),
        unchanged=len(after) - 1,
        before=before,
        after=after,
        operation="put_bucket_cors",
        arguments={"CORSConfiguration": {"CORSRules": after}},
        action="s3:PutBucketCORS",
    )


def _unordered(rule: Mapping[str, Any]) -> dict[str, Any]:
    return {name: sorted(value) if isinstance(value, list) else value for name, value in rule.items()}


def _lifecycle(there: Any, wanted: Wanted) -> Step:
    ids = {rule.get("ID") for rule in (there or {}).get("Rules", [])}
    return lifecycle_step(there, lifecycle_merged(there, [rule for rule in wanted.rules if rule["ID"] not in ids]))


def lifecycle_merged(there: Any, put: Iterable[Rule], remove: Iterable[str] = ()) -> list[Rule]:
    """Put our rules among those of boto3's answer *there*; see :func:`lifecycle.merged`."""
    return lifecycle.merged((there or {}).get("Rules", []), put, remove)


def lifecycle_step(there: Any, after: Sequence[Rule]) -> Step:
    """Make the step from boto3's answer *there* to the rules *after*."""
    before = list((there or {}).get("Rules", []))
    old = {_rule_name(each): each for each in before}
    lines, translated = [], []
    for each in after:
        known = old.get(_rule_name(each))
        if known is None:
            lines.append(f"+ {lifecycle.describe(each)}")
        elif not lifecycle.same(known, each):
            lines.append(f"~ {lifecycle.describe(known)} → {lifecycle.describe(each).partition(': ')[2]}")
        elif "Prefix" in known and "Filter" not in known:
            translated.append(f"~ {_rule_name(each)}: stays, written in S3's newer form (it takes no mixture)")
    left = {_rule_name(each) for each in after}
    lines += [f"- {lifecycle.describe(each)}" for name, each in old.items() if name not in left]
    unchanged = len(after) - sum(line[0] in "+~" for line in lines)
    if not lines:
        return Step(part="lifecycle", unchanged=unchanged, before=before, after=before)
    arguments: dict[str, Any] = {}
    if after:
        arguments["LifecycleConfiguration"] = {"Rules": lifecycle.sendable(after)}
        sizes = (there or {}).get("TransitionDefaultMinimumObjectSize", _DEFAULT_SIZES)
        if sizes != _DEFAULT_SIZES:  # it belongs to all rules and would be reset
            arguments["TransitionDefaultMinimumObjectSize"] = sizes
    return Step(
        part="lifecycle",
        lines=(*lines, *(translated if after else ())),
        unchanged=unchanged,
        before=before,
        after=list(after),
        operation="put_bucket_lifecycle_configuration" if after else "delete_bucket_lifecycle",
        arguments=arguments,
        action="s3:PutLifecycleConfiguration",
    )


def _rule_name(rule: Rule) -> str:
    return str(rule.get("ID") or json.dumps(rule, sort_keys=True, default=str))


def _notifications(there: Any, wanted: Wanted) -> Step:
    before = {name: value for name, value in (there or {}).items() if name != "ResponseMetadata"}
    after = {name: list(value) if isinstance(value, list) else value for name, value in before.items()}
    lines = []
    for each in wanted.notifications:
        group, arn = _KINDS[each.kind]
        mine = _notification(each)
        listed = after.setdefault(group, [])
        old = next((one for one in listed if one.get("Id") == mine["Id"]), None)
        if old is not None and _heard(old) == _heard(mine) and old.get(arn) == each.arn:
            continue
        after[group] = [mine if one is old else one for one in listed] if old else [*listed, mine]
        lines.append(f"{'~' if old else '+'} {mine['Id']}: {each.arn} hears of new objects {_named(each)}")
    _check_overlaps(after)
    total = sum(len(after.get(group, ())) for group, _ in _KINDS.values())
    if not lines:
        return Step(part="notifications", unchanged=total, before=before, after=before)
    return Step(
        part="notifications",
        lines=tuple(lines),
        unchanged=total - len(lines),
        before=before,
        after=after,
        operation="put_bucket_notification_configuration",
        arguments={"NotificationConfiguration": after},
        action="s3:PutBucketNotification",
    )


def _notification(wanted: Notification) -> dict[str, Any]:
    _, arn = _KINDS[wanted.kind]
    # S3 wants these percent-encoded, a space as a plus.
    filters = [
        {"Name": name, "Value": quote_plus(value, safe="/!-_.*'()")}
        for name, value in (("prefix", wanted.prefix), ("suffix", wanted.suffix))
        if value
    ]
    return {
        "Id": f"{NOTIFICATION_ID}{wanted.kind}",
        arn: wanted.arn,
        "Events": list(_EVENTS),
        **({"Filter": {"Key": {"FilterRules": filters}}} if filters else {}),
    }


def _named(wanted: Notification) -> str:
    below = f"below {wanted.prefix}" if wanted.prefix else "of the whole bucket"
    return below + (f" that end with {wanted.suffix}" if wanted.suffix else "")


def _heard(configuration: Mapping[str, Any]) -> tuple[set[str], str, str]:
    """Give events, prefix and suffix of a notification, whoever made it."""
    rules = configuration.get("Filter", {}).get("Key", {}).get("FilterRules", [])
    values = {str(rule["Name"]).lower(): str(rule["Value"]) for rule in rules}
    return set(configuration.get("Events", ())), values.get("prefix", ""), values.get("suffix", "")


def _check_overlaps(configuration: Mapping[str, Any]) -> None:
    """Refuse ours if another one hears of the same objects: S3 sends an event to one of them only."""
    listed = [each for group, _ in _KINDS.values() for each in configuration.get(group, ())]
    for mine in (each for each in listed if str(each.get("Id", "")).startswith(NOTIFICATION_ID)):
        events, prefix, suffix = _heard(mine)
        for other in listed:
            if other is mine:
                continue
            others, its_prefix, its_suffix = _heard(other)
            if (
                _share_events(events, others)
                and (prefix.startswith(its_prefix) or its_prefix.startswith(prefix))
                and (suffix.endswith(its_suffix) or its_suffix.endswith(suffix))
            ):
                raise ConfigurationError(
                    f"The notifications {mine['Id']} and {other.get('Id', 'without an id')} are for the same objects, "
                    "which S3 refuses; take another --notify-prefix or --notify-suffix."
                )


def _share_events(ours: set[str], others: set[str]) -> bool:
    """Tell whether an event can be in both; a name may end with ``*``."""
    pairs = [(one.removesuffix("*"), other.removesuffix("*")) for one in ours for other in others]
    return any(one.startswith(other) or other.startswith(one) for one, other in pairs)


# --- the server -------------------------------------------------------------------------------------------------


class BucketAdmin:
    """Reads and changes one bucket through a boto3 client."""

    def __init__(self, client: Any, bucket: str, region: str) -> None:
        self.bucket = bucket
        self._client = client
        self._region = region
        self._nonsense = False
        client.meta.events.register("before-parse.s3", self._look)

    def exists(self) -> bool:
        """Tell whether the bucket is there, and ours.

        Raises:
            BucketTakenError: it is not ours, or we may not look.
            ConfigurationError: it is in another region.
            StoreRefusedError: the credentials are of no use.
            StoreUnavailableError: the server is away or busy.
        """
        status, region = self._head(self.bucket)
        if region and region != self._region and status != 404:
            raise ConfigurationError(
                f"The bucket {self.bucket} is in the region {region}, not {self._region}: set AWS_S3_REGION={region}."
            )
        if status in {400, 403}:
            # Useless credentials look the same in an answer to HEAD: it has no body. A listing's error names them.
            with explained(self.bucket, "s3:ListBucket"):
                try:
                    self._client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
                except ClientError as error:
                    if error.response["Error"]["Code"] not in {"AccessDenied", "AllAccessDisabled"}:
                        raise
            raise BucketTakenError(
                f"S3 does not let us into the bucket {self.bucket} ({status}): the name belongs to somebody else, or "
                "these credentials lack s3:ListBucket on it."
            )
        return status != 404

    def _head(self, bucket: str) -> tuple[int, str | None]:
        """Give the status of a HEAD of *bucket*, and its region if the server says so."""
        with explained(bucket, "s3:ListBucket"):
            try:
                answer = self._client.head_bucket(Bucket=bucket)
            except ClientError as error:
                meta = error.response["ResponseMetadata"]
                status = meta["HTTPStatusCode"]
                region = meta["HTTPHeaders"].get("x-amz-bucket-region")
                if status in {400, 403, 404} or (region and region != self._region):
                    return status, region
                raise
        return 200, answer.get("BucketRegion")

    def free_name(self) -> str | None:
        """Find a name like this bucket's that nobody has, ``None`` if that does not work out."""
        for _ in range(_SUGGESTIONS):
            name = suggestion(self.bucket, self._region, secrets.token_hex(3))
            try:
                status, _ = self._head(name)
            except (StoreRefusedError, StoreUnavailableError):
                return None
            if status == 404:
                return name
        return None

    def read(self, names: Iterable[str] = PARTS) -> Found:
        """Read the parts called *names*, with reads only; find out so what the server does not have.

        A server that does not know a question may say so, answer with something that can't be parsed, or overhear it
        and list the bucket's objects, as rclone does. One that overhears is not believed where "nothing is set" is an
        empty answer (versioning, notifications).

        Raises:
            StoreRefusedError: a read is refused.
            StoreUnavailableError: the server is away or busy.
        """
        answers = {name: self._answer(PARTS[name]) for name in names}
        lacks = {name for name, answer in answers.items() if answer is _LACKS}
        if any(answer is _OVERHEARD for answer in answers.values()):
            lacks |= {name for name, answer in answers.items() if answer is _OVERHEARD or not answer}
        return Found(
            parts={name: answer for name, answer in answers.items() if name not in lacks}, lacks=frozenset(lacks)
        )

    def _answer(self, part: _Part) -> Any:
        self._nonsense = False
        with explained(self.bucket, part.action):
            try:
                answer = getattr(self._client, part.read)(Bucket=self.bucket)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code == part.unset:
                    return None
                if code in _NOT_THERE or error.response["ResponseMetadata"]["HTTPStatusCode"] in {405, 501}:
                    return _LACKS
                raise
            except ResponseParserError:
                return _LACKS
        answer.pop("ResponseMetadata", None)
        if self._nonsense:
            return _OVERHEARD
        if "Policy" in answer:
            try:
                json.loads(answer["Policy"])
            except ValueError:
                return _LACKS
        return answer

    def _look(self, response_dict: Mapping[str, Any], **_: Any) -> None:
        """Notice a list of objects where something else was asked for; boto3 would read it as an empty answer."""
        body = response_dict.get("body") or b""
        if isinstance(body, bytes) and re.match(rb"\s*(<\?xml[^>]*\?>\s*)?<ListBucketResult\b", body):
            self._nonsense = True

    def create(self) -> None:
        """Make the bucket, and wait until it is seen; fine if we have it already.

        Raises:
            BucketTakenError: the name belongs to somebody else.
            StoreRefusedError: it is refused.
            StoreUnavailableError: the server is away or busy, or does not show the new bucket.
        """
        step = _creation(self._region)
        try:
            self.apply(step)
        except StoreRefusedError as error:
            cause = error.__cause__
            code = cause.response["Error"]["Code"] if isinstance(cause, ClientError) else ""
            if code == "BucketAlreadyExists":
                raise BucketTakenError(f"The name {self.bucket} belongs to somebody else.") from error
            if code != "BucketAlreadyOwnedByYou":
                raise
        end = time.monotonic() + _PATIENCE
        while self._head(self.bucket)[0] == 404:
            if time.monotonic() > end:
                raise StoreUnavailableError(f"S3 made the bucket {self.bucket} and does not show it; try again later.")
            time.sleep(0.5)

    def apply(self, step: Step) -> None:
        """Send the request of *step*.

        Raises:
            StoreRefusedError: it is refused.
            StoreUnavailableError: the server is away or busy.
        """
        for attempt in range(1, _CONFLICTS + 1):
            with explained(self.bucket, step.action):
                try:
                    getattr(self._client, step.operation)(Bucket=self.bucket, **step.arguments)
                except ClientError as error:
                    code = error.response["Error"]["Code"]
                    if code in _NOT_THERE:
                        raise StoreRefusedError(f"The server does not have {_title(step.part)} ({code}).") from error
                    if code != "OperationAborted" or attempt == _CONFLICTS:
                        raise
                else:
                    return
            time.sleep(attempt)


def _title(part: str) -> str:
    return PARTS[part].title if part in PARTS else part


_LACKS, _OVERHEARD = object(), object()
