"""``scrapy storage`` in this process, which is quick; tests/cli/test_storage_command.py runs the real program."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.storage.client import open_client
from tests import services
from tests.cli.shop import Shop
from tests.commands import Said, call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

BUCKET = "car-photos"

one_client: Callable[..., object] = functools.cache(open_client)
"""In the place of ``open_client``: the same options give the same client; making one takes longer than most verbs."""


@functools.cache
def _bucket(endpoint: str, access_key: str, secret_key: str) -> services.S3:
    return services.S3(
        endpoint=endpoint,
        bucket=BUCKET,
        region=services.REGION,
        access_key=access_key,
        secret_key=secret_key,
        kind="moto",
    )


@pytest.fixture(autouse=True)
def _one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carscraper.storage.client.open_client", one_client)


@pytest.fixture
def moto_s3(moto_server: services.MotoS3) -> services.S3:
    """A new bucket on a server that has forgotten all before, always of the same name."""
    moto_server.reset()
    s3 = _bucket(moto_server.endpoint, moto_server.access_key, moto_server.secret_key)
    s3.client.create_bucket(Bucket=s3.bucket, CreateBucketConfiguration={"LocationConstraint": s3.region})
    return s3


@pytest.fixture(scope="module")
def one_proxy(moto_server: services.MotoS3) -> Iterator[services.S3Proxy]:
    with services.S3Proxy(moto_server.endpoint) as running:
        yield running


@pytest.fixture
def proxy(one_proxy: services.S3Proxy) -> services.S3Proxy:
    """In front of moto, as if it had just been started."""
    one_proxy.heal()
    one_proxy.forget()
    return one_proxy


class Storage:
    """Runs ``scrapy storage`` with settings of its own; nothing comes from the environment."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        self.settings: dict[str, Any] = {}
        """What each call is given, as ``-s`` would."""
        self.answer: str | None = None
        """What the person at the terminal types; ``None``: nobody is there."""

    def __call__(self, *words: object, settings: Mapping[str, Any] | None = None, code: int | None = 0) -> Said:
        """Runs a verb and insists on its exit code (``None``: any)."""
        if self.answer is not None:
            self._monkeypatch.setattr(sys, "stdin", _Terminal(self.answer))
        given = {**self.settings, **(settings or {})}
        return call("storage", *words, settings=given, capsys=self._capsys, code=code)


class _Terminal:
    def __init__(self, answer: str) -> None:
        self._answer = answer

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return f"{self._answer}\n"


@pytest.fixture
def storage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Storage:
    """``scrapy storage`` without a bucket: set ``storage.settings``, mostly to ``s3.env``."""
    return Storage(capsys, monkeypatch)


@pytest.fixture
def new_shop(tmp_path: Path, storage: Storage, sqlite_url: str) -> Iterator[Callable[..., Shop]]:
    shops = []

    def make(s3: services.S3 | None = None, url: str = sqlite_url, prefix: str = "") -> Shop:
        shops.append(Shop(url, tmp_path / "images", s3, prefix))
        storage.settings = shops[-1].settings
        shops[-1].folder.mkdir(exist_ok=True)
        return shops[-1]

    yield make
    for shop in shops:
        shop.engine.dispose()


@pytest.fixture
def shop(new_shop: Callable[..., Shop], moto_s3: services.S3) -> Shop:
    """Of moto's bucket and SQLite."""
    return new_shop(moto_s3)
