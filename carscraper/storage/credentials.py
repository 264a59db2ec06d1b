"""Who may enter the bucket: fixed keys, or those that botocore gets from a profile, a role or a program.

boto3 takes 50 MB and 0.3 s to import: only for those who use it.
"""

from __future__ import annotations

import contextlib
from datetime import UTC
from typing import TYPE_CHECKING, Any

from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import ProfileNotFound

from carscraper.exceptions import ConfigurationError, StoreRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import boto3
    from botocore.credentials import ReadOnlyCredentials
    from obstore.store import S3Credential

    from carscraper.storage.client import S3Options


class CredentialProvider:
    """What signs a request: asked by obstore whenever the keys that it has are about to expire."""

    def __init__(self, options: S3Options) -> None:
        """Find the credentials.

        Raises:
            ConfigurationError: there are none, or they can't be read.
        """
        fixed = keys(options)
        self.session = None if fixed else session(options)
        """boto3's, unless the settings name the keys."""
        self.refused: StoreRefusedError | None = None
        """Why there are no keys any more; that is final."""
        self._credentials: Any = fixed or (self.session and self.session.get_credentials())
        self._last: ReadOnlyCredentials | None = None

    def frozen(self) -> ReadOnlyCredentials:
        """Return keys that belong together and are valid now.

        Raises:
            StoreRefusedError: whoever gives them gives none, and the last ones are over.
        """
        if self.refused:  # at once: asking takes some providers seconds, and many uploads wait
            raise self.refused
        try:
            with explained():
                self._last = self._credentials.get_frozen_credentials()
        except ConfigurationError as error:
            # botocore asks 10 minutes before the end; who is away for some of them costs nothing.
            if self._last is None or self._credentials.refresh_needed(0):
                self.refused = StoreRefusedError(str(error))
                raise self.refused from error
        return self._last

    def __call__(self) -> S3Credential:
        """Return the keys as obstore takes them, with the time when they expire."""
        renews = isinstance(self._credentials, RefreshableCredentials)
        # Read first: should another thread renew them meanwhile, they are only asked for too early.
        expires = self._credentials._expiry_time if renews else None  # noqa: SLF001 - nothing else says it
        now: Any = self.frozen()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": expires and expires.astimezone(UTC),  # obstore takes no other zone
        }


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

    with explained():
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
    if credentials is None:
        raise ConfigurationError(
            "There are no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_PROFILE, or give the machine a role."
        )
    return found


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what botocore raises while it looks for credentials into a sentence.

    Raises:
        ConfigurationError: always in place of another exception.
    """
    try:
        yield
    except ProfileNotFound as error:
        name = error.kwargs["profile"]
        raise ConfigurationError(f"AWS_PROFILE={name} is not in the AWS configuration files.") from None
    except Exception as error:  # programs and endpoints that answer nonsense raise KeyError, ValueError and others
        # By its name: botocore has four exceptions for a login that is missing or too old.
        login = "SSO" in type(error).__name__ or "Token" in type(error).__name__ or "sso" in str(error).lower()
        remedy = "run `aws sso login`" if login else "correct the profile or role, or set AWS_ACCESS_KEY_ID"
        said = " ".join(str(error).split()).rstrip(".")  # of several lines where a parameter is wrong
        raise ConfigurationError(f"The AWS credentials can't be had ({said}); {remedy}.") from error
