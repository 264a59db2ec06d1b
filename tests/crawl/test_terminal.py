"""What a person at a terminal sees, and what a pipe gets."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

import pytest

from tests import services
from tests.crawl.world import IMPOLITE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.crawl.world import World

COLUMNS = 100


def on_a_terminal(world: World, *words: str, env: dict[str, str] | None = None, **settings: object) -> tuple[int, str]:
    """Run ``scrapy …`` whose standard error is a terminal; its exit code, and all that was written there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    environment = {"DATABASE_URL": world.database_url, "TERM": "xterm"} | world.env | (env or {})
    with os.fdopen(theirs, "wb") as terminal:
        running = services.start_scrapy(
            *words, cwd=world.folder, env=environment, settings=IMPOLITE | settings, stderr=terminal
        )
    written = b""
    with running:
        while True:
            try:
                data = os.read(ours, 1 << 16)
            except OSError:  # how Linux says that nobody has it open any more
                break
            written += data
        os.close(ours)
        return running.wait(60).returncode, written.decode()


def crawl_on_a_terminal(world: World, **settings: object) -> tuple[int, str]:
    return on_a_terminal(world, "crawl", "bilasolur", "-a", f"base_url={world.site.base_url}", **settings)


def screen(written: str) -> list[str]:
    """The lines that are there in the end, as a terminal would show them."""
    return [line.rpartition("\r\033[K")[2] for line in written.replace("\r\n", "\n").split("\n")]


LIVE = re.compile(r"\r\x1b\[K(bilasolur: \d+ pages, \d+ cars, \d+ photos, [^\r\n\x1b]*)")


def test_a_line_that_moves_and_the_log_above_it(new_world: Callable[..., World]) -> None:
    world = new_world(cars=12, photos=2, per_page=3)
    slow = {"DOWNLOAD_DELAY": 0.1, "IMAGES_DOWNLOAD_DELAY": 0.02}
    code, written = crawl_on_a_terminal(world, **slow)
    assert code == 0, written
    live = LIVE.findall(written)
    assert len(set(live)) > 3, written
    assert re.fullmatch(r"bilasolur: \d+ pages, \d+ cars, \d+ photos, [\d.]+ MB, \d+ photos a minute", live[-1])
    assert all(len(line) < COLUMNS for line in live)
    lines = screen(written)
    assert not any("photos a minute" in line for line in lines), "nothing is left of it"
    assert re.search(r"\[carscraper\.extensions\.verdict\] INFO: bilasolur: success\. 12 cars", lines[-2])
    assert not re.search("Overridden settings|Enabled |Dumping Scrapy stats", written)
    # The last whole crawl tells how long it will take.
    code, written = crawl_on_a_terminal(world, DETAILS_MAX_AGE_DAYS=0, **slow)
    assert code == 0
    assert re.search(r"photos a minute, \d+ (seconds|minutes) left", written)


def test_with_a_log_file_the_line_is_there_too(new_world: Callable[..., World]) -> None:
    world = new_world(cars=10, photos=1, per_page=3)
    code, written = crawl_on_a_terminal(world, DOWNLOAD_DELAY=0.2, LOG_FILE="logs/crawl.log")
    assert code == 0, written
    assert LIVE.search(written)
    assert "\033" not in (world.folder / "logs/crawl.log").read_text()
    assert screen(written)[-2].startswith("bilasolur: success. 10 cars")


def test_a_pipe_gets_lines(new_world: Callable[..., World]) -> None:
    world = new_world(cars=10, photos=1, per_page=3)
    done = world.crawl(settings={"DOWNLOAD_DELAY": 0.2, "PROGRESS_INTERVAL": 0.3, "LOG_FILE": "crawl.log"})
    assert not set(done.stderr) & {"\r", "\033"}
    *head, last = done.stderr.splitlines()
    assert "success. 10 cars" in last
    assert head
    assert all(re.match(r"bilasolur: \d+ pages, \d+ cars, ", line) for line in head)
    log = (world.folder / "crawl.log").read_text()
    assert not re.search("Overridden settings|Enabled |Dumping Scrapy stats", log)
    done = world.crawl(settings={"LOG_LEVEL": "DEBUG"})
    for inventory in ("Overridden settings", "Enabled item pipelines", "Dumping Scrapy stats"):
        assert inventory in done.stderr


def test_crawlall_shows_a_line_for_each_dealer(new_world: Callable[..., World]) -> None:
    world = new_world(cars=6, photos=2, per_page=3)
    words = [
        *("crawlall", "--sources", "bilasolur,hekla", "-a", f"bilasolur.base_url={world.site.base_url}"),
        *("-a", "hekla.base_url=http://127.0.0.1:1/"),
    ]
    world.env = {"CONTACT": "https://example.is/bot"}
    code, written = on_a_terminal(world, *words, DOWNLOAD_DELAY=0.3)
    assert code == 3, written
    assert len(set(re.findall(r"bilasolur \| bilasolur: \d+ pages, \d+ cars", written))) > 1, written
    lines = re.sub(r"\x1b\[\d+A\r\x1b\[J", "", written).replace("\r\n", "\n")
    assert "bilasolur: success (exit code 0" in lines
    assert "hekla: failed (exit code 4" in lines


def started(world: World, *, closed: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """A crawl from a shell, with its standard streams as ``closed`` says."""
    options = [part for name, value in IMPOLITE.items() for part in ("-s", f"{name}={value}")]
    words = [
        "crawl",
        "bilasolur",
        "-a",
        f"base_url={world.site.base_url}",
        "-s",
        "LOG_FILE=new/logs/crawl.log",
        *options,
    ]
    command = f'exec "{sys.executable}" -m scrapy {" ".join(words)} {closed}'
    environment = services.crawl_environment(world.folder, {"DATABASE_URL": world.database_url, **(env or {})})
    return subprocess.run(
        ["bash", "-c", command], cwd=world.folder, env=environment, capture_output=True, timeout=120, check=False
    )


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 1>&- 2>&-", "2> >(exit)"])
def test_a_closed_output_costs_nothing(new_world: Callable[..., World], closed: str) -> None:
    world = new_world(cars=2, photos=1)
    done = started(world, closed=closed)
    assert done.returncode == 0, done
    assert {row["status"] for row in world.images().values()} == {"stored"}
    log = (world.folder / "new/logs/crawl.log").read_text()
    assert "success. 2 cars" in log
    assert "Traceback" not in log


def test_an_output_that_cant_show_a_letter_costs_nothing(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    narrow = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    assert started(world, env=narrow).returncode == 0
    world.sql("UPDATE crawl_runs SET why = 'þ ✓'")
    for words in (["runs", "show", "1"], ["runs", "show", "1", "--json"], ["runs"]):
        done = world.command(*words, env=narrow)
        assert done.returncode == 0, done
        assert done.stderr == ""
    assert "\\u00fe \\u2713" in world.command("runs", "show", "1", "--json", env=narrow).stdout
