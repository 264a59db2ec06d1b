"""Planted secrets, in every place where one can be written: nothing that a crawl leaves has any part of them."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests import services
from tests.leaks import leaks

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.crawl.world import World
    from tests.runs.webhook import Webhook

# Made up; no six characters in a row of them are in anything else here.
DATABASE = "Vq7Wz@k3/Rj9:Xp5+Yt"
QUERY = "Bn4Gc8Hd2Lf6Mh"
S3 = "Zx9Qw2Er7Ty4Ui1Op6As3Df"
HOOK = "T7Kq2Wz9Xv4Yb6"
HOOK_USER = "Pk5Jm8Nr3Sv"
PLUGIN = "Ux6Wc1Eo9Ia4"
SECRETS = (DATABASE, QUERY, S3, HOOK, HOOK_USER, PLUGIN)


def everything(world: World, done: services.CompletedCrawl, told: str) -> str:
    """All that people see of a crawl: what was printed, files, rows, notices, commands."""
    texts = [done.stdout, done.stderr, told]
    for path in world.folder.rglob("*"):
        if path.is_file() and not {".home", "s3", "images"} & set(path.parts) and path.suffix not in {".db", ".py"}:
            data = path.read_bytes()
            texts.append((gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "replace"))
    return "\n".join(texts)


def test_a_leak_is_found() -> None:
    assert leaks(f"…{S3[2:12]}…", *SECRETS) == [S3]
    assert leaks(f"…{quote(DATABASE, safe='')[:14]}…", *SECRETS) == [DATABASE]
    assert leaks("nothing", *SECRETS) == []


@pytest.mark.parametrize("most_talkative", [False, True])
def test_a_crawl_that_works(
    new_world: Callable[..., World],
    rclone: services.RcloneS3,
    postgres_url: str,
    webhook: Webhook,
    most_talkative: bool,
) -> None:
    rclone.stop()
    rclone.access_key, rclone.secret_key = "AKIDJ6Y3V8T2", S3
    rclone.start()
    bucket = rclone.bucket()
    url = postgres_url.replace("carscraper@", f"carscraper:{quote(DATABASE, safe='')}@")
    logged = {"LOG_LEVEL": "DEBUG", "LOG_FILE": "crawl.log"} if most_talkative else {}
    url += f"{'&' if '?' in url else '?'}passfile={QUERY}"
    address = f"http://me:{HOOK_USER}@127.0.0.1:{webhook.server_port}/services/{HOOK}/a"
    world = new_world(cars=2, photos=1, database_url=url, env=bucket.env | {"NOTIFY_URLS": address})
    done = world.crawl(
        "-o",
        f"s3://{bucket.bucket}/with-settings.csv",
        "-o",
        f"s3://{bucket.access_key}:{S3}@{bucket.bucket}/items.csv",
        env={"NOTIFY_ON": "success,partial,failed", "PGPASSWORD": PLUGIN, "MONITOR_MIN_CARS": "0"},
        settings=logged | {"MY_PLUGIN_TOKEN": PLUGIN, "AWS_SECRET_ACCESS_KEY": S3},
    )
    assert {"with-settings.csv", "items.csv"} <= set(bucket.keys())
    (told,) = webhook.texts()
    rows = [dict(row) for row in world.sql("SELECT * FROM crawl_runs")]
    shown = world.command("runs", "show", str(rows[0]["id"]), "--json")
    assert shown.returncode == 0, shown
    listed = world.command("runs", "list", "--json")
    seen = everything(world, done, told)
    assert leaks("\n".join([seen, repr(rows), shown.stdout, listed.stdout]), *SECRETS) == []
    assert "s3://***@" in seen
    assert ("Overridden settings" in seen) == most_talkative
    assert "2 photos stored" in done.stderr, "the verdict is seen though the log goes to a file"
