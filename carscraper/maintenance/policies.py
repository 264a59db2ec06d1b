"""IAM and bucket policies as plain dicts, ready for ``json.dumps``. Pure functions.

Statements for a bucket's policy have a ``Sid`` that begins with ``Carscraper``, by which they are known again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from carscraper.storage.client import encryption
from carscraper.storage.keys import PROBES

if TYPE_CHECKING:
    from collections.abc import Iterable

Document = dict[str, Any]
"""A whole policy."""
Statement = dict[str, Any]
"""One statement of a policy."""

PICTURES = ("avif", "gif", "jpeg", "jpg", "png", "webp", "JPEG", "JPG", "PNG")
"""How the names of public objects end."""
TLS_ONLY, PUBLIC_READ, CLOUDFRONT_READ = "CarscraperTlsOnly", "CarscraperPublicRead", "CarscraperCloudFrontRead"
"""The ``Sid`` of each of our statements in a bucket's policy."""

_NAMES = {"ID", "Id", "Sid"}  # of rules, notifications and statements
_KMS_ARN = re.compile(r"arn:[\w-]+:kms:[\w-]+:[0-9]{12}:(key/.+|alias/.+)")

# What `scrapy storage setup`, `check`, `lifecycle` and `delete` ask of the bucket itself. IAM's names are not always
# the API's: GetBucketEncryption needs s3:GetEncryptionConfiguration, deleting rules s3:PutLifecycleConfiguration.
_ADMINISTRATION = (
    *("s3:CreateBucket", "s3:DeleteBucketPolicy", "s3:ListBucket", "s3:ListBucketVersions"),
    *(
        f"s3:{verb}{name}"
        for name in (
            *("BucketCORS", "BucketNotification", "BucketOwnershipControls", "BucketPolicy"),
            *("BucketPublicAccessBlock", "BucketVersioning", "EncryptionConfiguration", "LifecycleConfiguration"),
        )
        for verb in ("Get", "Put")
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """Where runs leave their items and logs (``S3_UPLOAD_ON_COMPLETION``)."""

    bucket: str
    prefix: str
    """With its slash, or nothing."""
    tags: bool = True
    """They get tags (``S3_OUTPUT_TAGS``)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """The bucket that a policy is about, and what the settings ask of it."""

    bucket: str
    region: str
    prefix: str = ""
    """``S3_PREFIX`` with its slash, or nothing."""
    tags: bool = False
    """Objects get tags (``S3_TAGS``)."""
    sse: str | None = None
    """``S3_SSE``: only ``aws:kms:<key>`` asks for more rights."""
    distribution: str | None = None
    """``CLOUDFRONT_DISTRIBUTION_ID``."""
    outputs: Outputs | None = None
    """``None``: they are not uploaded."""

    @property
    def partition(self) -> str:
        """The part of Amazon that the region belongs to; each has its own accounts and ARNs."""
        if self.region.startswith("cn-"):
            return "aws-cn"
        return "aws-us-gov" if self.region.startswith("us-gov-") else "aws"

    @property
    def bucket_arn(self) -> str:
        """The bucket itself."""
        return f"arn:{self.partition}:s3:::{self.bucket}"

    def objects_arn(self, below: str = "") -> str:
        """Every object whose name begins with *below* (after ``S3_PREFIX``)."""
        return f"{self.bucket_arn}/{self.prefix}{below}*"


def document(*statements: Statement) -> Document:
    """Return a policy of *statements*."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


# --- IAM: for people and programs -------------------------------------------------------------------------------


def crawl(scope: Scope) -> Document:
    """Return what a crawl needs: it puts photos, and looks once whether the bucket is there.

    Without the second statement the first upload tells.
    """
    put = ["s3:PutObject", "s3:PutObjectTagging"] if scope.tags else "s3:PutObject"
    return document(
        _allow("StorePhotos", put, scope.objects_arn()),
        _allow("OptionalCheckAtTheStart", "s3:ListBucket", scope.bucket_arn),
        *_outputs(scope),
        # Outputs are sent in parts, and read back where an ETag is no MD5: both decrypt.
        *_key(scope, *(("kms:Decrypt",) if scope.outputs else ()), "kms:GenerateDataKey"),
    )


def backfill(scope: Scope) -> Document:
    """Return what a backfill needs: a crawl's rights; it reads photos that are there, and clears a rehearsal away."""
    return document(
        crawl(scope)["Statement"][0],
        # Without it S3 says 403, not 404, of a photo that is not there: it could not be fetched again.
        _allow("TellMissingFromForbidden", "s3:ListBucket", scope.bucket_arn),
        _allow("ReadPhotos", "s3:GetObject", scope.objects_arn()),
        _allow("ClearRehearsals", "s3:DeleteObject", scope.objects_arn(PROBES)),
        *_outputs(scope),
        *_key(scope, "kms:Decrypt", "kms:GenerateDataKey"),
    )


def admin(scope: Scope) -> Document:
    """Return what all of ``scrapy storage`` needs, on this one bucket."""
    objects = [f"s3:{each}" for each in ("DeleteObject", "DeleteObjectVersion", "GetObject", "GetObjectVersion")]
    objects.append("s3:PutObject")
    if scope.tags:
        objects += ["s3:GetObjectVersionTagging", "s3:PutObjectTagging"]
    statements = [
        _allow("SetUpTheBucket", sorted(_ADMINISTRATION), scope.bucket_arn),
        # The whole bucket: `delete`, `audit` and `discover` also meet what earlier programs put beside S3_PREFIX.
        _allow("HandleObjects", objects, f"{scope.bucket_arn}/*"),
        *_outputs(scope),
        *_key(scope, "kms:Decrypt", "kms:GenerateDataKey"),
    ]
    if scope.distribution:
        # The account is not among the settings; CloudFront's ids are unique anyway.
        arn = f"arn:{scope.partition}:cloudfront::*:distribution/{scope.distribution}"
        statements.append(_allow("InvalidateDeletedPhotos", "cloudfront:CreateInvalidation", arn))
    return document(*statements)


def _allow(sid: str, action: str | list[str], resource: str | list[str]) -> Statement:
    return {"Sid": sid, "Effect": "Allow", "Action": action, "Resource": resource}


def _outputs(scope: Scope) -> list[Statement]:
    """Return the right to put a run's files and to compare them; never to delete one."""
    if scope.outputs is None:
        return []
    actions = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
    if scope.outputs.tags:
        actions.append("s3:PutObjectTagging")
    resource = f"arn:{scope.partition}:s3:::{scope.outputs.bucket}/{scope.outputs.prefix}*"
    return [_allow("StoreOutputs", actions, resource)]


def _key(scope: Scope, *actions: str) -> list[Statement]:
    """Return the right to use the key of ``S3_SSE``; Amazon's own key needs none."""
    _, key = encryption(scope.sse or "AES256")
    if not key:
        return []
    statement = _allow("UseTheKey", list(actions) if len(actions) > 1 else actions[0], "")
    found = _KMS_ARN.fullmatch(key)
    base = key[: found.start(1)] if found else f"arn:{scope.partition}:kms:{scope.region}:*:"
    name = found[1] if found else key
    if name.startswith("alias/"):
        # IAM knows keys by their ids only: the alias is asked for in a condition.
        statement["Resource"] = f"{base}key/*"
        statement["Condition"] = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": name}}
    else:
        statement["Resource"] = f"{base}{name if found else f'key/{name}'}"
    return [statement]


# --- the bucket's own policy ------------------------------------------------------------------------------------


def tls_only(scope: Scope) -> Statement:
    """Refuse requests without TLS. The bucket's own ARN and its objects' are both needed.

    ``IfExists``: servers that leave the key out of a plain request would let it pass otherwise.
    """
    return {
        "Sid": TLS_ONLY,
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [scope.bucket_arn, f"{scope.bucket_arn}/*"],
        "Condition": {"BoolIfExists": {"aws:SecureTransport": "false"}},
    }


def public_read(scope: Scope) -> Statement:
    """Let everybody read pictures, but list nothing."""
    return {**_allow(PUBLIC_READ, "s3:GetObject", _pictures(scope)), "Principal": "*"}


def cloudfront_read(scope: Scope, distribution_arn: str) -> Statement:
    """Let one CloudFront distribution (by its origin access control) read pictures."""
    return {
        **_allow(CLOUDFRONT_READ, "s3:GetObject", _pictures(scope)),
        "Principal": {"Service": "cloudfront.amazonaws.com"},
        "Condition": {"StringEquals": {"AWS:SourceArn": distribution_arn}},
    }


def _pictures(scope: Scope) -> list[str]:
    # By their endings: a wildcard over all of S3_PREFIX would publish what a job leaves there (logs, lists of cars),
    # and the folders of the dealers are not all that holds photos: earlier programs chose other names.
    return [f"{scope.objects_arn()}.{ending}" for ending in PICTURES]


def merged_policy(policy: Document | None, put: Iterable[Statement], drop: Iterable[str] = ()) -> Document | None:
    """Return *policy* with our statements in the place of those with their ``Sid``, ``None`` if none is left.

    Args:
        policy: what is there; statements of others stay as they are.
        put: our statements.
        drop: the ``Sid`` of statements that go.
    """
    kept = with_ours(statements_of(policy), put, drop, name="Sid")
    return {**(policy or document()), "Statement": kept} if kept else None


def with_ours(
    there: Iterable[Statement], ours: Iterable[Statement], gone: Iterable[str] = (), *, name: str = "ID"
) -> list[Statement]:
    """Return what is *there*, *ours* in the place of what has the same *name*; without what is *gone*."""
    new, without = {each[name]: each for each in ours}, set(gone)
    kept = [new.pop(each.get(name), each) for each in there if each.get(name) in new or each.get(name) not in without]
    return [*kept, *new.values()]


def statements_of(policy: Document | None) -> list[Statement]:
    """Return the statements of *policy*; a single one may stand there without a list."""
    return _many((policy or {}).get("Statement", []))


def same(one: Any, other: Any) -> bool:
    """Return whether two configurations mean the same, whatever they are called.

    A server may give back another form than it was sent: see :func:`_plain`.

    >>> same({"Action": ["s3:GetObject"]}, {"Action": "s3:GetObject"}), same({"Action": "a"}, {"Action": "b"})
    (True, False)
    >>> same({"Sid": "A", "Principal": {"AWS": ["*"]}}, {"Principal": "*"})
    True
    """
    return bool(_plain(one) == _plain(other))


def ours_among(there: Iterable[Statement], ours: Statement, *, name: str = "ID") -> Statement | None:
    """Return what has the same *name* as *ours*, else what means the same: some servers drop names, or choose them."""
    found = list(there)
    named = (each for each in found if each.get(name) == ours[name])
    return next(named, None) or next((each for each in found if same(each, ours)), None)


def _plain(value: Any) -> Any:
    """Return the one form that everything with the same meaning has.

    Names are left out, and what is empty. Lists have no order, and one element is as good as a list of it. Everybody is
    ``"*"``, as a principal on Amazon and elsewhere. A boolean is a word, as in conditions. Amazon capitalises the names
    of a notification's filters.
    """
    if isinstance(value, dict):
        plain = {name: _plain(inner) for name, inner in value.items() if name not in _NAMES}
        if isinstance(plain.get("Name"), str):
            plain["Name"] = plain["Name"].lower()
        plain = {name: inner for name, inner in plain.items() if inner not in ("", [], {}, None)}
        return "*" if plain == {"AWS": "*"} else plain
    if isinstance(value, list | tuple):
        inner = sorted({repr(plain): plain for plain in map(_plain, value)}.items())
        return inner[0][1] if len(inner) == 1 else [plain for _, plain in inner]
    return str(value).lower() if isinstance(value, bool) else value


def lets_everybody_in(statement: Any) -> bool:
    """Return whether *statement* allows something to anonymous callers without a condition."""
    if not isinstance(statement, dict) or statement.get("Effect") != "Allow" or statement.get("Condition"):
        return False
    principal = statement.get("Principal")
    return "*" in _many(principal.get("AWS") if isinstance(principal, dict) else principal)


def everybody_reads(policy: Any, bucket: str, name: str) -> bool:
    """Return whether a bucket's *policy* lets everybody read the object *name*, without conditions.

    >>> everybody = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/cars/*"}
    >>> policy = {"Statement": everybody}
    >>> everybody_reads(policy, "b", "cars/1.jpg"), everybody_reads(policy, "b", "other/1.jpg")
    (True, False)
    """
    return any(
        any(fnmatchcase("s3:getobject", str(action).lower()) for action in _many(each.get("Action")))
        and any(fnmatchcase(f"{bucket}/{name}", str(it).rpartition(":::")[2]) for it in _many(each.get("Resource")))
        for each in (statements_of(policy) if isinstance(policy, dict) else ())
        if lets_everybody_in(each)
    )


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
