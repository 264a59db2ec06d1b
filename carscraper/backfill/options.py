"""The arguments of ``scrapy crawl backfill``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from carscraper.base_spiders.base import read_address, read_count, read_flag
from carscraper.db.rules import ARCHIVE
from carscraper.exceptions import ConfigurationError
from carscraper.manifest import STRIP_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

ONLY = ("missing", "temporary", "failed", "local")
"""Why a car can be work."""
DEFAULT_LIMIT = "100"


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What is asked for."""

    sources: list[str] | None
    """``None``: all."""
    limit: int | None
    """Photos for each source; ``None``: all."""
    only: str | None
    """One of :data:`ONLY`."""
    include_inactive: bool
    dry_run: bool
    sample: int | None
    """Photos that are tried and removed again."""
    manifest: Path | None
    strip_prefix: str
    thumbs: bool
    """What a manifest has at ``thumb_url``, too."""
    report: str | None
    """A CSV file for what failed."""
    base_url: str | None
    """Another address of the dealers' own sites."""

    @property
    def rehearses(self) -> bool:
        """Whether the database is only read."""
        return self.dry_run or bool(self.sample)

    @property
    def insists(self) -> bool:
        """Whether photos that were given up are wanted, too."""
        return self.only == "failed"

    @classmethod
    def read(cls, given: Mapping[str, str], dealers: Mapping[str, str]) -> Self:
        """Read the spider's arguments.

        Args:
            given: as they were written.
            dealers: the source of each dealer's spider, by the spider's name.

        Raises:
            ConfigurationError: one is unknown or wrong, or two exclude each other.
        """
        left = dict(given)
        if not given.get("manifest", "-").strip():  # the variable of a shell that is not set
            raise ConfigurationError("manifest is empty; write its value, or leave manifest out.")

        def take(name: str, default: str = "") -> str:
            return left.pop(name, default)

        manifest, sources, base_url = take("manifest"), take("sources"), take("base_url")
        options = cls(
            sources=_sources(sources, dealers),
            # A manifest names exactly what is wanted.
            limit=read_count("limit", take("limit", "" if manifest else DEFAULT_LIMIT)),
            only=_only(take("only")),
            include_inactive=read_flag("include_inactive", take("include_inactive", "false")),
            dry_run=read_flag("dry_run", take("dry_run", "false")),
            sample=read_count("sample", take("sample")),
            manifest=Path(manifest) if manifest else None,
            strip_prefix=take("strip_prefix", STRIP_PREFIX),
            thumbs=read_flag("thumbs", take("thumbs", "true")),
            report=take("report") or None,
            base_url=read_address("base_url", base_url) if base_url else None,
        )
        if "shard" in left:
            raise ConfigurationError("A backfill has no shards any more: leave shard out; sources=Hekla,BR is a part.")
        if left:
            raise ConfigurationError(
                f"The spider backfill has no argument {min(left)}; it takes sources, limit, only, include_inactive, "
                "dry_run, sample, manifest, strip_prefix, thumbs, report and base_url."
            )
        if "sample" in given and not options.sample:
            raise ConfigurationError(f"sample is {given['sample']!r}; write how many photos to try.")
        if not manifest and (about := {"strip_prefix", "thumbs"} & given.keys()):
            raise ConfigurationError(f"{min(about)} is about a manifest; name one with manifest=, or leave it out.")
        options._check()
        return options

    def _check(self) -> None:
        if self.dry_run and self.sample:
            raise ConfigurationError("dry_run and sample exclude each other: the one does nothing, the other tries.")
        if self.manifest and (self.sources or self.only):
            raise ConfigurationError("sources and only are about the dealers' cars; leave them out with a manifest.")


def _only(word: str) -> str | None:
    if word and word not in ONLY:
        raise ConfigurationError(f"only is {word!r}; write one of {', '.join(ONLY)}.")
    return word or None


def _sources(value: str, dealers: Mapping[str, str]) -> list[str] | None:
    """Return the sources that are named; the worklist knows those that have no spider."""
    names = {name.lower(): source for name, source in dealers.items()}
    names |= {source.lower(): source for source in (*dealers.values(), ARCHIVE)}
    words = filter(None, (part.strip() for part in value.split(",")))
    return [names.get(word.lower(), word) for word in words] or None
