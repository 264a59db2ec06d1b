"""Cars that the database can't take just now wait in a file, one JSON object a line."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
from dataclasses import asdict, fields
from datetime import date, datetime
from pathlib import Path
from typing import Any

from carscraper.exceptions import ConfigurationError
from carscraper.items import CarImage, CarItem, GoneCar

logger = logging.getLogger(__name__)


class CarSpool:
    """One file for each process; :meth:`waiting` finds those of all."""

    def __init__(self, folder: Path) -> None:
        """Take the folder ``SPOOL_DIR``; it is made when it is needed."""
        self._folder = folder
        self._lock = threading.Lock()  # a database that goes away sends many cars at once
        self._path = folder / f"cars-{os.getpid()}-{datetime.now().timestamp():.0f}.jsonl"  # noqa: DTZ005 - a name only

    def try_out(self) -> None:
        """Write, sync and remove a file: the safety net is tried before it is needed.

        Raises:
            ConfigurationError: the folder can't be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(prefix=".tried-", dir=self._folder) as file:
                file.write(b"tried")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigurationError(
                f"The spool SPOOL_DIR={self._folder} can't be written ({error.strerror}), and cars would be lost while "
                "the database is away; choose another folder or make it writable."
            ) from error

    def add(self, item: CarItem | GoneCar) -> None:
        """Append *item*; on return it is on the disk.

        Raises:
            OSError: the disk is full or not writable.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            # A line that a full disk cut short must not take this one with it.
            file.write("\n" + dump(item) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def waiting(self) -> list[Path]:
        """List the files that wait, oldest first."""
        return sorted(self._folder.glob("cars-*.jsonl")) if self._folder.is_dir() else []

    def claim(self, path: Path) -> Path | None:
        """Make *path* this process's own, so that nobody adds to what is about to be read and removed.

        Returns:
            Its new name; ``None`` if another process was faster.
        """
        mine = path.with_name(f"cars-{os.getpid()}-claimed-{path.name.removeprefix('cars-')[-100:]}")
        try:
            return path.rename(mine)
        except FileNotFoundError:
            return None

    @staticmethod
    def read(path: Path) -> list[CarItem | GoneCar]:
        """Read a file; a last line that a crash cut short is left out."""
        items = []
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            if not line:
                continue
            try:
                items.append(load(line))
            except (ValueError, TypeError, KeyError):
                logger.warning("Spool: a line of %s can't be read; skipped", path)
        return items


def dump(item: CarItem | GoneCar) -> str:
    """Return *item* as one line of JSON."""
    values = asdict(item)
    values.pop("listing_id", None)  # all of the car is written again
    for image in values.get("images", ()):
        del image["seen_at"]  # by a clock that ends with this process
    return json.dumps({"type": type(item).__name__, **values}, default=lambda value: value.isoformat())


def load(line: str) -> CarItem | GoneCar:
    """Read what :func:`dump` wrote.

    Raises:
        ValueError, TypeError, KeyError: it is something else.
    """
    values: dict[str, Any] = dict(json.loads(line))
    if values.pop("type") == "GoneCar":
        return GoneCar(**values)
    values["images"] = [CarImage(**_of(CarImage, image)) for image in values["images"]]
    if values.get("source_updated_at"):
        values["source_updated_at"] = date.fromisoformat(values["source_updated_at"])
    if values.get("details_at"):
        values["details_at"] = datetime.fromisoformat(values["details_at"])
    return CarItem(**_of(CarItem, values))


def _of(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what an earlier version wrote and *kind* has no more."""
    return {field.name: values[field.name] for field in fields(kind) if field.name in values}
