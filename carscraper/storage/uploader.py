"""obstore's client for one bucket, which goes where boto3's goes and reads nothing by itself."""

from __future__ import annotations

import errno
import os
import re
from datetime import timedelta
from html import unescape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies

import obstore
from obstore.store import MemoryStore, S3Store

from carscraper.exceptions import ConfigurationError, StoreError, StoreRefusedError, StoreUnavailableError
from carscraper.settings.environment import forget, proxies_named
from carscraper.storage.answers import Answer, connection_problem, failure, no_way
from carscraper.storage.client import certificates, encryption
from carscraper.storage.keys import IMMUTABLE

if TYPE_CHECKING:
    from obstore.store import ClientConfig

    from carscraper.storage.client import S3Options
    from carscraper.storage.credentials import CredentialProvider
    from carscraper.storage.keys import Upload

_LONGEST_VALUE = 600  # characters of one value of the metadata
_OFF = (
    *("skip_signature", "unsigned_payload", "s3_express", "request_payer", "disable_tagging", "disable_bulk_delete"),
    "imdsv1_fallback",
)
"""Switches of obstore that a variable of the environment may have put on."""
_WITHOUT_OPTION = {
    *("AWS_CHECKSUM_ALGORITHM", "AWS_SERVER_SIDE_ENCRYPTION", "AWS_SSE_KMS_KEY_ID", "AWS_SSE_BUCKET_KEY_ENABLED"),
    "AWS_SSE_CUSTOMER_KEY_BASE64",
}
"""Variables of the environment that obstore alone reads and that no option takes back."""


def open_uploader(options: S3Options, credentials: CredentialProvider) -> S3Store:
    """Make obstore's client; what botocore reads of environment and profile is given to it.

    Raises:
        ConfigurationError: the certificates can't be read, or the proxy is none.
    """
    client: ClientConfig = {
        "allow_http": options.direct_base.startswith("http://"),
        "timeout": timedelta(seconds=min(options.timeout, 30)),
        "connect_timeout": timedelta(seconds=5),
        "pool_max_idle_per_host": str(options.parallel),
    }
    if options.ca_bundle:
        client["root_certificate"] = certificates(options.ca_bundle)
    if proxy := options.proxies.get(urlsplit(options.direct_base).scheme):
        client["proxy_url"] = proxy
    elif getproxies():  # which obstore would use; it can be told not to for a host only
        client |= {"proxy_url": "http://127.0.0.1", "proxy_excludes": urlsplit(options.direct_base).hostname or ""}
    _start_runtime()
    # What obstore reads from the environment by itself must not make it differ from boto3.
    forget(_WITHOUT_OPTION)
    config: dict[str, Any] = dict.fromkeys(_OFF, False) | {
        "region": options.region,
        # "Virtual" takes the address as it is. Both names: obstore prefers AWS_ENDPOINT_URL_S3 to `endpoint`.
        "virtual_hosted_style_request": True,
        "endpoint": options.direct_base,
        "aws_endpoint_url_s3": options.direct_base,
        "conditional_put": "etag",
        "copy_if_not_exists": "multipart",
    }
    kind, key = encryption(options.sse)
    if kind:
        config["server_side_encryption"] = kind
        if key:
            config["sse_kms_key_id"] = key
    try:
        return S3Store(
            options.bucket,
            client_options=client,
            # Ours is the retry loop: it knows the deadline and tells the failures apart.
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=options.timeout)},
            credential_provider=credentials,
            **config,
        )
    except obstore.exceptions.GenericError as error:
        if "builder error" not in str(error):
            raise
        raise ConfigurationError(f"The proxy{proxies_named()} is no address; write http://host:port.") from error


def _start_runtime() -> None:
    """Start obstore's threads now: begun later, where the machine gives no more, they would take the photo with them.

    Raises:
        OSError: a limit is reached.
        RuntimeError: no thread can be started.
    """
    try:
        obstore.put(MemoryStore(), "nothing", b"")
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        code = re.search(r"code: (\d+)", str(error))
        if code and int(code[1]) != errno.EAGAIN:
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from None
        raise RuntimeError("can't start new thread") from None


def problem_of(error: Exception, action: str, options: S3Options) -> StoreError:
    """Return what obstore's *error* means: what the server answered to *action* stands in its text."""
    text, bucket = str(error), options.bucket
    hints = options.hints if action == "s3:PutObject" else {}
    answer = re.search(r"status code: (\d{3})[^:]*: (.*?)(\n\nDebug source|$)", text, re.DOTALL)
    if answer:
        said = {name: unescape(words) for name, words in re.findall(r"<(Code|Message)>([^<]*)<", answer[2])}
        status = int(answer[1])
        return failure(Answer(status, said.get("Code", ""), said.get("Message", "")), bucket, action, **hints)
    if "redirect without LOCATION" in text:  # obstore does not pass on the body that says so
        return failure(Answer(301, "a redirect without an address"), bucket, action)
    first = text.split("\n", 1)[0]
    if problem := connection_problem(text):
        return StoreRefusedError(f"S3 can't be used: {problem[0]} ({options.direct_base}); {problem[1]}.")
    if problem := no_way(text, bucket, next(iter(options.proxies.values()), "")):
        return StoreUnavailableError(f"S3 does not answer: {problem[0]}; {problem[1]}.")
    if "HTTP error" in first and "redirect" not in first:
        return StoreUnavailableError(f"S3 does not answer to {action} ({first.rpartition(' - ')[2]}).")
    return StoreRefusedError(
        f"What answers to {action} on the bucket {bucket} is no S3 server ({first[:200]}): check AWS_ENDPOINT_URL."
    )


def attributes_of(upload: Upload, options: S3Options) -> dict[str, str]:
    """Return what obstore sends beside the bytes of *upload*: headers, and the metadata by their names."""
    attributes = {
        "Content-Type": upload.content_type,
        "Cache-Control": IMMUTABLE,
        # S3 sends metadata as headers: ASCII only, and 2 KB of them at most.
        **{name: _header(value) for name, value in upload.metadata.items()},
    }
    if options.storage_class:
        attributes["Storage-Class"] = options.storage_class
    return attributes


def _header(value: str) -> str:
    plain = value.isascii() and value.isprintable()
    return (value if plain else quote(value, safe=" /:?&=;,._-%+~"))[:_LONGEST_VALUE]
