"""``scrapy storage estimate``: what the photos cost in a month, with the arithmetic."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from carscraper.command import Verb
from carscraper.commands.storage.browse import selected
from carscraper.commands.storage.common import KIND_NAMES, kind_of
from carscraper.console import size
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError
from carscraper.items import utcnow
from carscraper.maintenance import estimate as sums
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from carscraper.command import Context
_MONTH = timedelta(days=30)
_TITLES = {
    sums.STORAGE: "Storage",
    sums.REQUESTS: "New photos",
    sums.TRANSFER: "Views, from S3 directly",
    sums.CLOUDFRONT: "Views, with CloudFront in front",
}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--photos", type=_number, metavar="N", help="N photos instead of those in the bucket")
    parser.add_argument(
        "--bytes-per-photo",
        type=_spread,
        metavar="N",
        help="of --photos, such as 215kB; or a spread of them, such as 90kB:40,300kB:60 (percent)",
    )
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
    parser.add_argument("--region", metavar="NAME", help="another region than AWS_S3_REGION")
    parser.add_argument("--prices", type=Path, metavar="FILE", help="a TOML file of prices, instead of PRICES_FILE")


def _run(context: Context, options: argparse.Namespace) -> int:
    from carscraper.storage.client import Server

    prices = _prices(context, options.prices)
    if (options.photos is None) != (options.bytes_per_photo is None):
        raise ConfigurationError("--photos and --bytes-per-photo belong together: write both, or neither.")
    server = Server.from_settings(context.settings)
    name = options.region or server.region
    region, own = prices.of(name)
    if unknown := [each for each in options.mix or () if each not in region.classes]:
        raise ConfigurationError(
            f"--class names {unknown[0]}, which has no price; write some of {', '.join(region.classes)}."
        )
    inputs: list[str] = []
    usage = _usage(context, options, region, inputs)
    found = sums.estimate(usage, region, prices)
    direct = found.sum_of(sums.STORAGE, sums.REQUESTS, sums.TRANSFER)
    cdn = found.sum_of(sums.STORAGE, sums.REQUESTS, sums.CLOUDFRONT)
    notes = [
        *([] if own else [f"There is no table for {name}: computed with that of {', '.join(region.names)}."]),
        *found.notes,
        *(["These are Amazon's prices; the server of AWS_ENDPOINT_URL has its own."] if server.endpoint else []),
        "List prices without tax. What is free is so for the whole account.",
        "A GB is 1,000,000,000 bytes here; Amazon counts 1,073,741,824, so a bill is up to 7 % lower.",
    ]
    data = {
        "prices_date": prices.date.isoformat(),
        "region": name,
        "prices_of": list(region.names),
        "inputs": {**asdict(usage), "said": inputs},
        "lines": [asdict(line) for line in found.lines],
        "usd": {**{section: found.sum_of(section) for section in _TITLES}, "direct": direct, "with_cloudfront": cdn},
        "notes": notes,
    }

    def text() -> Iterator[str]:
        yield f"A month in {name}, at the prices of {prices.date}: check the current prices before you decide."
        yield from ("", *inputs)
        for section, title in _TITLES.items():
            yield from ("", f"{title}: {sums.money(found.sum_of(section), 2)}")
            yield from (f"  {line.text}" for line in found.lines if line.section == section)
        yield from ("", f"Together in a month, photos from S3 directly:        {sums.money(direct, 2)}")
        yield f"Together in a month, with CloudFront in front:       {sums.money(cdn, 2)}"
        yield from ("", *notes)

    context.console.result(data, text())
    return ExitCode.SUCCESS


def _prices(context: Context, given: Path | None) -> sums.Prices:
    named = given or context.settings.get("PRICES_FILE")
    if not named:
        return sums.own_prices()
    try:
        return sums.read_prices(Path(named).read_text("utf-8"), str(named))
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ConfigurationError(f"The prices of {named} can't be read ({said}).") from None


# --- what is estimated ------------------------------------------------------------------------------------------


def _usage(context: Context, options: argparse.Namespace, region: sums.Region, inputs: list[str]) -> sums.Usage:
    """Read the options, and the bucket's and the ledger's numbers for what they leave open; say which in *inputs*."""
    stock: dict[tuple[str, str], sums.Stock] = {}
    put_class = context.settings.get("S3_STORAGE_CLASS") or "STANDARD"

    def add(what: str, bytes_each: float, mix: dict[str, float], number: float = 1) -> None:
        for name, share in mix.items():
            each = stock.setdefault((what, name), sums.Stock(what=what, storage_class=name))
            each.add(bytes_each, region.of(name), number * share)

    recent = None
    if options.photos is not None:
        for bytes_each, share in options.bytes_per_photo.items():
            add("photos", bytes_each, options.mix or {put_class: 1}, options.photos * share)
        where = "supposed"
    else:
        recent = 0
        since = datetime.now(UTC) - _MONTH
        for number, each in enumerate(selected(context), 1):
            context.console.progress(f"{number:,} objects")
            kind = kind_of(context, each.name)
            is_photo = kind == "photo"
            add(KIND_NAMES[kind], each.size, (is_photo and options.mix) or {each.storage_class: 1})
            recent += is_photo and each.modified >= since
        context.console.end_progress()
        where = f"in the bucket {context.options.bucket}"
    photos = [each for each in stock.values() if each.what == "photos"]
    total = sum(each.objects for each in photos)
    if options.photos is None and not total:
        raise ConfigurationError(
            f"The bucket {context.options.bucket} holds no photos to go by: write --photos and --bytes-per-photo."
        )
    mean = sum(each.bytes for each in photos) / total / 1000 if total else 0
    inputs.append(f"{sums.count(total)} photos of {sums.count(mean)} kB on average, {where}")
    new = options.new_per_month
    if new is None:
        new = _new_photos(context, recent, inputs)
    else:
        inputs.append(f"{sums.count(new)} new photos a month, supposed")
    cached = f"{options.hit_rate * 100:.4g} %"
    inputs.append(f"views of each photo in a month: {options.views:g}; CloudFront has {cached} in its caches")
    return sums.Usage(
        stock=tuple(sorted(stock.values(), key=lambda each: (each.what != "photos", each.what, each.storage_class))),
        new_photos=new,
        puts_per_photo=1 + len(context.settings.get("IMAGES_THUMBS") or ()),
        put_class=put_class,
        views=options.views,
        hit_rate=options.hit_rate,
    )


def _new_photos(context: Context, recent: int | None, inputs: list[str]) -> float:
    """Return how many photos were stored in the last month, by the ledger, or uploaded (*recent*)."""
    from carscraper.db import coverage
    from carscraper.db.engine import explained_database

    since = utcnow() - _MONTH
    try:
        with explained_database(), context.database(read_only=True) as engine, engine.connect() as connection:
            found = coverage.stored_since(connection, context.options.store, since)
    except (ConfigurationError, DatabaseUnavailableError) as error:
        context.console.note(f"The ledger does not say how many photos are new; write --new-per-month. {error}")
        inputs.append(f"{recent or 0:,} new photos a month: as many were uploaded in the last {_MONTH.days} days")
        return recent or 0
    inputs.append(f"{found:,} new photos a month: as many were stored in the last {_MONTH.days} days, by the ledger")
    return found


# --- values a person types --------------------------------------------------------------------------------------


def _number(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 0")
    return float(text)


def _percent(text: str) -> float:
    number = _number(text.removesuffix("%"))
    if number > 100:
        raise argparse.ArgumentTypeError(f"{text!r} is more than 100 percent")
    return number / 100


def _shares(text: str, like: str) -> dict[str, float]:
    """Read ``WHAT:PERCENT,…``, all of them together 100."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        what, _, share = part.partition(":")
        shares[what.strip()] = shares.get(what.strip(), 0) + _percent(share.strip())
    if abs(sum(shares.values()) - 1) > 0.0001:
        raise argparse.ArgumentTypeError(f"{text!r} does not add up to 100 percent; write such as {like}")
    return shares


def _mix(text: str) -> dict[str, float]:
    return _shares(text.upper(), "STANDARD:70,GLACIER_IR:30")


def _spread(text: str) -> dict[float, float]:
    shares = _shares(text, "90kB:40,300kB:60") if ":" in text else {text: 1.0}
    return {size(what): share for what, share in shares.items()}


VERB = Verb(
    "estimate",
    "Estimate what the photos cost in a month: storage, requests, transfer; the arithmetic is shown",
    _run,
    _arguments,
)
