"""What an S3 server's answers mean, and what mends a refusal."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from carscraper.exceptions import KeysRefusedError, StoreError, StoreRefusedError, StoreUnavailableError
from carscraper.settings.environment import proxies_named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

_REDIRECT, _SERVER_ERRORS = 300, range(500, 600)

# The default class of an answer is "refused". What passes by itself has one of these codes, or one of these statuses
# (or 5xx) and no code of FIXES.
_PASSING_STATUS = {408, 409, 425, 429}
_FINAL_STATUS = {501, 505}
_PASSING_CODES = {
    *("BadDigest", "IncompleteBody", "InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable"),
    *("SlowDown", "SlowDownRead", "SlowDownWrite", "RequestThrottled", "RequestTimeoutException", "ServerBusy"),
    *("RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException"),
    *("TooManyInvalidationsInProgress", "XMinioServerNotInitialized", "KMS.ThrottlingException"),
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
    "NoSuchBucket": "check AWS_S3_BUCKET",
    "PermanentRedirect": "the bucket is in another region: check AWS_S3_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region: check AWS_S3_REGION",
    "IllegalLocationConstraintException": "the bucket is in another region: check AWS_S3_REGION",
    "InvalidRegionName": "the server does not know this region: check AWS_S3_REGION",
    "QuotaExceeded": "the bucket's quota is used up: raise it or make room",
    "XMinioStorageFull": "the server's disk is full: make room",
    "InvalidStorageClass": "the server does not know this storage class: check S3_STORAGE_CLASS",
    "InvalidTag": "the server does not take these tags: check S3_TAGS",
    "InvalidEncryptionAlgorithmError": "the server does not know this encryption: check S3_SSE",
    "KMSNotConfigured": "the server has no keys for encryption: check S3_SSE",
    "KMS.NotFoundException": "the encryption key does not exist: check S3_SSE",
    "KMS.DisabledException": "the encryption key is disabled: enable it or check S3_SSE",
    "InvalidBucketState": "the bucket does not allow it: look at its object lock, versions and replication",
    "MethodNotAllowed": "the server can't do that: check AWS_ENDPOINT_URL",
    "NotImplemented": "the server can't do what is asked; for uploads leave S3_TAGS, S3_SSE and S3_STORAGE_CLASS empty",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it by NTP",
}
"""What mends a refusal with this S3 error code."""
KEYS_REFUSED = {
    *("InvalidAccessKeyId", "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"),
    *("InvalidTokenId", "InvalidClientTokenId", "InvalidSecurity"),
}
"""Codes of keys that are not accepted any more, or never were."""
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
    region: str | None = None
    """Where the bucket is, if it says so."""

    @classmethod
    def of(cls, error: ClientError) -> Self:
        """Read boto3's *error*."""
        said = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return cls(status, str(said.get("Code", "")), str(said.get("Message", "")), region_in(error.response))

    @property
    def passing(self) -> bool:
        """Whether the same request may work later."""
        if self.code in _PASSING_CODES:
            return True
        later = self.status in _PASSING_STATUS or (self.status in _SERVER_ERRORS and self.status not in _FINAL_STATUS)
        return later and self.code not in FIXES

    @property
    def words(self) -> str:
        """The server's own code and message, in one line.

        >>> Answer(403, "AccessDenied", "Access Denied").words, Answer(405).words
        ('AccessDenied: Access Denied', '405')
        """
        message = " ".join(self.message.split())[:_LONGEST_MESSAGE].rstrip(".")
        return ": ".join(part for part in (self.code or str(self.status), message) if part)

    def fix(self, action: str, sent: str = "the AWS_… and S3_… settings") -> str:
        """Say what mends it, if *action* (IAM's name, such as ``s3:PutObject``) was asked for.

        *sent* names the settings that may be the cause where the code does not say which.

        >>> Answer(403, "AccessDenied", "… not authorized to perform: kms:Decrypt on …").fix("s3:GetObject")
        'allow kms:Decrypt'
        """
        if self.code in DENIED or (self.status in {401, 403} and not self.code):
            named = re.search(r"not authorized to perform: ([a-z0-9-]+:\w+)", self.message)
            return f"allow {named[1] if named else action}"
        if self.status == 407:
            return f"give the proxy{proxies_named()} its user and password: write user:password@ before its host"
        if self.status in {301, 302, 307, 308} and self.code not in FIXES:
            return "check AWS_ENDPOINT_URL and AWS_S3_REGION: the server sends elsewhere"
        if self.code == "NotImplemented" and not action.startswith("s3:PutObject"):
            return FIXES["MethodNotAllowed"]
        if self.code or self.status in {501, 505}:
            return FIXES.get(self.code, f"check {sent}, or ask who runs the server")
        return "check AWS_ENDPOINT_URL: it must be an S3 server's address"


@contextlib.contextmanager
def explained_s3(bucket: str, action: str) -> Iterator[None]:
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
        raise failure(Answer.of(error), bucket, action) from error
    except ResponseParserError as error:
        raise silent(NotS3Error()) from error
    except BotoCoreError as error:
        raise silent(error, bucket) from error


def failure(answer: Answer, bucket: str, action: str, **hints: str) -> StoreError:
    """Return the exception for a server that answered *answer* to *action*; *hints* are those of ``Answer.fix``."""
    if answer.passing:
        code = answer.code.removeprefix(str(answer.status))  # boto3 says the status where there is no code
        said = f"{answer.status} {code}".rstrip()
        return StoreUnavailableError(f"S3 answers {said} to {action}; try again later.")
    fix = answer.fix(action, **hints)
    kind = KeysRefusedError if answer.code in KEYS_REFUSED else StoreRefusedError
    return kind(f"S3 refuses {action} on the bucket {bucket} ({answer.words}): {fix}.")


class NotS3Error(BotoCoreError):
    """A success that no S3 server would answer with: a captive portal's, or another web server's."""

    fmt = "what answers is no S3 server"


class CutAnswerError(BotoCoreError):
    """A success whose body ends too early; boto3 would call it a 500."""

    fmt = "the answer breaks off"


_HTML = re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE)
_LISTS = {
    **dict.fromkeys(("ListObjectsV2", "ListObjects"), b"<ListBucketResult"),
    "ListObjectVersions": b"<ListVersionsResult",
}


def look_at_success(operation_model: Any, response_dict: dict[str, Any], **_: Any) -> None:
    """Hear of boto3's answers before it reads them: to it, any web page is a success without content.

    Raises:
        NotS3Error: it is none of an S3 server.
        CutAnswerError: it is not whole.
    """
    name, body = operation_model.name, response_dict["body"]
    if response_dict["status_code"] >= _REDIRECT or (isinstance(body, bytes) and b"<Error>" in body[:200]):
        return
    lacks_etag = name in {"PutObject", "GetObject", "HeadObject"} and not response_dict["headers"].get("ETag")
    if lacks_etag or (isinstance(body, bytes) and (_LISTS.get(name, b"") not in body or _HTML.match(body))):
        raise NotS3Error
    if isinstance(body, bytes) and body and name.startswith(("List", "Get")) and name != "GetBucketPolicy":
        try:
            ElementTree.fromstring(body)  # noqa: S314 - boto3 reads it the same way
        except ElementTree.ParseError as error:
            raise (CutAnswerError if body.lstrip().startswith(b"<") else NotS3Error) from error


# What a client's words about a connection mean: parts of them, the cause, the fix; the first that fits.
_CONNECTION = (
    (
        ("certificate has expired", "InvalidCertificate(Expired"),
        "its certificate has expired",
        "renew it on the server",
    ),
    (
        ("ostname mismatch", "doesn't match", "IP address mismatch", "NotValidForName"),
        "its certificate is another host's",
        "use a name that it has (a bucket with dots has none)",
    ),
    (
        ("CaUsedAsEndEntity",),
        "its certificate is that of an authority, which uploads do not accept of a server",
        "make one with CA:FALSE",
    ),
    (
        ("CERTIFICATE_VERIFY_FAILED", "UnknownIssuer", "InvalidCertificate", "invalid path: "),
        "its certificate can't be verified",
        "set AWS_CA_BUNDLE to the PEM file of its authority",
    ),
    (
        ("PROTOCOL_VERSION", "HANDSHAKE_FAILURE", "ProtocolVersion", "HandshakeFailure"),
        "it speaks no TLS that is safe today",
        "let it speak TLS 1.2 or 1.3",
    ),
    (
        ("WRONG_VERSION_NUMBER", "record layer failure", "InvalidMessage", "InvalidContentType"),
        "it does not speak TLS",
        "write http:// instead of https:// in its address",
    ),
    (("is no S3 server",), "what answers is no S3 server", "check AWS_ENDPOINT_URL: it must be an S3 server's address"),
    ((r"BadStatusLine('\x15\x03",), "it speaks TLS", "write https:// instead of http:// in its address"),
    (
        ("BadStatusLine", "LineTooLong", "Parse("),
        "it does not speak HTTP",
        "check AWS_ENDPOINT_URL: it must be an S3 server's address",
    ),
    (
        ("Tunnel connection failed: 407", "ProxyAuthRequired"),
        "the proxy{} wants a user and a password",
        "write user:password@ before its host",
    ),
)
# Of those that may pass by themselves.
_PROXY_AWAY = (
    "ProxyConnectionError",
    "Cannot connect to proxy",
    "Failed to connect to proxy",
    "Tunnel connection failed",
)
_UNRESOLVED = ("not known", "Failed to resolve", "failure in name resolution", "No address associated", "dns error")


def connection_problem(said: str) -> tuple[str, str] | None:
    """Return cause and fix if *said*, a client's words, names a fault that does not pass by itself.

    >>> connection_problem("[SSL: WRONG_VERSION_NUMBER] wrong version number")
    ('it does not speak TLS', 'write http:// instead of https:// in its address')
    >>> connection_problem("Connection refused") is None
    True
    """
    closed = re.search(r'closed before .*"http://([^:/"]+):?(\d*)', said)
    if closed and "BadStatusLine" not in said and _speaks_tls(closed[1], int(closed[2] or 80)):
        return "it speaks TLS", "write https:// instead of http:// in its address"
    ended = re.search(r"https://([^:/ ]+):?(\d*).*(UNEXPECTED_EOF|handshake eof)", said, re.DOTALL)
    if ended and _speaks_tls(ended[1], int(ended[2] or 443)):
        said = "PROTOCOL_VERSION"  # it takes an old one
    found = next(((cause, fix) for words, cause, fix in _CONNECTION if any(each in said for each in words)), None)
    return found and (found[0].format(proxies_named()), found[1])


def no_way(said: str, bucket: str = "", proxy: str = "") -> tuple[str, str] | None:
    """Return cause and fix if *said*, a client's words, shows that no connection came about, and where that ended.

    *proxy* is its address, if the client had one.
    """
    named = re.search(r"proxy URL: \"(?:\w+://)?([^\"]*)\"", said)
    if any(each in said for each in _PROXY_AWAY) or (proxy and "Connect," in said):
        address = (named[1] if named else proxy).rpartition("@")[2].rpartition("//")[2]
        return f"the proxy {address}{proxies_named(address)} can't be reached", "correct or unset it, or set NO_PROXY"
    if any(each in said for each in _UNRESOLVED):
        host = re.search(r"https?://([^:/\" ]+)", said)
        name = host[1] if host else "of that name"
        virtual = bucket and name.startswith(f"{bucket}.")
        other = ", or set S3_ADDRESSING_STYLE=path" if virtual else ""
        return f"there is no such host ({name})", f"check the name in its address{other}"
    return None


def _speaks_tls(host: str, port: int) -> bool:
    """Return whether a server that closes connections without a word takes up TLS, be it an old one."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent
    try:
        with socket.create_connection((host, port), 2) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False


def words_of(error: Exception) -> str:
    """Return what botocore's *error* says: the address stands in its sentence, what the socket said beside it."""
    return f"{type(error).__name__}: {error} {getattr(error, 'kwargs', {}).get('error', '')}".rstrip()


def silent(error: BotoCoreError, bucket: str = "") -> StoreError:
    """Return why no answer came, as an exception with a sentence."""
    said = words_of(error)
    if problem := connection_problem(said):
        more = "" if isinstance(error, NotS3Error) else f" ({error})"
        return StoreRefusedError(f"S3 can't be used: {problem[0]}{more}; {problem[1]}.")
    if isinstance(error, CutAnswerError):
        return StoreUnavailableError("S3's answer breaks off; try again later.")
    if problem := no_way(said, bucket):
        return StoreUnavailableError(f"S3 does not answer: {problem[0]}; {problem[1]}.")
    return StoreUnavailableError(f"S3 does not answer ({type(error).__name__}: {error}).")


def region_in(response: Mapping[str, Any]) -> str | None:
    """Return the bucket's region if boto3's *response* names it, that of an error too."""
    found = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
    found = found or response.get("BucketRegion") or response.get("Error", {}).get("Region")
    return str(found) if found else None
