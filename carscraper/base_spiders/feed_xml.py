"""XML of a feed, and its codes: what the numbers of fuel, colour and equipment mean, kept for a day in a file."""

from __future__ import annotations

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
