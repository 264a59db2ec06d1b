"""No secret in anything that is printed or logged: every verb, with right and wrong credentials."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import make_url

from carscraper.commands.storage import Command as StorageCommand
from tests import services
from tests.cli.test_objects import enter
from tests.conftest import service
from tests.images import photos
from tests.leaks import leaks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Storage

# Made up by a generator; no six characters in a row of them are a word or in anybody's address.
ACCESS_KEY = "AKQ7ZX4VJ2WKP9HY3RMT"
SECRET_KEY = "xW3kQz8vLj5Tn2Yb7Hc4Rg9Mf6Dp1Sa0UeJiOqVu"
TOKEN = "tJw5Zk2Xq9Gv7Bn4Rc8Yd3Hm6Lp1Fs0TaQoEiUzKx"
PASSWORD = "pVx8Kz3Wq6Jn9Tb2Yc5Hg7"
SECRETS = (ACCESS_KEY, SECRET_KEY, TOKEN, PASSWORD)

KEY = "bilasolur/2019/toyota/yaris/1_0123456789ab.jpg"
WORDS: dict[str, list[list[str]]] = {
    "setup": [
        ["--dry-run"],
        ["--yes"],
        ["--public", "--dry-run"],
        ["--fallback-bucket", "another-bucket", "--dry-run"],
    ],
    "check": [[], ["--public"], ["--json"]],
    "policy": [["crawl"], ["--bucket-policy", "public"], []],
    "lifecycle": [["show"], ["plan", "--multipart", "7"]],
    "list": [[], ["--json"], ["--metadata"], ["--source", "bilasolur"]],
    "stats": [[], ["--json"]],
    "estimate": [[], ["--photos", "1000"]],
    "get": [
        [KEY, "--output", "got.jpg", "--force"],
        ["nothing", "--output", "got.jpg"],
        [KEY, "--json", "--no-ledger"],
        ["--prefix", "", "--into", "all"],
    ],
    "put": [["photo.jpg", KEY, "--force"], ["photo.jpg", KEY], ["photo.jpg", "new.jpg", "--dry-run"]],
    "delete": [[KEY, "--dry-run"], [KEY, "--yes"], ["--car", "Bilasolur/1", "--yes"]],
    "presign": [[KEY], [KEY, "--put", "--json"], [KEY, "--post"]],
    "versions": [[KEY], [KEY, "--json"]],
    "restore": [[KEY, "--dry-run"], [KEY, "--yes"]],
    "thumbnails": [[], ["--make", "--yes"]],
    "url": [[KEY]],
    "audit": [[], ["--deep", "--json"], ["--fix", "--yes"], ["--delete-orphans", "--dry-run"]],
    "discover": [["--dry-run"], ["--yes"]],
    "hits": [["hits.log"]],
    "invalidate": [[KEY, "--dry-run"], [KEY, "--yes"]],
}
"""What each verb is called with; the first of them must be understood."""

VERBS = [verb.name for verb in StorageCommand.verbs]


def test_every_verb_is_here() -> None:
    assert not set(VERBS) - set(WORDS), "a verb without a line in WORDS"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(photos()["jpeg"][1])
    (tmp_path / "hits.log").write_bytes(b"")


@pytest.fixture(scope="module")
def bucket(moto_server: services.MotoS3) -> services.S3:
    """A bucket on a server that takes every key."""
    moto_server.reset()
    made = moto_server.bucket("car-photos-secrets")
    made.put(KEY, photos()["jpeg"][1])
    return made


SCENES = ["well", "refused", "away", "unreadable"]


@pytest.fixture
def scene(request: pytest.FixtureRequest, bucket: services.S3, tmp_path: Path) -> dict[str, Any]:
    """Settings with the secrets in them."""
    settings: dict[str, Any] = {
        **bucket.env,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_SESSION_TOKEN": TOKEN,
        "IMAGES_STORE": str(tmp_path / "images"),
        "SPOOL_DIR": str(tmp_path / "spool"),
        "S3_MAX_RETRIES": "0",
        "S3_UPLOAD_TIMEOUT": "2",
        "CLOUDFRONT_DISTRIBUTION_ID": "E1234567890ABC",
        "IMAGES_THUMBS": '{"small": [32, 24]}',
        "LOG_LEVEL": "DEBUG",
    }
    if request.param in {"well", "refused"}:
        url = make_url(request.getfixturevalue("postgres_url")).set(password=PASSWORD)
        settings["DATABASE_URL"] = url.render_as_string(hide_password=False)
        enter(settings["DATABASE_URL"], bucket.bucket, KEY, photos()["jpeg"][1])
    if request.param == "refused":
        server = request.getfixturevalue("strict").bucket()
        settings |= {"AWS_ENDPOINT_URL": server.endpoint, "AWS_S3_BUCKET": server.bucket, "AWS_SESSION_TOKEN": ""}
    elif request.param == "away":
        settings["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{services.free_port()}"
        settings["DATABASE_URL"] = f"postgresql://me:{PASSWORD}@127.0.0.1:{services.free_port()}/cars?connect_timeout=2"
    elif request.param == "unreadable":
        settings["DATABASE_URL"] = f"postgresql://me:{PASSWORD}@127.0.0.1:port/cars"
    return settings


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[services.RcloneS3]:
    """A server that knows the access key, with another secret."""
    with service(lambda: services.RcloneS3(tmp_path / "strict", access_key=ACCESS_KEY)) as server:
        yield server


@pytest.mark.parametrize("scene", SCENES, indirect=True)
def test_no_verb_tells(
    storage: Storage, scene: dict[str, Any], caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    caplog.set_level(logging.DEBUG)
    storage.settings = scene
    well = "[well]" in request.node.name
    told: dict[str, list[str]] = {}
    codes: dict[str, int] = {}
    for verb in VERBS:
        for number, words in enumerate(WORDS[verb] if well else WORDS[verb][:1]):
            caplog.clear()
            said = storage(verb, *words, code=None)
            called = " ".join([verb, *words])
            codes[called] = said.code
            assert said.code in {0, 2, 3, 4}, called
            assert "Traceback" not in said.err, called
            assert number or said.code != 2, f"{called}: {said.err}"
            out = said.out
            if verb == "presign":
                # The one place where they belong: whoever signs an address names the key, not the secret, in it.
                out, count = re.subn(r"(?i)(x-amz-(credential|security-token)|policy)=[^&'\"\s]*", "", out)
                assert count  # without a session token there is one
            logged = "\n".join(
                f"{record.getMessage()} {record.args!r} {record.exc_text or record.exc_info or ''}"
                for record in caplog.records
            )
            if found := leaks(f"{out}\n{said.err}\n{logged}", *SECRETS):
                told[called] = found
    assert told == {}
    done = sum(code in {0, 3} for code in codes.values())
    assert done >= len(codes) * 0.6 if well else done < len(codes), codes


def test_the_real_program_at_its_most_talkative(tmp_path: Path, bucket: services.S3, sqlite_url: str) -> None:
    settings = {
        **bucket.env,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_SESSION_TOKEN": TOKEN,
        "DATABASE_URL": f"postgresql://me:{PASSWORD}@127.0.0.1:{services.free_port()}/cars",
        "LOG_LEVEL": "DEBUG",
    }
    done = services.run_scrapy("storage", "check", cwd=tmp_path, env={"LOG_LEVEL": "DEBUG"}, settings=settings)
    assert done.returncode == 0, done
    assert leaks(done.stdout + done.stderr, *SECRETS) == []
    done = services.run_scrapy("storage", "get", KEY, cwd=tmp_path, env={"LOG_LEVEL": "DEBUG"}, settings=settings)
    assert done.returncode == 4, done
    assert leaks(done.stdout + done.stderr, *SECRETS) == []
