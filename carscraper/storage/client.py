"""Who the bucket's owner is to us: options, credentials, boto3 clients, and what S3's refusals mean.

boto3 takes 50 MB and 0.3 s to import: only for those who use it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound

from carscraper.exceptions import ConfigurationError, StoreError, StoreRefusedError, StoreUnavailableError
from carscraper.settings import Secret
from carscraper.storage.keys import normalise_prefix, public_base

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    import boto3
    from scrapy.settings import BaseSettings

_CONNECT_TIMEOUT, _READ_TIMEOUT = 5, 10  # seconds
_SERVER_ERROR, _TOO_MANY = 500, 429

# S3's error codes that stay until a person changes something, each with the cure. The rest may pass by itself.
FATAL = {
    "InvalidAccessKeyId": "the access key does not exist (any more): check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong: check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session token has expired: renew AWS_SESSION_TOKEN or use a role",
    "TokenRefreshRequired": "the session token has expired: renew AWS_SESSION_TOKEN or use a role",
    "InvalidToken": "the session token is wrong: check AWS_SESSION_TOKEN",
    "AccessDenied": "these credentials may not put objects there: allow s3:PutObject on the bucket's objects",
    "AllAccessDisabled": "the account is suspended: ask the account's owner",
    "AccountProblem": "the account has a problem: ask the account's owner",
    "NotSignedUp": "the account is not signed up for S3: ask the account's owner",
    "NoSuchBucket": "the bucket does not exist: check AWS_S3_BUCKET",
    "PermanentRedirect": "the bucket is in another region: check AWS_S3_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region: check AWS_S3_REGION",
    "IllegalLocationConstraintException": "the bucket is in another region: check AWS_S3_REGION",
    "QuotaExceeded": "the bucket's quota is used up: raise it or make room",
    "XMinioStorageFull": "the server's disk is full: make room",
    "InvalidStorageClass": "the server does not know this storage class: check S3_STORAGE_CLASS",
    "InvalidTag": "the server does not take these tags: check S3_TAGS",
    "InvalidEncryptionAlgorithmError": "the server does not know this encryption: check S3_SSE",
    "KMS.NotFoundException": "the encryption key does not exist: check S3_SSE",
    "KMS.DisabledException": "the encryption key is disabled: enable it or check S3_SSE",
    "NotImplemented": "the server can't do what is asked: leave S3_TAGS, S3_SSE and S3_STORAGE_CLASS empty",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it by NTP",
}


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


def open_client(
    options: S3Options, service: str = "s3", *, found: boto3.Session | None = None, attempts: int = 2
) -> Any:
    """Make a boto3 client for this bucket's server; for CloudFront, Amazon's own endpoint unless one is set."""
    from botocore.config import Config  # noqa: PLC0415 - see the top

    make: Any = (found or session(options)).client  # typed for each of Amazon's services by its literal name
    return make(
        service,
        endpoint_url=options.endpoint,
        verify=options.ca_bundle,
        config=Config(
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=_READ_TIMEOUT,
            retries={"total_max_attempts": attempts, "mode": "standard"},
            s3={"addressing_style": "path" if options.endpoint else "virtual"},
            signature_version="s3v4" if service == "s3" else None,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


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


def silent(error: BotoCoreError) -> StoreError:
    """Say in a sentence why no answer came."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return StoreRefusedError(
            "The S3 server's certificate can't be verified (CERTIFICATE_VERIFY_FAILED): set AWS_CA_BUNDLE to the file "
            "of the authority that signed it, or correct AWS_ENDPOINT_URL."
        )
    return StoreUnavailableError(f"S3 does not answer ({type(error).__name__}: {error}).")


def explain(error: ClientError, bucket: str, action: str) -> StoreError:
    """Say in a sentence what *error* means and what mends it."""
    code = error.response["Error"].get("Code", "")
    status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
    if code in {"AccessDenied", "403", "Forbidden"}:
        return StoreRefusedError(f"S3 refuses {action} on the bucket {bucket} ({code}): allow {action}.")
    if code in FATAL:
        return StoreRefusedError(f"S3 refuses the bucket {bucket} ({code}): {FATAL[code]}.")
    if status >= _SERVER_ERROR or status == _TOO_MANY:
        return StoreUnavailableError(f"S3 answers {status} {code} to {action}; try again later.")
    said = error.response["Error"].get("Message", "")
    return StoreRefusedError(f"S3 refuses {action} on the bucket {bucket} ({code}: {said}).")


def keys(options: S3Options) -> Credentials | None:
    """Give the credentials that the settings name as keys, ``None`` if there are none.

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
