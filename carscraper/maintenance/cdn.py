"""CloudFront in front of the bucket: which paths name an object there, and taking them out of its caches.

CloudFront's limits: 3,000 single paths and 15 with a wildcard may be in progress for a distribution at one time, a path
has at most 4,000 characters, and ``*`` is a wildcard only as a path's last character.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from carscraper.exceptions import ConfigurationError, StoreError, StoreRefusedError, StoreUnavailableError
from carscraper.storage.answers import Answer
from carscraper.storage.keys import key_of, permanent_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_PATHS, MAX_WILDCARDS, MAX_LENGTH = 3_000, 15, 4_000
"""Single paths and paths with a wildcard of one request, and the characters of a path."""

_PAUSE = 20.0  # seconds until there may be room; an invalidation takes minutes
_FULL = "TooManyInvalidationsInProgress"
# What plain S3 servers say to a request for CloudFront.
_NOT_CLOUDFRONT = {"NoSuchBucket", "NoSuchKey", "InvalidBucketName", "MethodNotAllowed", "NotImplemented", "404", "405"}
# RFC 1738 calls the others unsafe (and the letters beyond ASCII): CloudFront wants them percent-encoded. `*` is not
# here, as at the end it would be a wildcard.
_SAFE = "/!$&'()+,:;=@"


@dataclass(frozen=True, slots=True)
class Invalidation:
    """One request that CloudFront has accepted."""

    id: str
    paths: tuple[str, ...]


# --- paths ------------------------------------------------------------------------------------------------------


def paths_of(key: str, public_url: str | None = None) -> list[str]:
    """Return the paths under which CloudFront may hold the object *key*: mostly one.

    The first is the permanent URL's. CloudFront keeps apart what a client encodes and what it need not encode, so a
    key with such characters (none that a crawl makes) has a second path.

    Args:
        key: the object's name, prefix included.
        public_url: ``IMAGES_PUBLIC_URL``; its own path, if any, stands before the key.

    >>> paths_of("cars/bilasolur/2019/kia/rio/1_ab.jpg", "https://img.example.is")
    ['/cars/bilasolur/2019/kia/rio/1_ab.jpg']
    >>> paths_of("a b/þ#.jpg", "https://example.is/img/"), paths_of("a+b.jpg")
    (['/img/a%20b/%C3%BE%23.jpg'], ['/a%2Bb.jpg', '/a+b.jpg'])
    """
    base = urlsplit(public_url or "").path.rstrip("/")
    return list(dict.fromkeys([permanent_url(key, base), f"{base}/{quote(key, safe=_SAFE)}"]))


def requested_paths(text: str, bases: list[str], public_url: str | None = None) -> list[str]:
    """Return CloudFront's paths for what a person writes: a key, a permanent URL, or either with ``*`` at its end.

    Args:
        text: a key with its prefix (a leading slash is no part of it) or a whole address.
        bases: as ``storage.keys.published_bases`` returns them.
        public_url: ``IMAGES_PUBLIC_URL``.

    Raises:
        ConfigurationError: it is empty, too long, has ``*`` in its midst, or is an address that is none of ours.

    >>> requested_paths("thumbnails/small/þ*", [])
    ['/thumbnails/small/%C3%BE*']
    """
    text = text.strip()
    stem, wild = text.removesuffix("*"), text.endswith("*")
    if text.lower().startswith(("http://", "https://")):
        # With a letter behind it the bucket's root with `*` is an address like any other.
        found = key_of(f"{stem}x" if wild else stem, bases)
        if found is None:
            raise ConfigurationError(
                f"{text!r} is no address of this bucket's objects; write a key or such an address."
            )
        key = found[:-1] if wild else found
    else:
        key = stem.lstrip("/")
        if "*" in key:
            raise ConfigurationError(f"{text!r} has a * in its midst; CloudFront knows one only at the end of a path.")
    if not key and not wild:
        raise ConfigurationError(f"{text!r} names no object; write a key, a permanent URL, or * for everything.")
    paths = [f"{path}*" if wild else path for path in paths_of(key, public_url)]
    if max(map(len, paths)) > MAX_LENGTH:
        raise ConfigurationError(f"{text[:60]!r}… is longer than the {MAX_LENGTH:,} characters that CloudFront takes.")
    return paths


def batches(paths: Iterable[str]) -> list[list[str]]:
    """Split *paths* into requests within CloudFront's limits; each path once, those with a wildcard for themselves.

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
    accepted: Callable[[Invalidation], None] = lambda _: None,
) -> list[Invalidation]:
    """Send *paths* in as many requests as the limits ask for.

    A request whose answer is lost is sent again by boto3 under the same reference: CloudFront answers with the first.

    Args:
        client: a boto3 client for CloudFront.
        distribution: its id.
        paths: as :func:`paths_of` returns them.
        patience: seconds to wait, for each request, until earlier ones are done and there is room.
        say: is told in a few words what is waited for.
        accepted: is told of each request that CloudFront has accepted.

    Raises:
        StoreRefusedError: no such distribution, no right, or paths that CloudFront does not take.
        StoreUnavailableError: it is away, or too many invalidations were in progress for longer than *patience*.
    """
    run, made = uuid.uuid4().hex, []
    for number, batch in enumerate(batches(paths)):
        request = {
            "Paths": {"Quantity": len(batch), "Items": batch},
            "CallerReference": f"carscraper-{run}-{number}",
        }
        deadline = time.monotonic() + patience
        while True:
            try:
                answer = client.create_invalidation(DistributionId=distribution, InvalidationBatch=request)
                break
            except ClientError as error:
                if Answer.of(error).code != _FULL or time.monotonic() + _PAUSE > deadline:
                    raise _failure(Answer.of(error), distribution) from error
                say("too many invalidations are in progress: waiting for room")
                time.sleep(_PAUSE)
            except BotoCoreError as error:
                raise StoreUnavailableError(f"CloudFront does not answer ({type(error).__name__}: {error}).") from error
        made.append(Invalidation(answer["Invalidation"]["Id"], tuple(batch)))
        accepted(made[-1])
    return made


def _failure(answer: Answer, distribution: str) -> StoreError:
    """Return what CloudFront's refusal means, and what mends it, as an exception with a sentence."""
    action = "cloudfront:CreateInvalidation"
    if answer.code == _FULL:
        return StoreUnavailableError(
            f"Too many invalidations of the distribution {distribution} are in progress ({MAX_PATHS:,} paths and "
            f"{MAX_WILDCARDS} with a wildcard at most): wait some minutes and try again."
        )
    if answer.passing:
        return StoreUnavailableError(f"CloudFront answers {answer.status} {answer.code} to {action}; try again later.")
    fix = answer.fix(action)
    if answer.code == "NoSuchDistribution":
        fix = "check CLOUDFRONT_DISTRIBUTION_ID"
    elif answer.code.startswith("Authorization") or answer.code in _NOT_CLOUDFRONT:
        fix = "the server of AWS_ENDPOINT_URL does not know CloudFront: leave CLOUDFRONT_DISTRIBUTION_ID empty"
    return StoreRefusedError(f"CloudFront refuses {action} on the distribution {distribution} ({answer.words}): {fix}.")
