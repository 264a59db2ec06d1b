"""S3 connection options, credentials and boto3 clients.

boto3 takes 50 MB and 0.3 s to import: only for those who use it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound

from carscraper.exceptions import ConfigurationError
from carscraper.settings import Secret
from carscraper.storage.answers import Answer, look_at_success, region_in
from carscraper.storage.keys import normalise_prefix, public_base, published_bases

if TYPE_CHECKING:
    from typing import Self

    import boto3
    from scrapy.settings import BaseSettings

_CONNECT_TIMEOUT, _READ_TIMEOUT = 5, 10  # seconds


def encryption(sse: str | None) -> tuple[str, str]:
    """Split ``S3_SSE``: S3's name of the algorithm, and the key (or nothing: Amazon's own).

    >>> encryption("AES256"), encryption("aws:kms"), encryption("aws:kms:1234-abcd"), encryption("aws:kms:dsse")
    (('AES256', ''), ('aws:kms', ''), ('aws:kms', '1234-abcd'), ('aws:kms:dsse', ''))
    >>> encryption(None)
    ('', '')
    """
    if not sse or sse in {"AES256", "aws:kms", "aws:kms:dsse"}:
        return sse or "", ""
    return "aws:kms", sse.removeprefix("aws:kms:")


def contradicts(etag: str, sse: str | None, data: bytes) -> bool:
    """Return whether *etag* is an MD5, and not that of *data*.

    Args:
        etag: without its quotes.
        sse: the algorithm that the object was encrypted with, as far as it is known.
        data: what was sent.
    """
    # With a KMS key it has the length of an MD5 and is none.
    if sse not in {None, "", "AES256"} or not re.fullmatch(r"[0-9a-f]{32}", etag):
        return False
    return etag != hashlib.md5(data, usedforsecurity=False).hexdigest()


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
            ConfigurationError: no bucket is named, or the server that is named does not have what is asked of it.
        """

        def plain(name: str) -> str | None:
            value = settings.get(name)
            return value.reveal() if isinstance(value, Secret) else value

        bucket = bucket or settings.get("AWS_S3_BUCKET")
        if not bucket:
            raise ConfigurationError("AWS_S3_BUCKET is missing: name the bucket, or set USE_S3_STORAGE=false.")
        found = cls(
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
        _check_vendor(found)
        return found

    @property
    def base(self) -> str:
        """What stands before an object's name in its permanent URL."""
        return public_base(bucket=self.bucket, region=self.region, endpoint=self.endpoint, public_url=self.public_url)

    @property
    def direct_base(self) -> str:
        """What stands before an object's name at the S3 server itself, whatever CDN is in front of it."""
        return public_base(bucket=self.bucket, region=self.region, endpoint=self.endpoint, public_url=None)

    @property
    def published(self) -> list[str]:
        """What may stand before a key in its permanent URLs, see :func:`~carscraper.storage.keys.published_bases`."""
        return published_bases(bucket=self.bucket, endpoint=self.endpoint, public_url=self.public_url)

    @property
    def store(self) -> str:
        """The bucket as the ledger's rows name it."""
        return f"s3://{self.bucket}"

    @property
    def put_arguments(self) -> dict[str, str]:
        """What boto3's ``put_object`` needs beside name and bytes: storage class, encryption and tags."""
        found = {"StorageClass": self.storage_class, "Tagging": urlencode(self.tags)}
        return {name: value for name, value in found.items() if value} | self.sse_arguments

    @property
    def sse_arguments(self) -> dict[str, str]:
        """The encryption alone, as boto3 takes it."""
        kind, key = encryption(self.sse)
        return {name: value for name, value in (("ServerSideEncryption", kind), ("SSEKMSKeyId", key)) if value}


_CLASSES = ("STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY")
_R2_REGIONS = ("auto", "wnam", "enam", "weur", "eeur", "apac", "oc", "us-east-1")


def _words(choice: tuple[str, ...]) -> str:
    return f"{', '.join(choice[:-1])} or {choice[-1]}"


def _check_vendor(options: S3Options) -> None:
    """See that Amazon, or Cloudflare R2, has this region and storage class; of other servers nothing is known.

    Raises:
        ConfigurationError: it has not.
    """
    region, storage_class = options.region, options.storage_class
    host = urlsplit(options.endpoint or "").hostname or ""
    if host.endswith(".r2.cloudflarestorage.com") and region not in _R2_REGIONS:
        raise ConfigurationError(
            f"AWS_S3_REGION is {region!r}, which Cloudflare R2 does not have; write {_words(_R2_REGIONS)}."
        )
    if host:
        return
    if not re.fullmatch(r"[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}", region):
        raise ConfigurationError(f"AWS_S3_REGION is {region!r}; write one of Amazon's regions, such as eu-north-1.")
    if storage_class and storage_class not in _CLASSES:
        raise ConfigurationError(
            f"S3_STORAGE_CLASS is {storage_class!r}, which Amazon S3 does not have; write {_words(_CLASSES)}."
        )


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
        client.meta.events.register("before-parse.s3", look_at_success)
    return client


def _prepare(params: dict[str, Any], model: Any, **_: Any) -> None:
    """Send Content-MD5 where S3 demands a checksum: every store knows it, not all know the newer ones.

    An object needs it in a bucket with object lock. And stay in the region of the settings: looking for a better one,
    boto3 asks a server that answers every HEAD with 301 without end.
    """
    params.get("context", {}).setdefault("s3_redirect", {})["redirected"] = True
    demanded = model.http_checksum_required or model.http_checksum.get("requestChecksumRequired")
    if demanded or model.name == "PutObject":
        params.get("context", {}).pop("checksum", None)
        body = params["body"]
        if hasattr(body, "read"):
            body, file = body.read(), body
            file.seek(0)
        data = body.encode() if isinstance(body, str) else body
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        params["headers"]["Content-MD5"] = base64.b64encode(digest).decode("ascii")


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


# --- the bucket -------------------------------------------------------------------------------------------------


def ask_bucket(client: Any, bucket: str, prefix: str = "") -> tuple[str | None, Answer | None]:
    """Return the region that the bucket says it is in, and why it does not let us look inside (``None``: it does).

    What stops boto3 before there is an answer is raised.
    """
    try:
        return region_in(client.head_bucket(Bucket=bucket)), None
    except ClientError as error:
        said = Answer.of(error)
    refusal = why_refused(client, bucket, prefix)
    region = said.region or (refusal.region if refusal else None)
    return region, said if said.status == 404 and (refusal is None or refusal.status != 404) else refusal


def why_refused(client: Any, bucket: str, prefix: str = "") -> Answer | None:
    """Return why a HEAD of the bucket was refused: its answer has no body, that to a listing of one key has."""
    try:
        client.list_objects_v2(Bucket=bucket, MaxKeys=1, Prefix=prefix)
    except ClientError as error:
        return Answer.of(error)
    return None
