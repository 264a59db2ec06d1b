"""Which cars are work, and what a run would do about them."""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from carscraper.backfill.naming import Naming
from carscraper.db import work
from carscraper.db.cars import close_second_rows
from carscraper.db.rules import ARCHIVE
from carscraper.exceptions import ConfigurationError
from carscraper.storage.keys import key_of, published_bases
from carscraper.vehicles import slug

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from scrapy.settings import BaseSettings

    from carscraper.backfill.options import Options
    from carscraper.base_spiders.dealer import DealerSpider
    from carscraper.db.ledger import Ledger
    from carscraper.db.work import ListedCar, Names, OldRow

logger = logging.getLogger(__name__)

TYPICAL_PHOTOS = 20
"""Of a car that was never looked at, until the ledger knows better."""
DONE, KNOWN, WORK, LEFT = "done", "known", "not-reached", "limit"
SECOND_ROW, NO_CAR, NO_ADDRESS, NO_PAGE, REFUSED = "second-row", "no-car", "no-address", "no-page", "refused"
MAYBE_GONE, GONE, SOME_PHOTOS = "maybe-gone", "car-gone", "photos"
OTHER_SOURCE, OTHER_KIND, NOT_FOR_SALE = "other-source", "other-kind", "not-for-sale"
FATES = {
    DONE: "done",
    KNOWN: "known before",
    SECOND_ROW: "second rows of a car",
    GONE: "of gone cars",
    MAYBE_GONE: "of cars that are gone by their page, which is not believed",
    NO_CAR: "that name no car",
    NO_ADDRESS: "without a page and an address that could be asked",
    NO_PAGE: "whose page is unreadable or missing",
    SOME_PHOTOS: "with photos that are not kept",
    REFUSED: "refused by the database",
    LEFT: "left by the limit",
    WORK: "not reached",
    OTHER_SOURCE: "of other sources",
    OTHER_KIND: "left by only",
    NOT_FOR_SALE: "of cars that are not for sale",
}
"""What becomes of a row of ``car_listings``."""
PLANNED = ("cars", "pages", "photos", "uploads", "reads")
"""What a plan counts: cars, pages and photos asked of the dealer, uploads to the store and reads of it."""


class Worklist:
    """Sorts the ledger's cars into work and no work."""

    def __init__(
        self, ledger: Ledger, options: Options, dealers: Mapping[str, DealerSpider], settings: BaseSettings
    ) -> None:
        """Take the ledger (a rehearsal's is only read), the arguments, the dealers by source, and the settings."""
        self._ledger = ledger
        self._options = options
        self._dealers = dealers
        self.s3 = settings.getbool("USE_S3_STORAGE")
        """Whether photos go to S3, so that those in the folder are to be moved."""
        self._naming = Naming(dealers)
        self.names: dict[int, tuple[str, str]] = {}
        """Source and id that rows without one have been given; a rehearsal does not write them."""
        self.fates: dict[int, str] = {}
        """Of each row that was looked at what became of it, one of :data:`FATES`."""
        self.sources: list[str] | None = None
        """Those that are asked for, as they are spelt; ``None``: all."""
        self.second: dict[int, int] = {}
        """Rows of a car that another row stands for, which they name."""
        self._left_alone = 0
        self._nameless: list[OldRow] = []
        """Rows that are no work in themselves: second rows of a car, and those that name none."""
        self._keeps = self.s3 or bool(settings.get("IMAGES_STORE"))
        bucket, endpoint = settings.get("AWS_S3_BUCKET"), None
        if bucket:
            from carscraper.storage.client import Server  # noqa: PLC0415 - botocore is for those who use S3

            endpoint = Server.from_settings(settings).endpoint
        self._bases = published_bases(
            bucket=bucket,
            endpoint=endpoint,
            public_url=settings.get("IMAGES_PUBLIC_URL"),
        )

    def check_store(self) -> None:
        """See that there is a store for what is asked.

        Raises:
            ConfigurationError: there is none.
        """
        if not self._keeps:
            raise ConfigurationError("Photos are kept nowhere: set USE_S3_STORAGE=true, or IMAGES_STORE to a folder.")
        if self._options.only == "local" and not self.s3:
            raise ConfigurationError("only=local moves photos from the folder to S3: set USE_S3_STORAGE=true.")

    def object_name(self, url: str | None) -> str | None:
        """Return the name in the bucket that a permanent URL points at, ``None`` if *url* is no permanent one."""
        return key_of(url, self._bases) if url else None

    async def queues(self) -> dict[str, deque[ListedCar]]:
        """List for each source the cars that are work, the soonest to be lost first.

        Raises:
            ConfigurationError: there is no such source as is asked for.
        """
        options, read = self._options, self._ledger.read
        counted = await read(work.sources)
        wanted = self._wanted(counted)
        self.sources = None if wanted is None else sorted(wanted)
        old = {row.row_id: row for row in await read(work.old_rows, [*self._dealers, ARCHIVE])}
        cars = self._naming.cars(old.values())
        names = await self._name(old, cars, wanted)
        self.names, self.second = names.given, names.second
        # Of two rows the one that stands for the car may be the one that somebody took for sold.
        also = {holder for row_id, holder in names.second.items() if old[row_id].is_active}
        rows = await read(
            work.listed_cars, options.include_inactive, self._ledger.retry, also, archive=ARCHIVE in (wanted or ())
        )
        queues: dict[str, deque[ListedCar]] = {}
        for row in rows:
            source = cars[row.row_id][0] if row.row_id in cars else self._naming.source(row.source)
            if source is not None and wanted is not None and source not in wanted:
                fate = OTHER_SOURCE
            elif row.row_id in names.second:
                fate = SECOND_ROW
            elif source is None or (row.row_id in old and row.row_id not in cars):
                fate = NO_CAR
            else:
                fate = self._fate(row)
            self.fates[row.row_id] = fate
            if fate == WORK:
                queues.setdefault(source or "", deque()).append(replace(row, source=source))
            elif fate in {SECOND_ROW, NO_CAR} and row.row_id in old:
                self._nameless.append(old[row.row_id])
        archived = counted.get(ARCHIVE, 0) - sum(row.source == ARCHIVE for row in rows)
        self._left_alone = sum(counted.values()) - len(rows) - archived
        return queues

    def _fate(self, row: ListedCar) -> str:
        kinds = self.kinds(row)
        if not kinds:
            return KNOWN
        return WORK if self._options.only in {None, *kinds} else OTHER_KIND

    def stored_after_all(self, row_id: int | None) -> None:
        """Note of a car that the photos for which it waited are stored."""
        if row_id is not None and self.fates.get(row_id) == SOME_PHOTOS:
            self.fates[row_id] = DONE

    def outcome(self) -> Counter[str]:
        """Count the rows by what became of them; together they are all there are."""
        return Counter(self.fates.values()) + Counter({NOT_FOR_SALE: self._left_alone})

    def summary(self) -> str:
        """Return that in words."""
        rows = self.outcome()
        words = FATES | ({WORK: "to do"} if self._options.dry_run else {})
        parts = [f"{rows[fate]:,} {said}" for fate, said in words.items() if rows[fate]]
        return f"{rows.total():,} rows: {', '.join(parts)}." if parts else ""

    def left(self, told: AbstractSet[int], cars: Mapping[tuple[str, str], int]) -> Iterator[tuple[Any, ...]]:
        """Return what the report says of rows that are not done: source, id, addresses, why, and the row's id.

        Args:
            told: rows that it names already.
            cars: the rows whose turn has come.
        """
        named = {row: car for car, row in cars.items()}
        nameless = {row.row_id: row for row in self._nameless}
        for row_id, fate in self.fates.items():
            if fate not in {DONE, KNOWN, OTHER_SOURCE, OTHER_KIND} and row_id not in told:
                row = nameless.get(row_id)
                source, external_id = (row.source, row.external_id) if row else named.get(row_id, (None, None))
                url, image_url = (row.url, row.image_url) if row else (None, None)
                yield source, external_id, url, None, image_url, None, fate, row_id

    def _wanted(self, there: Mapping[str | None, int]) -> AbstractSet[str] | None:
        """Return the sources that are asked for, as they are spelt; ``None``: all."""
        if self._options.sources is None:
            return None
        known: dict[str, set[str]] = {}
        for written in (*self._dealers, ARCHIVE, *there):
            if source := self._naming.source(written):
                known.setdefault(slug(source), set()).add(source)
        for dealer in self._dealers.values():
            known.setdefault(slug(dealer.name), set()).add(dealer.source)
        for word in self._options.sources:
            if slug(word) not in known:
                names = sorted({name for spellings in known.values() for name in spellings})
                raise ConfigurationError(f"sources names {word!r}; there are {', '.join(names)}.")
        return set().union(*(known[slug(word)] for word in self._options.sources))

    def kinds(self, row: ListedCar) -> set[str]:
        """Say why a row is work, in the words of ``only``; an empty set says that it is none."""
        kinds = set()
        if row.in_folder and self.s3:
            kinds.add("local")
        if row.due or (self._options.insists and row.unsettled):
            kinds.add("failed")
        if row.images == 0 or row.due:
            if not row.image_url:
                kinds.add("missing")
            elif self.object_name(row.image_url) is None:
                kinds.add("temporary")
            elif row.images == 0 and self.s3:
                kinds.add("missing")  # it points at an object that the ledger does not know
        return kinds

    async def _name(
        self, rows: Mapping[int, OldRow], cars: Mapping[int, tuple[str, str]], wanted: AbstractSet[str] | None
    ) -> Names:
        """Write which *cars* the rows of older programs are of; those of sources that are not asked for stay."""
        new = {
            row_id: car
            for row_id, car in cars.items()
            if car != (rows[row_id].source, rows[row_id].external_id) and (wanted is None or car[0] in wanted)
        }
        # A ledger that is only read tells which would get one.
        if self._options.rehearses:
            names = await self._ledger.read(work.free_names, new)
        else:
            names = await self._ledger.write(work.give_names, new)
            await self._ledger.write(close_second_rows, names.second)
        if unknown := len(rows) - len(cars) + len(new):
            logger.info(
                "%d rows did not name their car: for %d it is known now, %d are second rows of a car, %d name none",
                *(unknown, len(names.given), len(names.second), len(rows) - len(cars)),
            )
        return names

    async def rehearse(self) -> dict[str, dict[str, int]]:
        """Say for each source what a run would do: the numbers of :data:`PLANNED`."""
        typical = round((await self._ledger.read(work.sizes)).photos_per_car) or TYPICAL_PHOTOS
        limit = self._options.limit
        plans: dict[str, dict[str, int]] = {}
        for source, rows in (await self.queues()).items():
            plan = plans[source] = dict.fromkeys(PLANNED, 0)
            for row in rows:
                if limit and plan["uploads"] + plan["reads"] >= limit:
                    break
                self._plan_row(plan, row, typical)
            if limit:
                plan |= {name: min(plan[name], limit) for name in ("photos", "uploads", "reads")}
        return plans

    def _plan_row(self, plan: dict[str, int], row: ListedCar, typical: int) -> None:
        only = self._options.only
        plan["cars"] += 1
        if row.in_folder and self.s3 and only in {None, "local"}:
            plan["uploads"] += row.in_folder
        if only == "local":
            return
        if not row.images and self.object_name(row.image_url) is not None:
            plan["reads"] += 1
            return
        photos = (row.unsettled if self._options.insists else row.due) if row.images else typical
        if photos:
            plan["pages"] += row.source in self._dealers
            plan["photos"] += photos
            plan["uploads"] += photos
