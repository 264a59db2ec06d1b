"""Objects under our key scheme that the ledger does not know."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from carscraper.db import inventory
from carscraper.storage.keys import parse_key
from carscraper.storage.listing import listed
from carscraper.upkeep.entry import THREADS, UNKNOWN_CAR, Outcome, enter_objects, in_groups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from carscraper.storage.client import S3Options
    from carscraper.upkeep.entry import Cars, Entering, PhotoRules

_GROUP = 1_000  # names looked up together: one page of the list


class Discovery:
    """One walk through the bucket's list; an object is read only if it may be entered."""

    def __init__(
        self, client: Any, engine: Engine, options: S3Options, *, cars: Cars, entering: Entering, rules: PhotoRules
    ) -> None:
        """Take what there is to work with."""
        self.counts: Counter[str] = Counter()
        """``objects`` listed, ``known`` to the ledger, ``foreign`` to our key scheme."""
        self._client = client
        self._engine = engine
        self._options = options
        self._cars = cars
        self._entering = entering
        self._rules = rules

    def run(self, below: str, *, limit: int | None, dry_run: bool) -> Iterator[Outcome]:
        """Give what became of each object below the name *below* that the ledger does not know.

        Args:
            below: what the names begin with, ``S3_PREFIX`` included.
            limit: so many objects are read at most.
            dry_run: nothing is written.

        Raises:
            StoreRefusedError: no right to list or read.
            StoreUnavailableError: the server is away or busy.
        """
        left = limit
        with ThreadPoolExecutor(THREADS, thread_name_prefix="discover") as pool:
            for group in in_groups(listed(self._client, self._options.bucket, below), _GROUP):
                unknown = self._unknown([each.name for each in group])
                worth_reading = self._cars.may_be_known(unknown)
                for name in unknown:
                    if name not in worth_reading:
                        yield Outcome(name, UNKNOWN_CAR, self._car(name))
                names = [name for name in unknown if name in worth_reading][:left]
                yield from enter_objects(
                    self._client,
                    self._engine,
                    self._options.bucket,
                    names,
                    pool=pool,
                    cars=self._cars,
                    entering=self._entering,
                    rules=self._rules,
                    dry_run=dry_run,
                )
                if left is not None:
                    left -= len(names)
                    if not left:
                        return

    def _unknown(self, names: list[str]) -> list[str]:
        self.counts["objects"] += len(names)
        ours = [name for name in names if parse_key(name, self._options.prefix)]
        self.counts["foreign"] += len(names) - len(ours)
        with inventory.reading(self._engine) as connection:
            known = inventory.known_keys(connection, self._entering.location, ours)
        self.counts["known"] += len(known)
        return [name for name in ours if name not in known]

    def _car(self, name: str) -> str:
        whose = self._cars.whose(name)
        if whose:
            return f"{whose.source}/{whose.external_id}"
        parts = parse_key(name, self._options.prefix)
        return f"{parts.spider}/{parts.external_id}" if parts else ""
