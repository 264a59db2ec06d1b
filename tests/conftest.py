"""Fixtures over the real services of ``tests/services.py``.

A service that is not installed fails the tests that need it when ``CI`` is set; elsewhere they are
skipped, and the end of the run says so.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from botocore.loaders import JSONFileLoader
from scrapy.utils.reactor import install_reactor

from tests import services

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

T = TypeVar("T")
_missing: dict[str, str] = {}


@contextlib.contextmanager
def service(start: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    """Starts a service for a fixture; what is not installed is a failure in CI and a loud skip elsewhere."""
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(start())
        except services.MissingService as error:
            _missing[str(error)] = "failed" if os.environ.get("CI") else "skipped"
            if os.environ.get("CI"):
                pytest.fail(f"a service is missing in CI: {error}", pytrace=False)
            pytest.skip(str(error))
        yield running


def pytest_configure() -> None:
    # Before anything imports a reactor and makes it the process's: crawls inside of it need this one.
    install_reactor("twisted.internet.asyncioreactor.AsyncioSelectorReactor")
    # Every new session of boto3 reads its model of S3 and the list of all endpoints again: 0.1 s.
    read = functools.cache(JSONFileLoader().load_file)
    JSONFileLoader.load_file = lambda _, path: read(path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("waits") is None)


def pytest_collection_finish() -> None:
    # The collector would look through the half a million objects of all tests again and again: 0.4 s each time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as in a crawl's own process


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate", action="store_true", help="write tests/fixtures/*/*/expected.json anew, and fail to show how"
    )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for message, what in _missing.items():
        terminalreporter.section("a service is missing", sep="!", red=True, bold=True)
        terminalreporter.line(f"Tests were {what}: {message}", red=True, bold=True)


@pytest.fixture(scope="session", autouse=True)
def _own_environment() -> Iterator[None]:
    """No AWS account, profile, database or proxy of the developer's reaches a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("AWS_", "IMAGES_", "S3_", "SCRAPY_", "CARSCRAPER_", "PG")) or name in {
                "DATABASE_URL",
                "USE_S3_STORAGE",
            }:
                patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("CARSCRAPER_ENV_FILE", os.devnull)
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield


# ── Databases ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def postgres() -> Iterator[services.PostgresCluster]:
    """One server for the session. A test that stops or freezes it leaves it running again."""
    with service(services.PostgresCluster) as cluster:
        yield cluster


@pytest.fixture
def postgres_url(postgres: services.PostgresCluster) -> Iterator[str]:
    """An empty PostgreSQL database of its own."""
    postgres.thaw()
    postgres.start()
    url = postgres.create_database()
    yield url
    postgres.thaw()
    postgres.start()
    postgres.drop_database(url)


@pytest.fixture
def pooled(postgres: services.PostgresCluster, postgres_url: str) -> Iterator[Callable[..., str]]:
    """Start a PgBouncer in this mode, with these options, in front of ``postgres_url``; returns the URL through it."""
    with contextlib.ExitStack() as stack:

        def start(mode: str, **options: object) -> str:
            pooler = stack.enter_context(service(lambda: services.PgBouncer(postgres, mode, **options)))
            return pooler.url(postgres_url)

        yield start


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """An SQLite database that isn't there yet."""
    return f"sqlite:///{tmp_path / 'carscraper.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Both databases, one after the other."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


# ── S3 ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def rclone(tmp_path: Path) -> Iterator[services.RcloneS3]:
    """A server of its own for each test, free to be stopped, frozen and started again."""
    with service(lambda: services.RcloneS3(tmp_path / "s3")) as server:
        yield server


@pytest.fixture
def rclone_s3(rclone: services.RcloneS3) -> services.S3:
    return rclone.bucket()


@pytest.fixture(scope="session")
def moto_server() -> Iterator[services.MotoS3]:
    with service(services.MotoS3) as server:
        yield server


@pytest.fixture
def moto_s3(moto_server: services.MotoS3) -> services.S3:
    """A new bucket in eu-north-1 on a server that has forgotten all before."""
    moto_server.reset()
    return moto_server.bucket(f"car-photos-{uuid.uuid4().hex[:8]}")


@pytest.fixture(params=["rclone", "moto"])
def s3(request: pytest.FixtureRequest) -> services.S3:
    """Both S3 servers, one after the other."""
    found: services.S3 = request.getfixturevalue(f"{request.param}_s3")
    return found


@pytest.fixture
def s3_proxy(s3: services.S3) -> Iterator[services.S3Proxy]:
    """A proxy before ``s3``: crawl into ``s3.via(s3_proxy)``, look into ``s3`` itself."""
    with services.S3Proxy(s3.endpoint) as proxy:
        yield proxy


# ── Crawls ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def crawl(tmp_path: Path) -> Callable[..., services.CompletedCrawl]:
    """``services.crawl`` in the test's own folder."""

    def run(spider: str, *arguments: str, **options: Any) -> services.CompletedCrawl:
        return services.crawl(spider, *arguments, **{"cwd": tmp_path, **options})

    return run


@pytest.fixture
def start_crawl(tmp_path: Path) -> Iterator[Callable[..., services.RunningCrawl]]:
    """``services.start_crawl`` in the test's own folder; what still runs at the test's end is killed."""
    with contextlib.ExitStack() as stack:

        def start(spider: str, *arguments: str, **options: Any) -> services.RunningCrawl:
            return stack.enter_context(services.start_crawl(spider, *arguments, **{"cwd": tmp_path, **options}))

        yield start
