"""``make demo``: a whole crawl on this machine, to be watched, checked and looked at.

A simulated bilasolur.is, a real S3 server (``rclone serve s3``), a read-only web server before its bucket (where a CDN
stands in production) and SQLite. The crawl is the real ``scrapy crawl bilasolur`` in a process of its own. What it
leaves is in ``var/demo``; run again, it fetches nothing again. Every claim it prints it has checked; one that does not
hold ends it with exit code 1.

Needs no account and no network; listens on loopback only and leaves nothing running.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import hashlib
import http.server
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from urllib.parse import quote, urlsplit

from tests import services
from tests.contact_sheet import Car, contact_sheet, facts_of
from tests.dealers.bilasolur import SimulatedBilasolur

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CARS, PHOTOS, PHOTO_BYTES = 60, 5, 100_000
BUCKET = "car-photos"
FIRST_PORT = 8018
"""The dealer's; S3 and the public address have the next two. Fixed, because permanent URLs name the last one."""
OVERRIDING = re.compile(r"(AWS|S3|IMAGES|SCRAPY|CARSCRAPER)_.*|(https?|all)_proxy", re.IGNORECASE)
"""What a developer may have exported, and what would beat the demo's own settings."""


class DemoError(Exception):
    """A claim does not hold, or something is in the way; the message is all that is said about it."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What runs while the demo does."""

    site: SimulatedBilasolur
    s3: services.S3Proxy
    """The S3 server, with its requests counted."""
    public_url: str
    command: list[str]
    env: dict[str, str]


class Fetched(NamedTuple):
    """What a crawl asked for, by the servers' own count."""

    results: int
    details: int
    photos: int
    from_s3: int


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description="A whole crawl on this machine.")
    parser.add_argument("--folder", type=Path, default=services.REPO / "var" / "demo", help="where all of it goes")
    parser.add_argument("--port", type=int, default=FIRST_PORT, help="the first of three (default: %(default)s)")
    parser.add_argument("--stay", action="store_true", help="leave the servers running until Ctrl+C")
    options = parser.parse_args(argv)
    try:
        run(options.folder.absolute(), options.port, stay=options.stay)
    except (DemoError, services.MissingService) as error:
        print(f"\nThe demo stops here: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped, and nothing is left running. What was kept stays; make demo goes on from there.")
        return 130
    return 0


def _terminated(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)  # as an exception, so that what was started is ended


def run(folder: Path, first_port: int, *, stay: bool) -> None:
    """Raises DemoError or MissingService."""
    with _own(folder), _stage(folder, first_port) as stage:
        _introduce(folder, stage)
        fetched = _crawl(folder, stage)
        cars = _read(folder)
        _say_what_was_kept(folder, cars)
        _prove(folder, stage, cars)
        if fetched.photos:
            _say("The same command a second time:")
            fetched = _crawl(folder, stage)
        _say_that_nothing_was_fetched_again(fetched)
        sheet = folder / "index.html"
        sheet.write_text(contact_sheet(_read(folder), BUCKET), "utf-8")
        _say(f"All cars with their photos: {_shown(sheet)} (it needs none of the servers)")
        if stay:
            _say("The command above works in another terminal.", "The servers stay until Ctrl+C.")
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
        else:
            print("The servers end now. To try the command yourself while they run: make demo DEMO_ARGS=--stay")


# ── The stage ─────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _own(folder: Path) -> Iterator[None]:
    """The folder is there, and no other demo works in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise DemoError(f"{_shown(folder)} can't be written ({error.strerror}).") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DemoError(f"another demo works in {_shown(folder)}; end that one first.") from None
        yield


@contextlib.contextmanager
def _stage(folder: Path, first_port: int) -> Iterator[Stage]:
    dealer, s3, public = (
        port if _is_free(port) else services.free_port() for port in range(first_port, first_port + 3)
    )
    with contextlib.ExitStack() as stack:
        rclone = stack.enter_context(services.RcloneS3(folder / "s3"))
        bucket = rclone.bucket(BUCKET)
        counted = stack.enter_context(services.S3Proxy(rclone.endpoint, port=s3))
        assert bucket.folder is not None
        public_url = stack.enter_context(_public(bucket.folder, public))
        site = SimulatedBilasolur(
            cars=CARS, photos=PHOTOS, layout="2026", photo_bytes_average=PHOTO_BYTES, labelled=True, port=dealer
        )
        stack.enter_context(site)
        settings = bucket.via(counted).env | {
            "IMAGES_PUBLIC_URL": public_url,
            "DATABASE_URL": f"sqlite:///{_shown(folder / 'carscraper.db')}",
            "SPOOL_DIR": _shown(folder / "spool"),
            "LOG_FILE": _shown(folder / "crawl.log"),
            # On loopback nobody needs politeness; slow enough to be watched.
            "AUTOTHROTTLE_ENABLED": "false",
            "DOWNLOAD_DELAY": "0.06",
            "PROGRESS_INTERVAL": "2",
        }
        env_file = folder / "settings.env"
        lines = [f"{name}={_quoted(value)}\n" for name, value in settings.items()]
        env_file.write_text("# Written by make demo. A real .env looks the same, see .env.example.\n" + "".join(lines))
        scrapy = Path(sys.executable).with_name("scrapy")
        if not scrapy.exists():
            raise DemoError(f"there is no scrapy beside {sys.executable}: make setup.")
        terminal = {n: os.environ[n] for n in ("TERM", "COLORTERM", "NO_COLOR", "COLUMNS") if n in os.environ}
        yield Stage(
            site=site,
            s3=counted,
            public_url=public_url,
            command=[_shown(scrapy), "crawl", "bilasolur", "-a", f"base_url={site.base_url}/"],
            env=services.crawl_environment(folder, terminal | {"CARSCRAPER_ENV_FILE": _shown(env_file)}),
        )


def _quoted(value: str) -> str:
    r"""As python-dotenv reads it.

    >>> print(_quoted("true"), _quoted("it's"))
    true 'it\'s'
    """
    if re.fullmatch(r"[\w./:@-]+", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: the last run's may linger
        with contextlib.suppress(OSError, OverflowError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


class _Reader(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def _public(folder: Path, port: int) -> Iterator[str]:
    """The bucket's files for everybody to read: rclone's S3 answers signed requests only."""
    handler = functools.partial(_Reader, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), name="public", daemon=True).start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.shutdown()


def _crawl(folder: Path, stage: Stage) -> Fetched:
    """Raises DemoError when it ends with anything but 0."""
    overriding = sorted(n for n in os.environ if OVERRIDING.fullmatch(n) or n in {"DATABASE_URL", "USE_S3_STORAGE"})
    unset = ["env", *(part for name in overriding for part in ("-u", name))] if overriding else []
    setting = f"CARSCRAPER_ENV_FILE={shlex.quote(stage.env['CARSCRAPER_ENV_FILE'])}"
    _say(f"$ {' '.join(filter(None, [shlex.join(unset), setting, shlex.join(stage.command)]))}")
    stage.site.reset()
    stage.s3.forget()
    process = services.spawn(stage.command, cwd=services.REPO, env=stage.env)
    try:
        code = process.wait()
    except BaseException:  # Ctrl+C is ours alone; the crawl ends as it would on its own
        _end(process)
        raise
    if code:
        raise DemoError(
            f"the crawl ended with exit code {code}; its last lines and {_shown(folder / 'crawl.log')} say why. "
            f"{_anew(folder)}"
        )
    counts = stage.site.served.counts
    return Fetched(counts["results"], counts["details"], counts["photo"], stage.s3.count())


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait(10)


# ── What is there, and whether it is true ─────────────────────────────────────────────────────────


def _read(folder: Path) -> list[Car]:
    """All cars in the database, in the order of their ids, with their photos."""
    with contextlib.closing(sqlite3.connect(folder / "carscraper.db")) as database:
        database.row_factory = lambda cursor, row: dict(zip((each[0] for each in cursor.description), row, strict=True))
        listings = database.execute("SELECT * FROM car_listings ORDER BY external_id").fetchall()
        images = database.execute("SELECT * FROM car_images ORDER BY listing_id, position").fetchall()
    cars = {row["id"]: Car(**row, photos=[]) for row in listings}
    for row in images:
        cars[row["listing_id"]].photos.append(SimpleNamespace(**row))
    return list(cars.values())


def _prove(folder: Path, stage: Stage, cars: list[Car]) -> None:
    """Every permanent URL answers with the bytes that the ledger names and that the dealer serves."""
    photos = [photo for car in cars for photo in car.photos]
    if lost := [photo for photo in photos if not photo.key]:
        raise DemoError(f"{len(lost)} photos are not kept, such as {lost[0].source_url} ({lost[0].reason}).")
    moved = [photo for photo in photos if not str(photo.url).startswith(f"{stage.public_url}/")]
    dealer = urlsplit(stage.site.base_url).netloc
    for number, photo in enumerate(photos):
        url = f"{stage.public_url}/{quote(str(photo.key))}" if photo in moved else str(photo.url)
        answer = _get(url, folder)
        served = _get(urlsplit(photo.source_url)._replace(netloc=dealer).geturl(), folder)
        digests = {
            "what the permanent URL answers": hashlib.sha256(answer).hexdigest(),
            "what the database says (car_images.sha256)": str(photo.sha256),
            "what the dealer serves": hashlib.sha256(served).hexdigest(),
        }
        if number == 0:
            told = (f"  SHA-256 {digest[:24]}…  {what}" for what, digest in digests.items())
            _say(f"Proof: GET {url} (anonymous, {len(answer):,} bytes)", *told)
        if len(set(digests.values())) > 1:
            told = (f"{what}: {digest[:12]}…" for what, digest in digests.items())
            raise DemoError(f"the bytes of {url} differ ({', '.join(told)}). {_anew(folder)}")
    print(f"  All {len(photos)} permanent URLs were asked, and for each the three agree.")
    if moved:
        print(
            f"  ({len(moved)} were stored when the public address was {_origin(moved[0].url)}. Their rows keep that;\n"
            f"  today the same keys answer at {stage.public_url}. In production it is your domain's name, which stays.)"
        )


def _get(url: str, folder: Path) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=10) as answer:
            return bytes(answer.read())
    except (OSError, urllib.error.URLError) as error:
        raise DemoError(f"{url} does not answer ({error}). {_anew(folder)}") from None


# ── What it says ──────────────────────────────────────────────────────────────────────────────────


def _say(*lines: str) -> None:
    print("", *lines, sep="\n", flush=True)


def _shown(path: Path) -> str:
    """The path as a person in the project's folder writes it."""
    return str(path.relative_to(services.REPO) if path.is_relative_to(services.REPO) else path)


def _anew(folder: Path) -> str:
    return f"To begin anew: rm -r {shlex.quote(_shown(folder))}"


def _introduce(folder: Path, stage: Stage) -> None:
    print(
        f"A whole crawl on this machine: a simulated bilasolur.is with {CARS} cars and {CARS * PHOTOS} photos,\n"
        f"a real S3 server and SQLite. All that it leaves is in {_shown(folder)}."
    )
    _say(
        f"  dealer   {stage.site.base_url}   simulated",
        f"  S3       {stage.s3.endpoint}   rclone serve s3, with the bucket {BUCKET}",
        f"  public   {stage.public_url}   the bucket, for everybody to read: in production a CDN such as CloudFront",
    )
    if (folder / "carscraper.db").exists():
        _say(f"{_shown(folder)} is from an earlier run, and this one goes on with it.")


def _say_what_was_kept(folder: Path, cars: list[Car]) -> None:
    photos = [photo for car in cars for photo in car.stored]
    if not photos:
        raise DemoError("the crawl ended well, yet no photo is kept.")
    size = sum(photo.bytes or 0 for photo in photos)
    car = cars[0]
    _say(
        "Kept for good:",
        f"  {len(cars)} cars     in {_shown(folder / 'carscraper.db')} (car_listings, car_images, price_changes)",
        f"  {len(photos)} photos  in {_shown(folder / 's3' / BUCKET)}, the bucket's folder: {size / 1e6:.1f} MB",
        f"  such as     {', '.join([car.name, *facts_of(car)])}, {len(car.stored)} photos:",
        *(f"              {photo.key}" for photo in car.stored[:1]),
        "              …",
    )


def _say_that_nothing_was_fetched_again(fetched: Fetched) -> None:
    if fetched.photos or fetched.from_s3 > 1:
        raise DemoError(f"the crawl fetched {fetched.photos} photos again and asked S3 {fetched.from_s3} times.")
    _say(
        "Nothing was fetched again. By the servers' own count this crawl asked the dealer for",
        f"{fetched.results} result pages, {fetched.details} details pages and {fetched.photos} photos, "
        f"and sent {fetched.from_s3} request to S3 (is the bucket there?).",
    )


def _origin(url: str | None) -> str:
    return "{0.scheme}://{0.netloc}".format(urlsplit(url or ""))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(main())
