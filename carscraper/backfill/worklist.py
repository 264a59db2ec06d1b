"""Which cars are work, and what a run would do about them."""

from __future__ import annotations

import logging
import re
from collections import deque
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from carscraper.db import work
from carscraper.exceptions import ConfigurationError
from carscraper.storage.keys import key_of, published_bases

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from scrapy.settings import BaseSettings

    from carscraper.backfill.options import Options
    from carscraper.base_spiders.dealer import DealerSpider
    from carscraper.db.ledger import Ledger
    from carscraper.db.work import ListedCar

logger = logging.getLogger(__name__)

TYPICAL_PHOTOS = 20
"""Of a car that was never looked at, until the ledger knows better."""
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
        self.ids: dict[int, str] = {}
        """Of rows that named no car when the run began, the id of theirs; a rehearsal does not write it."""
        self._second_rows: AbstractSet[int] = frozenset()
        self.unnamed = 0
        """Rows of cars for sale that name no car: nobody can be asked for their photos."""
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
        """List for each source the cars that are work, the soonest to be lost first."""
        options = self._options
        queues: dict[str, deque[ListedCar]] = {}
        self.ids = await self._give_ids()
        rows = await self._ledger.read(work.listed_cars, options.sources, options.include_inactive, self._ledger.retry)
        self.unnamed = 0
        for row in rows:
            if not row.has_id and row.row_id not in self.ids:
                self.unnamed += row.is_active and row.row_id not in self._second_rows
                continue
            kinds = self.kinds(row)
            if options.only in kinds if options.only else kinds:
                queues.setdefault(row.source, deque()).append(row)
        return queues

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

    async def _give_ids(self) -> dict[int, str]:
        """Fill in the car's id of rows of the earlier scraper, from their address or their photo's."""
        rows = await self._ledger.read(work.without_id, self._options.sources)
        found = {row_id: car_id for row_id, *about in rows if (car_id := self._car_id(*about))}
        # A ledger that is only read tells which would get one.
        if self._options.rehearses:
            given = await self._ledger.read(work.free_ids, found)
        else:
            given = await self._ledger.write(work.give_ids, found)
        self._second_rows = found.keys() - given.keys()
        if rows:
            logger.info(
                "%d rows had no id of their car: for %d it is known now, %d are second rows of a car, %d name none",
                *(len(rows), len(given), len(found) - len(given), len(rows) - len(found)),
            )
        return given

    def _car_id(self, source: str, url: str, image_url: str) -> str | None:
        dealer = self._dealers.get(source)
        if dealer:
            return dealer.car_id(url) or dealer.car_of_image(image_url)
        # Of dealers without a spider: the last part of the path that holds a number, or the last such parameter.
        try:
            parts = urlsplit(url)
        except ValueError:
            return None
        parameters = [value for _, value in parse_qsl(parts.query)]
        numbered = [part for part in (*parameters, *parts.path.split("/")) if re.search(r"\d", part)]
        return numbered[-1] if numbered else None

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
