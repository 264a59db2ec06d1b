"""What an audit finds, and how it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from carscraper.db.inventory import Comparison

SAME, MISSING, ORPHAN, DIFFERS, WRONG = "=", "+", "-", "*", "!"
"""rclone check's marks: the database is the source, the bucket the destination."""

WORDS = {
    "missing": "the object is not there",
    "no-thumbnail": "the thumbnail is not there",
    "no-output": "the output of a run is not there",
    "orphan": "no row names it",
    "stranger": "a picture that no row names, under a name that is none of ours",
    "orphan-thumbnail": "its photo is not there and no row names it",
    "size": "another size than the row says",
    "checksum": "another SHA-256 than the row says",
    "no-key": "the row is stored and names no object",
    "no-store": "the row is stored and names no store",
    "no-sha256": "the row is stored and has no SHA-256",
    "no-url": "the row is stored and has no address",
    "temporary-url": "car_images.url is a temporary address",
    "other-url": "car_images.url is the address of another object",
    "temporary-cover": "car_listings.image_url is a temporary address though photos of the car are stored",
    "unreadable": "the object can't be read",
}
"""What each reason means."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One fault, or one key that is as it should be."""

    mark: str
    key: str
    """The object's name; for what names none, ``car_images/id`` or ``source/external id``."""
    reason: str = ""
    """One of :data:`WORDS`."""
    detail: str = ""
    rows: list[int] = field(default_factory=list)
    """Ids in ``car_images``."""
    listing_id: int | None = None
    """Id in ``car_listings``."""
    photo: str | None = None
    """The key that the rows have; of a thumbnail, its photo's."""
    shows: str | None = None
    """The address that is wrong."""
    modified: float | None = None
    """When the object was last written, in seconds since 1970."""
    thumbnails: list[str] = field(default_factory=list)
    """Objects that go with it."""

    def line(self) -> str:
        """Return it as rclone would, and what is the matter where the mark does not say it all."""
        if self.mark not in {DIFFERS, WRONG}:
            return f"{self.mark} {self.key}"
        return f"{self.mark} {self.key} ({WORDS[self.reason]}{f': {self.detail}' if self.detail else ''})"

    def as_json(self) -> dict[str, Any]:
        """Return it for a machine."""
        found: dict[str, Any] = {"mark": self.mark, "key": self.key}
        for name, value in (("reason", self.reason), ("detail", self.detail), ("rows", self.rows)):
            found |= {name: value} if value else {}
        return found | ({"listing": self.listing_id} if self.listing_id else {})


def kept(comparison: Comparison, *reasons: str) -> Iterator[Finding]:
    """Return the findings of an audit for these reasons."""
    return (Finding(**found) for found in comparison.findings(*reasons))
