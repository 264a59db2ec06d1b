"""The bucket's configuration on the server: read, changed feature by feature, read back, and tried with a photo.

Nothing is concluded about one feature from the answer about another: servers have some and not others, and some answer
a question that they do not know with a list of objects, or an error of their own.
What asks S3 raises ``StoreError`` where S3 refuses or is away.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from carscraper.exceptions import ConfigurationError, StoreError, StoreRefusedError, StoreUnavailableError
from carscraper.maintenance.features import FEATURES, Change, Wanted, order, parts, weaker, without
from carscraper.storage.answers import DENIED, MISSING_FEATURE, Answer, NotS3Error, explained_s3, failure
from carscraper.storage.client import ask_bucket
from carscraper.storage.keys import PROBES

if TYPE_CHECKING:
    from carscraper.storage.client import S3Options

_FIRST_REGION = "us-east-1"  # the one that takes no location constraint
_LONGEST_NAME = 63
_PATIENCE = 20.0  # seconds until a new bucket must be seen
_LOOKS = (0.0, 0.5, 2.0)  # seconds before each look at what was changed: Amazon shows it a moment later
_CONFLICTS = 4  # tries of a change while S3 is still busy with the one before
_TAKES_IT_FOR_A_NEW_BUCKET = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}


class BucketTakenError(StoreRefusedError):
    """The name belongs to somebody else, or to somebody who may not look. Raised by :class:`Bucket`."""


class FeatureMissingError(StoreRefusedError):
    """The server does not have a feature. Raised by :class:`Bucket`."""


def checked_name(name: str) -> str:
    """Return *name* if Amazon takes it for a bucket.

    Raises:
        ConfigurationError: it doesn't.

    >>> checked_name("car-photos")
    'car-photos'
    """
    if (
        not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", name)
        or re.search(r"\.[.-]|-\.", name)
        or re.fullmatch(r"[0-9]+(\.[0-9]+){3}", name)
        or name.startswith(("xn--", "sthree-", "amzn-s3-demo-"))
        or name.endswith(("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"))
    ):
        raise ConfigurationError(
            f"{name!r} is no name for a bucket; write 3 to 63 lower-case letters, digits and hyphens, like car-photos."
        )
    return name


def reason(error: StoreError) -> str:
    """Return the server's own words, without the right that would mend it if that were the cause."""
    return Answer.of(error.__cause__).words if isinstance(error.__cause__, ClientError) else str(error)


def is_busy(error: StoreError) -> bool:
    """Return whether nothing follows from *error*: the server is away or busy. An error of its own may have a cause."""
    cause = error.__cause__
    failed = isinstance(cause, ClientError) and Answer.of(cause).status == 500
    return isinstance(error, StoreUnavailableError) and not failed


def suggestion(name: str, region: str) -> str:
    """Return another name like *name* that hardly anybody has.

    >>> suggestion("car-photos", "eu-north-1")[:22], len(suggestion("x" * 63, "eu-north-1"))
    ('car-photos-eu-north-1-', 63)
    """
    tail = f"-{region}-{secrets.token_hex(3)}"
    return name[: _LONGEST_NAME - len(tail)].rstrip("-.") + tail


class Bucket:
    """Reads and changes one bucket through a boto3 client."""

    def __init__(self, client: Any, options: S3Options, *, name: str | None = None) -> None:
        self.name = name or options.bucket
        self._options = options
        self._client = client
        self._lists_objects = False
        self._probes: dict[str, str] = {}  # photos of tests that may be there, and their versions
        client.meta.events.register("before-parse.s3", self._look)

    def _look(self, response_dict: dict[str, Any], **_: Any) -> None:
        """Notice a list of objects where something else was asked for; boto3 would read it as an empty answer."""
        body = response_dict.get("body")
        self._lists_objects = isinstance(body, bytes) and b"<ListBucketResult" in body[:300]

    # --- the bucket ---

    def exists(self) -> bool:
        """Return whether the bucket is there, and ours.

        Raises:
            BucketTakenError: it is not ours, or we may not look.
            ConfigurationError: it is in another region.
            StoreError: the credentials are of no use, or the server is away.
        """
        with explained_s3(self.name, "s3:ListBucket"):
            region, refusal = ask_bucket(self._client, self.name)
        if refusal and region and region != self._options.region:
            raise ConfigurationError(
                f"The bucket {self.name} is in the region {region}, not {self._options.region}: "
                f"set AWS_S3_REGION={region}."
            )
        if refusal is None:
            return True
        if refusal.status == 404:
            return False
        if refusal.code in {*DENIED, "AllAccessDisabled"}:
            raise BucketTakenError(
                f"S3 does not let us into the bucket {self.name} ({refusal.words}): the name belongs to "
                "somebody else, or these credentials lack s3:ListBucket on it."
            )
        raise failure(refusal, self.name, "s3:ListBucket")

    def create(self) -> None:
        """Make the bucket, and wait until it is seen; fine if we have it already.

        Raises:
            BucketTakenError: the name belongs to somebody else.
            StoreError: it is refused, or the server is away or does not show the new bucket.
        """
        region = self._options.region
        place = {} if region == _FIRST_REGION else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        with explained_s3(self.name, "s3:CreateBucket"):
            try:
                self._client.create_bucket(Bucket=self.name, **place)
            except ClientError as error:
                code = Answer.of(error).code
                if code == "BucketAlreadyExists":
                    raise BucketTakenError(f"The name {self.name} belongs to somebody else.") from error
                if code != "BucketAlreadyOwnedByYou":
                    raise
        end = time.monotonic() + _PATIENCE
        while not self.exists():
            if time.monotonic() > end:
                raise StoreUnavailableError(f"S3 made the bucket {self.name} and does not show it; try again later.")
            time.sleep(0.5)

    def free_name(self) -> str | None:
        """Return a name like this bucket's that nobody has, ``None`` if that does not work out."""
        name = suggestion(self.name, self._options.region)
        with contextlib.suppress(StoreError), explained_s3(name, "s3:ListBucket"):
            try:
                self._client.head_bucket(Bucket=name)
            except ClientError as error:
                return name if Answer.of(error).status == 404 else None
        return None

    # --- its features ---

    def read(self, feature: str) -> Any:
        """Return what is set, ``None`` for nothing; in the form of ``features.Feature.value``.

        Raises:
            FeatureMissingError: the server says so, or answers another question.
            StoreError: the read is refused, or the server is away.
        """
        its = FEATURES[feature]
        with explained_s3(self.name, f"s3:Get{its.action}"):
            try:
                answer = getattr(self._client, f"get_{its.method}")(Bucket=self.name)
                answer.pop("ResponseMetadata", None)
                if not self._lists_objects:
                    return its.value(answer)
            except ClientError as error:
                if (code := Answer.of(error).code) == its.unset:
                    return None
                if code not in MISSING_FEATURE:
                    raise
            except NotS3Error as error:
                raise StoreRefusedError(
                    f"What the server answers to s3:Get{its.action} is no answer of S3's: ask who runs the server."
                ) from error
            except (ResponseParserError, KeyError, ValueError):
                pass
        raise FeatureMissingError(f"This server does not have {its.title}.")

    def plan(self, wanted: Wanted, *, exists: bool = True) -> tuple[list[Change], list[str], dict[str, str]]:
        """Return a change for each feature that can be read, those that the server lacks, and why others can't be read.

        What can't be read is not changed: others may have put something there. Of those that nothing is wanted of it is
        not said; a policy may have to be closed.
        """
        changes, lacks, unread = [], [], {}
        for name in order(wanted):
            its = FEATURES[name]
            try:
                before = self.read(name) if exists else its.nothing
            except FeatureMissingError:
                lacks.append(name)
            except StoreError as error:
                if name == "policy" or its.plan(its.nothing, wanted)[1]:
                    unread[name] = str(error)
            else:
                after, lines = its.plan(before, wanted)
                changes.append(Change(feature=name, before=before, after=after, lines=tuple(lines)))
        return changes, lacks, unread

    def put(self, feature: str, value: Any) -> None:
        """Set a feature to *value*; ``None`` unsets it.

        Raises:
            FeatureMissingError: the server does not have it.
            StoreError: it is refused, or the server is away.
        """
        its = FEATURES[feature]
        method, arguments = f"put_{its.method}", its.arguments(value) if value is not None else {}
        if value is None:
            method = str(its.delete)
        action = "s3:DeleteBucketPolicy" if method == "delete_bucket_policy" else f"s3:Put{its.action}"
        for attempt in range(1, _CONFLICTS + 1):
            with explained_s3(self.name, action):
                try:
                    getattr(self._client, method)(Bucket=self.name, **arguments)
                except ClientError as error:
                    code = Answer.of(error).code
                    if code in MISSING_FEATURE | _TAKES_IT_FOR_A_NEW_BUCKET:
                        raise FeatureMissingError(f"This server does not have {its.title} ({code}).") from error
                    if code != "OperationAborted" or attempt == _CONFLICTS:
                        raise
                else:
                    return
            time.sleep(attempt)

    def apply(self, change: Change, wanted: Wanted) -> None:
        """Make *change*, and read it back: it should then be as *wanted*.

        Raises:
            StoreError: it is refused, or the server is away, or did not keep what it took.
        """
        self.put(change.feature, change.after)
        for pause in _LOOKS:
            time.sleep(pause)
            if not FEATURES[change.feature].plan(self.read(change.feature), wanted)[1]:
                return
        raise StoreRefusedError("The server accepted the change, and shows another one when it is read.")

    def apply_parts(self, change: Change, wanted: Wanted) -> dict[str, str]:
        """Make *change*; if it is refused, what can be made of it, part by part.

        Returns:
            The parts that were left out, each with the reason.

        Raises:
            StoreError: nothing of it could be made; see :meth:`apply`.
        """
        name, refused = change.feature, {}
        try:
            self.apply(change, wanted)
        except StoreError as error:
            alone = parts(name, wanted)
            if len(alone) < 2 or isinstance(error, FeatureMissingError) or is_busy(error):
                raise
            for part, its in alone.items():
                try:
                    after, lines = FEATURES[name].plan(self.read(name), its)
                    if lines:
                        self.apply(Change(feature=name, after=after), its)
                except StoreError as why:
                    refused[f"{name}: {part}"] = str(why)
            if len(refused) == len(alone):
                raise
        return refused

    # --- a photo ---

    def try_photo(self) -> None:
        """Put, read and remove a small object, as crawls put photos, and see that it is gone.

        Raises:
            StoreError: that fails; the sentence says how.
        """
        bucket, key = self.name, f"{self._options.prefix}{PROBES}setup-{secrets.token_hex(6)}.jpg"
        data = secrets.token_hex(32).encode()
        where = {"Bucket": bucket, "Key": key}
        self._probes[key] = ""  # also if the answer is lost
        try:
            with explained_s3(bucket, "s3:PutObject"):
                put = self._client.put_object(
                    **where, Body=data, ContentType="image/jpeg", **self._options.put_arguments
                )
        except StoreError as error:
            if isinstance(error.__cause__, ClientError):
                del self._probes[key]
            raise
        self._probes[key] = put.get("VersionId", "")
        try:
            with explained_s3(bucket, "s3:GetObject"):
                if self._client.get_object(**where)["Body"].read() != data:
                    raise StoreRefusedError(f"The bucket {bucket} gives back other bytes than were put.")
        finally:
            self._remove(key)

    def _remove(self, key: str) -> None:
        where, version = {"Bucket": self.name, "Key": key}, self._probes[key]
        its = {} if version in {"", "null"} else {"VersionId": version}
        with explained_s3(self.name, "s3:DeleteObjectVersion" if its else "s3:DeleteObject"):
            answer = self._client.delete_object(**where, **its)
            if answer.get("DeleteMarker") and answer.get("VersionId") == "null":  # of suspended versioning
                self._client.delete_object(**where, VersionId="null")
        with contextlib.suppress(ClientError, BotoCoreError):
            self._client.head_object(**where)
            raise StoreRefusedError(f"{key} is still there after its deletion: retention or a cache may hold it.")
        del self._probes[key]

    def remove_probes(self) -> list[str]:
        """Remove what :meth:`try_photo` could not, and return the names of what stays."""
        for key in list(self._probes):
            with contextlib.suppress(StoreError):
                self._remove(key)
        return list(self._probes)

    def take_back_what_breaks_photos(self, plan: list[Change]) -> tuple[bool, dict[str, str]]:
        """Find the features that make :meth:`try_photo` fail, and take them back; all others stay.

        What this run has set is taken back; if that does not help, what an earlier one did as well. Then one after
        another is set again, each with a photo.

        Returns:
            Whether photos work now, and the features that are not as they were, each with the server's words.
        """
        now = [change for change in plan if change.lines]
        earlier = [change for change in plan if not change.lines]
        taken: list[Change] = []
        for group in (now, earlier):
            more = [real for change in reversed(group) if (real := self._taken_back(change))]
            taken += more
            if more and self._refusal() is None:
                left_out = self._set_again(taken[::-1], prove=True)
                return self._refusal() is None, left_out
        return False, self._set_again(taken[::-1], prove=False)

    def _refusal(self) -> StoreError | None:
        try:
            self.try_photo()
        except StoreError as error:
            return error
        return None

    def _taken_back(self, change: Change) -> Change | None:
        """Return *change* with what is really there now, after that was taken back; ``None`` if it can't be."""
        with contextlib.suppress(StoreError):
            real = replace(change, after=self.read(change.feature))
            untouched = change.lines and real.after == change.before
            for value in () if untouched else without(change):
                with contextlib.suppress(StoreError):
                    self.put(change.feature, value)
                    return real
        return None

    def _set_again(self, taken: list[Change], *, prove: bool) -> dict[str, str]:
        left_out: dict[str, str] = {}
        for change in taken:
            name = change.feature
            for value in (change.after, *weaker(change)):
                error: StoreError | None
                try:
                    self.put(name, value)
                except StoreError as refused:
                    error = refused
                else:
                    error = self._refusal() if prove else None
                    if error is None or is_busy(error):
                        break
                left_out.setdefault(name, reason(error))
            else:
                self._taken_back(change)
        return left_out
