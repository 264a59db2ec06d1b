"""The services that the other tests lean on do what they say."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import botocore.exceptions
import pytest

from tests import conftest, services

if TYPE_CHECKING:
    from pathlib import Path

PHOTO = os.urandom(215_000)


# ── The proxy


@pytest.fixture
def through(s3: services.S3, s3_proxy: services.S3Proxy) -> services.S3:
    return s3.via(s3_proxy)


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


def test_each_fault_of_the_proxy_is_one_for_its_client(rclone_s3: services.S3) -> None:
    """Lest a test that asks for one proves nothing."""

    def get_in_vain() -> None:
        with pytest.raises(broken):
            behind.get("a.jpg")

    broken = (botocore.exceptions.ConnectionError, botocore.exceptions.HTTPClientError)
    with services.S3Proxy(rclone_s3.endpoint) as proxy:
        behind = rclone_s3.via(proxy)
        with proxy.fail(403, "ExpiredToken", path=r"/b\.jpg$", skip=1, headers={"Retry-After": "1"}) as fault:
            behind.put("a.jpg", PHOTO)
            behind.put("b.jpg", PHOTO)
            with pytest.raises(botocore.exceptions.ClientError, match="ExpiredToken") as caught:
                behind.put("b.jpg", PHOTO)
        assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"
        assert (fault.hits, [request.status for request in proxy.requests]) == (1, [200, 200, 403])
        for after in (0, 100_000):
            proxy.reset(times=1, after=after)
            with pytest.raises(broken):
                behind.put("c.jpg", PHOTO)
        assert rclone_s3.keys() == ["a.jpg", "b.jpg"]
        proxy.lose_reply(times=1)
        with pytest.raises(broken):
            behind.put("c.jpg", PHOTO)
        assert rclone_s3.get("c.jpg")[0] == PHOTO
        proxy.cut(1000, times=1)
        with pytest.raises(broken):
            behind.get("a.jpg")
        proxy.flip(100_000, times=1)
        got, _ = behind.get("a.jpg")
        assert [at for at in range(len(PHOTO)) if got[at] != PHOTO[at]] == [100_000]
        behind.put("small.jpg", PHOTO[:10])
        for slow in (proxy.delay(0.2, times=1), proxy.trickle(0.001, times=1)):
            began = time.monotonic()
            assert behind.get("small.jpg")[0] == PHOTO[:10]
            assert (slow.hits, time.monotonic() - began >= 0.1) == (1, True)
        with proxy.hang() as hung:
            threads = [threading.Thread(target=get_in_vain) for _ in range(3)]
            for thread in threads:
                thread.start()
            services.wait_until(lambda: hung.hits == 3)
            assert all(thread.is_alive() for thread in threads)
        for thread in threads:
            thread.join(10)
        assert proxy.max_parallel == 3
        proxy.down()
        with pytest.raises(botocore.exceptions.EndpointConnectionError):
            behind.get("a.jpg")
        proxy.up()
        assert behind.get("a.jpg")[0] == PHOTO


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
