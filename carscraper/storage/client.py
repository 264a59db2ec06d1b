"""S3 connection options and boto3 clients."""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound
from botocore.httpsession import ProxyConfiguration
from botocore.utils import ensure_boolean, get_environ_proxies

from carscraper.exceptions import ConfigurationError
from carscraper.settings import Secret
from carscraper.settings.kinds import ADDRESSING_STYLE, ENDPOINT, REGION
from carscraper.storage.answers import Answer, look_at_success, region_in
from carscraper.storage.credentials import session
from carscraper.storage.keys import is_virtual, normalise_prefix, public_base, published_bases, without_bucket

if TYPE_CHECKING:
    from typing import Self

    import boto3
    from scrapy.settings import BaseSettings

_CONNECT_TIMEOUT, _READ_TIMEOUT = 5, 10  # seconds
DEFAULT_REGION = "eu-north-1"


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
class Server:
    """Where S3 is: by the settings, else by the AWS profile and the environment as botocore reads them."""

    region: str
    endpoint: str | None
    ca_bundle: str | None
    addressing_style: str

    @classmethod
    def from_settings(cls, settings: BaseSettings) -> Self:
        """Read the settings and, for what they leave open, the AWS configuration files.

        Raises:
            ConfigurationError: something in these files is wrong.
        """
        try:
            found = botocore.session.Session(profile=settings.get("AWS_PROFILE"), include_builtin_handlers=False)
            profile = found.get_scoped_config()
            services = found.full_config.get("services", {}) | {None: {}}
            if (named := profile.get("services")) not in services:
                raise ConfigurationError(
                    f"The AWS profile names services = {named}, which are not in the configuration file; correct it."
                )
            endpoint = services[named].get("s3", {}).get("endpoint_url") or profile.get("endpoint_url")
            ignored = ensure_boolean(found.get_config_variable("ignore_configured_endpoint_urls") or False)
            region, ca_bundle = (found.get_config_variable(name) for name in ("region", "ca_bundle"))
            style = (found.get_config_variable("s3") or {}).get("addressing_style")
        except ProfileNotFound as error:
            raise ConfigurationError(
                f"AWS_PROFILE={error.kwargs['profile']} is not in the AWS configuration files."
            ) from None
        except (BotoCoreError, AttributeError, ValueError) as error:  # AttributeError: text where a section should be
            raise ConfigurationError(f"The AWS configuration files can't be read ({error}); correct them.") from None
        chosen = settings.get("S3_ADDRESSING_STYLE")
        return cls(
            region=settings.get("AWS_S3_REGION")
            or REGION.read("region in the AWS profile (or AWS_DEFAULT_REGION)", region)
            or DEFAULT_REGION,
            endpoint=settings.get("AWS_ENDPOINT_URL")
            or ENDPOINT.read("endpoint_url in the AWS profile", None if ignored else endpoint),
            ca_bundle=settings.get("AWS_CA_BUNDLE") or ca_bundle,
            addressing_style=chosen
            if chosen != "auto"
            else ADDRESSING_STYLE.read("addressing_style in the AWS profile", style or "auto"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Options:
    """What the store needs to know; plain values."""

    bucket: str
    region: str
    endpoint: str | None = None
    addressing_style: str = "auto"
    general_endpoint: str | None = None
    """``AWS_ENDPOINT_URL`` itself, which is asked for CloudFront too."""
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
            ConfigurationError: no bucket is named, or in the endpoint as well, or the AWS configuration is wrong, or
                the server does not have what is asked of it.
        """

        def plain(name: str) -> str | None:
            value = settings.get(name)
            return value.reveal() if isinstance(value, Secret) else value

        bucket = bucket or settings.get("AWS_S3_BUCKET")
        if not bucket:
            raise ConfigurationError("AWS_S3_BUCKET is missing: name the bucket, or set USE_S3_STORAGE=false.")
        server = Server.from_settings(settings)
        if bare := server.endpoint and without_bucket(server.endpoint, bucket):
            raise ConfigurationError(
                f"The S3 server's address {server.endpoint} has the bucket {bucket} in it, which is put there by "
                f"itself: set AWS_ENDPOINT_URL={bare}."
            )
        found = cls(
            bucket=bucket,
            **asdict(server),
            general_endpoint=settings.get("AWS_ENDPOINT_URL"),
            prefix=normalise_prefix(settings.get("S3_PREFIX")),
            access_key=plain("AWS_ACCESS_KEY_ID"),
            secret_key=plain("AWS_SECRET_ACCESS_KEY"),
            # Without a key beside it it is another one's, as botocore sees it.
            session_token=plain("AWS_SESSION_TOKEN") if settings.get("AWS_ACCESS_KEY_ID") else None,
            profile=settings.get("AWS_PROFILE"),
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
    def virtual(self) -> bool:
        """Whether the bucket stands in the host's name, see :func:`~carscraper.storage.keys.is_virtual`."""
        return is_virtual(bucket=self.bucket, endpoint=self.endpoint, style=self.addressing_style)

    @property
    def base(self) -> str:
        """What stands before an object's name in its permanent URL."""
        return self.public_url.rstrip("/") if self.public_url else self.direct_base

    @property
    def direct_base(self) -> str:
        """What stands before an object's name at the S3 server itself, whatever CDN is in front of it."""
        return public_base(bucket=self.bucket, region=self.region, endpoint=self.endpoint, virtual=self.virtual)

    @property
    def proxies(self) -> dict[str, str]:
        """The proxy on the way to the server, by its scheme, as botocore finds it in the environment."""
        found = ProxyConfiguration(get_environ_proxies(self.direct_base)).proxy_url_for(self.direct_base)
        return {self.direct_base.partition(":")[0]: found} if found else {}

    @property
    def published(self) -> list[str]:
        """What may stand before a key in its permanent URLs, see :func:`~carscraper.storage.keys.published_bases`."""
        return published_bases(bucket=self.bucket, endpoint=self.endpoint, public_url=self.public_url)

    @property
    def store(self) -> str:
        """The bucket as the ledger's rows name it."""
        return f"s3://{self.bucket}"

    @property
    def hints(self) -> dict[str, str]:
        """Which settings may be why an upload is refused, for ``answers.failure``."""
        sent = {"S3_STORAGE_CLASS": self.storage_class, "S3_SSE": self.sse, "S3_TAGS": self.tags}
        names = [name for name, value in sent.items() if value]
        return {"sent": " and ".join(names)} if names else {}

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


def certificates(path: str) -> bytes:
    """Return what ``AWS_CA_BUNDLE`` names.

    Raises:
        ConfigurationError: it can't be read, or holds no certificate.
    """
    try:
        pem = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"AWS_CA_BUNDLE={path} can't be read ({error.strerror}).") from None
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise ConfigurationError(f"AWS_CA_BUNDLE={path} holds no certificate; write a PEM file's name.")
    try:
        ssl.create_default_context(cadata=pem.decode("ascii", "ignore"))
    except ssl.SSLError as error:
        raise ConfigurationError(f"A certificate in AWS_CA_BUNDLE={path} is damaged ({error}).") from None
    return pem


def open_client(
    options: S3Options, service: str = "s3", *, found: boto3.Session | None = None, attempts: int = 2
) -> Any:
    """Make a boto3 client for this bucket's server; for CloudFront, Amazon's own endpoint unless one is set."""
    make: Any = (found or session(options)).client  # typed for each of Amazon's services by its literal name
    ours: dict[str, Any] = {
        "s3": {"addressing_style": "virtual" if options.virtual else "path", "use_accelerate_endpoint": False},
        "signature_version": "s3v4",
        "proxies": options.proxies,
        # Else botocore would read these where obstore does not.
        "ignore_configured_endpoint_urls": True,
        "use_dualstack_endpoint": False,
        "use_fips_endpoint": False,
    }
    client = make(
        service,
        endpoint_url=options.endpoint if service == "s3" else options.general_endpoint,
        verify=options.ca_bundle,
        config=Config(
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=_READ_TIMEOUT,
            retries={"total_max_attempts": attempts if service == "s3" else 4, "mode": "standard"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            **(ours if service == "s3" else {}),
        ),
    )
    if service == "s3":
        client.meta.events.register("before-call.s3", _prepare)
        # By this name it comes before botocore's own look, which makes a 500 of all that is no XML.
        client.meta.events.register("before-parse.*.*", look_at_success)
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
