"""The verdict on a crawl: its last lines and the process's exit code.

0: every photo of the cars for sale is stored, or final, or left on purpose. 3: partial, cars or photos are missing, and
it says which kind and why. 4: failed, nothing is concluded from it. (Scrapy itself exits with 0 after all of these.)
``extensions.run`` asks for it, ``commands.crawl`` makes it the process's.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from carscraper import logs
from carscraper.db.coverage import ForSale
from carscraper.items import Reason
from carscraper.runs.record import failed_images
from carscraper.state import CrawlState, ExitCode, state_of

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

logger = logging.getLogger(__name__)

WORDS = {ExitCode.SUCCESS: "success", ExitCode.PARTIAL: "partial", ExitCode.FAILED: "failed"}
_LEVELS = {
    ExitCode.SUCCESS: logging.INFO,
    ExitCode.PARTIAL: logging.WARNING,
    ExitCode.FAILED: logging.ERROR,
}


def announce(crawler: Crawler, code: ExitCode, lines: list[str]) -> None:
    """Print the verdict's *lines* and set the crawl's exit code; of two the higher one counts."""
    settings, level = crawler.settings, _LEVELS[code]
    for line in lines:
        logger.log(level, "%s", line)
    if settings.get("LOG_FILE") or not settings.getbool("LOG_ENABLED") or _too_quiet(settings["LOG_LEVEL"], level):
        for line in lines:  # the log does not show it
            logs.say(settings, line, name=__name__, level=level)
    state_of(crawler).raise_exit_code(code)


def announce_late(crawler: Crawler) -> None:
    """Announce the verdict of a crawl that never began, now that nothing else is logged."""
    state = state_of(crawler)
    if state.verdict:
        verdict, state.verdict = state.verdict, None
        announce(crawler, *verdict)


def _too_quiet(log_level: Any, level: int) -> bool:
    number = logging.getLevelName(str(log_level).upper()) if not isinstance(log_level, int) else log_level
    return isinstance(number, int) and number > level


def judge(
    stats: dict[str, Any], state: CrawlState, name: str, photos: ForSale | None = None
) -> tuple[ExitCode, list[str]]:
    """Return the exit code and the last lines of a crawl, by what the ledger says of the *photos* of cars for sale.

    Without the ledger's word a photo counts as what this run saw of it.

    >>> judge({"carscraper/cars/saved": 2, "carscraper/images/stored": 5}, CrawlState(closed="finished"), "x")[0]
    <ExitCode.SUCCESS: 0>
    >>> judge({}, CrawlState(failed="No form.", closed="site"), "x")
    (<ExitCode.FAILED: 4>, ['x: failed. No form.'])
    >>> judge({}, CrawlState(skipped="Another crawl of X is under way.", closed="skipped"), "x")
    (<ExitCode.SUCCESS: 0>, ['x: skipped. Another crawl of X is under way.'])
    """
    if state.skipped is not None:
        return state.skip_code, [f"{name}: skipped. {state.skipped}"]

    def number(key: str) -> int:
        value: int = stats.get(f"carscraper/{key}", 0)
        return value

    failed = failed_images(stats)
    gone = failed.pop(Reason.CAR_GONE, 0)  # could not be kept by anybody
    # What an earlier run left there counts too: it is not kept yet.
    waiting: int = stats.get("carscraper/spool/waiting", max(0, number("spool/added") - number("spool/uploaded")))
    pending = number("images/pending")
    if photos:
        failed = Counter(photos.due) + Counter(photos.not_for_sale)
        gone = failed.pop(Reason.CAR_GONE, 0)
        waiting = max(waiting, failed.pop(Reason.SPOOLED, 0))
        pending = max(pending, failed.pop(Reason.NOT_FETCHED, 0) + failed.pop(Reason.STORE_ERROR, 0))
    troubles = [
        _count(sum(failed.values()), "photo", "failed", failed),
        _count(waiting, "photo", "in the spool, uploaded by the next run"),
        _count(pending, "photo", "not fetched, taken up by the next run"),
        "the ledger could not be asked how many photos are stored" if number("images/uncounted") else "",
        _count(number("cars/failed"), "car", "not written"),
        _count(number("cars/spooled"), "car", "in the spool, written by the next run"),
        _count(number("cards/failed"), "card", "unreadable"),
        _count(number("details/failed"), "details page", "unreadable or missing"),
        _count(number("pages/failed"), "result page", "missing"),
        _count(number("pages/capped"), "search", "stopped by CRAWL_MAX_PAGES"),
        _count(number("feeds/missing"), "feed", "not stored, see the log"),
        _count(number("manifest/bad"), "entry", "unreadable in the manifest"),
        _count(number("backfill/no_address"), "car", "without a page or an address that could be asked"),
        _count(stats.get("spider_exceptions/count", 0), "mistake", "of the spider, see the log"),
    ]
    troubles = [trouble for trouble in troubles if trouble]
    closed = state.closed or "finished"
    kept = (
        f"{_plural(number('cars/saved'), 'car')} ({number('cars/new')} new, {number('cars/gone')} gone); "
        f"{_plural(number('images/stored'), 'photo')} stored ({number('images/bytes') / 1e6:.1f} MB), "
        f"{number('images/linked')} linked, {number('images/known')} known before"
    )
    asides = [
        _count(number("spool/uploaded"), "photo", "uploaded from the spool"),
        _count(number("images/deleted"), "photo", "deleted on request and not kept again"),
        _count(number("images/adopted"), "photo", "found in the store and entered"),
        _count(number("images/left"), "photo", "left by the limit"),
        _count(number("backfill/left"), "car", "left for the next run"),
        _count(number("backfill/unnamed"), "row", "without an id or an address that names the car"),
        _count(
            number("images/in_folder"),
            "photo",
            "in the folder only: `scrapy crawl backfill -a only=local` uploads them",
        ),
        _count(number("cars/listed_as_gone"), "car", "on the list though its own page says that it is gone"),
        _count(gone, "photo", "of gone cars not to be had"),
        _count(number("missing/unanswered"), "missing car", "for sale still, as the page does not come"),
        _count(number("makes/unknown"), "car", "of a make that vehicles.toml does not know"),
    ]
    kept += "".join(f", {aside}" for aside in asides if aside)
    stand = _of_cars_for_sale(photos) if photos else ""
    if number("images/nowhere"):
        stand = "photos are stored nowhere (USE_S3_STORAGE is off and IMAGES_STORE is empty)"
    kept += f"; {stand}" if stand else ""
    if state.plan is not None:
        kept = "a rehearsal, nothing was changed"
    lines = []
    stand = f" {stand[0].upper()}{stand[1:]}." if photos and photos.photos else ""
    if state.failed:
        code = ExitCode.FAILED
        lines.append(f"{name}: failed. {state.failed}{'' if number('cars/saved') else stand}")
        if number("cars/saved"):
            lines.append(f"{name}: kept all the same: {kept}.")
    elif closed not in {"finished", "shutdown"}:
        code = ExitCode.FAILED
        lines.append(f"{name}: failed. The crawl ended early ({closed}).{stand}")
    else:
        is_partial = bool(troubles or state.incomplete or state.limits or closed == "shutdown")
        code = ExitCode.PARTIAL if is_partial else ExitCode.SUCCESS
        lines.append(f"{name}: {WORDS[code]}. {kept[0].upper()}{kept[1:]}.")
    if troubles:
        lines.append(f"{name}: not kept: {'; '.join(troubles)}.")
    lines += [f"{name}: not complete: {sentence}" for sentence in state.incomplete]
    lines += [f"{name}: limit not kept: {limit}" for limit in state.limits]
    if closed == "shutdown":
        lines.append(f"{name}: stopped on request; the same command goes on where this one ended.")
    return code, lines


def _of_cars_for_sale(photos: ForSale) -> str:
    """Say how many of the photos of cars for sale are stored, and why the others are not.

    >>> _of_cars_for_sale(ForSale(photos=9, stored=5, due={"timeout": 1}, final={"http-404": 2}, left={"deleted": 1}))
    '5 of 9 photos of cars for sale are stored (not stored: 1 timeout, 2 http-404 final, 1 deleted)'
    """
    parts = [
        f"{number} {reason}{word}"
        for kind, word in ((photos.due, ""), (photos.final, " final"), (photos.left, ""))
        for reason, number in sorted(kind.items(), key=lambda each: (-each[1], each[0]))
    ]
    why = f" (not stored: {', '.join(parts)})" if parts else ""
    return f"{photos.stored} of {photos.photos} photos of cars for sale are stored{why}"


def _count(number: int, what: str, state: str, reasons: dict[str, int] | None = None) -> str:
    if not number:
        return ""
    detail = ", ".join(f"{n} {reason}" for reason, n in sorted((reasons or {}).items(), key=lambda each: -each[1]))
    return f"{_plural(number, what)} {state}" + (f" ({detail})" if detail else "")


def _plural(number: int, what: str) -> str:
    if number == 1:
        return f"1 {what}"
    return f"{number} {what[:-1]}ies" if what.endswith("ry") else f"{number} {what}s"
