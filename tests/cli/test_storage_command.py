"""The real ``scrapy storage …`` by Scrapy's command line: settings, exit codes, what stands on which stream."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests import services
from tests.images import photos

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Storage

PHOTO = photos()["jpeg"][1]


def run(*words: str | Path, cwd: Path, env: dict[str, str] | None = None) -> services.CompletedCrawl:
    done = services.run_scrapy("storage", *words, cwd=cwd, env=env, alone=False)
    assert "Traceback" not in done.stderr, done
    return done


def test_settings_before_and_behind_the_verb(tmp_path: Path) -> None:
    done = run(
        *("-s", "AWS_S3_BUCKET=car-photos", "-s", "IMAGES_PUBLIC_URL=https://before.is"),
        *("url", "a b.jpg", "-s", "IMAGES_PUBLIC_URL=https://behind.is"),
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "https://behind.is/a%20b.jpg\n", "")


def test_dotenv_and_environment(tmp_path: Path) -> None:
    (tmp_path / "my.env").write_text("AWS_S3_BUCKET=from-file\nAWS_S3_REGION=eu-west-1\n")
    env = {"CARSCRAPER_ENV_FILE": str(tmp_path / "my.env"), "AWS_S3_REGION": "us-west-2"}
    done = run("url", "k", cwd=tmp_path, env=env)
    assert done.stdout == "https://from-file.s3.us-west-2.amazonaws.com/k\n"


def test_an_unknown_verb(tmp_path: Path) -> None:
    done = run("fly", cwd=tmp_path)
    assert done.returncode == 2
    assert "invalid choice: 'fly'" in done.stderr
    assert "versions" in done.stderr
    assert "tiers" not in done.stderr, "a verb that is gone is not offered"
    assert done.stdout == ""


def test_verbs_and_settings_of_earlier_versions_say_what_to_use(storage: Storage) -> None:
    assert "`scrapy crawl backfill -a only=local`" in storage("upload", "var/images", "--yes", code=4).err
    assert "deploy/nginx.conf" in storage("tiers", "--demote", code=4).err
    assert "max_size in deploy/nginx.conf" in storage("hits", "-", settings={"IMAGES_STORE_MAX_BYTES": "1"}, code=4).err


def test_an_unknown_option(tmp_path: Path) -> None:
    done = run("url", "k", "--fly", cwd=tmp_path)
    assert done.returncode == 2
    assert "--fly" in done.stderr
    assert done.stdout == ""


def test_no_bucket(tmp_path: Path) -> None:
    done = run("url", "k", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        "Photos go to a folder, there is no bucket: set USE_S3_STORAGE=true and AWS_S3_BUCKET to use one.\n"
    )


def test_a_wrong_setting(tmp_path: Path) -> None:
    done = run("url", "k", cwd=tmp_path, env={"AWS_S3_BUCKET": "Wrong Name", "S3_MAX_RETRIES": "many"})
    assert (done.returncode, done.stdout) == (4, "")
    assert "AWS_S3_BUCKET is 'Wrong Name'; write 3 to 63 lower-case letters" in done.stderr
    assert "S3_MAX_RETRIES is 'many'" in done.stderr


def test_bytes_go_through_a_pipe(tmp_path: Path, rclone_s3: services.S3) -> None:
    (tmp_path / "a.jpg").write_bytes(PHOTO)
    done = run("put", "a.jpg", "cars/þ a.jpg", cwd=tmp_path, env=rclone_s3.env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{rclone_s3.endpoint}/{rclone_s3.bucket}/cars/%C3%BE%20a.jpg\n"
    command = [sys.executable, "-m", "scrapy", "storage", "get", "--no-ledger", "cars/þ a.jpg"]
    piped = subprocess.run(
        command,
        env=services.crawl_environment(tmp_path, rclone_s3.env),
        cwd=tmp_path,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (piped.returncode, piped.stderr) == (0, b"")
    assert piped.stdout == PHOTO


def test_check_and_its_exit_code(tmp_path: Path, rclone_s3: services.S3) -> None:
    done = run("check", cwd=tmp_path, env=rclone_s3.env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("✓") == 9
    done = run("check", cwd=tmp_path, env={**rclone_s3.env, "AWS_SECRET_ACCESS_KEY": "wrong"})
    assert (done.returncode, done.stderr) == (4, "")
    assert "✗ bucket             SignatureDoesNotMatch" in done.stdout


@pytest.mark.parametrize("words", [["check"], ["get", "--no-ledger", "a"]])
def test_a_reader_that_goes_away(tmp_path: Path, rclone_s3: services.S3, words: list[str]) -> None:
    rclone_s3.put("a", b"x" * 1_000_000)
    with subprocess.Popen(
        [sys.executable, "-m", "scrapy", "storage", *words],
        env=services.crawl_environment(tmp_path, rclone_s3.env),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        said = process.stderr.read().decode()
        process.wait(30)
    assert said == ""
    assert process.returncode == 0
    assert rclone_s3.keys() == ["a"], "the probe is removed all the same"


@pytest.mark.parametrize("words", [["get", "--prefix", "", "--no-ledger", "--into", "into"], ["versions", "a1"]])
def test_ctrl_c_is_one_sentence(tmp_path: Path, rclone_s3: services.S3, words: list[str]) -> None:
    for number in range(9):
        rclone_s3.put(f"a{number}", b"bytes")
    with services.S3Proxy(rclone_s3.endpoint) as proxy:
        hung = proxy.hang(methods="GET", path="/a[0-9]$" if words[0] == "get" else "")
        with services.start_scrapy("storage", *words, cwd=tmp_path, env=rclone_s3.via(proxy).env) as running:
            services.wait_until(lambda: hung.hits, 30, "a request to hang")
            running.send_signal(signal.SIGINT)
            time.sleep(0.3)
            hung.stop()
            done = running.wait(30)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "Stopped by Ctrl+C: what is done stays, the same command does the rest.\n"
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith((".part", ".Case"))]
