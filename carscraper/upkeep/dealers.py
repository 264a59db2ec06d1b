"""The dealers: which there are, which are asked for, and where a field of theirs is read. Pure."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from scrapy.spiderloader import get_spider_loader

from carscraper.exceptions import ConfigurationError
from carscraper.fill import PAGE, PHOTO, PHOTOS, READABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scrapy.settings import BaseSettings

T = TypeVar("T")

_HOOKS = {
    "title": "get_make_model",
    "make": "get_make_model",
    "model": "get_make_model",
    "year": "get_year_month",
    "registration_month": "get_year_month",
    PHOTO: "card_images",
    PHOTOS: "card_images",
    READABLE: "car_in_address",
}
"""What reads a field, where it is not ``get_`` and its name."""


def spiders_of(settings: BaseSettings, kind: type[T]) -> dict[str, type[T]]:
    """Give the project's spiders that are of *kind*, by name."""
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

    >>> choose({"br": "BR", "hekla": "Hekla"}, " Hekla,br, hekla")
    ['hekla', 'br']
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
    """Give each dealer's spider its arguments: those of all, and its own (``hekla.base_url``), which win.

    Raises:
        ConfigurationError: one is for an unknown dealer, or can't be the same for all.

    >>> distribute([("limit", "3"), ("br.limit", "5")], ["br", "hekla"])
    {'br': {'limit': '5'}, 'hekla': {'limit': '3'}}
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


@dataclass(frozen=True, slots=True)
class Place:
    """Where a field is read."""

    hook: str
    """The method or attribute."""
    spider: str
    """The spider's class."""
    file: str
    """The file that has the hook, below the package."""
    selectors: dict[str, str]
    """Attributes with the selectors that the hook looks at."""

    def __str__(self) -> str:
        at = "".join(f", {name} = {value!r}" for name, value in self.selectors.items())
        return f"{self.hook} of {self.spider} in {self.file}{at}"


def where_read(spider: type, name: str) -> Place:
    """Tell where *spider* most likely reads the field *name* of ``carscraper.fill``."""
    hook = "parse_details" if name.startswith(PAGE) else _HOOKS.get(name, f"get_{name}")
    if name in {PAGE + PHOTO, PAGE + PHOTOS}:
        hook = "read_images"
    owner = _owner(spider, hook)
    card = _owner(spider, "read_card")
    if card and not name.startswith(PAGE) and (owner is None or issubclass(card, owner)) and card is not owner:
        hook, owner = "read_card", card  # it reads the whole card in a way of its own
    if owner is None:
        return Place("its code", spider.__name__, _file_of(spider), {})
    return Place(hook, spider.__name__, _file_of(owner), _selectors(spider, hook))


def _owner(spider: type, name: str) -> type | None:
    return next((each for each in spider.__mro__ if name in vars(each)), None)


def _selectors(spider: type, hook: str, depth: int = 2) -> dict[str, str]:
    value: Any = getattr(spider, hook)
    if isinstance(value, str):
        return {hook: value}
    found: dict[str, str] = {}
    code = getattr(value, "__code__", None)
    for name in code.co_names if code else ():
        used: Any = getattr(spider, name, None)
        if isinstance(used, str) and name not in {"name", "source", "home"}:
            found[name] = used
        elif callable(used) and depth and name.startswith("_"):
            found |= _selectors(spider, name, depth - 1)
    return found


def _file_of(owner: type) -> str:
    path = (sys.modules[owner.__module__].__file__ or owner.__module__).replace("\\", "/")
    return path.rpartition("/carscraper/")[2]
