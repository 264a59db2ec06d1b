"""What is handed to a store."""

from __future__ import annotations

from dataclasses import dataclass, field

IMMUTABLE = "public, max-age=31536000, immutable"
"""``Cache-Control`` of a photo: its key follows from its bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """One object on its way to the store."""

    name: str
    """The object's name in the store, prefix included."""
    data: bytes
    content_type: str
    metadata: dict[str, str] = field(default_factory=dict)
    """``source``, ``external-id``, ``source-url``: kept with the object."""
    row: dict[str, str | int | None] | None = None
    """What the ledger's row becomes once the bytes are safe; ``None`` for thumbnails, which have no row."""
