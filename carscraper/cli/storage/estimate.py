"""``scrapy storage estimate``: what the photos cost in a month, with the arithmetic."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from carscraper.cli.storage.browse import positive
from carscraper.cli.verb import DONE
from carscraper.db import coverage
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError
from carscraper.storage import estimate as sums
from carscraper.storage.listing import selected
from carscraper.storage.statistics import OTHER, PHOTO, THUMBNAIL, Statistics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from carscraper.cli.verb import Context

_MONTH = timedelta(days=30)
_NAMES = {PHOTO: "photos", THUMBNAIL: "thumbnails", OTHER: "other objects"}
_TITLES = {
    sums.STORAGE: "Storage",
    sums.REQUESTS: "New photos",
    sums.TRANSFER: "Views, from S3 directly",
    sums.CLOUDFRONT: "Views, with CloudFront in front",
}
_ELSEWHERE = "These are Amazon's prices; the server of AWS_ENDPOINT_URL has its own."
_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3}


def _arguments(parser: argparse.ArgumentParser) -> None:
    photos = parser.add_mutually_exclusive_group()
    photos.add_argument("--photos", type=positive, metavar="N", help="so many photos, instead of those in the bucket")
    photos.add_argument("--cars", type=positive, metavar="N", help="so many cars, with --photos-per-car")
    parser.add_argument("--photos-per-car", type=_number, metavar="N", help="photos of a car, for --cars")
    parser.add_argument("--bytes-per-photo", type=_size, metavar="N", help="bytes of a photo, such as 215kB")
    parser.add_argument("--new-per-month", type=_number, metavar="N", help="photos that are stored in a month")
    parser.add_argument("--views", type=_number, default=1.0, metavar="N", help="views of each photo in a month (1)")
    parser.add_argument(
        "--hit-rate", type=_percent, default=0.9, metavar="PERCENT", help="views that CloudFront has in a cache (90)"
    )
    parser.add_argument(
        "--class",
        dest="mix",
        type=_mix,
        metavar="CLASS:PERCENT,…",
        help="storage classes of the photos, such as STANDARD:70,GLACIER_IR:30",
    )
    parser.add_argument("--region", type=_region, metavar="NAME", help="another region than AWS_S3_REGION")
    parser.add_argument("--prices", type=Path, metavar="FILE", help="a TOML file of prices, instead of PRICES_FILE")


def _estimate(context: Context, options: argparse.Namespace) -> int:
    prices = _prices(context, options.prices)
    if (options.cars is None) != (options.photos_per_car is None):
        raise ConfigurationError("--cars and --photos-per-car belong together: write both, or --photos.")
    name = options.region or context.settings.get("AWS_S3_REGION")
    region, own = prices.of(name)
    unknown = [each for each in options.mix or () if each not in region.classes]
    if unknown:
        known = ", ".join(region.classes)
        raise ConfigurationError(f"--class names {unknown[0]}, which has no price; write some of {known}.")
    inputs: list[str] = []
    usage = _usage(context, options, inputs)
    found = sums.estimate(usage, region, prices)
    notes = [
        *([] if own else [f"There is no table for {name}: computed with that of {', '.join(region.names)}."]),
        *found.notes,
        *([_ELSEWHERE] if context.settings.get("AWS_ENDPOINT_URL") else []),
        "List prices without tax. What is free is so for the whole account.",
        "A GB is 1,000,000,000 bytes here; Amazon counts 1,073,741,824, so a bill is up to 7 % lower.",
    ]
    data = {
        "prices_date": prices.date.isoformat(),
        "region": name,
        "prices_of": list(region.names),
        "inputs": {**asdict(usage), "said": inputs},
        "lines": [asdict(line) for line in found.lines],
        "usd": {
            **{section: found.sum_of(section) for section in _TITLES},
            "direct": found.direct,
            "with_cloudfront": found.with_cloudfront,
        },
        "notes": notes,
    }
    context.console.result(data, _text(prices, name, inputs, found, notes))
    return DONE


def _text(prices: sums.Prices, region: str, inputs: list[str], found: sums.Estimate, notes: list[str]) -> Iterator[str]:
    yield f"A month in {region}, at the prices of {prices.date}: check the current prices before you decide."
    yield ""
    yield from inputs
    for section, title in _TITLES.items():
        yield ""
        yield f"{title}: {sums.cents(found.sum_of(section))}"
        yield from (f"  {line.text}" for line in found.lines if line.section == section)
    yield ""
    yield f"Together in a month, photos from S3 directly:        {sums.cents(found.direct)}"
    yield f"Together in a month, with CloudFront in front:       {sums.cents(found.with_cloudfront)}"
    yield ""
    yield from notes


def _prices(context: Context, given: Path | None) -> sums.Prices:
    named = given or context.settings.get("PRICES_FILE")
    if not named:
        return sums.own_prices()
    try:
        text = Path(named).read_text("utf-8")
    except OSError as error:
        raise ConfigurationError(f"The prices of {named} can't be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"The prices of {named} are no text in UTF-8.") from None
    return sums.read_prices(text, str(named))


# --- what is estimated ------------------------------------------------------------------------------------------


def _usage(context: Context, options: argparse.Namespace, inputs: list[str]) -> sums.Usage:
    """Take the options, and the bucket's and the ledger's numbers for what they leave open; say which in *inputs*."""
    photos: float | None = options.photos
    if options.cars is not None:
        photos = options.cars * options.photos_per_car
        inputs.append(f"{options.cars:,} cars × {options.photos_per_car:g} photos = {sums.count(photos)} photos")
    bucket = None if photos is not None and options.bytes_per_photo is not None else _counted(context)
    in_bucket = bucket.by_kind[PHOTO] if bucket else None
    if bucket and in_bucket and not in_bucket.objects and options.bytes_per_photo is None:
        raise ConfigurationError(
            f"The bucket {context.options.bucket} holds no photos to go by: write --photos and --bytes-per-photo."
        )
    put_class = context.settings.get("S3_STORAGE_CLASS") or "STANDARD"
    mean = options.bytes_per_photo or (in_bucket.mean if in_bucket else 0.0)
    stock: tuple[sums.Stock, ...]
    if photos is None and bucket and options.mix is None and options.bytes_per_photo is None:
        stock = _as_it_is(bucket)
    else:
        whole = photos if photos is not None else float(in_bucket.objects if in_bucket else 0)
        stock = sums.mixed("photos", whole, mean, options.mix or {put_class: 1.0})
        if bucket and in_bucket and in_bucket.objects:
            stock += _beside(bucket, whole / in_bucket.objects)
    thumbnails = len(context.settings.get("IMAGES_THUMBS") or ())
    total = sum(each.objects for each in stock if each.what == "photos")
    where = f"in the bucket {context.options.bucket}" if bucket and photos is None else "supposed"
    inputs.append(f"{sums.count(total)} photos of {sums.amount_of_bytes(mean)} on average, {where}")
    if thumbnails and not any(each.what == "thumbnails" for each in stock):
        inputs.append("thumbnails are not counted as stored: there are none to go by")
    new = _new_photos(context, options, bucket, inputs)
    cached = f"{options.hit_rate * 100:.4g} %"
    inputs.append(f"views of each photo in a month: {options.views:g}; CloudFront has {cached} in its caches")
    return sums.Usage(
        stock=stock,
        new_photos=new,
        puts_per_photo=1 + thumbnails,
        put_class=put_class,
        views=options.views,
        hit_rate=options.hit_rate,
    )


def _counted(context: Context) -> Statistics:
    statistics = Statistics()
    bucket, prefix = context.options.bucket, context.options.prefix
    since = datetime.now(UTC) - _MONTH
    for number, each in enumerate(selected(context.client, bucket, prefix), 1):
        statistics.add(each, prefix, recent_since=since)
        context.console.progress(f"{number:,} objects")
    context.console.end_progress()
    return statistics


def _as_it_is(bucket: Statistics) -> tuple[sums.Stock, ...]:
    order = {kind: place for place, kind in enumerate(_NAMES)}
    return tuple(
        sums.Stock(what=_NAMES[kind], storage_class=storage_class, objects=count.objects, bytes_each=count.mean)
        for (kind, storage_class), count in sorted(
            bucket.by_class.items(), key=lambda entry: (order[entry[0][0]], entry[0][1])
        )
    )


def _beside(bucket: Statistics, factor: float) -> tuple[sums.Stock, ...]:
    """Give the bucket's thumbnails, *factor* times as many as there are, and its other objects."""
    return tuple(
        sums.Stock(
            what=each.what,
            storage_class=each.storage_class,
            objects=each.objects * (factor if each.what == _NAMES[THUMBNAIL] else 1),
            bytes_each=each.bytes_each,
        )
        for each in _as_it_is(bucket)
        if each.what != _NAMES[PHOTO]
    )


def _new_photos(context: Context, options: argparse.Namespace, bucket: Statistics | None, inputs: list[str]) -> float:
    if options.new_per_month is not None:
        inputs.append(f"{sums.count(options.new_per_month)} new photos a month, supposed")
        return float(options.new_per_month)
    days = _MONTH.days
    since = (datetime.now(UTC) - _MONTH).replace(tzinfo=None)
    try:
        store = f"s3://{context.options.bucket}"
        with coverage.answering(), context.database(read_only=True) as engine, engine.connect() as connection:
            found = coverage.stored_since(connection, store, since)
    except (ConfigurationError, DatabaseUnavailableError) as error:
        if bucket is None:
            context.console.note(f"New photos are not counted; write --new-per-month. {error}")
            inputs.append("no new photos")
            return 0.0
        context.console.note(f"Without the ledger: {error}")
        inputs.append(f"{bucket.recent.objects:,} new photos a month: as many were uploaded in the last {days} days")
        return float(bucket.recent.objects)
    inputs.append(f"{found:,} new photos a month: as many were stored in the last {days} days, by the ledger")
    return float(found)


# --- values a person types --------------------------------------------------------------------------------------


def _number(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 0")
    return float(text)


def _percent(text: str) -> float:
    number = _number(text.removesuffix("%"))
    if number > 100:
        raise argparse.ArgumentTypeError(f"{text!r} is more than 100 percent")
    return number / 100


def _size(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([kmg]?b)?", text.strip().lower())
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write bytes, or such as 215kB")
    return float(found[1]) * _UNITS[found[2] or ""]


def _region(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no region; write one such as eu-north-1")
    return text


def _mix(text: str) -> dict[str, float]:
    mix: dict[str, float] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*([A-Z][A-Z_]*)\s*:\s*([0-9]{1,3}(?:\.[0-9]{1,3})?)\s*%?\s*", part.upper())
        if not found or found[1] in mix:
            raise argparse.ArgumentTypeError(f"{text!r} is no mix; write such as STANDARD:70,GLACIER_IR:30")
        mix[found[1]] = float(found[2])
    if abs(sum(mix.values()) - 100) > 0.01:
        raise argparse.ArgumentTypeError(f"{text!r} adds up to {sum(mix.values()):g} percent, not to 100")
    return mix


FUNCTIONS = {"estimate": (_arguments, _estimate)}
