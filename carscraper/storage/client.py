"""S3 connection options, credentials, boto3 clients, and what an S3 server's answers mean.

boto3 takes 50 MB and 0.3 s to import: only for those who use it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound

from carscraper.exceptions import ConfigurationError, StoreError, StoreRefusedError, StoreUnavailableError
from carscraper.settings import Secret
from carscraper.storage.encryption import encryption
from carscraper.storage.keys import normalise_prefix, public_base

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

    import boto3
    from scrapy.settings import BaseSettings

_CONNECT_TIMEOUT, _READ_TIMEOUT = 5, 10  # seconds
_SERVER_ERROR = 500

# The default class of an answer is "refused". What passes by itself has one of these codes, or one of these statuses
# (or 5xx) and no code of FIXES.
_PASSING_STATUS = {408, 409, 425, 429}
_FINAL_STATUS = {501, 505}
_PASSING_CODES = {
    *("BadDigest", "IncompleteBody", "InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable"),
    *("SlowDown", "RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException"),
    *("TooManyInvalidationsInProgress", "XMinioServerNotInitialized"),
}
_LONGEST_MESSAGE = 200

FIXES = {
    "InvalidAccessKeyId": "the access key does not exist (any more): check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong: check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session token has expired: renew AWS_SESSION_TOKEN or use a role",
    "TokenRefreshRequired": "the session token has expired: renew AWS_SESSION_TOKEN or use a role",
    "InvalidToken": "the session token is wrong: check AWS_SESSION_TOKEN",
    "AllAccessDisabled": "the account is suspended: ask the account's owner",
    "AccountProblem": "the account has a problem: ask the account's owner",
    "NotSignedUp": "the account is not signed up for S3: ask the account's owner",
    "NoSuchBucket": "check AWS_S3_BUCKET, or make the bucket: scrapy storage setup",
    "PermanentRedirect": "the bucket is in another region: check AWS_S3_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region: check AWS_S3_REGION",
    "IllegalLocationConstraintException": "the bucket is in another region: check AWS_S3_REGION",
    "InvalidRegionName": "the server does not know this region: check AWS_S3_REGION",
    "QuotaExceeded": "the bucket's quota is used up: raise it or make room",
    "XMinioStorageFull": "the server's disk is full: make room",
    "InvalidStorageClass": "the server does not know this storage class: check S3_STORAGE_CLASS",
    "InvalidTag": "the server does not take these tags: check S3_TAGS",
    "InvalidEncryptionAlgorithmError": "the server does not know this encryption: check S3_SSE",
    "KMS.NotFoundException": "the encryption key does not exist: check S3_SSE",
    "KMS.DisabledException": "the encryption key is disabled: enable it or check S3_SSE",
    "NotImplemented": "the server can't do what is asked; for uploads leave S3_TAGS, S3_SSE and S3_STORAGE_CLASS empty",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it by NTP",
}
"""What mends a refusal with this S3 error code."""
DENIED = {"AccessDenied", "AccessDeniedException", "Forbidden", "403"}
"""Codes that name a missing right."""
MISSING_FEATURE = {"NotImplemented", "MethodNotAllowed", "XNotImplemented", "NotSupported", "501", "405"}
"""Codes of a server that does not have what was asked for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an S3 server said instead of doing what was asked."""

    status: int
    code: str = ""
    message: str = ""

    @classmethod
    def of(cls, error: ClientError) -> Self:
        """Read boto3's *error*."""
        said = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return cls(status, str(said.get("Code", "")), str(said.get("Message", "")))

    @property
    def passing(self) -> bool:
        """Whether the same request may work later."""
        if self.code in _PASSING_CODES:
            return True
        later = self.status in _PASSING_STATUS or (self.status >= _SERVER_ERROR and self.status not in _FINAL_STATUS)
        return later and self.code not in FIXES

    @property
    def words(self) -> str:
        """The server's own code and message, in one line.

        >>> Answer(403, "AccessDenied", "Access Denied").words, Answer(405).words
        ('AccessDenied: Access Denied', '405')
        """
        message = " ".join(self.message.split())[:_LONGEST_MESSAGE].rstrip(".")
        return ": ".join(part for part in (self.code or str(self.status), message) if part)

    def fix(self, action: str) -> str:
        """Say what mends it, if *action* (IAM's name, such as ``s3:PutObject``) was asked for.

        >>> Answer(403, "AccessDenied", "… not authorized to perform: kms:Decrypt on …").fix("s3:GetObject")
        'allow kms:Decrypt'
        """
        if self.code in DENIED or (self.status in {401, 403} and not self.code):
            named = re.search(r"not authorized to perform: ([a-z0-9-]+:\w+)", self.message)
            return f"allow {named[1] if named else action}"
        if self.status in {301, 302, 307, 308} and self.code not in FIXES:
            return "check AWS_ENDPOINT_URL and AWS_S3_REGION: the server sends elsewhere"
        if self.code or self.status in {501, 505}:
            return FIXES.get(self.code, "check the AWS_… and S3_… settings, or ask who runs the server")
        return "check AWS_ENDPOINT_URL: it must be an S3 server's address"


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Options:
    """What the store needs to know; plain values."""

    bucket: str
    region: str
    endpoint: str | None = None
    prefix: str = ""
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    ca_bundle: str | None = None
    public_url: str | None = None
    storage_class: str | None = None
    sse: str | None = None
    """``AES256``, ``aws:kms`` or ``aws:kms:<key id>``."""
    tags: tuple[tuple[str, str], ...] = ()
    parallel: int = 16
    timeout: float = 60
    """Seconds for one upload with all its retries."""
    retries: int = 5

    @classmethod
    def from_settings(cls, settings: BaseSettings, *, bucket: str | None = None) -> Self:
        """Read the ``AWS_…`` and ``S3_…`` settings.

        Args:
            settings: checked ones.
            bucket: another one than ``AWS_S3_BUCKET``.

        Raises:
            ConfigurationError: no bucket is named.
        """

        def plain(name: str) -> str | None:
            value = settings.get(name)
            return value.reveal() if isinstance(value, Secret) else value

        bucket = bucket or settings.get("AWS_S3_BUCKET")
        if not bucket:
            raise ConfigurationError("AWS_S3_BUCKET is missing: name the bucket, or set USE_S3_STORAGE=false.")
        return cls(
            bucket=bucket,
            region=settings.get("AWS_S3_REGION"),
            endpoint=settings.get("AWS_ENDPOINT_URL"),
            prefix=normalise_prefix(settings.get("S3_PREFIX")),
            access_key=plain("AWS_ACCESS_KEY_ID"),
            secret_key=plain("AWS_SECRET_ACCESS_KEY"),
            session_token=plain("AWS_SESSION_TOKEN"),
            profile=settings.get("AWS_PROFILE"),
            ca_bundle=settings.get("AWS_CA_BUNDLE"),
            public_url=settings.get("IMAGES_PUBLIC_URL"),
            storage_class=settings.get("S3_STORAGE_CLASS"),
            sse=settings.get("S3_SSE"),
            tags=tuple((str(name), str(value)) for name, value in settings.get("S3_TAGS").items()),
            parallel=settings.getint("S3_MAX_PARALLEL_UPLOADS"),
            timeout=settings.getfloat("S3_UPLOAD_TIMEOUT"),
            retries=settings.getint("S3_MAX_RETRIES"),
        )

    @property
    def base(self) -> str:
        """What stands before an object's name in its permanent URL."""
        return public_base(bucket=self.bucket, region=self.region, endpoint=self.endpoint, public_url=self.public_url)

    @property
    def direct_base(self) -> str:
        """What stands before an object's name at the S3 server itself, whatever CDN is in front of it."""
        return public_base(bucket=self.bucket, region=self.region, endpoint=self.endpoint, public_url=None)

    @property
    def put_arguments(self) -> dict[str, str]:
        """What boto3's ``put_object`` needs beside name and bytes: storage class, encryption and tags."""
        kind, key = encryption(self.sse)
        arguments = {
            "StorageClass": self.storage_class,
            "ServerSideEncryption": kind,
            "SSEKMSKeyId": key,
            "Tagging": urlencode(self.tags),
        }
        return {name: value for name, value in arguments.items() if value}


def open_client(
    options: S3Options, service: str = "s3", *, found: boto3.Session | None = None, attempts: int = 2
) -> Any:
    """Make a boto3 client for this bucket's server; for CloudFront, Amazon's own endpoint unless one is set."""
    from botocore.config import Config  # noqa: PLC0415 - see the top

    make: Any = (found or session(options)).client  # typed for each of Amazon's services by its literal name
    client = make(
        service,
        endpoint_url=options.endpoint,
        verify=options.ca_bundle,
        config=Config(
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=_READ_TIMEOUT,
            retries={"total_max_attempts": attempts if service == "s3" else 4, "mode": "standard"},
            s3={"addressing_style": "path" if options.endpoint else "virtual"},
            signature_version="s3v4" if service == "s3" else None,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    if service == "s3":
        client.meta.events.register("before-call.s3", _prepare)
    return client


def _prepare(params: dict[str, Any], model: Any, **_: Any) -> None:
    """Send Content-MD5 where S3 demands a checksum: every store knows it, not all know the newer ones.

    And stay in the region of the settings: looking for a better one, boto3 asks a server that answers every HEAD with
    301 without end.
    """
    params.get("context", {}).setdefault("s3_redirect", {})["redirected"] = True
    if model.http_checksum_required or model.http_checksum.get("requestChecksumRequired"):
        params.get("context", {}).pop("checksum", None)
        body = params["body"].encode() if isinstance(params["body"], str) else params["body"]
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        params["headers"]["Content-MD5"] = base64.b64encode(digest).decode("ascii")


@contextlib.contextmanager
def explained(bucket: str, action: str) -> Iterator[None]:
    """Turn what boto3 raises inside into a sentence.

    Args:
        bucket: its name, for the sentence.
        action: the IAM action that is being used, such as ``s3:ListBucket``.

    Raises:
        StoreRefusedError: it will go on refusing until a person changes something.
        StoreUnavailableError: the server is away or busy.
    """
    try:
        yield
    except ClientError as error:
        raise explain(error, bucket, action) from error
    except BotoCoreError as error:
        raise silent(error) from error


def explain(error: ClientError, bucket: str, action: str) -> StoreError:
    """Return what *error* means, and what mends it, as an exception with a sentence."""
    return failure(Answer.of(error), bucket, action)


def failure(answer: Answer, bucket: str, action: str) -> StoreError:
    """Return the exception for a server that answered *answer* to *action*."""
    if answer.passing:
        return StoreUnavailableError(f"S3 answers {answer.status} {answer.code} to {action}; try again later.")
    return StoreRefusedError(f"S3 refuses {action} on the bucket {bucket} ({answer.words}): {answer.fix(action)}.")


# What a client's words about a connection mean: a part of them, the cause, the fix; the first that fits.
_CONNECTION = (
    *(
        (words, "its certificate has expired", "renew it on the server")
        for words in ("certificate has expired", "InvalidCertificate(Expired")
    ),
    *(
        (
            words,
            "its certificate is another host's",
            "use a name that it has (a bucket with dots has none)",
        )
        for words in ("ostname mismatch", "doesn't match", "IP address mismatch", "NotValidForName")
    ),
    *(
        (words, "its certificate can't be verified", "set AWS_CA_BUNDLE to the PEM file of its authority")
        for words in ("CERTIFICATE_VERIFY_FAILED", "UnknownIssuer", "InvalidCertificate", "invalid path: ")
    ),
    *(
        (words, "it does not speak TLS", "write http:// instead of https:// in its address")
        for words in ("WRONG_VERSION_NUMBER", "record layer failure", "InvalidMessage", "InvalidContentType")
    ),
    ("BadStatusLine", "it does not speak HTTP", "write https:// instead of http:// in AWS_ENDPOINT_URL"),
)


def connection_problem(said: str) -> tuple[str, str] | None:
    """Return cause and fix if *said*, a client's words, names a fault that does not pass by itself.

    >>> connection_problem("[SSL: WRONG_VERSION_NUMBER] wrong version number")
    ('it does not speak TLS', 'write http:// instead of https:// in its address')
    >>> connection_problem("Connection refused") is None
    True
    """
    return next(((cause, fix) for words, cause, fix in _CONNECTION if words in said), None)


def silent(error: BotoCoreError) -> StoreError:
    """Return why no answer came, as an exception with a sentence."""
    if problem := connection_problem(str(error)):
        return StoreRefusedError(f"S3 can't be used: {problem[0]} ({error}); {problem[1]}.")
    return StoreUnavailableError(f"S3 does not answer ({type(error).__name__}: {error}).")


def region_in(response: Mapping[str, Any]) -> str | None:
    """Return the bucket's region if boto3's *response* names it, that of an error too."""
    found = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
    found = found or response.get("BucketRegion") or response.get("Error", {}).get("Region")
    return str(found) if found else None


def keys(options: S3Options) -> Credentials | None:
    """Return the credentials that the settings name as keys, ``None`` if there are none.

    Raises:
        ConfigurationError: one half is missing.
    """
    if bool(options.access_key) != bool(options.secret_key):
        missing = "AWS_SECRET_ACCESS_KEY" if options.access_key else "AWS_ACCESS_KEY_ID"
        raise ConfigurationError(f"{missing} is missing though its partner is set; set both or neither.")
    if not options.access_key or not options.secret_key:
        return None
    return Credentials(options.access_key, options.secret_key, options.session_token)


def session(options: S3Options) -> boto3.Session:
    """Let boto3 find the credentials.

    Raises:
        ConfigurationError: there are none, or they can't be read.
    """
    import boto3  # noqa: PLC0415 - see the top

    try:
        found = boto3.Session(
            aws_access_key_id=options.access_key,
            aws_secret_access_key=options.secret_key,
            aws_session_token=options.session_token,
            profile_name=options.profile,
            region_name=options.region,
        )
        credentials = found.get_credentials()
        if credentials is not None:
            credentials.get_frozen_credentials()  # asks STS or SSO now, where it can be said, not at the first photo
    except ProfileNotFound:
        raise ConfigurationError(f"AWS_PROFILE={options.profile} is not in the AWS configuration files.") from None
    except (BotoCoreError, ClientError, OSError) as error:
        # By its name: botocore has four exceptions for a login that is missing or too old.
        login = "SSO" in type(error).__name__ or "Token" in type(error).__name__ or "sso" in str(error).lower()
        remedy = "run `aws sso login`" if login else "correct the profile or role, or set AWS_ACCESS_KEY_ID"
        said = " ".join(str(error).split())  # of several lines where a parameter is wrong
        raise ConfigurationError(f"The AWS credentials can't be had ({said}); {remedy}.") from error
    if credentials is None:
        raise ConfigurationError(
            "There are no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_PROFILE, or give the machine a role."
        )
    return found
