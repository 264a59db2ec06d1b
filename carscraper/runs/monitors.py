"""Limits that a run has to keep: those of ``MONITOR_…``, and what is expected of a dealer without any setting. Pure.

A limit that is set has to be seen to be kept: where there is nothing to look at, it is not. A limit that is not set, or
that is about whole crawls when this one was to be a part by its arguments, says nothing.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from carscraper.field_coverage import READABLE, look_at, per_cent, where_read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from scrapy.settings import BaseSettings

    from carscraper.base_spiders.dealer import DealerSpider
    from carscraper.field_coverage import Drop, FieldCoverage
    from carscraper.runs.record import RunRecord

_PARTS = ("limit", "makes", "max_pages", "changed_days")
"""Arguments by which a crawl is only a part of the dealer's cars."""
_NOBODYS = "car-gone"
"""The reason of a photo that nobody could have kept."""


def check_limits(
    settings: BaseSettings,
    record: RunRecord,
    earlier: Sequence[RunRecord] | None,
    coverage: FieldCoverage | None,
    *,
    spider: DealerSpider | None = None,
    fallen: Sequence[Drop] = (),
) -> list[dict[str, Any]]:
    """Look at what is expected of the dealer, and at each limit that is set.

    Args:
        settings: of the crawl.
        record: the run, with its numbers; its status is not needed yet.
        earlier: the runs to measure it by, see ``db.runs.earlier``; ``None``: they could not be read.
        coverage: what could be read of the cars; ``None``: it was not counted.
        spider: that of a dealer.
        fallen: fields that fell against its last good crawl.

    Returns:
        For each limit its ``name``, whether it ``passed``, and what is to be ``said`` of it, a sentence with numbers.
    """
    found: list[tuple[str, bool, str]] = []
    whole = record.source is not None and not any(_means_something(record.arguments.get(name)) for name in _PARTS)
    fewest = settings.getint("MONITOR_MIN_CARS")
    if fewest and whole:
        found.append(("min_cars", record.cars >= fewest, f"{record.cars} cars, at least {fewest} are expected"))
    worst = settings.get("MONITOR_MAX_FAILED_PHOTOS")
    if worst is not None:
        found.append(_failed_photos(record, worst))
    if spider is not None and coverage is not None:
        found += _expected(settings, spider, coverage, fallen)
    least = settings.get("MONITOR_MIN_STORED")
    if least is not None:
        found.append(_stored(record, least))
    if record.source is not None:
        found += _coverage(coverage, settings.getdict("MONITOR_MIN_FILL"))
    drop = settings.get("MONITOR_MAX_DROP")
    if drop is not None and whole:
        found.append(_drop(record, earlier, drop))
    return [{"name": name, "passed": passed, "said": said} for name, passed, said in found]


def expected_of(settings: BaseSettings, spider: DealerSpider | type[DealerSpider]) -> Mapping[str, float]:
    """Return what is expected of the spider's cars, without what ``MONITOR_IGNORE_FIELDS`` names."""
    return {name: share for name, share in spider.expected.items() if not _is_ignored(settings, spider, name)}


def failed(monitors: Sequence[dict[str, Any]]) -> list[str]:
    """Return what is said of the limits that were not kept.

    >>> failed([{"name": "a", "passed": True, "said": "x"}, {"name": "b", "passed": False, "said": "3 cars, …"}])
    ['b: 3 cars, …']
    """
    return [f"{each['name']}: {each['said']}" for each in monitors if not each["passed"]]


def _means_something(argument: str | None) -> bool:
    return (argument or "").strip() not in {"", "0"}


def _failed_photos(record: RunRecord, worst: float) -> tuple[str, bool, str]:
    lost = sum(number for reason, number in record.images_failed.items() if reason != _NOBODYS)
    photos = record.images_stored + record.images_linked + record.images_known + lost
    name, limit = "max_failed_photos", f"at most {per_cent(worst)} may"
    if not photos:
        # A backfill may have nothing to do; a dealer always has photos.
        return name, record.source is None, f"there was no photo to look at, {limit} fail"
    return name, lost / photos <= worst, f"{lost} of {photos} photos failed ({per_cent(lost / photos)}), {limit}"


def _is_ignored(settings: BaseSettings, spider: DealerSpider | type[DealerSpider], field: str) -> bool:
    return not {spider.name, f"{spider.name}.{field}"}.isdisjoint(settings.getlist("MONITOR_IGNORE_FIELDS"))


def _expected(
    settings: BaseSettings, spider: DealerSpider, coverage: FieldCoverage, fallen: Sequence[Drop]
) -> Iterator[tuple[str, bool, str]]:
    missing = set()
    for each in look_at(coverage, expected_of(settings, spider)):
        if each.is_met:
            yield f"expected.{each.name}", True, str(each)
        else:
            missing.add(each.name)
            yield f"expected.{each.name}", False, f"{each}{_see(spider, each.name)}"
    for drop in fallen:
        if drop.name not in missing and not _is_ignored(settings, spider, drop.name):
            yield f"fall.{drop.name}", False, f"{drop} since the last good crawl{_see(spider, drop.name)}"


def _see(spider: DealerSpider, field: str) -> str:
    return f": see {where_read(type(spider), field)}; `scrapy checkdealers` shows every field"


def _stored(record: RunRecord, least: float) -> tuple[str, bool, str]:
    photos, stored = record.images_for_sale, record.images_for_sale_stored or 0
    name, limit = "min_stored", f"at least {per_cent(least)} are expected"
    if not photos:
        what = "there was no photo of a car for sale" if photos == 0 else "the photos of cars for sale were not counted"
        return name, photos == 0 and record.source is None, f"{what}, {limit} to be stored"
    said = f"{stored} of {photos} photos of cars for sale are stored ({per_cent(stored / photos)}), {limit}"
    return name, stored / photos >= least, said


def _coverage(coverage: FieldCoverage | None, shares: dict[str, float]) -> Iterator[tuple[str, bool, str]]:
    for field, least in shares.items():
        size = coverage.size_of(field) if coverage else 0
        number = coverage.having(field) if coverage else 0
        limit = f"at least {per_cent(least)} are expected"
        if not size:
            yield f"min_fill.{field}", False, f"there was no car to look for {field} at, {limit}"
            continue
        what = "cards are readable" if field == READABLE else f"cars have {field}"
        yield (
            f"min_fill.{field}",
            number / size >= least,
            f"{number} of {size} {what} ({per_cent(number / size)}), {limit}",
        )


def _drop(record: RunRecord, earlier: Sequence[RunRecord] | None, drop: float) -> tuple[str, bool, str]:
    name = "max_drop"
    if earlier is None:
        return name, False, "the earlier runs could not be read, so nobody knows whether cars are missing"
    like = [each for each in earlier if each.cars]
    if not like:
        # There is nothing yet that it could have fallen from; but it has to have cars to be the measure of others.
        return name, record.cars > 0, f"{record.cars} cars in the first whole run of its kind"
    median = statistics.median(each.cars for each in like)
    runs = "the last run" if len(like) == 1 else f"the median of the last {len(like)} runs"
    said = f"{record.cars} cars, {runs} is {median:g}, they may be {per_cent(drop)} fewer"
    return name, (median - record.cars) / median <= drop, said
