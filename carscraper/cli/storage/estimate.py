"""Not written yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carscraper.cli.verb import Verb

VERBS: list[Verb] = []
