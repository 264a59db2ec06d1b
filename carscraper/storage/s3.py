"""The bucket as a store for photos: one check at the start, then only uploads.

Uploads go through obstore's synchronous ``put`` (it costs less CPU for each photo than boto3).
boto3 finds credentials that are not given as keys, and explains what is wrong; it takes 50 MB and 0.3 s, so it is
imported only for these. No ACL is ever sent, tags only if ``S3_TAGS`` asks for them.
"""

from __future__ import annotations

import logging
import random
import re
import ssl
import time
from datetime import timedelta
from functools import partial
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import obstore
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies
from obstore.store import S3Store as ObstoreS3

from carscraper.exceptions import ConfigurationError, StoreError, StoreRefusedError, StoreUnavailableError
from carscraper.storage.answers import DENIED, Answer, connection_problem, failure, silent
from carscraper.storage.client import S3Options, contradicts, encryption, keys, open_client, session, why_refused
from carscraper.storage.keys import IMMUTABLE, permanent_url

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime

    from obstore.store import ClientConfig

    from carscraper.storage.keys import Upload

logger = logging.getLogger(__name__)

T = TypeVar("T")

_HTTP_OK, _HTTP_NOT_FOUND = 200, 404
_CONNECT_TIMEOUT, _READ_TIMEOUT = 5, 10  # seconds
_LONGEST_VALUE = 600  # characters of one value of the metadata
_LIST_PAGE = 1_000  # names that S3 lists at a time
_FIRST_BACKOFF = 0.2  # seconds; doubles with each retry, with jitter


class S3Store:
    """Keeps photos in one bucket; ``put`` is called from worker threads."""

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self.location = f"s3://{options.bucket}"
        self._base = options.base
        self._keys = None if options.profile else keys(options)
        self._session = None if self._keys else session(options)
        self._store = self._open()
        self._etags_are_md5 = encryption(options.sse)[0] in {"", "AES256"}
        self._failures = 0  # in a row, of all threads: while the server is away nobody tries again and again

    def object_name(self, key: str) -> str:
        """Return the object's name in the bucket: *key* behind ``S3_PREFIX``."""
        return self._options.prefix + key

    def url(self, name: str) -> str:
        """Return the permanent URL of the object *name*."""
        return permanent_url(name, self._base)

    def holds(self, name: str | None) -> bool:
        """Believe the ledger: asking S3 for each photo is what the ledger is there to save."""
        return bool(name)

    def client(self) -> Any:
        """Make a boto3 client for this bucket's server."""
        return open_client(self._options, found=self._session)

    def check(self) -> None:
        """Ask the bucket once whether it is there, in this region, for these credentials.

        Raises:
            StoreRefusedError: it is not; the sentence names the setting.
            StoreUnavailableError: the server does not answer just now.
        """
        options = self._options
        base = options.direct_base
        request = AWSRequest(method="HEAD", url=base if options.endpoint else f"{base}/")
        credentials: Any = self._keys or (self._session and self._session.get_credentials())
        S3SigV4Auth(credentials, "s3", options.region).add_auth(request)
        timeout: Any = (_CONNECT_TIMEOUT, _READ_TIMEOUT)
        verify: Any = options.ca_bundle or True
        http = URLLib3Session(verify=verify, timeout=timeout, proxies=get_environ_proxies(base))
        try:
            answer = http.send(request.prepare())
        except BotoCoreError as error:
            raise silent(error) from error
        finally:
            http.close()
        region = answer.headers.get("x-amz-bucket-region")
        if region and region != options.region:
            raise StoreRefusedError(
                f"The bucket {options.bucket} is in the region {region}, not {options.region}: "
                f"set AWS_S3_REGION={region}."
            )
        if answer.status_code != _HTTP_OK:
            self._explain()

    def _explain(self) -> None:
        """Find out why HEAD was refused: its answer has no body, that to a listing has."""
        client = self.client()
        try:
            refusal = why_refused(client, self._options.bucket, self._options.prefix)
        except BotoCoreError as error:
            raise silent(error) from error
        finally:
            client.close()
        if refusal and refusal.code in DENIED:
            # A key that may only put is allowed to crawl; the first upload tells whether it may.
            logger.info("S3: these credentials may not look into %s; going on, uploads will tell", self._options.bucket)
        elif refusal:
            raise failure(refusal, self._options.bucket, "s3:ListBucket")

    def get(self, name: str, *, max_bytes: int) -> bytes | None:
        """Read the object *name*; ``None`` if it is not there.

        Raises:
            StoreUnavailableError: the server does not answer just now.
            StoreRefusedError: it refuses (or hides what is not there: a key without s3:ListBucket is told 403).
        """
        return self._with_retries("s3:GetObject", lambda: self._read(name, max_bytes))

    def _read(self, name: str, max_bytes: int) -> bytes | None:
        try:
            found = obstore.get(self._store, name)
            if found.meta["size"] > max_bytes:
                raise StoreRefusedError(f"{name} has {found.meta['size']} bytes, more than IMAGES_MAX_BYTES")
            return bytes(found.bytes())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise
            return None

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Return the sizes of those of *names* that are there and not empty.

        By listing: names that lie side by side cost a request for a thousand, an empty bucket costs one.

        Raises:
            StoreUnavailableError: the server does not answer just now.
            StoreRefusedError: it refuses.
        """
        found: dict[str, int] = {}
        wanted = sorted(names, key=str.encode)
        while wanted:
            before = wanted[0][:-1]  # what a list begins behind
            page = self._with_retries("s3:ListBucket", partial(self._page, before))
            found |= {name: page[name] for name in wanted if page.get(name)}
            last = max(page, key=str.encode, default="")
            if len(page) < _LIST_PAGE or last.encode() <= before.encode():  # the end; or it lists as it likes
                break
            wanted = [name for name in wanted if name.encode() > last.encode()]
        return found

    def older_than(self, moment: datetime) -> list[str]:
        """Return the names of all objects below the prefix that were put before *moment* (UTC, without a zone).

        Raises as :meth:`sizes`.
        """
        pages = self._with_retries("s3:ListBucket", lambda: list(obstore.list(self._store, self._options.prefix)))
        found = [each for page in pages for each in page]
        return [each["path"] for each in found if each["last_modified"].replace(tzinfo=None) < moment]

    def _page(self, after: str) -> dict[str, int]:
        prefix = self._options.prefix or None
        pages = iter(obstore.list(self._store, prefix, offset=after or None, chunk_size=_LIST_PAGE))
        return {each["path"]: each["size"] for each in next(pages, [])}

    def delete(self, name: str) -> None:
        """Remove the object *name*.

        Raises:
            StoreUnavailableError: the server does not answer just now.
            StoreRefusedError: it refuses.
        """
        self._with_retries("s3:DeleteObject", lambda: obstore.delete(self._store, name))

    def put(self, upload: Upload) -> None:
        """Upload; on return the server has confirmed the bytes.

        The request is signed over the SHA-256 of the payload, which the server checks; where the ETag is an MD5, it is
        compared too; where it only looks like one, the first upload is read back.

        Raises:
            StoreUnavailableError: it kept failing for ``S3_UPLOAD_TIMEOUT`` seconds or ``S3_MAX_RETRIES`` retries.
            StoreRefusedError: retrying is of no use.
        """
        self._with_retries("s3:PutObject", lambda: self._put(upload))

    def _put(self, upload: Upload) -> None:
        result = obstore.put(
            self._store,
            upload.name,
            upload.data,
            attributes=self._attributes(upload),
            tags=dict(self._options.tags) or None,
            use_multipart=False,
        )
        etag = (result["e_tag"] or "").strip('"').lower()
        if self._etags_are_md5 and contradicts(etag, None, upload.data):
            self._look_again(upload)

    def _look_again(self, upload: Upload) -> None:
        """Distinguish damaged bytes from a bucket with a KMS key, whose ETags look like an MD5 and are none.

        Raises:
            StoreUnavailableError: what is stored is not what was sent.
        """
        try:
            stored = self._read(upload.name, len(upload.data))
        except (obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError):
            logger.info("S3: an ETag is no MD5, and these credentials may not read; the signed payload stands")
        except (obstore.exceptions.BaseError, FileNotFoundError, StoreRefusedError) as error:  # or it is longer
            raise StoreUnavailableError("the server's checksum of the upload differs") from error
        else:
            if stored != upload.data:
                raise StoreUnavailableError("the server's checksum of the upload differs")
        self._etags_are_md5 = False

    def _with_retries(self, action: str, call: Callable[[], T]) -> T:
        """Make *call* until it succeeds, the time is over, or it is of no use."""
        options = self._options
        deadline = time.monotonic() + options.timeout
        attempt = 0
        while True:
            try:
                result = call()
            except Exception as error:
                problem = error if isinstance(error, StoreError) else self._problem(error, action)
                if isinstance(problem, StoreRefusedError):
                    raise problem from error
            else:
                self._failures = 0
                return result
            attempt += 1
            self._failures += 1
            pause = _FIRST_BACKOFF * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, no secret
            if self._failures > options.retries or time.monotonic() + pause > deadline:
                raise problem
            time.sleep(pause)

    def _attributes(self, upload: Upload) -> dict[str, str]:
        attributes = {
            "Content-Type": upload.content_type,
            "Cache-Control": IMMUTABLE,
            # S3 sends metadata as headers: ASCII only, and 2 KB of them at most.
            **{name: _header(value) for name, value in upload.metadata.items()},
        }
        if self._options.storage_class:
            attributes["Storage-Class"] = self._options.storage_class
        return attributes

    def _problem(self, error: Exception, action: str) -> StoreError:
        """Return what obstore's *error* means: what the server answered stands in its text."""
        text, bucket = str(error), self._options.bucket
        answer = re.search(r"status code: (\d{3})[^:]*: (.*?)(\n\nDebug source|$)", text, re.DOTALL)
        if answer:
            said = {name: unescape(words) for name, words in re.findall(r"<(Code|Message)>([^<]*)<", answer[2])}
            status = int(answer[1])
            missing = "NoSuchBucket" if action == "s3:PutObject" and status == _HTTP_NOT_FOUND else ""
            return failure(Answer(status, said.get("Code", missing), said.get("Message", "")), bucket, action)
        if "redirect without LOCATION" in text:  # obstore does not pass on the body that says so
            return failure(Answer(301, "PermanentRedirect"), bucket, action)
        first = text.split("\n", 1)[0]
        if problem := connection_problem(text):
            return StoreRefusedError(f"S3 can't be used: {problem[0]} ({first}); {problem[1]}.")
        if "HTTP error" in first and "redirect" not in first:
            return StoreUnavailableError(f"S3 does not answer to {action} ({first.rpartition(' - ')[2]})")
        return StoreRefusedError(
            f"What answers to {action} on the bucket {bucket} is no S3 server ({first[:200]}): check AWS_ENDPOINT_URL."
        )

    def _open(self) -> ObstoreS3:
        options = self._options
        client: ClientConfig = {
            "allow_http": bool(options.endpoint and options.endpoint.startswith("http://")),
            "timeout": timedelta(seconds=min(options.timeout, 30)),
            "connect_timeout": timedelta(seconds=5),
            "pool_max_idle_per_host": str(options.parallel),
        }
        if options.ca_bundle:
            client["root_certificate"] = _certificates(options.ca_bundle)
        config: dict[str, Any] = {"region": options.region, "virtual_hosted_style_request": not options.endpoint}
        # What obstore reads from the environment by itself must not make it differ from boto3.
        config |= dict.fromkeys(("skip_signature", "unsigned_payload", "s3_express", "disable_tagging"), False)
        if options.endpoint:
            # Both names: obstore prefers AWS_ENDPOINT_URL_S3 to `endpoint`.
            config |= {"endpoint": options.endpoint, "aws_endpoint_url_s3": options.endpoint}
        kind, key = encryption(options.sse)
        if kind:
            config["server_side_encryption"] = kind
            if key:
                config["sse_kms_key_id"] = key
        if options.access_key:
            config |= {"access_key_id": options.access_key, "secret_access_key": options.secret_key}
            if options.session_token:
                config["session_token"] = options.session_token
        else:
            from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415 - see the top

            config["credential_provider"] = Boto3CredentialProvider(self._session)
        return ObstoreS3(
            options.bucket,
            client_options=client,
            # Ours is the retry loop: it knows the deadline and tells the failures apart.
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=options.timeout)},
            **config,
        )

    def close(self) -> None:
        """Nothing to give back: obstore's connections go with the object."""


def _header(value: str) -> str:
    plain = value.isascii() and value.isprintable()
    return (value if plain else quote(value, safe=" /:?&=;,._-%+~"))[:_LONGEST_VALUE]


def _certificates(path: str) -> bytes:
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
