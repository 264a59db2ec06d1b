"""XML of a feed, and its codes: what the numbers of fuel, colour and equipment mean, kept for a day in a file."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lxml import etree  # type: ignore[import-untyped]

from carscraper import parsing

if TYPE_CHECKING:
    from pathlib import Path

_DAY = 24 * 3600.0

Codes = Mapping[str, Mapping[str, str]]
"""Names by group (``eldsneyti``) and id."""


@dataclass(frozen=True, slots=True)
class Vehicle:
    """A car of the feed: its fields by name, and the ids of its photos in their order."""

    fields: Mapping[str, str]
    photos: list[str]
    image_address: str
    """The feed's template of a photo's address."""

    def text(self, *names: str) -> str | None:
        """Return the first of the fields *names* that is not empty; ``EXT_…`` goes before the plain one."""
        for name in names:
            for each in (f"EXT_{name}", name):
                if text := parsing.clean_text(self.fields.get(each)):
                    return text
        return None


def read_xml(data: bytes) -> Any:
    """Parse XML from outside: no entities, no network, nothing huge.

    Raises:
        ValueError: it is no whole XML, or declares a DOCTYPE.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise ValueError(f"it is no whole XML ({(parsing.clean_text(error.msg) or 'empty')[:120]})") from None
    if root.getroottree().docinfo.doctype or root.getroottree().docinfo.internalDTD is not None:
        raise ValueError("it declares a DOCTYPE, which no feed needs")
    return root


@dataclass(frozen=True, slots=True)
class KeptCodes:
    """The codes of one feed, which are to be fetched once a day at most."""

    path: Path
    groups: Mapping[str, str]
    """The element of each group's codes."""

    def read(self) -> tuple[Codes, bool]:
        """Return the codes that were kept, and whether they are less than a day old."""
        try:
            age = time.time() - self.path.stat().st_mtime
            codes = self.parse(self.path.read_bytes())
        except (OSError, ValueError):  # none yet, or broken: fetched anew
            return {}, False
        return codes, 0 <= age < _DAY

    def write(self, data: bytes) -> None:
        """Keep *data*.

        Raises:
            OSError: the file can't be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_bytes(data)
        part.replace(self.path)

    def parse(self, data: bytes) -> Codes:
        """Return the codes in *data*.

        Raises:
            ValueError: there are none.
        """
        root = read_xml(data)
        codes = {
            group: {each.get("id", ""): each.get("n", "") for each in root.iterfind(f".//{group}/{element}")}
            for group, element in self.groups.items()
        }
        if not any(codes.values()):
            raise ValueError(f"it has none of {', '.join(self.groups)}")
        return codes


def number_of(text: str | None) -> int | None:
    """Read a whole number.

    >>> number_of("96"), number_of(" 4 "), number_of("many"), number_of(None)
    (96, 4, None, None)
    """
    return int(text) if re.fullmatch(r"\s*[0-9]{1,9}\s*", text or "", re.ASCII) and text else None


def place_of_photo(photo: Any) -> float:
    """Return where a photo stands among those of its car; without a number, last."""
    place = number_of(photo.get("so"))
    return float("inf") if place is None else place


def with_unit(text: str | None, unit: str) -> str | None:
    """Add the unit to a number that stands alone.

    >>> with_unit("2990", "þús. kr."), with_unit("45000 km", "km"), with_unit(None, "km")
    ('2990 þús. kr.', '45000 km', None)
    """
    return f"{text} {unit}" if text and re.fullmatch(r"[0-9.,]+", text) else text
