"""Does the bucket do all that this program needs? A step each, with the server's own words and the fix for a failure.

Each request is sent once and with short time-outs: a person waits for the answer.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from carscraper.exceptions import CarscraperError, ConfigurationError, StoreError
from carscraper.maintenance.policies import everybody_reads
from carscraper.storage.answers import DENIED, Answer, connection_problem, no_way, words_of
from carscraper.storage.client import ask_bucket, open_client
from carscraper.storage.credentials import keys, session
from carscraper.storage.keys import PROBES, permanent_url
from carscraper.storage.objects import presign
from carscraper.storage.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from carscraper.storage.client import S3Options

_TIMEOUT = 5  # seconds for an address that is asked for without boto3
_LOOK = "see that its server runs, and that AWS_ENDPOINT_URL (or IMAGES_PUBLIC_URL) names it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One thing that was tried."""

    name: str
    ok: bool | None
    """``None``: it was not tried."""
    detail: str = ""
    """What was found; if it failed, the server's own words."""
    fix: str = ""
    """What mends a failure."""


class _FailedError(Exception):
    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.fix = fix


def check_bucket(options: S3Options, *, public: bool | None = None) -> Iterator[Step]:
    """Try all that is needed of a bucket; each step as soon as it is over.

    The probe object is removed at the end, also when a step fails or the caller stops listening.

    Args:
        options: the bucket and its credentials.
        public: whether the permanent address should answer to anybody; ``None``: if ``IMAGES_PUBLIC_URL`` is set or
            the bucket's policy allows it.
    """
    its = _Check(options, public)
    steps: list[tuple[str, Callable[[], str]]] = [
        ("credentials", its.credentials),
        ("bucket", its.bucket),
        ("put", its.put),
        ("get", its.get),
        ("head", its.head),
        ("list", its.list),
        ("public address", lambda: its.public_address(options.base)),
        ("direct address", lambda: its.public_address(options.direct_base)),
        ("presigned address", its.presigned_address),
        ("delete", its.delete),
    ]
    if options.base == options.direct_base:
        steps = [step for step in steps if step[0] != "direct address"]
    stopped = ""
    try:
        for name, attempt in steps:
            if stopped:
                yield Step(name=name, ok=None, detail=f"not tried without {stopped}")
                continue
            step = _tried(name, attempt)
            if step.ok is False and name in {"credentials", "bucket", "put"}:
                stopped = name
            yield step
    finally:
        its.clean()


def _tried(name: str, attempt: Callable[[], str]) -> Step:
    try:
        return Step(name=name, ok=True, detail=attempt())
    except _FailedError as failed:
        return Step(name=name, ok=False, detail=failed.cause, fix=failed.fix)


@contextlib.contextmanager
def _asking(action: str, where: str, bucket: str = "") -> Iterator[None]:
    """Turn what boto3 raises while *action* is asked of *where* into a failure with its fix."""
    try:
        yield
    except ClientError as error:
        raise _refused(Answer.of(error), action) from error
    except BotoCoreError as error:
        raise _unanswered(where, error, bucket) from error


def _refused(answer: Answer, action: str) -> _FailedError:
    if answer.passing:
        return _FailedError(f"the server answers {answer.status} {answer.words}", "try again later")
    more = ", or make the bucket: scrapy storage setup" if answer.code == "NoSuchBucket" else ""
    return _FailedError(answer.words, answer.fix(action) + more)


def _unanswered(where: str, error: Exception, bucket: str = "") -> _FailedError:
    said = words_of(error)
    if problem := connection_problem(said):
        return _FailedError(f"{where}: {problem[0]}", problem[1])
    if problem := no_way(said, bucket):
        return _FailedError(problem[0], problem[1])
    if "Connection refused" in said:
        return _FailedError(f"{where} refuses connections", _LOOK)
    kind = type(getattr(error, "reason", error)).__name__
    return _FailedError(f"{where} does not answer ({kind})", _LOOK)


def _said(error: CarscraperError) -> _FailedError:
    """Split a sentence into cause and fix."""
    said = str(error).rstrip(".")
    cause, _, fix = said.rpartition("; ") if "; " in said else said.partition(": ")
    return _FailedError(cause, fix or "correct it, or leave it empty")


class _Check:
    def __init__(self, options: S3Options, public: bool | None) -> None:
        self._options = options
        self._public = public
        self._client: Any = None
        self._where = {"Bucket": options.bucket, "Key": f"{options.prefix}{PROBES}check-{secrets.token_hex(9)}.jpg"}
        self._name = self._where["Key"]
        self._server = options.endpoint or f"Amazon's {options.region}"
        self._data = secrets.token_hex(32).encode()
        self._there = False
        self._version = ""

    def credentials(self) -> str:
        options = self._options
        try:
            if not options.profile:
                keys(options)
            found = session(options)
        except ConfigurationError as error:
            raise _said(error) from error
        self._client = open_client(options, found=found, attempts=1)
        method = str(getattr(found.get_credentials(), "method", ""))
        where = {"explicit": "settings", "env": "environment"}.get(method, method.replace("-", " "))
        return f"profile {options.profile} ({where})" if options.profile else where

    def bucket(self) -> str:
        options, bucket = self._options, self._options.bucket
        try:
            uploads = S3Store(options)
        except ConfigurationError as error:
            raise _said(error) from error
        with _asking("s3:ListBucket", self._server, bucket):
            region, refusal = ask_bucket(self._client, bucket, options.prefix)
        if refusal and region and region != options.region:
            raise _FailedError(f"{bucket} is in {region}, not in {options.region}", f"set AWS_S3_REGION={region}")
        if refusal and refusal.code not in DENIED:
            raise _refused(refusal, "s3:ListBucket")
        try:
            uploads.greet()
        except StoreError as error:
            raise _said(error) from error
        allowed = ", which these credentials may not list" if refusal else ""
        return f"{bucket} at {self._server}{f' in {region}' if region and options.endpoint else ''}{allowed}"

    def put(self) -> str:
        self._there = True  # also if the answer is lost
        try:
            with _asking("s3:PutObject", self._server):
                answer = self._client.put_object(
                    **self._where, Body=self._data, ContentType="image/jpeg", **self._options.put_arguments
                )
        except _FailedError as failed:
            refused = isinstance(failed.__cause__, ClientError)
            self._there = not refused
            if refused and "AccessDenied" in failed.cause and self._options.endpoint and self._acls_are_blocked():
                cause, fix = "BlockPublicAcls is on, for which some servers refuse every upload", "scrapy storage setup"
                fix += ": it tries a photo, and takes the block back if that is the cause"
                if not self._may_write():
                    fix = f"{failed.fix}, or {fix}"
                raise _FailedError(f"{failed.cause}; {cause}", fix) from failed
            raise
        self._version = answer.get("VersionId", "")
        return self._name

    def _acls_are_blocked(self) -> bool:
        with contextlib.suppress(ClientError, BotoCoreError, KeyError):
            found = self._client.get_public_access_block(Bucket=self._options.bucket)
            return bool(found["PublicAccessBlockConfiguration"]["BlockPublicAcls"])
        return False

    def _may_write(self) -> bool:
        """Return whether the credentials may at least delete here: then it is hardly a right that a put lacks."""
        with contextlib.suppress(ClientError, BotoCoreError):
            answer = self._client.delete_object(**self._where)
            if answer.get("DeleteMarker"):  # of a bucket with versions
                self._client.delete_object(**self._where, VersionId=answer["VersionId"])
            return True
        return False

    def get(self) -> str:
        with _asking("s3:GetObject", self._server):
            data = self._client.get_object(**self._where)["Body"].read()
        if data != self._data:
            raise _FailedError(
                f"{len(data)} bytes came back that are not the {len(self._data)} that were put",
                "find out what changes them, the server or a proxy on the way, before photos are stored there",
            )
        return f"{len(data)} bytes, as they were put"

    def head(self) -> str:
        with _asking("s3:GetObject", self._server):
            found = self._client.head_object(**self._where)
        kind, size = found.get("ContentType", "no content type"), found["ContentLength"]
        if (kind, size) != ("image/jpeg", len(self._data)):
            raise _FailedError(
                f"it says {kind}, {size} bytes, for image/jpeg, {len(self._data)} bytes",
                "browsers would not show photos from there: use another server",
            )
        return f"{kind}, {size} bytes"

    def list(self) -> str:
        with _asking("s3:ListBucket", self._server):
            found = self._client.list_objects_v2(Bucket=self._options.bucket, Prefix=self._name)
        if self._name not in [each["Key"] for each in found.get("Contents", ())]:
            raise _FailedError("the list does not have it", "audit and list would be wrong there: use another server")
        return "it is in the list"

    def public_address(self, base: str) -> str:
        """Ask for the probe without credentials, where it should be seen and where not."""
        direct, opens = base == self._options.direct_base, self._policy_opens()
        if direct and self._options.public_url:  # a distribution in front of a private bucket is as it should be
            expected = opens and self._public is not False
        else:
            expected = bool(self._options.public_url) or opens if self._public is None else self._public
        url = permanent_url(self._name, base)
        status, data = self._ask(url)
        if not expected:
            if status == 200:
                raise _FailedError(
                    f"anybody can read {url}", "scrapy storage setup blocks that; if it is meant, say --public"
                )
            return f"{status} to requests without credentials, as it should be"
        if status == 200 and data == self._data:
            return f"{base} shows it to anybody"
        if status == 200:
            raise _FailedError(f"{url} shows something else", "IMAGES_PUBLIC_URL must lead to the bucket's root")
        raise _FailedError(
            f"{url} answers {status} to requests without credentials",
            "scrapy storage setup --public opens the bucket to readers; if it should be private, say --private"
            if direct
            else "let the distribution read the bucket (scrapy storage policy --bucket-policy cloudfront), its root at "
            "IMAGES_PUBLIC_URL",
        )

    def _policy_opens(self) -> bool:
        """Read the bucket's policy; without the right to read it, or on a server without policies, it is not public."""
        with contextlib.suppress(ClientError, BotoCoreError, ValueError):
            policy = json.loads(self._client.get_bucket_policy(Bucket=self._options.bucket)["Policy"])
            return everybody_reads(policy, self._options.bucket, self._name)
        return False

    def presigned_address(self) -> str:
        url = presign(self._client, self._options.bucket, self._name, expires=timedelta(minutes=1))
        status, data = self._ask(url)
        if status != 200 or data != self._data:
            code = re.search(r"<Code>(\w+)</Code>", data.decode("utf-8", "replace"))
            said = f"it answers {status} {code[1]}" if code else f"it answers {status}"
            raise _FailedError(
                said if status != 200 else "it answers with other bytes",
                Answer(status, code[1] if code else "").fix("s3:GetObject"),
            )
        return "it shows the probe without credentials of its own"

    def _ask(self, url: str) -> tuple[int, bytes]:
        """Return status and body of *url*, as anybody would get it."""
        request = urllib.request.Request(url)  # noqa: S310 - the scheme is that of the settings
        where = f"{request.type}://{request.host}"
        try:
            context = ssl.create_default_context(cafile=self._options.ca_bundle)
            with urllib.request.urlopen(request, timeout=_TIMEOUT, context=context) as answer:  # noqa: S310
                return answer.status, answer.read(1 << 18)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(1 << 18)
        except OSError as error:
            raise _unanswered(where, error) from error

    def delete(self) -> str:
        try:
            with _asking("s3:DeleteObject", self._server):
                self._delete()
        except _FailedError as failed:
            raise _FailedError(failed.cause, f"{failed.fix}; {self._name} stays until then") from failed
        with contextlib.suppress(ClientError, BotoCoreError):
            self._client.head_object(**self._where)
            raise _FailedError(f"{self._name} is still there", "remove it by hand; retention or a cache may hold it")
        self._there = False
        return "nothing is left of it"

    def _delete(self) -> None:
        version = {"VersionId": self._version} if self._version not in {"", "null"} else {}
        self._client.delete_object(**self._where, **version)

    def clean(self) -> None:
        """Leave nothing behind, whatever came between."""
        if self._there:
            with contextlib.suppress(ClientError, BotoCoreError):
                self._delete()
        if self._client:
            self._client.close()
