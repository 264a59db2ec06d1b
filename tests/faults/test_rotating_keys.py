"""Keys that live for seconds, are revoked or not to be had any more: asked for again in time, or the crawl ends."""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.exceptions import StoreRefusedError
from carscraper.storage.client import S3Options
from carscraper.storage.keys import Upload
from carscraper.storage.s3 import S3Store
from tests import services
from tests.conftest import service
from tests.faults.helpers import World, assert_nothing_lost, photo_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.dealers.bilasolur import SimulatedBilasolur

PAIRS = {f"AKIDROTATING{number:04}": f"carscraper-secret-{number}" for number in range(400)}


class Keys(services.S3Proxy):
    """An S3 server that takes only keys that were handed out a moment ago, and the endpoint that hands them out."""

    def __init__(self, upstream: str, *, life: float = 20) -> None:
        super().__init__(upstream)
        self.life = life
        self.handed: dict[str, float] = {}
        """When each was handed out."""
        self.revoke: Callable[[services.S3Request], bool] = lambda _: False
        """Whether the server forgets the keys at this request."""
        self.gone: Callable[[], bool] = lambda: False
        """Whether nobody hands out keys any more."""
        self.over = False
        """All faults: fixed keys are accepted."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = b"no keys" if outer.gone() else outer.hand_out()
                self.send_response(500 if outer.gone() else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.endpoint_of_keys = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.endpoint_of_keys.serve_forever, args=(0.02,), daemon=True).start()

    def hand_out(self) -> bytes:
        key = next(key for key in PAIRS if key not in self.handed)
        self.handed[key] = time.time()
        ends = dt.datetime.fromtimestamp(self.handed[key] + self.life, dt.UTC)
        said = {"AccessKeyId": key, "SecretAccessKey": PAIRS[key], "Expiration": ends.isoformat()}
        return json.dumps(said | {"Version": 1, "Token": f"token-{key}", "SessionToken": f"token-{key}"}).encode()

    def arrived(self, seen: services.S3Request) -> services.Fault | None:
        if self.revoke(seen):
            self.handed |= dict.fromkeys(self.handed, 0.0)
        age = time.time() - self.handed.get(seen.access_key, 0)
        if self.over or age < self.life:
            return super().arrived(seen)
        code = "ExpiredToken" if age < 1000 else "InvalidAccessKeyId"
        with self.fail(403, code, times=1):
            return super().arrived(seen)

    @property
    def env(self) -> dict[str, str]:
        address = f"http://127.0.0.1:{self.endpoint_of_keys.server_port}/"
        return {
            "AWS_ACCESS_KEY_ID": "",
            "AWS_SECRET_ACCESS_KEY": "",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": address,
            "NO_PROXY": "127.0.0.1",
        }


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[services.S3]:
    """A server that knows every pair, and verifies signatures."""
    flags = [word for pair in PAIRS.items() for word in ("--auth-key", ",".join(pair))]
    with service(lambda: services.RcloneS3(tmp_path / "s3", flags=flags)) as server:
        yield server.bucket()


@pytest.fixture
def keys(bucket: services.S3) -> Iterator[Keys]:
    with Keys(bucket.endpoint) as running:
        yield running
        running.endpoint_of_keys.shutdown()
        running.endpoint_of_keys.server_close()


@pytest.fixture
def world(keys: Keys, bucket: services.S3, site: SimulatedBilasolur, sqlite_url: str, tmp_path: Path) -> World:
    return World(site=site, database_url=sqlite_url, s3=bucket, proxy=keys, folder=tmp_path)


def after(number: int) -> Callable[[services.S3Request], bool]:
    """Once, at the upload of this number."""
    puts = iter(range(10**6))
    return lambda seen: seen.method == "PUT" and next(puts) == number


@pytest.mark.waits
def test_keys_that_live_20_seconds_over_two_minutes(world: World, keys: Keys) -> None:
    done = world.crawl(timeout=200, env=keys.env, IMAGES_CONCURRENCY=1, IMAGES_DOWNLOAD_DELAY=0.8)
    assert done.code == 0, done
    done.no_errors()
    assert done.crawl.seconds > 90
    assert not [request for request in keys.requests if request.status != 200], "no key was used after its end"
    assert len({request.access_key for request in keys.requests}) > 5
    assert world.puts(200) == photo_count(world.site)
    keys.over = True
    assert_nothing_lost(world, complete=True)


def ends_as_failed(world: World, keys: Keys, words: str) -> None:
    """One sentence, exit code 4, and one more crawl has everything."""
    world.site.photo_latency = 0.02
    done = world.crawl(env=keys.env)
    assert done.code == 4, done
    assert words in done.said
    assert done.said.count("failed.") == 1
    assert done.count(words) == 1, "one message for the whole run"
    assert "Traceback" not in done.crawl.stderr
    assert world.statuses()["pending", "spooled"] == len(world.spooled_uploads()) > 0
    have = world.stored()
    assert len(have) >= 30
    keys.over = True
    assert_nothing_lost(world)
    world.site.reset()
    world.finish(have=have)


def test_a_provider_that_is_gone_halfway(world: World, keys: Keys) -> None:
    keys.life = 1
    keys.gone = lambda: world.puts(200) > 40
    ends_as_failed(world, keys, "The AWS credentials can't be had")


def test_keys_that_are_revoked_are_asked_for_again(world: World, keys: Keys) -> None:
    keys.life, keys.revoke = 3600, after(40)
    done = world.crawl(env=keys.env)
    assert done.code == 0, done
    done.no_errors()
    refused = [request for request in keys.requests if request.status == 403]
    assert 0 < len(refused) <= 16, "each upload that was under way, once"
    assert len(keys.handed) == 2, "one new key for all of them"
    assert world.photos_served() == photo_count(world.site)
    keys.over = True
    assert_nothing_lost(world, complete=True)


def test_new_keys_that_are_refused_too_end_the_crawl(world: World, keys: Keys) -> None:
    keys.life, keys.revoke = 3600, lambda seen: seen.method == "PUT" and world.puts(200) > 40
    ends_as_failed(world, keys, "the profile or role gives no others")


# ── The kinds of providers, without a crawl


@pytest.mark.parametrize("kind", ["file", "program", "endpoint"])
def test_revoked_keys_of_every_kind_are_renewed_once(
    keys: Keys, bucket: services.S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    keys.life = 3600

    def write() -> None:
        said = keys.hand_out()
        (tmp_path / "keys.json").write_bytes(said)
        its: dict[str, Any] = json.loads(said)
        lines = {"access_key_id": "AccessKeyId", "secret_access_key": "SecretAccessKey", "session_token": "Token"}
        text = "".join(f"aws_{name} = {its[key]}\n" for name, key in lines.items())
        (tmp_path / "credentials").write_text(f"[cars]\n{text}" if kind == "file" else "")

    write()
    (tmp_path / "config").write_text(
        f"[profile cars]\ncredential_process = /bin/cat {tmp_path / 'keys.json'}\n" if kind == "program" else ""
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    if kind == "endpoint":
        for name, value in keys.env.items():
            monkeypatch.setenv(name, value)
    profile = None if kind == "endpoint" else "cars"
    its = S3Store(S3Options(bucket=bucket.bucket, region=bucket.region, endpoint=keys.endpoint, profile=profile))

    def put(name: str) -> None:
        its.put(Upload(name=name, data=b"bytes", content_type="image/jpeg"))

    put("a.jpg")
    keys.handed |= dict.fromkeys(keys.handed, 0.0)
    write()
    keys.forget()
    put("b.jpg")
    assert [request.status for request in keys.requests] == [403, 200]
    keys.handed |= dict.fromkeys(keys.handed, 0.0)
    write()
    its.check()  # of a store that was away
    put("c.jpg")
    keys.handed |= dict.fromkeys(keys.handed, 0.0)
    keys.gone = lambda: True
    keys.forget()
    with pytest.raises(StoreRefusedError, match=r"can't be had \(.*\); correct|gives no others\.$"):
        put("d.jpg")
    assert keys.count("PUT") <= 2


def test_a_provider_that_is_away_for_a_while_costs_nothing_as_long_as_the_keys_live(
    keys: Keys, bucket: services.S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.life = 2
    program = tmp_path / "keys.json"
    program.write_bytes(keys.hand_out())
    (tmp_path / "config").write_text(f"[profile cars]\ncredential_process = /bin/cat {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    its = S3Store(S3Options(bucket=bucket.bucket, region=bucket.region, endpoint=keys.endpoint, profile="cars"))

    def put(name: str) -> None:
        its.put(Upload(name=name, data=b"bytes", content_type="image/jpeg"))

    put("a.jpg")
    said = program.read_bytes()
    program.unlink()
    time.sleep(0.2)  # obstore asks ten times a second at most
    put("b.jpg")
    assert bucket.keys() == ["a.jpg", "b.jpg"]
    time.sleep(keys.life)
    program.write_bytes(said)  # what it had before, as a cache would
    keys.forget()
    with pytest.raises(StoreRefusedError, match=r"can't be had \(.* still expired\); correct the profile or role"):
        put("c.jpg")
    assert keys.count() == 0, "what is over is not sent"
