"""deploy/nginx.conf in a real nginx before a real store: what enters the cache, what leaves it, and the hit rate."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Self

import pytest

from tests import services
from tests.cli.conftest import moto_s3, one_proxy, proxy, storage
from tests.conftest import service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cli.conftest import Storage

__all__ = ["moto_s3", "one_proxy", "proxy", "storage"]  # fixtures
STORE = "https://my-car-photos.s3.eu-north-1.amazonaws.com;"


class Nginx:
    """Runs deploy/nginx.conf; each of *changes* is a piece of it that must be there, once, and what stands instead."""

    def __init__(self, folder: Path, store: str, changes: dict[str, str]) -> None:
        self.program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if not self.program:
            raise services.MissingService("nginx is not installed: make test-packages (Debian's nginx-light)")
        self.folder, self.port = folder, services.free_port()
        self.cache, self.log = folder / "cache", folder / "carscraper.log"
        text = (services.REPO / "deploy" / "nginx.conf").read_text("utf-8")
        own = {
            "/var/cache/nginx/carscraper": str(self.cache),
            "/var/log/nginx/carscraper.log": str(self.log),
            "listen 80;": f"listen 127.0.0.1:{self.port};",
            f"$carscraper_store {STORE}": f"$carscraper_store {store};",
        }
        for old, new in {**own, **changes}.items():
            assert len(re.findall(rf"^[^#\n]*{re.escape(old)}", text, re.MULTILINE)) == 1, old
            text = re.sub(
                rf"^([^#\n]*){re.escape(old)}", lambda found, new=new: found[1] + new, text, flags=re.MULTILINE
            )
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = "".join(
            f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "site.conf").write_text(text)
        (folder / "nginx.conf").write_text(
            f"{user} worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
            f"events {{}}\nhttp {{ {temporary} include {folder}/site.conf; }}\n"
        )

    def __enter__(self) -> Self:
        command = [self.program or "", "-p", self.folder, "-c", self.folder / "nginx.conf"]
        self.process = services.spawn(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        services.wait_until(self._listens, 10, "nginx to listen")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)

    def _listens(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError((self.folder / "error.log").read_text())
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def view(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str | None, bytes]:
        """Status, what the cache says, bytes."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers["X-Cache"], answer.read()

    def run_manager(self) -> None:
        """A new cache manager looks at once; the running one does so every ten seconds."""
        self.process.send_signal(signal.SIGHUP)

    def names(self) -> set[str]:
        """Keys of the cached files."""
        found = set()
        for path in self.cache.rglob("*"):
            if path.is_file():
                head = re.search(rb"\nKEY: /(.*)\n", path.read_bytes()[:2000])
                found.add(head[1].decode() if head else "?")
        return found

    def used(self) -> int:
        """Bytes on the disk."""
        return sum(path.stat().st_blocks * 512 for path in self.cache.rglob("*") if path.is_file())


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[..., Nginx]]:
    with contextlib.ExitStack() as stack:
        yield lambda store, changes=None: stack.enter_context(service(lambda: Nginx(tmp_path, store, changes or {})))


def test_promotion_size_limit_and_the_exact_hit_rate(
    nginx: Callable[..., Nginx], moto_s3: services.S3, proxy: services.S3Proxy, storage: Storage
) -> None:
    s3 = moto_s3.via(proxy)
    photos = {f"bilasolur/2019/kia/rio/{number}_0123456789ab.jpg": os.urandom(100_000) for number in range(30)}
    for name, data in photos.items():
        moto_s3.put(name, data, ACL="public-read", ContentType="image/jpeg", CacheControl="public, max-age=31536000")
    moto_s3.put("outputs/items.jl.gz", b"private", ACL="public-read")
    cache = nginx(f"{s3.endpoint}/{s3.bucket}", {"max_size=20g": "max_size=1m"})
    first, second, *_ = photos
    seen = [cache.view(f"/{first}") for _ in range(4)]
    assert {answer[::2] for answer in seen} == {(200, photos[first])}
    assert [status for _, status, _ in seen] == ["MISS", "MISS", "HIT", "HIT"], "it enters at its second view"
    assert cache.names() == {first}
    assert cache.view(f"/{second}")[1] == "MISS"
    assert cache.view(f"/{first}?list-type=2")[1] == "HIT", "arguments are left out"
    assert cache.view(f"/{first}", Range="bytes=10-19") == (206, "HIT", photos[first][10:20])
    for path in ("/", "/outputs/items.jl.gz", f"/../{s3.bucket}/{first}/../../x", "/?list-type=2"):
        assert cache.view(path)[0] in {400, 404}, path
    assert cache.view(f"/{first}", "DELETE")[0] == 403
    assert cache.view("/missing.jpg")[0] == 404
    assert proxy.count("GET") == 4, "twice the first, once the second, once the missing one"
    said = storage("hits", cache.log, "--json").data
    assert (said["views"], said["hits"], said["hit_rate"]) == (7, 4, 4 / 7)
    assert said["by_status"]["MISS"] == {"views": 3, "bytes": 300_000}

    for name in photos:
        cache.view(f"/{name}")
        cache.view(f"/{name}")
    cache.run_manager()
    services.wait_until(lambda: cache.used() <= 2**20, 15, "the limit to be held")
    last = list(photos)[-8:]
    assert set(last) <= cache.names(), "those that were viewed last stay"
    assert first not in cache.names()
    before = storage("hits", cache.log, "--json").data
    statuses = [cache.view(f"/{name}")[1] for name in (*last, first)]
    assert statuses == ["HIT"] * 8 + ["MISS"]
    after = storage("hits", cache.log, "--json").data
    assert (after["views"] - before["views"], after["hits"] - before["hits"]) == (9, 8)


def test_demotion_and_what_is_deleted(
    nginx: Callable[..., Nginx], moto_s3: services.S3, proxy: services.S3Proxy, storage: Storage
) -> None:
    s3 = moto_s3.via(proxy)
    for name in ("stays.jpg", "goes.jpg"):
        moto_s3.put(name, b"bytes of a photo", ACL="public-read")
    changes = {"inactive=30d": "inactive=5s", "proxy_cache_valid 200 1d": "proxy_cache_valid 200 1s"}
    cache = nginx(f"{s3.endpoint}/{s3.bucket}", changes)
    for name in ("stays.jpg", "goes.jpg"):
        assert [cache.view(f"/{name}")[1] for _ in range(3)] == ["MISS", "MISS", "HIT"]
    time.sleep(2.1)
    assert cache.view("/stays.jpg") == (200, "REVALIDATED", b"bytes of a photo"), "the store has it still"
    moto_s3.delete("goes.jpg")
    assert cache.view("/goes.jpg")[0] == 404, "a deleted photo leaves with the next question"
    assert cache.view("/goes.jpg")[0] == 404
    with proxy.fail(503, "SlowDown", methods="GET"):
        time.sleep(2.1)
        assert cache.view("/stays.jpg") == (200, "STALE", b"bytes of a photo"), "while the store is away"
    services.wait_until(lambda: not cache.names(), 15, "what nobody views to leave")
    assert cache.view("/stays.jpg")[1] == "MISS"
    said = storage("hits", cache.log).out
    assert said.endswith("Views 9, of which from the cache 4 (44.4%).\n")


def test_a_private_bucket_behind_a_gateway_that_signs(
    nginx: Callable[..., Nginx], rclone_s3: services.S3, tmp_path: Path
) -> None:
    rclone_s3.put("cars/1_0123456789ab.jpg", b"private photo")
    port = services.free_port()
    remote = (
        f":s3,provider=Other,endpoint='{rclone_s3.endpoint}',access_key_id={rclone_s3.access_key},"
        f"secret_access_key={rclone_s3.secret_key}:{rclone_s3.bucket}"
    )
    command = [services.rclone_binary(), "serve", "http", "--read-only", "--addr", f"127.0.0.1:{port}", remote]
    gateway = services.spawn([*command, "--config", os.devnull], env={"HOME": str(tmp_path)}, stderr=subprocess.DEVNULL)
    try:
        cache = nginx(f"http://127.0.0.1:{port}")
        services.wait_until(lambda: cache.view("/cars/1_0123456789ab.jpg")[0] == 200, 15, "the gateway")
        cache.view("/cars/1_0123456789ab.jpg")
        assert cache.view("/cars/1_0123456789ab.jpg") == (200, "HIT", b"private photo")
        assert cache.view("/cars/")[0] == 404
    finally:
        gateway.kill()
        gateway.wait(10)


def test_the_log_is_counted_line_by_line(storage: Storage, tmp_path: Path) -> None:
    line = '{"time":"t","method":"%s","path":"/a.jpg","status":%s,"bytes":10,"cache":"%s"}\n'
    views = [("GET", 200, "HIT"), ("GET", 304, "HIT"), ("GET", 206, "MISS"), ("GET", 404, "MISS"), ("HEAD", 200, "HIT")]
    log = tmp_path / "hits.log"
    log.write_bytes("".join(line % each for each in views).encode() + b'{"path":"\xff\\"}\n1.2.3.4 - - "GET /"\n')
    said = storage("hits", log, "--json", code=3)
    assert (said.data["views"], said.data["hits"], said.data["unreadable"]) == (3, 2, 2)
    assert "not in the format of deploy/nginx.conf" in said.err
    (tmp_path / "empty.log").write_bytes(b"")
    assert storage("hits", tmp_path / "empty.log").out == "Views 0, of which from the cache 0.\n"
    assert "can't be read" in storage("hits", tmp_path / "none.log", code=4).err
