"""The dealers: which there are, which are asked for, and the facts that other rooms need.

There is no list: each spider's class enters its own facts when it is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from scrapy.spiderloader import get_spider_loader

from carscraper.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scrapy.settings import BaseSettings

T = TypeVar("T")

_platforms: dict[str, str] = {}
_aggregators: set[str] = set()


def register(source: str, *, shared_ids: str, is_aggregator: bool) -> None:
    """Enter what the class of the spider of *source* says, see its attributes."""
    _platforms[source] = shared_ids
    (_aggregators.add if is_aggregator else _aggregators.discard)(source)


def siblings(source: str) -> frozenset[str]:
    """Return the sources, *source* among them, at which the same id is the same car; none if it shares its ids not."""
    platform = _platforms.get(source)
    return frozenset(each for each, its in _platforms.items() if platform and its == platform)


def is_aggregator(source: str) -> bool:
    """Return whether *source* shows the cars of other dealers, whose own sites say more of them."""
    return source in _aggregators


def spiders_of(settings: BaseSettings, kind: type[T]) -> dict[str, type[T]]:
    """Return the project's spiders that are of *kind*, by name."""
    loader = get_spider_loader(settings)
    loaded: dict[str, Any] = {name: loader.load(name) for name in sorted(loader.list())}
    return {name: each for name, each in loaded.items() if issubclass(each, kind)}


def choose(known: Mapping[str, str], wanted: str | None) -> list[str]:
    """Read ``--sources``: names of spiders, or the sources they stand for in the database; ``None`` means all.

    Args:
        known: the source of each spider.
        wanted: comma separated.

    Raises:
        ConfigurationError: one is unknown, or none is named.
    """
    if wanted is None:
        return list(known)
    by_name = {source.lower(): name for name, source in known.items()} | {name: name for name in known}
    asked = [each.strip().lower() for each in wanted.split(",") if each.strip()]
    unknown = [each for each in asked if each not in by_name]
    if unknown or not asked:
        what = f"--sources names {', '.join(unknown)}, which is no dealer here" if asked else "--sources names nobody"
        raise ConfigurationError(f"{what}; known are {', '.join(known)}.")
    return list(dict.fromkeys(by_name[each] for each in asked))


def distribute(arguments: Iterable[tuple[str, str]], known: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return each dealer's spider its arguments: those of all, and its own (``hekla.base_url``), which win.

    Raises:
        ConfigurationError: one is for an unknown dealer, or can't be the same for all.
    """
    of_all: dict[str, str] = {}
    own: dict[str, dict[str, str]] = {name: {} for name in known}
    for name, value in arguments:
        dealer, dot, argument = name.rpartition(".")
        if not dot:
            of_all[name] = value
        elif dealer in own:
            own[dealer][argument] = value
        else:
            raise ConfigurationError(f"-a {name} is for {dealer}, which is no dealer here; known are {', '.join(own)}.")
    if "base_url" in of_all:
        raise ConfigurationError("base_url is the address of one site: write -a NAME.base_url=… for each dealer.")
    return {name: of_all | its for name, its in own.items()}
