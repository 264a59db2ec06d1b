"""The bucket as a store for photos: one check at the start, then only uploads.

Uploads go through obstore's synchronous ``put`` (it costs less CPU for each photo than boto3).
boto3 finds credentials that are not given as keys, and explains what is wrong; it takes 50 MB and 0.3 s, so it is
imported only for these. What botocore reads of the environment and the AWS profile is given to obstore, which must not
read anything by itself. No ACL is ever sent, tags only if ``S3_TAGS`` asks for them.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session

from carscraper.exceptions import (
    ConfigurationError,
    KeysRefusedError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
)
from carscraper.storage import objects
from carscraper.storage.answers import (
    DENIED,
    Answer,
    NotS3Error,
    connection_problem,
    explained_s3,
    failure,
    silent,
)
from carscraper.storage.client import S3Options, contradicts, encryption, open_client, why_refused
from carscraper.storage.credentials import CredentialProvider
from carscraper.storage.keys import IMMUTABLE, PROBES, permanent_url
from carscraper.storage.listing import list_objects
from carscraper.storage.turns import Turns
from carscraper.storage.uploader import attributes_of, open_uploader, problem_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime

    from carscraper.storage.keys import Upload

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

_HTTP_OK = 200
_CONNECT_TIMEOUT, _READ_TIMEOUT = 5, 10  # seconds
_LIST_PAGE = 1_000  # names that S3 lists at a time
_FIRST_BACKOFF = 0.2  # seconds; doubles with each retry, with jitter


class S3Store:
    """Keeps photos in one bucket; ``put`` is called from worker threads."""

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self.location = f"s3://{options.bucket}"
        self._base = options.base
        self._credentials = CredentialProvider(options)
        self._renewing = threading.Lock()
        self._store = open_uploader(options, self._credentials)
        self._etags_are_md5 = encryption(options.sse)[0] in {"", "AES256"}
        self._turns = Turns(options.retries)
        self._md5_client: Any = None
        """boto3's, once the bucket has asked for Content-MD5, which obstore can't send."""

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
        """Make a boto3 client for this bucket's server, which tries once."""
        return open_client(self._options, found=self._credentials.session, attempts=1)

    def check(self) -> None:
        """Ask the bucket once whether it is there, in this region, for these credentials.

        Raises:
            StoreRefusedError: it is not; the sentence names the setting.
            StoreUnavailableError: the server does not answer just now.
        """
        self._turns.take(time.monotonic() + self._options.timeout, probe=True)
        try:
            self._with_valid_keys("s3:ListBucket", self._ask)
        except StoreUnavailableError as error:
            self._turns.failed(str(error))
            raise
        self._turns.worked()

    def _ask(self) -> None:
        options = self._options
        request = AWSRequest(method="HEAD", url=f"{options.direct_base}/" if options.virtual else options.direct_base)
        frozen: Any = self._credentials.frozen()
        S3SigV4Auth(frozen, "s3", options.region).add_auth(request)
        timeout: Any = (_CONNECT_TIMEOUT, _READ_TIMEOUT)
        verify: Any = options.ca_bundle or True
        http = URLLib3Session(verify=verify, timeout=timeout, proxies=options.proxies)
        try:
            answer = http.send(request.prepare())
        except BotoCoreError as error:
            raise silent(error, options.bucket) from error
        finally:
            http.close()
        region = answer.headers.get("x-amz-bucket-region")
        if region and region != options.region and answer.status_code != _HTTP_OK:
            raise StoreRefusedError(
                f"The bucket {options.bucket} is in the region {region}, not {options.region}: "
                f"set AWS_S3_REGION={region}."
            )
        said = Answer(answer.status_code)
        if said.passing:
            raise failure(said, options.bucket, "s3:ListBucket")
        if answer.status_code != _HTTP_OK:
            self._explain()
        elif int(answer.headers.get("content-length") or 0) and "html" in answer.headers.get("content-type", ""):
            raise silent(NotS3Error())  # a captive portal's page: a bucket has no body
        self.greet()

    def greet(self) -> None:
        """See that uploads accept the server's certificate: rustls is stricter than OpenSSL.

        Raises:
            StoreRefusedError: they do not.
        """
        if not self._options.direct_base.startswith("https:"):
            return
        try:
            obstore.head(self._store, f"{self._options.prefix}{PROBES}nothing")
        except Exception as error:
            if connection_problem(str(error)):
                raise self._problem(error, "s3:GetObject") from error

    def _explain(self) -> None:
        """Find out why HEAD was refused: its answer has no body, that to a listing has."""
        client = self.client()
        try:
            refusal = why_refused(client, self._options.bucket, self._options.prefix)
        except BotoCoreError as error:
            raise silent(error, self._options.bucket) from error
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
            found = self._legibly(
                lambda: obstore.get(self._store, name), lambda client: objects.get(client, self._options.bucket, name)
            )
            if found is None or isinstance(found, objects.Seen):
                return found.data if found else None
            if not found.meta["e_tag"]:
                raise silent(NotS3Error())
            if found.meta["size"] > max_bytes:
                raise StoreRefusedError(f"{name} has {found.meta['size']} bytes, more than IMAGES_MAX_BYTES")
            return bytes(found.bytes())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise
            return None

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Return the sizes of those of *names* that are there and not empty.

        By listing: names that lie side by side cost a request for a thousand, an empty bucket costs one. Where a server
        does not list in order, some that are there may be missing, and are stored once more.

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
            if last.encode() <= before.encode():  # nothing comes behind it; or the server lists as it likes
                break
            wanted = [name for name in wanted if name.encode() > last.encode()]
        return found

    def older_than(self, moment: datetime) -> list[str]:
        """Return the names of all objects below the prefix that were put before *moment* (UTC, without a zone).

        Raises as :meth:`sizes`.
        """
        client = self.client()
        try:
            found = list(list_objects(client, self._options.bucket, self._options.prefix))
        finally:
            client.close()
        return [each.name for each in found if each.modified.replace(tzinfo=None) < moment]

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
        self._with_retries("s3:DeleteObject", lambda: self._delete(name))

    def _delete(self, name: str) -> None:
        self._legibly(
            lambda: obstore.delete(self._store, name),
            lambda client: objects.remove(client, self._options.bucket, name, []),
        )

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
        if self._md5_client:
            self._put_with_md5(self._md5_client, upload)
            return
        result = self._legibly(
            lambda: obstore.put(
                self._store,
                upload.name,
                upload.data,
                attributes=attributes_of(upload, self._options),
                tags=dict(self._options.tags) or None,
                use_multipart=False,
            ),
            lambda client: self._put_with_md5(client, upload),
        )
        if result is None:
            return
        etag = (result["e_tag"] or "").strip('"').lower()
        if self._etags_are_md5 and contradicts(etag, None, upload.data):
            self._look_again(upload)

    def _legibly(self, call: Callable[[], T], by_boto3: Callable[[Any], R]) -> T | R:
        """Make *call*, and where its answer is no UTF-8, of which obstore does not say the status, ask by boto3."""
        try:
            return call()
        except obstore.exceptions.GenericError as error:
            if "FromUtf8Error" not in str(error):
                raise
        client = self.client()
        try:
            return by_boto3(client)
        finally:
            client.close()

    def _put_with_md5(self, client: Any, upload: Upload) -> None:
        """Put as a bucket with object lock wants it."""
        attributes = attributes_of(upload, self._options)
        with explained_s3(self._options.bucket, "s3:PutObject"):
            client.put_object(
                Bucket=self._options.bucket,
                Key=upload.name,
                Body=upload.data,
                ContentType=upload.content_type,
                CacheControl=IMMUTABLE,
                Metadata={name: attributes[name] for name in upload.metadata},
                **self._options.put_arguments,
            )

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
        turns, deadline = self._turns, time.monotonic() + self._options.timeout
        attempt, probe = 0, turns.given_up
        while turns.take(deadline, probe=probe):
            with_md5 = bool(self._md5_client)
            try:
                result = self._with_valid_keys(action, call)
            except Exception as error:
                problem = self._problem(error, action)
                if not isinstance(problem, StoreUnavailableError):
                    if not with_md5 and self._wants_md5(problem):
                        continue
                    raise problem from error
            else:
                turns.worked()
                return result
            probe, attempt = False, attempt + 1
            turns.failed(str(problem))
            pause = _FIRST_BACKOFF * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, no secret
            if turns.given_up or time.monotonic() + pause > deadline:
                break
            time.sleep(pause)
        raise StoreUnavailableError(turns.trouble)

    def _wants_md5(self, refusal: StoreError) -> bool:
        """Return whether an upload was refused for want of Content-MD5; from now on it gets that."""
        if "contentmd5" not in str(refusal).replace("-", "").lower():
            return False
        self._md5_client = self._md5_client or self.client()
        return True

    def _with_valid_keys(self, action: str, call: Callable[[], T]) -> T:
        """Make *call*, and once more with new keys if the server does not accept those of the profile or role."""
        used = self._store
        try:
            return call()
        except Exception as error:
            if self._credentials.session is None or not isinstance(self._problem(error, action), KeysRefusedError):
                raise
        with self._renewing:
            if self._credentials.refused:
                raise self._credentials.refused
            if self._store is used:  # else another thread was here
                try:
                    self._credentials = CredentialProvider(self._options)
                except ConfigurationError as error:
                    self._credentials.refused = StoreRefusedError(str(error))
                    raise self._credentials.refused from error
                self._store = open_uploader(self._options, self._credentials)
                self._md5_client = self._md5_client and self.client()
        try:
            return call()
        except Exception as error:
            problem = self._problem(error, action)
            if isinstance(problem, KeysRefusedError):
                problem = StoreRefusedError(f"{str(problem)[:-1]}; the profile or role gives no others.")
            raise problem from error

    def _problem(self, error: Exception, action: str) -> StoreError:
        """Return what *error* means: a sentence, and whether it passes by itself."""
        if isinstance(error, StoreError):
            return error
        if self._credentials.refused:
            return self._credentials.refused
        return problem_of(error, action, self._options)

    def close(self) -> None:
        """Nothing to give back: obstore's connections go with the object."""
