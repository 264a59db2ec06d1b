"""The verdict on a crawl: its last lines and the process's exit code.

0: every photo of the cars for sale, and of cars sold before theirs were stored, is stored, or final, or left on
purpose. 3: partial, cars or photos are missing, and it says which kind and why. 4: failed, nothing is concluded from
it. (Scrapy itself exits with 0 after all of these.)
``extensions.run`` asks for it, ``commands.crawl`` makes it the process's.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from carscraper import logs
from carscraper.db.coverage import ForSale
from carscraper.items import Reason
from carscraper.runs.record import STATUS_OF, failed_images
from carscraper.state import CrawlState, ExitCode, state_of

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

logger = logging.getLogger(__name__)

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
    if logs.is_in_file(settings) or not settings.getbool("LOG_ENABLED") or _too_quiet(settings["LOG_LEVEL"], level):
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


# What the stats count: name, one of them, what is said of it.
NOT_KEPT = (
    ("carscraper/cars/failed", "car", "not written"),
    ("carscraper/cars/spooled", "car", "in the spool, written by the next run"),
    ("carscraper/cards/failed", "card", "unreadable"),
    ("carscraper/details/failed", "details page", "unreadable or missing"),
    ("carscraper/pages/failed", "result page", "missing"),
    ("carscraper/pages/capped", "search", "stopped by CRAWL_MAX_PAGES"),
    ("carscraper/feeds/missing", "feed", "not stored, see the log"),
    ("carscraper/manifest/broken", "file", "of the manifest unreadable"),
    ("carscraper/manifest/bad", "entry", "unreadable in the manifest"),
    ("carscraper/backfill/unnamed", "row", "without an id or an address that names the car"),
    ("carscraper/backfill/no_address", "car", "without a page or an address that could be asked"),
    ("spider_exceptions/count", "mistake", "of the spider, see the log"),
)
BESIDE = (
    ("carscraper/spool/uploaded", "photo", "uploaded from the spool"),
    ("carscraper/images/deleted", "photo", "deleted on request and not kept again"),
    ("carscraper/images/adopted", "photo", "found in the store and entered"),
    ("carscraper/images/left", "photo", "left by the limit"),
    ("carscraper/manifest/left_out", "thumbnail", "left out"),
    ("carscraper/manifest/repeated", "entry", "named before"),
    ("carscraper/manifest/same_key", "entry", "with the key of another address, see the log"),
    ("carscraper/backfill/left", "car", "left for the next run"),
    (
        "carscraper/images/in_folder",
        "photo",
        "in the folder only: `scrapy crawl backfill -a only=local` uploads them",
    ),
    ("carscraper/cars/listed_as_gone", "car", "on the list though its own page says that it is gone"),
    ("carscraper/missing/unanswered", "missing car", "for sale still, as the page does not come"),
    ("carscraper/makes/unknown", "car", "of a make that vehicles.toml does not know"),
)


# What Scrapy's own reasons for an early end mean.
_EARLY = {"memusage_exceeded": "Its memory has reached MEMUSAGE_LIMIT_MB; raise that, or lower IMAGES_MAX_IN_FLIGHT."}


def judge(
    stats: dict[str, Any], state: CrawlState, name: str, photos: ForSale | None = None
) -> tuple[ExitCode, list[str]]:
    """Return the exit code and the last lines of a crawl, by what the ledger says of the *photos* of cars for sale.

    Without the ledger's word a photo counts as what this run saw of it.

    >>> judge({"carscraper/cars/saved": 2, "carscraper/images/stored": 5}, CrawlState(closed="finished"), "x")[0]
    <ExitCode.SUCCESS: 0>
    >>> judge({}, CrawlState(failed="No form.", closed="site"), "x")
    (<ExitCode.FAILED: 4>, ['x: failed. No form.'])
    >>> judge({}, CrawlState(closed="memusage_exceeded"), "x")[1]
    ['x: failed. Its memory has reached MEMUSAGE_LIMIT_MB; raise that, or lower IMAGES_MAX_IN_FLIGHT.']
    >>> judge({}, CrawlState(skipped="Another crawl of X is under way.", closed="skipped"), "x")
    (<ExitCode.SUCCESS: 0>, ['x: skipped. Another crawl of X is under way.'])
    """
    if state.skipped is not None:
        return state.skip_code, [f"{name}: skipped. {state.skipped}"]
    troubles, gone = _not_kept(stats, photos)
    kept = _kept(stats, photos, gone) if state.plan is None else _planned(stats)
    saved, closed = stats.get("carscraper/cars/saved", 0), state.closed or "finished"
    stand = f" {_capital(_of_cars_for_sale(photos))}." if photos and photos.photos else ""
    code = ExitCode.FAILED
    if state.failed:
        lines = [f"failed. {state.failed}{'' if saved else stand}"]
        lines += [f"kept all the same: {kept}."] if saved else []
    elif closed not in {"finished", "shutdown"}:
        lines = [f"failed. {_EARLY.get(closed, f'The crawl ended early ({closed}).')}{stand}"]
    else:
        is_partial = troubles or state.incomplete or state.limits or closed == "shutdown"
        code = ExitCode.PARTIAL if is_partial else ExitCode.SUCCESS
        lines = [f"{STATUS_OF[code]}. {_capital(kept)}."]
    lines += [f"not kept: {'; '.join(troubles)}."] if troubles else []
    lines += [f"not complete: {sentence}" for sentence in state.incomplete]
    lines += [f"limit not kept: {limit}" for limit in state.limits]
    if closed == "shutdown":
        lines.append("stopped on request; the same command goes on where this one ended.")
    return code, [f"{name}: {line}" for line in lines]


def _not_kept(stats: dict[str, Any], photos: ForSale | None) -> tuple[list[str], int]:
    """Return what makes a crawl partial, and how many photos of gone cars nobody could have kept."""
    failed, sold = Counter(failed_images(stats)), Counter[str]()
    # What an earlier run left there counts too: it is not kept yet.
    uploaded = stats.get("carscraper/spool/added", 0) - stats.get("carscraper/spool/uploaded", 0)
    waiting: int = stats.get("carscraper/spool/waiting", max(0, uploaded))
    pending: int = stats.get("carscraper/images/pending", 0)
    if photos:
        failed, sold = Counter(photos.due), Counter(photos.not_for_sale)
        waiting = max(waiting, _take(Reason.SPOOLED, failed, sold))
        pending = max(pending, _take(Reason.NOT_FETCHED, failed, sold) + _take(Reason.STORE_ERROR, failed, sold))
    gone = _take(Reason.CAR_GONE, failed, sold)
    uncounted = stats.get("carscraper/images/uncounted")
    found = [
        _count(failed.total(), "photo", "failed", failed),
        _count(sold.total(), "photo", "of cars that are sold failed, asked for until the answer is final", sold),
        _count(waiting, "photo", "in the spool, uploaded by the next run"),
        _count(pending, "photo", "not fetched, taken up by the next run"),
        "the ledger could not be asked how many photos are stored" if uncounted else "",
        *(_count(stats.get(key, 0), what, said) for key, what, said in NOT_KEPT),
    ]
    return [each for each in found if each], gone


def _take(reason: str, *counts: Counter[str]) -> int:
    return sum(each.pop(reason, 0) for each in counts)


def _kept(stats: dict[str, Any], photos: ForSale | None, gone: int) -> str:
    def number(key: str) -> int:
        value: int = stats.get(f"carscraper/{key}", 0)
        return value

    cars = f"{_plural(number('cars/saved'), 'car')} ({number('cars/new')} new, {number('cars/gone')} gone)"
    sample = stats.get("carscraper/sample/verified")
    if sample is not None:
        return f"a sample of {_plural(sample, 'photo')}, of which nothing is kept"
    found = [
        f"{cars}; {_plural(number('images/stored'), 'photo')} stored ({number('images/bytes') / 1e6:.1f} MB)",
        f"{number('images/linked')} linked",
        f"{number('images/known')} known before",
        *_beside(stats),
        _count(gone, "photo", "of gone cars not to be had"),
    ]
    kept = ", ".join(filter(None, found))
    if number("images/nowhere"):
        return f"{kept}; photos are stored nowhere (USE_S3_STORAGE is off and IMAGES_STORE is empty)"
    return f"{kept}; {_of_cars_for_sale(photos)}" if photos and photos.photos else kept


def _planned(stats: dict[str, Any]) -> str:
    return ", ".join(filter(None, ["a rehearsal, nothing was changed", *_beside(stats)]))


def _beside(stats: dict[str, Any]) -> list[str]:
    return [_count(stats.get(key, 0), what, said) for key, what, said in BESIDE]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


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
    return f"{photos.stored} of {photos.photos} {photos.what} are stored{why}"


def _count(number: int, what: str, state: str, reasons: dict[str, int] | None = None) -> str:
    if not number:
        return ""
    detail = ", ".join(f"{n} {reason}" for reason, n in sorted((reasons or {}).items(), key=lambda each: -each[1]))
    return f"{_plural(number, what)} {state}" + (f" ({detail})" if detail else "")


def _plural(number: int, what: str) -> str:
    if number == 1:
        return f"1 {what}"
    return f"{number} {what[:-1]}ies" if what.endswith("ry") else f"{number} {what}s"
