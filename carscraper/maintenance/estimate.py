"""What the photos cost in a month: arithmetic over a table of prices, every step shown."""

from __future__ import annotations

import importlib.resources
import math
import tomllib
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

from carscraper.exceptions import ConfigurationError

GB: Final = 1_000_000_000
"""Bytes. Amazon counts 1,073,741,824: a bill is up to 7 % lower than what is computed here."""

STORAGE, REQUESTS, TRANSFER, CLOUDFRONT = "storage", "requests", "transfer", "cloudfront"
"""The sections of an estimate; transfer is what views cost without CloudFront, cloudfront with it."""

Tiers = list[tuple[float, float]]
"""What a unit costs, in steps: up to how many (the last one's bound is infinite), US dollars."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassPrices:
    """The prices of a storage class; ``data/prices.toml`` says what each is."""

    storage: Tiers
    put: Tiers
    get: Tiers
    retrieval: Tiers
    minimum_bytes: float = 0
    overhead_bytes: float = 0
    standard_bytes: float = 0
    monitoring: float = 0
    monitored_bytes: float = 0
    instant: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """The prices of some regions."""

    names: tuple[str, ...]
    transfer: Tiers
    classes: dict[str, ClassPrices]

    def of(self, storage_class: str) -> ClassPrices:
        """Return the prices of a storage class, those of STANDARD for one that has none."""
        return self.classes.get(storage_class, self.classes["STANDARD"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """A dated table of prices."""

    date: date
    regions: tuple[Region, ...]
    cloudfront_transfer: Tiers
    cloudfront_requests: Tiers

    def of(self, region: str) -> tuple[Region, bool]:
        """Return the prices of *region*, or the first ones; and whether they are its own."""
        own = next((each for each in self.regions if region in each.names), None)
        return own or self.regions[0], own is not None


# --- the table --------------------------------------------------------------------------------------------------


def own_prices() -> Prices:
    """Return the list prices that come with this program."""
    return read_prices(importlib.resources.files("carscraper.data").joinpath("prices.toml").read_text("utf-8"), "ours")


def read_prices(text: str, name: str) -> Prices:
    """Read a table of prices.

    Args:
        text: TOML, as in ``data/prices.toml``.
        name: the file, for the sentences.

    Raises:
        ConfigurationError: it is no TOML, or an entry is missing, wrong or unknown.
    """
    try:
        data = tomllib.loads(text)
        return Prices(
            date=date.fromisoformat(str(data["date"])),
            regions=tuple(_region(each) for each in data["regions"]),
            cloudfront_transfer=_price("cloudfront.transfer", data["cloudfront"]["transfer"]),
            cloudfront_requests=_price("cloudfront.requests", data["cloudfront"]["requests"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise ConfigurationError(
            f"The prices of {name} can't be used: {said}. Copy carscraper/data/prices.toml and change its numbers."
        ) from error


def _region(data: dict[str, Any]) -> Region:
    if "STANDARD" not in data["classes"]:
        raise KeyError("classes.STANDARD")
    return Region(
        names=tuple(data["names"]),
        transfer=_price("transfer", data["transfer"]),
        classes={name: _class(name, entry) for name, entry in data["classes"].items()},
    )


def _class(name: str, entry: dict[str, Any]) -> ClassPrices:
    stepped: dict[str, Any] = {
        each: _price(f"{name}.{each}", entry.get(each)) for each in ("storage", "put", "get", "retrieval")
    }
    rest: dict[str, Any] = {each: value for each, value in entry.items() if each not in stepped}
    for each in set(rest) - {"instant"}:
        _number(f"{name}.{each}", rest[each])
    return ClassPrices(**stepped, **rest)


def _price(name: str, value: Any) -> Tiers:
    if not isinstance(value, list):
        return [(math.inf, _number(name, value))]
    steps = [(step.get("up_to", math.inf), _number(name, step.get("usd"))) for step in value]
    bounds = [bound for bound, _ in steps]
    if not steps or bounds[-1] != math.inf or bounds != sorted(set(bounds)):
        raise ValueError(f"{name} has steps whose up_to does not rise, or a last step with one")
    return steps


def _number(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise ValueError(f"{name} is {'missing' if value is None else repr(value)}, not a number of at least 0")
    return float(value)


# --- the arithmetic ---------------------------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class Stock:
    """Objects of a kind and a storage class."""

    what: str
    """``photos``, ``thumbnails``, ``other objects``."""
    storage_class: str
    objects: float = 0
    bytes: float = 0
    billed: float = 0
    """Bytes that are paid for: some classes have a least size, or add something to each object."""
    monitored: float = 0
    """Objects that are watched for how often they are read."""

    def add(self, size: float, prices: ClassPrices, number: float = 1) -> None:
        """Count *number* objects of *size* bytes: the rules of a class are for each object."""
        self.objects += number
        self.bytes += size * number
        self.billed += (max(size, prices.minimum_bytes) + prices.overhead_bytes) * number
        if prices.monitoring and size >= prices.monitored_bytes:
            self.monitored += number


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What is kept, and what happens in a month."""

    stock: tuple[Stock, ...]
    new_photos: float
    puts_per_photo: int = 1
    """Objects that are stored with a photo: one, and its thumbnails."""
    put_class: str = "STANDARD"
    """The storage class that new photos get."""
    views: float
    """How often each photo is looked at in a month."""
    hit_rate: float = 0.9
    """The share of the views that CloudFront answers from its caches."""


@dataclass(frozen=True, slots=True)
class CostLine:
    """One step of the arithmetic and what it costs."""

    section: str
    text: str
    usd: float


@dataclass(slots=True)
class Estimate:
    """All steps and their sums."""

    lines: list[CostLine] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the arithmetic had to assume."""

    def sum_of(self, *sections: str) -> float:
        """Return the US dollars of these sections."""
        return math.fsum(line.usd for line in self.lines if line.section in sections)

    def add(
        self, section: str, head: str, amount: float, price: Tiers, unit: str, *, per: int = 1, before: float = 0
    ) -> None:
        """Add a line for each step of *price* that *amount* meets when *before* is used up already."""
        begin = 0.0
        parts = []
        for bound, usd in price:
            part = min(before + amount, bound) - max(before, begin)
            if part > 0:
                parts.append((part, usd))
            begin = bound
        for number, (part, usd) in enumerate(parts):
            shown = f"{head} = {count(amount)} {unit}" if number == 0 else head
            if len(parts) > 1:
                shown += f", {'then' if number else 'first'} {count(part)} {unit}"
            rate = f"{money(usd)}{f' per {per:,}' if per > 1 else ''}" if usd else "nothing"
            self.lines.append(CostLine(section, f"{shown} × {rate} = {money(part / per * usd, 2)}", part / per * usd))


def estimate(usage: Usage, region: Region, prices: Prices) -> Estimate:
    """Compute what *usage* costs in a month in *region*; a storage class without a price there costs like STANDARD."""
    found = Estimate()
    for name in sorted({each.storage_class for each in usage.stock} - set(region.classes)):
        found.notes.append(f"The storage class {name} has no price: computed as STANDARD.")
    _storage(found, usage, region)
    puts = usage.new_photos * usage.puts_per_photo
    head = f"PUT: {count(usage.new_photos)} new photos"
    head += f" × {usage.puts_per_photo} objects" if usage.puts_per_photo > 1 else ""
    found.add(REQUESTS, head, puts, region.of(usage.put_class).put, "requests", per=1000)
    _views(found, usage, region, prices)
    return found


def _storage(found: Estimate, usage: Usage, region: Region) -> None:
    kept: dict[str, float] = {}  # GB of a class so far: its steps are for all of them together
    for each in usage.stock:
        price = region.of(each.storage_class)
        head = f"{each.storage_class}: {count(each.objects)} {each.what}, {count(each.bytes / GB)} GB"
        head += " with the class's least size and additions" if each.billed > each.bytes else ""
        before = kept.get(each.storage_class, 0.0)
        found.add(STORAGE, head, each.billed / GB, price.storage, "GB", before=before)
        kept[each.storage_class] = before + each.billed / GB
        if each.monitored:
            watched = [(math.inf, price.monitoring)]
            found.add(
                STORAGE, f"{each.storage_class}: {each.what} watched", each.monitored, watched, "objects", per=1000
            )
        if price.standard_bytes:
            gigabytes = each.objects * price.standard_bytes / GB
            head = f"STANDARD: names of {count(each.objects)} archived {each.what}"
            found.add(STORAGE, head, gigabytes, region.of("STANDARD").storage, "GB", before=kept.get("STANDARD", 0.0))


def _views(found: Estimate, usage: Usage, region: Region, prices: Prices) -> None:
    """Views of photos: GET, retrieval and transfer of S3 alone, and of CloudFront with S3 behind it."""
    views = out = 0.0
    missing = 1 - usage.hit_rate
    for each in usage.stock:
        if each.what != "photos" or not usage.views:
            continue
        price = region.of(each.storage_class)
        if not price.instant:
            why = "can't be shown before they are restored: their views are not counted"
            found.notes.append(f"The photos in {each.storage_class} {why}.")
            continue
        views += each.objects * usage.views
        out += each.bytes * usage.views / GB
        head = f"{each.storage_class}: {count(each.objects)} photos × {count(usage.views)} views"
        missed = f"{head} × {missing * 100:.3g} % not in a cache"
        for section, asked, share in ((TRANSFER, head, 1.0), (CLOUDFRONT, missed, missing)):
            requests, gigabytes = each.objects * usage.views * share, each.bytes * usage.views * share / GB
            found.add(section, f"GET, {asked}", requests, price.get, "requests", per=1000)
            if any(usd for _, usd in price.retrieval):
                found.add(section, f"retrieval, {asked}", gigabytes, price.retrieval, "GB")
    found.add(TRANSFER, "from S3 to the internet", out, region.transfer, "GB")
    found.add(CLOUDFRONT, "requests to CloudFront", views, prices.cloudfront_requests, "requests", per=10_000)
    found.add(CLOUDFRONT, "from CloudFront to the internet", out, prices.cloudfront_transfer, "GB")


def money(usd: float, digits: int | None = None) -> str:
    """Write US dollars: a price with all its digits, a sum with *digits* (more if it is less than a cent).

    >>> money(1234.5), money(0.00099), money(1234.567, 2), money(0.00031, 2), money(0, 2)
    ('$1,234.50', '$0.00099', '$1,234.57', '$0.00031', '$0.00')
    """
    if digits is not None and (usd == 0 or usd >= 0.01):
        return f"${usd:,.{digits}f}"
    places = 10 if digits is None else 1 - math.floor(math.log10(usd))
    whole, _, rest = f"{usd:,.{places}f}".partition(".")
    return f"${whole}.{rest.rstrip('0').ljust(2, '0')}"


def count(number: float) -> str:
    """Write how many there are.

    >>> count(132000), count(28.38), count(2.4), count(1.0000001), count(0.0000031)
    ('132,000', '28.4', '2.4', '1', '0.0000031')
    """
    if number >= 1000 or number == int(number):
        return f"{number:,.0f}"
    return f"{number:.{max(1, 2 - math.floor(math.log10(number)))}f}".rstrip("0").rstrip(".")
