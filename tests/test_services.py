"""The services that the other tests lean on do what they say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import botocore.exceptions
import psycopg
import pytest
import sqlalchemy

from tests import conftest, services

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PHOTO = os.urandom(215_000)


def engine(url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)


def make_cars(url: str) -> None:
    with engine(url).begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE cars (name text)"))


def add_car(url: str) -> int:
    with engine(url).begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO cars VALUES ('Škoda Þór')"))
        return connection.scalar(sqlalchemy.text("SELECT count(*) FROM cars")) or 0


# ── Databases


def test_both_databases_work(database_url: str) -> None:
    make_cars(database_url)
    assert add_car(database_url) == 1


def test_each_database_is_a_copy_of_the_prepared_one(postgres: services.PostgresCluster) -> None:
    first = postgres.create_database(make_cars)
    assert add_car(first) == 1
    began = time.monotonic()
    second = postgres.create_database(make_cars)
    assert time.monotonic() - began < 1
    assert add_car(second) == 1
    postgres.drop_database(first)
    postgres.drop_database(second)


def test_postgres_keeps_its_data_and_address_over_a_stop(postgres: services.PostgresCluster) -> None:
    url = postgres.create_database(make_cars)
    add_car(url)
    for sudden in (False, True):
        postgres.stop(sudden=sudden)
        with pytest.raises(sqlalchemy.exc.OperationalError):
            add_car(url)
        postgres.start()
    assert add_car(url) == 2


def test_a_frozen_postgres_does_not_answer(postgres: services.PostgresCluster, postgres_url: str) -> None:
    make_cars(postgres_url)
    counts: list[int] = []
    with postgres.frozen():
        asking = threading.Thread(target=lambda: counts.append(add_car(postgres_url)))
        asking.start()
        asking.join(0.3)
        assert asking.is_alive()
    asking.join(10)
    assert counts == [1]


def test_sessions_can_be_terminated(postgres: services.PostgresCluster, postgres_url: str) -> None:
    with engine(postgres_url).connect() as connection:
        connection.execute(sqlalchemy.text("SELECT 1"))
        assert postgres.terminate_sessions(postgres_url) == 1
        with pytest.raises(sqlalchemy.exc.OperationalError) as caught:
            connection.execute(sqlalchemy.text("SELECT 1"))
        assert isinstance(caught.value.orig, psycopg.errors.AdminShutdown)
        connection.invalidate()


# ── S3


def test_both_s3_servers_keep_objects(s3: services.S3) -> None:
    s3.put("bilasolur/2019/skoda/a_1.jpg", PHOTO, ContentType="image/jpeg")
    body, headers = s3.get("bilasolur/2019/skoda/a_1.jpg")
    assert body == PHOTO
    assert headers["content-type"] == "image/jpeg"
    assert s3.keys() == ["bilasolur/2019/skoda/a_1.jpg"]
    assert s3.objects("bilasolur/") == {"bilasolur/2019/skoda/a_1.jpg": PHOTO}
    s3.delete("bilasolur/2019/skoda/a_1.jpg")
    assert s3.keys() == []


def test_rclone_keeps_plain_files_and_comes_back_on_its_port(rclone: services.RcloneS3) -> None:
    s3 = rclone.bucket()
    s3.put("a/b.jpg", PHOTO)
    assert s3.folder is not None
    assert (s3.folder / "a/b.jpg").read_bytes() == PHOTO
    port = rclone.port
    rclone.stop()
    with pytest.raises(botocore.exceptions.EndpointConnectionError):
        s3.get("a/b.jpg")
    rclone.start()
    assert rclone.port == port
    assert s3.get("a/b.jpg")[0] == PHOTO


def test_rclone_refuses_a_wrong_secret(rclone: services.RcloneS3) -> None:
    rclone.bucket()
    rclone.secret_key = "wrong-secret"
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        rclone.bucket().put("a.jpg", PHOTO)
    assert caught.value.response["Error"]["Code"] == "SignatureDoesNotMatch"


def test_moto_knows_its_region(moto_s3: services.S3) -> None:
    assert moto_s3.client.get_bucket_location(Bucket=moto_s3.bucket)["LocationConstraint"] == "eu-north-1"


# ── The proxy


@pytest.fixture
def through(s3: services.S3, s3_proxy: services.S3Proxy) -> services.S3:
    return s3.via(s3_proxy)


@pytest.fixture
def proxy(rclone_s3: services.S3) -> Iterator[services.S3Proxy]:
    with services.S3Proxy(rclone_s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
def behind(rclone_s3: services.S3, proxy: services.S3Proxy) -> services.S3:
    return rclone_s3.via(proxy)


def test_the_proxy_passes_everything_on_and_counts(through: services.S3, s3_proxy: services.S3Proxy) -> None:
    through.put("þór/ó 1.jpg", PHOTO, ContentType="image/jpeg", Metadata={"source": "bilasolur"})
    body, headers = through.get("þór/ó 1.jpg")
    assert body == PHOTO
    assert headers["x-amz-meta-source"] == "bilasolur"
    through.client.head_object(Bucket=through.bucket, Key="þór/ó 1.jpg")
    assert through.keys() == ["þór/ó 1.jpg"]
    through.delete("þór/ó 1.jpg")
    with pytest.raises(botocore.exceptions.ClientError):
        through.client.head_object(Bucket=through.bucket, Key="þór/ó 1.jpg")
    assert s3_proxy.counts() == {"PUT": 1, "GET": 2, "HEAD": 2, "DELETE": 1}
    put = s3_proxy.requests[0]
    assert (put.status, put.received, put.key, put.fault) == (200, len(PHOTO), "þór/ó 1.jpg", "")
    assert "authorization" not in put.headers
    s3_proxy.forget()
    assert s3_proxy.count() == 0


def test_the_proxy_passes_chunked_uploads_on(through: services.S3) -> None:
    """As botocore sends a body with a trailing checksum."""
    import boto3

    client = boto3.session.Session().client(
        "s3",
        endpoint_url=through.endpoint,
        region_name=through.region,
        aws_access_key_id=through.access_key,
        aws_secret_access_key=through.secret_key,
    )
    client.put_object(Bucket=through.bucket, Key="a.jpg", Body=PHOTO, ChecksumAlgorithm="SHA256")
    assert through.get("a.jpg")[0] == PHOTO


def test_the_proxy_serves_obstore(through: services.S3, s3_proxy: services.S3Proxy) -> None:
    import obstore.store

    store = obstore.store.S3Store(
        through.bucket,
        endpoint=through.endpoint,
        region=through.region,
        access_key_id=through.access_key,
        secret_access_key=through.secret_key,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    store.put("a.jpg", PHOTO)
    assert bytes(store.get("a.jpg").bytes()) == PHOTO
    assert s3_proxy.counts() == {"PUT": 1, "GET": 1}


def test_the_proxy_answers_errors_for_so_many_requests(behind: services.S3, proxy: services.S3Proxy) -> None:
    fault = proxy.fail(times=2, methods="PUT", headers={"Retry-After": "1"})
    for _ in range(2):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            behind.put("a.jpg", PHOTO)
        assert caught.value.response["Error"]["Code"] == "SlowDown"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
        assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"
    behind.put("a.jpg", PHOTO)
    assert fault.hits == 2
    assert [request.status for request in proxy.requests] == [503, 503, 200]


def test_the_proxy_answers_errors_for_some_until_told(behind: services.S3, proxy: services.S3Proxy) -> None:
    with proxy.fail(403, "ExpiredToken", path=r"/b\.jpg$", skip=1):
        behind.put("a.jpg", PHOTO)
        behind.put("b.jpg", PHOTO)
        with pytest.raises(botocore.exceptions.ClientError, match="ExpiredToken"):
            behind.put("b.jpg", PHOTO)
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            behind.client.head_object(Bucket=behind.bucket, Key="b.jpg")
        assert caught.value.response["Error"]["Code"] == "403"
    behind.put("b.jpg", PHOTO)


@pytest.mark.parametrize("after", [0, 100_000])
def test_the_proxy_resets_connections(
    behind: services.S3, proxy: services.S3Proxy, rclone_s3: services.S3, after: int
) -> None:
    proxy.reset(times=1, after=after)
    with pytest.raises((botocore.exceptions.ConnectionError, botocore.exceptions.HTTPClientError)):
        behind.put("a.jpg", PHOTO)
    assert rclone_s3.keys() == []
    behind.put("a.jpg", PHOTO)
    assert proxy.requests[0].status == 0


def test_the_proxy_loses_the_reply_to_what_was_done(
    behind: services.S3, proxy: services.S3Proxy, rclone_s3: services.S3
) -> None:
    proxy.lose_reply(times=1)
    with pytest.raises((botocore.exceptions.ConnectionError, botocore.exceptions.HTTPClientError)):
        behind.put("a.jpg", PHOTO)
    assert rclone_s3.get("a.jpg")[0] == PHOTO


def test_the_proxy_hangs_until_it_is_let_go(behind: services.S3, proxy: services.S3Proxy) -> None:
    errors: list[Exception] = []

    def put() -> None:
        try:
            behind.put("a.jpg", PHOTO)
        except botocore.exceptions.BotoCoreError as error:
            errors.append(error)

    with proxy.hang() as hung:
        asking = threading.Thread(target=put)
        asking.start()
        services.wait_until(lambda: hung.hits)
        asking.join(0.2)
        assert asking.is_alive()
    asking.join(10)
    assert len(errors) == 1


def test_the_proxy_spoils_answers(behind: services.S3, proxy: services.S3Proxy) -> None:
    behind.put("a.jpg", PHOTO)
    proxy.cut(1000, times=1)
    with pytest.raises(botocore.exceptions.HTTPClientError):
        behind.get("a.jpg")
    proxy.flip(100_000, times=1)
    got, _ = behind.get("a.jpg")
    assert [at for at in range(len(PHOTO)) if got[at] != PHOTO[at]] == [100_000]
    proxy.delay(0.2, times=1)
    began = time.monotonic()
    assert behind.get("a.jpg")[0] == PHOTO
    assert time.monotonic() - began >= 0.2
    behind.put("small.jpg", b"0123456789")
    proxy.trickle(0.001, times=1)
    assert behind.get("small.jpg")[0] == b"0123456789"


def test_the_proxy_goes_down_and_up(behind: services.S3, proxy: services.S3Proxy) -> None:
    behind.put("a.jpg", PHOTO)
    proxy.down()
    with pytest.raises(botocore.exceptions.EndpointConnectionError):
        behind.get("a.jpg")
    proxy.up()
    assert behind.get("a.jpg")[0] == PHOTO


def test_the_proxy_sees_how_many_come_at_once(behind: services.S3, proxy: services.S3Proxy) -> None:
    _ = behind.client
    with proxy.delay(0.3):
        threads = [threading.Thread(target=behind.put, args=(f"{n}.jpg", b"x" * 10)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert proxy.max_parallel == 4


# ── Processes


def test_a_server_dies_with_a_killed_parent(tmp_path: Path) -> None:
    """Started from a thread that has ended, it lives on; after ``kill -9`` of the parent it does not."""
    program = (
        "import sys, threading, time\n"
        "from pathlib import Path\n"
        "from tests import services\n"
        "server = services.RcloneS3(Path(sys.argv[1]))\n"
        "thread = threading.Thread(target=server.start); thread.start(); thread.join()\n"
        "time.sleep(0.3)\n"
        "print(server._process.pid, server._process.poll(), flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "s3")],
        cwd=services.REPO,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid, state = parent.stdout.readline().split()
        assert state == "None"
        parent.kill()
    services.wait_until(lambda: not _alive(int(pid)), what="the server to die")


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - a process, hardly a path
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_crawl_can_be_watched_and_killed(tmp_path: Path) -> None:
    program = "import sys, time; b = bytearray(50_000_000); sys.stderr.write('begun\\n'); time.sleep(60)"
    with services.RunningCrawl(
        [sys.executable, "-c", program], env=services.crawl_environment(tmp_path), cwd=tmp_path
    ) as running:
        running.wait_for_log("^begun$", 10)
        assert running.running
        running.kill()
        done = running.wait(10)
    assert done.returncode == -signal.SIGKILL
    assert done.peak_memory > 50_000_000
    assert done.log == "begun\n"
    assert done.stats == {}


def test_a_crawl_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    running = services.RunningCrawl(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env=services.crawl_environment(tmp_path),
        cwd=tmp_path,
    )
    with pytest.raises(TimeoutError, match=r"still running after 0\.2 s"):
        running.wait(0.2)
    assert not running.running


def test_a_crawl_sees_nothing_of_the_developers_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "DATABASE_URL", "IMAGES_STORE", "S3_PREFIX", "HTTPS_PROXY", "PYTHONPATH"):
        monkeypatch.setenv(name, "the developer's")
    environment = services.crawl_environment(tmp_path, {"DATABASE_URL": "sqlite:///mine.db"})
    assert "the developer's" not in environment.values()
    assert environment["DATABASE_URL"] == "sqlite:///mine.db"


def test_a_real_scrapy_runs_with_its_stats_read(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(
        "import scrapy\n"
        "class Tiny(scrapy.Spider):\n"
        "    name = 'tiny'\n"
        "    async def start(self):\n"
        "        yield {'car': self.car}\n"
    )
    done = services.run_scrapy(
        "runspider",
        "tiny.py",
        *("-a", "car=Škoda", "-O", "cars.json"),
        cwd=tmp_path,
        env={"SCRAPY_SETTINGS_MODULE": ""},
        settings={"FEED_EXPORT_ENCODING": "utf-8", "TELNETCONSOLE_ENABLED": False},
    )
    assert done.returncode == 0, done
    assert done.stats["item_scraped_count"] == 1
    assert done.stats["finish_reason"] == "finished"
    assert done.stats["finish_time"] > done.stats["start_time"]
    assert "Škoda" in (tmp_path / "cars.json").read_text("utf-8")
    assert done.cpu_seconds > 0


def test_a_missing_service_fails_in_ci_and_is_skipped_loudly_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Any:
        raise services.MissingService("PostgreSQL is not installed: install it")

    monkeypatch.setattr(conftest, "_missing", {})
    for ci, outcome in (("true", pytest.fail.Exception), ("", pytest.skip.Exception)):
        monkeypatch.setenv("CI", ci)
        with pytest.raises(outcome, match="PostgreSQL is not installed: install it"), conftest.service(nowhere):
            pass
        reporter = mock.Mock()
        conftest.pytest_terminal_summary(reporter)
        reporter.section.assert_called_once()
        assert "PostgreSQL is not installed: install it" in reporter.line.call_args[0][0]
