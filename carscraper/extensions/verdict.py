"""The verdict on a crawl: its last lines and the process's exit code.

0: all that was seen is kept. 3: partial, some cars or photos failed, and it says which kind and why. 4: failed, nothing
is concluded from it. (Scrapy itself exits with 0 after all of these.)
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from scrapy import signals
from scrapy.commands import ScrapyCommand

if TYPE_CHECKING:
    from typing import Self

    from scrapy.crawler import Crawler

logger = logging.getLogger(__name__)

SUCCESS, PARTIAL, FAILED = 0, 3, 4
_WORDS = {SUCCESS: "success", PARTIAL: "partial", FAILED: "failed"}
_FAILED_IMAGES = "carscraper/images/failed/"


class Verdict:
    """Reads the stats when the engine has stopped, after everything else."""

    def __init__(self, crawler: Crawler) -> None:
        """Take the crawler."""
        self._crawler = crawler
        crawler.signals.connect(self.spider_opened, signal=signals.spider_opened)
        crawler.signals.connect(self.spider_closed, signal=signals.spider_closed)
        crawler.signals.connect(self.engine_stopped, signal=signals.engine_stopped)
        crawler.signals.connect(self.item_error, signal=signals.item_error)
        self._started = False

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """No settings."""
        return cls(crawler)

    def spider_opened(self) -> None:
        """Note that the pipelines are open."""
        self._started = self._crawler.stats.get_value("carscraper/failed") is None

    def spider_closed(self, reason: str) -> None:
        """Remember the reason; a crawl that never started gets its verdict at the very end of the process."""
        self._crawler.stats.set_value("carscraper/closed", reason)
        if not self._started:
            from twisted.internet import reactor  # noqa: PLC0415 - installs a reactor when imported

            reactor.addSystemEventTrigger("before", "shutdown", self.engine_stopped)  # type: ignore[arg-type]

    def item_error(self) -> None:
        """Count a car that a mistake in a pipeline has cost; Scrapy logs it and goes on."""
        self._crawler.stats.inc_value("carscraper/cars/failed")

    def engine_stopped(self) -> None:
        """Say what was kept and set the exit code."""
        code, lines = judge(self._crawler.stats.get_stats(), self._crawler.spidercls.name)
        level = {SUCCESS: logging.INFO, PARTIAL: logging.WARNING, FAILED: logging.ERROR}[code]
        for line in lines:
            logger.log(level, "%s", line)
        settings = self._crawler.settings
        if settings.get("LOG_FILE") or not settings.getbool("LOG_ENABLED") or _too_quiet(settings["LOG_LEVEL"], level):
            print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201 - the log does not show it
        self._crawler.stats.set_value("carscraper/exit_code", code)
        # cmdline.execute() ends with sys.exit(cmd.exitcode); the class attribute is what every command starts from.
        ScrapyCommand.exitcode = max(ScrapyCommand.exitcode, code)


def _too_quiet(log_level: Any, level: int) -> bool:
    number = logging.getLevelName(str(log_level).upper()) if not isinstance(log_level, int) else log_level
    return isinstance(number, int) and number > level


def judge(stats: dict[str, Any], name: str) -> tuple[int, list[str]]:
    """Give the exit code and the last lines for *stats*.

    >>> judge({"carscraper/cars/saved": 2, "carscraper/images/stored": 5, "carscraper/closed": "finished"}, "x")[0]
    0
    >>> judge({"carscraper/failed": "No form.", "carscraper/closed": "site"}, "x")
    (4, ['x: failed. No form.'])
    """

    def number(key: str) -> int:
        value: int = stats.get(f"carscraper/{key}", 0)
        return value

    failed_images = {key.removeprefix(_FAILED_IMAGES): n for key, n in stats.items() if key.startswith(_FAILED_IMAGES)}
    gone = failed_images.pop("car-gone", 0)  # could not be kept by anybody
    # What an earlier run left there counts too: it is not kept yet.
    waiting: int = stats.get("carscraper/spool/waiting", max(0, number("spool/added") - number("spool/uploaded")))
    troubles = [
        _count(sum(failed_images.values()), "photo", "failed", failed_images),
        _count(waiting, "photo", "in the spool, uploaded by the next run"),
        _count(number("images/pending"), "photo", "not fetched, taken up by the next run"),
        _count(number("cars/failed"), "car", "not written"),
        _count(number("cars/spooled"), "car", "in the spool, written by the next run"),
        _count(number("cards/failed"), "card", "unreadable"),
        _count(number("details/failed"), "details page", "unreadable or missing"),
        _count(number("pages/failed"), "result page", "missing"),
        _count(number("pages/capped"), "search", "stopped by CRAWL_MAX_PAGES"),
        _count(number("manifest/bad"), "entry", "unreadable in the manifest"),
        _count(number("backfill/no_address"), "car", "without a page or an address that could be asked"),
        _count(stats.get("spider_exceptions/count", 0), "mistake", "of the spider, see the log"),
    ]
    troubles = [trouble for trouble in troubles if trouble]
    why = stats.get("carscraper/failed")
    closed = stats.get("carscraper/closed", "finished")
    kept = (
        f"{_plural(number('cars/saved'), 'car')} ({number('cars/new')} new, {number('cars/gone')} gone); "
        f"{_plural(number('images/stored'), 'photo')} stored ({number('images/bytes') / 1e6:.1f} MB), "
        f"{number('images/linked')} linked, {number('images/known')} known before"
    )
    asides = [
        _count(number("spool/uploaded"), "photo", "uploaded from the spool"),
        _count(number("images/given_up"), "photo", "given up by an earlier run"),
        _count(number("images/deleted"), "photo", "deleted on request and not kept again"),
        _count(number("images/adopted"), "photo", "found in the store and entered"),
        _count(number("images/left"), "photo", "left by the limit"),
        _count(number("backfill/left"), "car", "left for the next run"),
        _count(gone, "photo", "of gone cars not to be had"),
        _count(number("makes/unknown"), "car", "of a make that vehicles.toml does not know"),
    ]
    kept += "".join(f", {aside}" for aside in asides if aside)
    if "carscraper/backfill/plan" in stats:
        kept = "a rehearsal, nothing was changed"
    lines = []
    if why:
        code = FAILED
        lines.append(f"{name}: failed. {why}")
        if number("cars/saved"):
            lines.append(f"{name}: kept all the same: {kept}.")
    elif closed not in {"finished", "shutdown"}:
        code = FAILED
        lines.append(f"{name}: failed. The crawl ended early ({closed}).")
    else:
        code = PARTIAL if troubles or closed == "shutdown" else SUCCESS
        lines.append(f"{name}: {_WORDS[code]}. {kept[0].upper()}{kept[1:]}.")
    if troubles:
        lines.append(f"{name}: not kept: {'; '.join(troubles)}.")
    if closed == "shutdown":
        lines.append(f"{name}: stopped on request; the same command goes on where this one ended.")
    return code, lines


def _count(number: int, what: str, state: str, reasons: dict[str, int] | None = None) -> str:
    if not number:
        return ""
    detail = ", ".join(f"{n} {reason}" for reason, n in sorted((reasons or {}).items(), key=lambda each: -each[1]))
    return f"{_plural(number, what)} {state}" + (f" ({detail})" if detail else "")


def _plural(number: int, what: str) -> str:
    if number == 1:
        return f"1 {what}"
    return f"{number} {what[:-1]}ies" if what.endswith("ry") else f"{number} {what}s"
