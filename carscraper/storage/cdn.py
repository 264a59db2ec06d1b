"""CloudFront in front of the bucket: which paths name an object there, and taking them out of its caches.

CloudFront's own limits: 3,000 single paths and 15 paths with a wildcard may be in progress for a distribution at one
time, a path has at most 4,000 characters, and ``*`` is a wildcard only as a path's last character.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from carscraper.exceptions import ConfigurationError, StoreError, StoreRefusedError, StoreUnavailableError
from carscraper.storage.client import FATAL
from carscraper.storage.keys import key_of, permanent_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_PATHS = 3_000
"""Single paths of one request, and of all requests in progress."""
MAX_WILDCARDS = 15
"""Paths with a wildcard, likewise."""
MAX_LENGTH = 4_000
"""Characters of one path."""

_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 20.0  # seconds between two looks; an invalidation takes minutes
_TRIES = 4  # of one request when the answer is lost or the server is busy
_BUSY = {"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "SlowDown"}
_SERVER_ERROR, _TOO_MANY = 500, 429
# What plain S3 servers say to a request for CloudFront.
_NOT_CLOUDFRONT = {"NoSuchBucket", "NoSuchKey", "InvalidBucketName", "MethodNotAllowed", "NotImplemented", "404", "405"}

# RFC 1738 calls these unsafe (and the letters beyond ASCII): what CloudFront wants percent-encoded, and nothing else.
# Written as what stays; `*` is not among them, as at the end it would be a wildcard.
_SAFE = "/!$&'()+,:;=@"


@dataclass(frozen=True, slots=True)
class Invalidation:
    """One request that CloudFront has taken."""

    id: str
    status: str
    """``InProgress`` or ``Completed``."""
    paths: tuple[str, ...]


# --- paths ------------------------------------------------------------------------------------------------------


def paths_of(key: str, public_url: str | None = None) -> list[str]:
    """Give the paths under which CloudFront may hold the object *key*: mostly one.

    The first is the permanent URL's. CloudFront keeps apart what a client encodes and what it need not encode, so a
    key with such characters (none that a crawl makes) has a second path.

    Args:
        key: the object's name, prefix included.
        public_url: ``IMAGES_PUBLIC_URL``; its own path, if any, stands before the key.

    >>> paths_of("cars/bilasolur/2019/kia/rio/1_ab.jpg", "https://img.example.is")
    ['/cars/bilasolur/2019/kia/rio/1_ab.jpg']
    >>> paths_of("a b/þ#.jpg", "https://example.is/img/")
    ['/img/a%20b/%C3%BE%23.jpg']
    >>> paths_of("a+b.jpg")
    ['/a%2Bb.jpg', '/a+b.jpg']
    """
    base = urlsplit(public_url or "").path.rstrip("/")
    return list(dict.fromkeys([permanent_url(key, base), f"{base}/{quote(key, safe=_SAFE)}"]))


def requested_paths(text: str, bases: list[str], public_url: str | None = None) -> list[str]:
    """Give CloudFront's paths for what a person writes: a key, a permanent URL, or either with ``*`` at its end.

    Args:
        text: a key with its prefix (a leading slash is no part of it) or a whole address.
        bases: as ``storage.keys.published_bases`` gives them.
        public_url: ``IMAGES_PUBLIC_URL``.

    Raises:
        ConfigurationError: it is empty, too long, has ``*`` in its midst, or is an address that is none of ours.

    >>> requested_paths("thumbnails/small/þ*", [])
    ['/thumbnails/small/%C3%BE*']
    """
    text = text.strip()
    is_url = text.lower().startswith(("http://", "https://"))
    wild = text.endswith("*")
    if wild and is_url and text.count("/") == 3 and text.endswith("/*"):
        key = "" if key_of(f"{text[:-1]}x", bases) == "x" else None
    elif is_url:
        key = key_of(text.removesuffix("*"), bases)
    else:
        key = text.removesuffix("*").lstrip("/")
        if "*" in key:
            raise ConfigurationError(f"{text!r} has a * in its midst; CloudFront knows one only at the end of a path.")
    if key is None:
        raise ConfigurationError(f"{text!r} is no address of this bucket's objects; write a key or such an address.")
    if not key and not wild:
        raise ConfigurationError(f"{text!r} names no object; write a key, a permanent URL, or * for everything.")
    found = [f"{path}*" if wild else path for path in paths_of(key, public_url)]
    if max(map(len, found)) > MAX_LENGTH:
        raise ConfigurationError(f"{text[:60]!r}… is longer than the {MAX_LENGTH:,} characters that CloudFront takes.")
    return found


def batches(paths: Iterable[str]) -> list[list[str]]:
    """Part *paths* into requests within CloudFront's limits; each path once, those with a wildcard for themselves.

    >>> [len(batch) for batch in batches([f"/{number}.jpg" for number in range(3_001)] + ["/a/*"])]
    [3000, 1, 1]
    """
    once = dict.fromkeys(paths)
    parts = []
    for most, wild in ((MAX_PATHS, False), (MAX_WILDCARDS, True)):
        these = [path for path in once if path.endswith("*") == wild]
        parts += [these[start : start + most] for start in range(0, len(these), most)]
    return parts


# --- requests ---------------------------------------------------------------------------------------------------


def invalidate(
    client: Any,
    distribution: str,
    paths: Iterable[str],
    *,
    patience: float = 900,
    say: Callable[[str], None] = lambda _: None,
) -> list[Invalidation]:
    """Have CloudFront forget *paths*; see :func:`invalidations`, which tells of each request as it is taken."""
    return list(invalidations(client, distribution, paths, patience=patience, say=say))


def invalidations(
    client: Any,
    distribution: str,
    paths: Iterable[str],
    *,
    patience: float = 900,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Invalidation]:
    """Send *paths* in as many requests as the limits ask for, and give each that was taken.

    A request whose answer is lost is sent again under the same reference: CloudFront answers with the first.

    Args:
        client: a boto3 client for CloudFront.
        distribution: its id.
        paths: as :func:`paths_of` gives them.
        patience: seconds to wait, for each request, until earlier ones are done and there is room.
        say: is told in a few words what is waited for.

    Raises:
        StoreRefusedError: no such distribution, no right, or paths that CloudFront does not take.
        StoreUnavailableError: it is away, or too many invalidations were in progress for longer than *patience*.
    """
    run = uuid.uuid4().hex
    for number, batch in enumerate(batches(paths)):
        request = {
            "Paths": {"Quantity": len(batch), "Items": batch},
            "CallerReference": f"carscraper-{run}-{number}",
        }
        made = _patiently(
            partial(client.create_invalidation, DistributionId=distribution, InvalidationBatch=request),
            distribution,
            "cloudfront:CreateInvalidation",
            patience=patience,
            say=say,
        )["Invalidation"]
        yield Invalidation(id=made["Id"], status=_status(made), paths=tuple(batch))


def wait(
    client: Any,
    distribution: str,
    made: Iterable[Invalidation],
    *,
    patience: float = 900,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Wait until every one of *made* is completed.

    Raises:
        StoreRefusedError: no right to look (``cloudfront:GetInvalidation``).
        StoreUnavailableError: CloudFront is away, or not done after *patience* seconds; it goes on all the same.
    """
    deadline = time.monotonic() + patience
    for each in made:
        pause, status = _FIRST_PAUSE, each.status
        while status != "Completed":
            answer = _patiently(
                partial(client.get_invalidation, DistributionId=distribution, Id=each.id),
                distribution,
                "cloudfront:GetInvalidation",
                patience=max(0.0, deadline - time.monotonic()),
                say=say,
            )
            status = _status(answer["Invalidation"])
            if status == "Completed":
                break
            if time.monotonic() + pause > deadline:
                raise StoreUnavailableError(
                    f"The invalidation {each.id} is not done after {patience:.0f} s; CloudFront goes on by itself."
                )
            say(f"waiting for the invalidation {each.id}")
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)


def _status(made: dict[str, Any]) -> str:
    # Amazon writes Completed, test servers COMPLETED.
    status = str(made.get("Status", ""))
    return "Completed" if status.lower() == "completed" else status


def _patiently(
    call: Callable[[], Any], distribution: str, action: str, *, patience: float, say: Callable[[str], None]
) -> Any:
    """Make *call*; wait for room for *patience* seconds, and for a server that is away a few tries."""
    deadline = time.monotonic() + patience
    pause, failures = _FIRST_PAUSE, 0
    while True:
        try:
            return call()
        except ClientError as error:
            failure: StoreError = _explain(error, distribution, action)
            full = error.response["Error"].get("Code") == "TooManyInvalidationsInProgress"
            failure.__cause__ = error
        except BotoCoreError as error:
            failure, full = _unanswered(error), False
            failure.__cause__ = error
        failures += not full
        if isinstance(failure, StoreRefusedError) or failures >= _TRIES or time.monotonic() + pause > deadline:
            raise failure
        say("too many invalidations are in progress: waiting for room" if full else str(failure))
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _unanswered(error: BotoCoreError) -> StoreError:
    return StoreUnavailableError(f"CloudFront does not answer ({type(error).__name__}: {error}).")


def _explain(error: ClientError, distribution: str, action: str) -> StoreError:
    """Say in a sentence what CloudFront's refusal means and what mends it."""
    said = error.response["Error"]
    code, message = said.get("Code", ""), said.get("Message", "")
    status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
    if code == "TooManyInvalidationsInProgress":
        return StoreUnavailableError(
            f"Too many invalidations of the distribution {distribution} are in progress ({MAX_PATHS:,} paths and "
            f"{MAX_WILDCARDS} with a wildcard at most): wait some minutes and try again."
        )
    if code == "NoSuchDistribution":
        return StoreRefusedError(
            f"CloudFront has no distribution {distribution} in this account: check CLOUDFRONT_DISTRIBUTION_ID."
        )
    if code in {"AccessDenied", "AccessDeniedException", "403"}:
        return StoreRefusedError(
            f"CloudFront refuses {action} on the distribution {distribution} ({code}): allow {action}, and check that "
            "CLOUDFRONT_DISTRIBUTION_ID is of this account."
        )
    if code in _BUSY or status >= _SERVER_ERROR or status == _TOO_MANY:
        return StoreUnavailableError(f"CloudFront answers {status} {code} to {action}; try again later.")
    if code.startswith("Authorization") or code in _NOT_CLOUDFRONT:
        return StoreRefusedError(
            f"The server of AWS_ENDPOINT_URL does not know CloudFront ({code}): leave CLOUDFRONT_DISTRIBUTION_ID empty."
        )
    if code in FATAL:
        return StoreRefusedError(f"CloudFront refuses {action} ({code}): {FATAL[code]}.")
    return StoreRefusedError(f"CloudFront refuses {action} on the distribution {distribution} ({code}: {message}).")
