"""What the photos cost in a month: pure arithmetic over a table of prices, every step shown."""

from __future__ import annotations

import importlib.resources
import math
import tomllib
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Final

from carscraper.exceptions import ConfigurationError

GB: Final = 1_000_000_000
"""Bytes. Amazon counts 1,073,741,824: a bill is up to 7 % lower than what is computed here."""

STORAGE, REQUESTS, TRANSFER, CLOUDFRONT = "storage", "requests", "transfer", "cloudfront"
"""The sections of an estimate; transfer is what it costs without CloudFront, cloudfront what it costs with it."""


@dataclass(frozen=True, slots=True)
class Step:
    """A price that holds for amounts up to a bound."""

    up_to: float
    usd: float


@dataclass(frozen=True, slots=True)
class Price:
    """What one unit costs, cheaper (or free) in steps."""

    steps: tuple[Step, ...]
    """The last one's bound is infinite."""

    def parts(self, amount: float) -> list[tuple[float, float]]:
        """Split *amount* into parts of one price each: amount and price.

        >>> Price((Step(100, 0.0), Step(math.inf, 0.09))).parts(150)
        [(100.0, 0.0), (50, 0.09)]
        """
        found, begin = [], 0.0
        for step in self.steps:
            part = min(amount, step.up_to) - begin
            if part <= 0:
                break
            found.append((part, step.usd))
            begin = step.up_to
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassPrices:
    """The prices of one storage class; ``data/prices.toml`` says what each is."""

    storage: Price
    put: Price
    get: Price
    retrieval: Price
    minimum_bytes: float = 0
    overhead_bytes: float = 0
    standard_bytes: float = 0
    monitoring: float = 0
    instant: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """The prices of some regions."""

    names: tuple[str, ...]
    transfer: Price
    classes: dict[str, ClassPrices]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """A dated table of prices."""

    date: date
    regions: tuple[Region, ...]
    cloudfront_transfer: Price
    cloudfront_requests: Price

    def of(self, region: str) -> tuple[Region, bool]:
        """Give the prices of *region*, or the first ones; and whether they are its own."""
        for each in self.regions:
            if region in each.names:
                return each, True
        return self.regions[0], False


# --- the table --------------------------------------------------------------------------------------------------


def own_prices() -> Prices:
    """Give the list prices that come with this program."""
    return read_prices(importlib.resources.files("carscraper.data").joinpath("prices.toml").read_text("utf-8"), "ours")


def read_prices(text: str, name: str) -> Prices:
    """Read a table of prices.

    Args:
        text: TOML, as in ``data/prices.toml``.
        name: the file, for the sentences.

    Raises:
        ConfigurationError: with a sentence for every entry that is missing, wrong or unknown.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"The prices of {name} are no TOML: {str(error).rstrip('.')}.") from error
    reader = _Reader(name)
    prices = reader.prices(data)
    if reader.problems:
        raise ConfigurationError(" ".join(reader.problems))
    return prices


class _Reader:
    """Reads the table and notes every mistake; a wrong entry reads as nothing, so that the others are read too."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.problems: list[str] = []

    def prices(self, data: dict[str, Any]) -> Prices:
        cdn = self._table(data, "cloudfront", "")
        when = data.get("date")
        if type(when) is not date:
            self._wrong("date", when, "a day, such as 2025-10-01")
            when = date.min
        tables = data.get("regions")
        if not isinstance(tables, list) or not tables:
            self._wrong("regions", tables, "at least one table [[regions]]")
            tables = []
        self._known(data, {"date", "regions", "cloudfront"}, "")
        self._known(cdn, {"transfer", "requests"}, "cloudfront.")
        return Prices(
            date=when,
            regions=tuple(self._region(each, f"regions[{number}]") for number, each in enumerate(tables)),
            cloudfront_transfer=self._price(cdn, "transfer", "cloudfront."),
            cloudfront_requests=self._price(cdn, "requests", "cloudfront."),
        )

    def _region(self, data: Any, where: str) -> Region:
        if not isinstance(data, dict):
            self._wrong(where, data, "a table")
            data = {}
        names = data.get("names")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            self._wrong(f"{where}.names", names, 'a list of regions, such as ["eu-north-1"]')
            names = []
        classes = self._table(data, "classes", f"{where}.")
        if "STANDARD" not in classes:
            self._wrong(f"{where}.classes.STANDARD", None, "a table of prices")
        self._known(data, {"names", "transfer", "classes"}, f"{where}.")
        return Region(
            names=tuple(names),
            transfer=self._price(data, "transfer", f"{where}."),
            classes={name: self._class(classes, name, f"{where}.classes.") for name in classes},
        )

    def _class(self, data: dict[str, Any], name: str, where: str) -> ClassPrices:
        entry = self._table(data, name, where)
        where = f"{where}{name}."
        instant = entry.get("instant", True)
        if not isinstance(instant, bool):
            self._wrong(f"{where}instant", instant, "true or false")
            instant = True
        self._known(entry, set(ClassPrices.__dataclass_fields__), where)
        return ClassPrices(
            storage=self._price(entry, "storage", where),
            put=self._price(entry, "put", where),
            get=self._price(entry, "get", where),
            retrieval=self._price(entry, "retrieval", where),
            minimum_bytes=self._number(entry.get("minimum_bytes", 0), f"{where}minimum_bytes"),
            overhead_bytes=self._number(entry.get("overhead_bytes", 0), f"{where}overhead_bytes"),
            standard_bytes=self._number(entry.get("standard_bytes", 0), f"{where}standard_bytes"),
            monitoring=self._number(entry.get("monitoring", 0), f"{where}monitoring"),
            instant=instant,
        )

    def _price(self, data: dict[str, Any], name: str, where: str) -> Price:
        value, where = data.get(name), f"{where}{name}"
        if not isinstance(value, list):
            return Price((Step(math.inf, self._number(value, where)),))
        steps, last = [], 0.0
        for number, step in enumerate(value):
            at = f"{where}[{number}]"
            if not isinstance(step, dict) or not set(step) <= {"up_to", "usd"}:
                self._wrong(at, step, "a step such as {up_to = 100, usd = 0.09}")
                continue
            bound = math.inf if number == len(value) - 1 else self._number(step.get("up_to"), f"{at}.up_to")
            if number == len(value) - 1 and "up_to" in step:
                self._wrong(f"{at}.up_to", step["up_to"], "nothing there: the last step is for all the rest")
            if bound <= last:
                self._wrong(f"{at}.up_to", step.get("up_to"), "more than in the step before")
            last = bound
            steps.append(Step(bound, self._number(step.get("usd"), f"{at}.usd")))
        if not value:
            self._wrong(where, value, "a number or steps")
        return Price(tuple(steps))

    def _table(self, data: dict[str, Any], name: str, where: str) -> dict[str, Any]:
        found = data.get(name)
        if not isinstance(found, dict):
            self._wrong(f"{where}{name}", found, "a table")
            return {}
        return found

    def _number(self, value: Any, where: str) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
        if not good:
            self._wrong(where, value, "a number of at least 0")
            return 0.0
        return float(value)

    def _known(self, data: dict[str, Any], names: set[str], where: str) -> None:
        for name in sorted(set(data) - names):
            self.problems.append(f"{where}{name} in the prices of {self._name} is unknown: check its spelling.")

    def _wrong(self, where: str, value: Any, wanted: str) -> None:
        what = "missing" if value is None else f"{value!r}"
        sentence = f"{where} in the prices of {self._name} is {what}: write {wanted}."
        if sentence not in self.problems:
            self.problems.append(sentence)


# --- the arithmetic ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Stock:
    """Objects that are alike: photos, thumbnails or others of one storage class."""

    what: str
    """``photos``, ``thumbnails``, ``other objects``."""
    storage_class: str
    objects: float
    bytes_each: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What is kept, and what happens in a month."""

    stock: tuple[Stock, ...]
    new_photos: float
    """Photos that are stored in a month."""
    puts_per_photo: float = 1
    """Objects that are stored with a photo: one, and its thumbnails."""
    put_class: str = "STANDARD"
    """The storage class that new photos get."""
    views: float
    """How often each photo is looked at in a month."""
    hit_rate: float = 0.9
    """The share of the views that CloudFront answers from its caches."""


@dataclass(frozen=True, slots=True)
class Line:
    """One step of the arithmetic and what it costs."""

    section: str
    text: str
    usd: float


@dataclass(slots=True)
class Estimate:
    """All steps and their sums."""

    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the arithmetic had to assume."""

    def sum_of(self, *sections: str) -> float:
        """Give the US dollars of these sections."""
        return math.fsum(line.usd for line in self.lines if line.section in sections)

    @property
    def direct(self) -> float:
        """US dollars a month when S3 serves the photos itself."""
        return self.sum_of(STORAGE, REQUESTS, TRANSFER)

    @property
    def with_cloudfront(self) -> float:
        """US dollars a month when CloudFront serves them."""
        return self.sum_of(STORAGE, REQUESTS, CLOUDFRONT)


def mixed(what: str, objects: float, bytes_each: float, mix: dict[str, float]) -> tuple[Stock, ...]:
    """Part *objects* among storage classes by their shares, which need not add up to one.

    >>> [(each.storage_class, each.objects) for each in mixed("photos", 100, 5, {"STANDARD": 70, "GLACIER_IR": 30})]
    [('STANDARD', 70.0), ('GLACIER_IR', 30.0)]
    """
    whole = math.fsum(mix.values())
    return tuple(
        Stock(what=what, storage_class=name, objects=objects * share / whole, bytes_each=bytes_each)
        for name, share in mix.items()
        if share
    )


def estimate(usage: Usage, region: Region, prices: Prices) -> Estimate:
    """Compute what *usage* costs in a month in *region*; a storage class without a price there costs like STANDARD."""
    found = Estimate()
    unknown = ({each.storage_class for each in usage.stock} | {usage.put_class}) - set(region.classes)
    if unknown:
        region = replace(region, classes={**dict.fromkeys(unknown, region.classes["STANDARD"]), **region.classes})
        found.notes += [f"The storage class {name} has no price: computed as STANDARD." for name in sorted(unknown)]
    _storage(found, usage, region)
    _puts(found, usage, region)
    _reads(found, usage, region, prices)
    return found


def _storage(found: Estimate, usage: Usage, region: Region) -> None:
    kept: dict[str, float] = {}  # GB of a class so far: its steps are for all of them together
    standard_extra = 0.0
    for each in usage.stock:
        price = region.classes[each.storage_class]
        size, why = each.bytes_each, ""
        if size < price.minimum_bytes:
            size, why = price.minimum_bytes, f" (at least {amount_of_bytes(price.minimum_bytes)} each)"
        if price.overhead_bytes:
            size, why = size + price.overhead_bytes, f" (with {amount_of_bytes(price.overhead_bytes)} that S3 adds)"
        gigabytes = each.objects * size / GB
        standard_extra += each.objects * price.standard_bytes / GB
        head = f"{each.storage_class}: {count(each.objects)} {each.what} × {amount_of_bytes(size)}{why}"
        found.lines += _steps(STORAGE, head, gigabytes, price.storage, kept.get(each.storage_class, 0.0))
        kept[each.storage_class] = kept.get(each.storage_class, 0.0) + gigabytes
        if price.monitoring:
            usd = each.objects / 1000 * price.monitoring
            text = (
                f"{each.storage_class}: {count(each.objects)} {each.what} watched × {money(price.monitoring)} per 1,000"
            )
            found.lines.append(Line(STORAGE, f"{text} = {cents(usd)}", usd))
    if standard_extra:
        price = region.classes["STANDARD"]
        head = "STANDARD: names of objects in the archive classes"
        found.lines += _steps(STORAGE, head, standard_extra, price.storage, kept.get("STANDARD", 0.0))


def _puts(found: Estimate, usage: Usage, region: Region) -> None:
    puts = usage.new_photos * usage.puts_per_photo
    price = region.classes[usage.put_class].put
    more = "" if usage.puts_per_photo == 1 else f" × {usage.puts_per_photo:.3g} objects"
    head = f"PUT: {count(usage.new_photos)} new photos{more}"
    found.lines += _steps(REQUESTS, head, puts, price, unit="requests", per=1000)


def _reads(found: Estimate, usage: Usage, region: Region, prices: Prices) -> None:
    """Views of photos: GET, retrieval and transfer of S3 alone, and of CloudFront with S3 behind it."""
    views = out = 0.0
    missing = 1 - usage.hit_rate
    for each in usage.stock:
        if each.what != "photos" or not each.objects or not usage.views:
            continue
        price = region.classes[each.storage_class]
        if not price.instant:
            why = "can't be shown before they are restored: their views are not counted"
            found.notes.append(f"The photos in {each.storage_class} {why}.")
            continue
        here = each.objects * usage.views
        views += here
        out += here * each.bytes_each / GB
        viewed = f"{count(usage.views)} {'view' if usage.views == 1 else 'views'}"
        asked = f"{each.storage_class}: {count(each.objects)} photos × {viewed}"
        missed = f"{asked} × {missing * 100:.3g} % not in a cache"
        for section, head, share in ((TRANSFER, asked, 1.0), (CLOUDFRONT, missed, missing)):
            found.lines += _steps(section, f"GET, {head}", here * share, price.get, unit="requests", per=1000)
            if any(step.usd for step in price.retrieval.steps):
                gigabytes = here * share * each.bytes_each / GB
                head = f"retrieval, {head} × {amount_of_bytes(each.bytes_each)}"  # noqa: PLW2901 - the GET's and more
                found.lines += _steps(section, head, gigabytes, price.retrieval)
    found.lines += _steps(TRANSFER, "from S3 to the internet", out, region.transfer)
    asked = "requests to CloudFront"
    found.lines += _steps(CLOUDFRONT, asked, views, prices.cloudfront_requests, unit="requests", per=10_000)
    found.lines += _steps(CLOUDFRONT, "from CloudFront to the internet", out, prices.cloudfront_transfer)


def _steps(
    section: str, head: str, amount: float, price: Price, before: float = 0.0, *, unit: str = "GB", per: int = 1
) -> list[Line]:
    """Give a line for each price that *amount* meets, when *before* is used up already."""
    parts = _between(price, before, before + amount) or [(0.0, price.steps[0].usd)]
    lines = []
    for number, (part, each) in enumerate(parts):
        usd = part / per * each
        shown = f"{head} = {count(amount)} {unit}" if number == 0 else head
        if len(parts) > 1:
            shown += f", {'then' if number else 'first'} {count(part)} {unit}"
        rate = f"{money(each)}{f' per {per:,}' if per > 1 else ''}" if each else "nothing"
        lines.append(Line(section, f"{shown} × {rate} = {cents(usd)}", usd))
    return lines


def _between(price: Price, begin: float, end: float) -> list[tuple[float, float]]:
    used = math.fsum(part for part, _ in price.parts(begin))
    found = []
    for part, usd in price.parts(end):
        rest = part - used
        used = max(0.0, -rest)
        if rest > 0:
            found.append((rest, usd))
    return found


# --- how numbers are written ------------------------------------------------------------------------------------


def money(usd: float) -> str:
    """Write a price in US dollars, with all its digits.

    >>> money(1234.5), money(0.023), money(0.00099), money(0), money(0.0004), money(0.0125)
    ('$1,234.50', '$0.023', '$0.00099', '$0.00', '$0.0004', '$0.0125')
    """
    whole, _, digits = f"{usd:,.10f}".rstrip("0").partition(".")
    return f"${whole}.{digits.ljust(2, '0')}"


def cents(usd: float) -> str:
    """Write a sum in US dollars: to the cent, and what is less than one with two digits that count.

    >>> cents(1234.5), cents(0.653), cents(0.0528), cents(0.00031), cents(0)
    ('$1,234.50', '$0.65', '$0.05', '$0.00031', '$0.00')
    """
    if usd == 0 or usd >= 0.01:
        return f"${usd:,.2f}"
    return f"${usd:.{1 - math.floor(math.log10(usd))}f}"


def count(number: float) -> str:
    """Write how many there are.

    >>> count(132000), count(28.38), count(2.4), count(0.25), count(1.0000001), count(0.0000031)
    ('132,000', '28.4', '2.4', '0.25', '1', '0.0000031')
    """
    if number >= 1000 or number == int(number):
        return f"{number:,.0f}"
    if number >= 10:
        return f"{number:.1f}"
    return f"{number:.{2 - math.floor(math.log10(number))}f}".rstrip("0").rstrip(".")


def amount_of_bytes(size: float) -> str:
    """Write the size of an object.

    >>> amount_of_bytes(215_000), amount_of_bytes(900), amount_of_bytes(1_500_000)
    ('215 kB', '900 B', '1.5 MB')
    """
    for unit, factor in (("MB", 1_000_000), ("kB", 1000)):
        if size >= factor:
            return f"{size / factor:,.4g} {unit}"
    return f"{size:,.0f} B"
