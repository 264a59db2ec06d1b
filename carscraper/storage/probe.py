"""Does the bucket do all that this program needs? Steps as data, each with the cause and the cure of a failure.

Plain signed requests, one try each and short time-outs: boto3 would go round a wrong region by itself and try again
where a person waits for an answer.
"""

from __future__ import annotations

import contextlib
import html
import json
import re
import secrets
import socket
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import urllib3.exceptions
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import (
    BotoCoreError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

from carscraper.exceptions import ConfigurationError
from carscraper.storage.client import FATAL, keys, open_client, session
from carscraper.storage.keys import permanent_url
from carscraper.storage.objects import presign, sse_arguments
from carscraper.storage.policies import PROBES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import boto3

    from carscraper.storage.client import S3Options

FOLDER = PROBES
"""Below ``S3_PREFIX``: where probes are put."""

_TIMEOUT = 5  # seconds to connect, and between two pieces of an answer
_MOST = 1 << 18  # bytes of an answer that are read
_CONTENT_TYPE = "image/jpeg"

_CREDENTIALS = {
    "explicit": "settings",
    "env": "environment",
    "shared-credentials-file": "shared credentials file",
    "config-file": "AWS config file",
    "iam-role": "instance role",
    "container-role": "container role",
    "assume-role": "assumed role",
    "assume-role-with-web-identity": "web identity role",
    "sso": "SSO login",
    "login": "console login",
    "custom-process": "credential process",
    "boto-config": "boto config file",
}
_HEADERS = {
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
}
_WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One thing that was tried."""

    name: str
    ok: bool | None
    """``None``: it was not tried."""
    detail: str = ""
    """What was found, or why it was not tried."""
    cause: str = ""
    """Why it failed."""
    cure: str = ""
    """What mends it."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Any
    """As botocore has them: names in any case."""
    body: bytes

    @property
    def code(self) -> str:
        """S3's word for the error."""
        return self._tag("Code")

    @property
    def action(self) -> str:
        """What Amazon says is not allowed, such as ``kms:GenerateDataKey``."""
        found = re.search(r"not authorized to perform: ([a-z0-9-]+:\w+)", self._tag("Message"))
        return found[1] if found else ""

    @property
    def region(self) -> str:
        return str(self.headers.get("x-amz-bucket-region") or self._tag("Region"))

    def _tag(self, name: str) -> str:
        found = re.search(rf"<{name}>([^<]*)</{name}>", self.body.decode("utf-8", "replace"))
        return html.unescape(found[1]) if found else ""


class _Failed(Exception):  # noqa: N818 - the end of a step, no error of the program
    def __init__(self, cause: str, cure: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.cure = cure


@dataclass(slots=True)
class _Probe:
    options: S3Options
    public: bool | None
    name: str
    data: bytes = field(default_factory=lambda: secrets.token_hex(32).encode())
    found: boto3.Session | None = None
    credentials: Any = None
    region: str = ""
    """As the server names it; ``?`` if it only says that ours is wrong."""
    there: bool = False
    """The probe may be in the bucket."""
    versions: list[str] = field(default_factory=list)

    # --- requests

    def send(
        self,
        method: str,
        name: str = "",
        query: str = "",
        *,
        headers: dict[str, str] | None = None,
        data: bytes = b"",
    ) -> _Answer:
        """Send one signed request for the object *name*, or for the bucket."""
        options = self.options
        base = options.direct_base
        url = permanent_url(name, base) if name else (base if options.endpoint else f"{base}/")
        request = AWSRequest(
            method=method, url=f"{url}?{query}" if query else url, headers=dict(headers or {}), data=data
        )
        S3SigV4Auth(self.credentials, "s3", options.region).add_auth(request)
        return _fetch(request, ca_bundle=options.ca_bundle)

    def bucket(self, method: str, **query: str) -> _Answer:
        """Ask the bucket itself."""
        # As it is signed: sorted, and with %20 for a blank.
        return self.send(method, query=urlencode(sorted(query.items()), quote_via=quote, safe="-_.~"))

    # --- steps

    def find_credentials(self) -> str:
        options = self.options
        try:
            if not options.profile:
                keys(options)
            self.found = session(options)
        except ConfigurationError as error:
            sentence = str(error).rstrip(".")
            found = re.fullmatch(r"(.*)[:;] (set .*)", sentence, re.DOTALL)
            cure = "name one that is there, or leave AWS_PROFILE empty"
            raise _Failed(*(found.groups() if found else (sentence, cure))) from error
        credentials = self.found.get_credentials()
        method = str(getattr(credentials, "method", ""))
        where = _CREDENTIALS.get(method, method or "found by boto3")
        if options.profile and method != "explicit":
            where = f"profile {options.profile} ({where})"
        try:
            self.credentials = credentials.get_frozen_credentials() if credentials else None
        except BotoCoreError as error:
            cure = "log in again: aws sso login" if "SSO" in type(error).__name__ or method == "sso" else "renew them"
            raise _Failed(f"the credentials of the {where} can't be had ({type(error).__name__})", cure) from error
        return where

    def find_bucket(self) -> str:
        options = self.options
        where = options.endpoint or f"Amazon's {options.region}"
        head = self.bucket("HEAD")
        self.region = head.region
        if head.status == 200:
            return f"{options.bucket} at {where}"
        # The answer to a HEAD has no body; that to a listing says why.
        listing = self.bucket("GET", **{"list-type": "2", "max-keys": "1", "prefix": options.prefix})
        self.region = head.region or listing.region
        if listing.status == 200:
            return f"{options.bucket} at {where}"
        if listing.code in _WRONG_REGION or self.region not in {"", options.region}:
            self.region = self.region or "?"
            return f"{options.bucket} answers"
        if listing.code == "AccessDenied":
            return f"{options.bucket} at {where}, which these credentials may not list"
        if listing.code == "NoSuchBucket":
            raise _Failed(
                f"NoSuchBucket: {where} has no bucket {options.bucket}",
                "check AWS_S3_BUCKET, or make it: scrapy storage setup",
            )
        raise self.refused(listing, "s3:ListBucket")

    def check_region(self) -> str:
        ours = self.options.region
        if self.region == "?":
            raise _Failed(f"the bucket is not in {ours}, and the server does not say where", "check AWS_S3_REGION")
        if self.region != ours:
            raise _Failed(f"the bucket is in {self.region}, not in {ours}", f"set AWS_S3_REGION={self.region}")
        return ours

    def put(self) -> str:
        options = self.options
        headers = {"Content-Type": _CONTENT_TYPE}
        if options.storage_class:
            headers["x-amz-storage-class"] = options.storage_class
        headers |= {_HEADERS[name]: value for name, value in sse_arguments(options.sse).items()}
        if options.tags:
            headers["x-amz-tagging"] = urlencode(options.tags)
        self.there = True  # also if the answer is lost
        answer = self.send("PUT", self.name, headers=headers, data=self.data)
        if answer.status != 200:
            self.there = False
            raise self.refused(answer, "s3:PutObject")
        self._remember(answer)
        return self.name

    def get(self) -> str:
        answer = self.send("GET", self.name)
        if answer.status != 200:
            raise self.refused(answer, "s3:GetObject")
        if answer.body != self.data:
            raise _Failed(
                f"{len(answer.body)} bytes came back that are not the {len(self.data)} that were put",
                "do not store photos there before it is known what changes them: the server, or a proxy on the way",
            )
        return f"{len(self.data)} bytes, as they were put"

    def head(self) -> str:
        answer = self.send("HEAD", self.name)
        if answer.status != 200:
            raise self.refused(answer, "s3:GetObject")
        size, kind = answer.headers.get("Content-Length"), str(answer.headers.get("Content-Type") or "")
        if str(size) != str(len(self.data)):
            raise _Failed(
                f"it says {size} bytes for {len(self.data)}", "the server, or a proxy on the way, is at fault"
            )
        if kind.split(";", maxsplit=1)[0].strip() != _CONTENT_TYPE:
            raise _Failed(
                f"it says {kind or 'no content type'} for {_CONTENT_TYPE}",
                "browsers would not show photos from there: use another server",
            )
        return f"{kind}, {size} bytes"

    def list(self) -> str:
        answer = self.bucket("GET", **{"list-type": "2", "max-keys": "10", "prefix": self.name})
        if answer.status != 200:
            raise self.refused(answer, "s3:ListBucket")
        names = [html.unescape(name) for name in re.findall(r"<Key>([^<]*)</Key>", answer.body.decode("utf-8"))]
        if self.name not in names:
            raise _Failed("the list does not have it", "audit and list would be wrong there: use another server")
        return "it is in the list"

    def delete(self) -> str:
        answer = self.send("DELETE", self.name)
        if answer.status not in {200, 204}:
            failed = self.refused(answer, "s3:DeleteObject")
            raise _Failed(failed.cause, f"{failed.cure}; {self.name} stays until then")
        self._remember(answer)
        self.there = False
        if self.send("HEAD", self.name).status == 200:
            raise _Failed(f"{self.name} is still there", "remove it by hand; retention or a cache may hold it")
        kept = [version for version in self.versions if not self._purge(version)]
        return "an old version stays, for want of s3:DeleteObjectVersion" if kept else "nothing is left of it"

    def _remember(self, answer: _Answer) -> None:
        """Note the version, or the marker of a deletion, that a versioned bucket made of it."""
        version = answer.headers.get("x-amz-version-id")
        if version and version != "null":
            self.versions.append(str(version))

    def _purge(self, version: str) -> bool:
        return self.send("DELETE", self.name, urlencode({"versionId": version})).status in {200, 204}

    def expects_public(self) -> tuple[bool, bool]:
        """Tell whether the permanent address shall answer to anybody, and whether the server's own shall."""
        open_to_all = self._policy_opens()
        if self.public is False:
            return False, False
        return self.public or bool(self.options.public_url) or open_to_all, open_to_all

    def _policy_opens(self) -> bool:
        """Read the bucket's policy; who may not, or a server without policies, has no public one."""
        with contextlib.suppress(_Failed, ValueError):
            answer = self.bucket("GET", policy="")
            return answer.status == 200 and allows_anonymous_read(
                json.loads(answer.body), self.options.bucket, self.name
            )
        return False

    def ask_openly(self, base: str, *, expected: bool) -> str:
        """Ask for the probe without credentials."""
        url = permanent_url(self.name, base)
        direct = base == self.options.direct_base
        answer = _fetch(AWSRequest(method="GET", url=url), ca_bundle=self.options.ca_bundle if direct else None)
        whole = answer.status == 200 and answer.body == self.data
        if answer.status >= 500:
            raise _Failed(f"{url} answers {answer.status}", "ask again later; if it stays, look at its server")
        if not expected:
            if answer.status == 200:
                raise _Failed(
                    f"anybody can read {url}", "scrapy storage setup blocks that; if it is meant, say --public"
                )
            return f"{answer.status} to whoever has no credentials, as it shall be"
        if whole:
            return f"{base} shows it to anybody"
        if answer.status == 200:
            raise _Failed(f"{url} shows something else", "IMAGES_PUBLIC_URL must lead to the bucket's root")
        if 300 <= answer.status < 400:
            there = str(answer.headers.get("Location") or "")
            to = urlsplit(there)
            raise _Failed(
                f"{url} answers {answer.status}" + (f" and sends to {to.scheme}://{to.netloc}" if to.netloc else ""),
                "set IMAGES_PUBLIC_URL to the address where photos are in the end",
            )
        if direct:
            raise _Failed(
                f"{url} answers {answer.status} to whoever has no credentials",
                "scrapy storage setup --public opens the bucket to readers; if it shall be private, say --private",
            )
        raise _Failed(
            f"{url} answers {answer.status}",
            "let the distribution read the bucket (scrapy storage policy --bucket-policy cloudfront), its root at "
            "IMAGES_PUBLIC_URL",
        )

    def ask_presigned(self) -> str:
        options = self.options
        client = open_client(options, found=self.found)
        try:
            url = presign(client, options.bucket, self.name, expires=timedelta(minutes=1))
        finally:
            client.close()
        answer = _fetch(AWSRequest(method="GET", url=url), ca_bundle=options.ca_bundle)
        if answer.status != 200:
            raise self.refused(answer, "s3:GetObject")
        if answer.body != self.data:
            raise _Failed("it answers with other bytes", "look what is between here and the server: a proxy, a cache")
        return "it shows the probe without credentials of its own"

    def refused(self, answer: _Answer, action: str) -> _Failed:
        """Say what a refusal means and what mends it."""
        code, bucket = answer.code, self.options.bucket
        if not code and action != "s3:ListBucket":
            # A refused HEAD has no body; and what is not there is hidden from whoever may not list.
            code = {403: "AccessDenied", 404: "NoSuchKey"}.get(answer.status, "")
        if code == "RequestTimeTooSkewed":
            return _Failed(
                f"this machine's clock is {_skew(answer.headers.get('Date'))}", "set the clock by NTP, then check again"
            )
        if code == "AccessDenied":
            missing = answer.action or action
            return _Failed(f"AccessDenied: these credentials may not {missing}", f"allow {missing} on {bucket}")
        if code in FATAL:
            cause, _, cure = FATAL[code].partition(": ")
            return _Failed(f"{code}: {cause}", cure)
        if answer.status >= 500 or answer.status == 429:
            return _Failed(f"the server answers {answer.status} {code}".rstrip(), "try again later")
        if code in {"NoSuchKey", "NoSuchVersion"}:
            return _Failed("the server does not find what was just put", "use a server that shows an object at once")
        if code:
            return _Failed(f"the server refuses {action} ({answer.status} {code})", "ask who runs the server")
        return _Failed(
            f"the server answers {answer.status} without a word of S3's",
            "check AWS_ENDPOINT_URL: it must be an S3 server's address",
        )

    def remove(self) -> None:
        """Leave nothing behind, whatever came between."""
        if self.there:
            with contextlib.suppress(_Failed):
                self._remember(self.send("DELETE", self.name))
                for version in self.versions:
                    self._purge(version)


def probe(options: S3Options, *, public: bool | None = None) -> Iterator[Step]:
    """Try all that is needed of a bucket; each step as soon as it is over.

    The probe object is removed at the end, also when a step fails or the caller stops listening.

    Args:
        options: the bucket and who may enter it.
        public: whether the permanent address shall answer to anybody; ``None``: if ``IMAGES_PUBLIC_URL`` is set or
            the bucket's policy allows it.
    """
    name = f"{options.prefix}{FOLDER}check-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(6)}.jpg"
    its = _Probe(options=options, public=public, name=name)
    try:
        yield from _steps(its)
    finally:
        its.remove()


_AFTER_REGION = ("put", "get", "head", "list", "public address", "presigned address", "delete")


def _steps(its: _Probe) -> Iterator[Step]:
    options = its.options
    yield (step := _tried("credentials", its.find_credentials))
    if not step.ok:
        yield from _skipped(("bucket", "region", *_AFTER_REGION), "without credentials")
        return
    yield (step := _tried("bucket", its.find_bucket))
    if not step.ok:
        yield from _skipped(("region", *_AFTER_REGION), "without the bucket")
        return
    if its.region:
        yield (step := _tried("region", its.check_region))
        if not step.ok:
            yield from _skipped(_AFTER_REGION, "until the region is right")
            return
    else:
        yield Step(name="region", ok=None, detail="the server names none")
    yield (step := _tried("put", its.put))
    if not step.ok:
        yield from _skipped(_AFTER_REGION[1:], "nothing was put")
        return
    for name, attempt in (("get", its.get), ("head", its.head), ("list", its.list)):
        yield _tried(name, attempt)
    permanent, direct = its.expects_public()
    yield _tried("public address", lambda: its.ask_openly(options.base, expected=permanent))
    if options.base != options.direct_base:
        yield _tried("direct address", lambda: its.ask_openly(options.direct_base, expected=direct))
    yield _tried("presigned address", its.ask_presigned)
    yield _tried("delete", its.delete)


def _tried(name: str, attempt: Callable[[], str]) -> Step:
    try:
        return Step(name=name, ok=True, detail=attempt())
    except _Failed as failed:
        return Step(name=name, ok=False, cause=failed.cause, cure=failed.cure)


def _skipped(names: Iterable[str], why: str) -> Iterator[Step]:
    return (Step(name=name, ok=None, detail=why) for name in names)


def _skew(date: str | None) -> str:
    """Say how far this machine's clock is off that of a server that sent *date*.

    >>> _skew(None)
    'wrong'
    """
    try:
        theirs = parsedate_to_datetime(date or "")
    except ValueError:
        return "wrong"
    off = (datetime.now(UTC) - theirs.replace(tzinfo=UTC)).total_seconds()
    amount = f"{abs(off) / 60:.0f} minutes" if abs(off) < 7200 else f"{abs(off) / 3600:.0f} hours"
    return f"{amount} {'ahead of' if off > 0 else 'behind'} the server's"


def allows_anonymous_read(policy: Any, bucket: str, name: str) -> bool:
    """Tell whether a bucket's *policy* lets everybody read the object *name*, without conditions.

    >>> everybody = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/cars/*"}
    >>> allows_anonymous_read({"Statement": everybody}, "b", "cars/1.jpg")
    True
    >>> allows_anonymous_read({"Statement": [everybody]}, "b", "other/1.jpg")
    False
    """
    if not isinstance(policy, dict):
        return False
    for statement in _many(policy.get("Statement")):
        if not isinstance(statement, dict) or statement.get("Effect") != "Allow" or statement.get("Condition"):
            continue
        principal = statement.get("Principal")
        people = _many(principal.get("AWS") if isinstance(principal, dict) else principal)
        if "*" not in people:
            continue
        actions = [str(action).lower() for action in _many(statement.get("Action"))]
        resources = [str(resource).rpartition(":::")[2] for resource in _many(statement.get("Resource"))]
        if any(_matches(action, "s3:getobject") for action in actions) and any(
            _matches(resource, f"{bucket}/{name}") for resource in resources
        ):
            return True
    return False


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _matches(pattern: str, text: str) -> bool:
    return bool(re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text, re.DOTALL))


def _fetch(request: AWSRequest, *, ca_bundle: str | None) -> _Answer:
    """Send *request* once and read what it is answered, up to a bound."""
    url = str(request.url)
    host = urlsplit(url).netloc.rpartition("@")[2]
    request.stream_output = True
    if ca_bundle and url.startswith("https:"):
        _read_certificates(ca_bundle)
    timeout: Any = (_TIMEOUT, _TIMEOUT)  # typed as one number; it takes urllib3's pair
    verify: Any = ca_bundle or True
    http = URLLib3Session(verify=verify, timeout=timeout, proxies=get_environ_proxies(url))
    try:
        answer = http.send(request.prepare())
        raw: Any = answer.raw
        try:
            body = raw.read(_MOST, decode_content=True)
        finally:
            raw.close()
        return _Answer(answer.status_code, answer.headers, body)
    except (ReadTimeoutError, urllib3.exceptions.ReadTimeoutError) as error:
        raise _Failed(f"{host} takes the request and does not answer for {_TIMEOUT} s", _LOOK) from error
    except ConnectTimeoutError as error:
        raise _Failed(f"{host} does not take a connection within {_TIMEOUT} s", _LOOK) from error
    except SSLError as error:
        raise _tls(host, error) from error
    except ProxyConnectionError as error:
        raise _Failed(f"the proxy on the way to {host} does not answer", "check HTTPS_PROXY and NO_PROXY") from error
    except EndpointConnectionError as error:
        raise _unreachable(host, error) from error
    except (BotoCoreError, urllib3.exceptions.HTTPError) as error:
        raise _Failed(f"{host} breaks the connection off ({type(error).__name__})", _LOOK) from error
    finally:
        http.close()


def _read_certificates(path: str) -> None:
    """See that *path* can be used; what urllib3 says of one that can't looks like a fault of the server's."""
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        why = "no certificate is in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise _Failed(
            f"AWS_CA_BUNDLE={path} can't be used ({why})",
            "name a PEM file with the certificate of the server's authority",
        ) from error


_LOOK = "see that its server runs, and that AWS_ENDPOINT_URL (or IMAGES_PUBLIC_URL) names it"


def _tls(host: str, error: SSLError) -> _Failed:
    why = str(error)
    if "WRONG_VERSION_NUMBER" in why or "record layer failure" in why:
        return _Failed(f"{host} does not speak TLS", "write http:// instead of https:// in its address")
    if "Hostname mismatch" in why or "doesn't match" in why:
        return _Failed(
            f"the certificate of {host} is another host's",
            "use the name that it has (Amazon has none for a bucket with dots in its name)",
        )
    if "expired" in why:
        return _Failed(f"the certificate of {host} has expired", "renew it on the server")
    return _Failed(
        f"the certificate of {host} is signed by an authority that is not known here",
        "name its certificate (a PEM file) in AWS_CA_BUNDLE",
    )


def _unreachable(host: str, error: EndpointConnectionError) -> _Failed:
    inner: BaseException | None = error.kwargs.get("error")
    while inner is not None:
        if isinstance(inner, socket.gaierror):
            return _Failed(f"there is no host {host}", "check the name in AWS_ENDPOINT_URL (or IMAGES_PUBLIC_URL)")
        if isinstance(inner, ConnectionRefusedError):
            return _Failed(f"{host} refuses connections", _LOOK)
        inner = inner.__cause__ or inner.__context__
    return _Failed(f"{host} can't be reached", "check the network, and HTTPS_PROXY if there is one")
