"""Where a card begins and ends, on pages whose cards have no known class or lack an end tag."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from carscraper.base_spiders.pages import shows_price, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from parsel import Selector

    Cars = dict[Any, str | None]
    """The car's id by the element of a link to its page; ``None`` for a link that names no car."""

_FACT = re.compile(r"\b(?:19|20)[0-9]{2}\b|[0-9]\s?(?:þ\.?\s?)?km\b", re.IGNORECASE)
_STEPS_OUT = 3  # from a link to its card's outermost element, where no other car says how far the card goes


def guess_cards(
    links: list[Selector], cars: Cars, shows_photo: Callable[[Selector], bool]
) -> Iterator[tuple[Selector, str]]:
    """Yield for each car what is around a link to it and no other car, with the link's address.

    The smallest element with a photo and a price is the card; without such a one the largest that has a photo, a price
    or a fact. What has nothing of these is a mention in passing.
    """
    for link, other in pairwise(links):
        if cars[link.root] != cars[other.root]:
            _part_links(link.root, other.root)
    found: dict[str, tuple[Selector, str]] = {}
    around = {link.root: list(_alone(link, cars)) for link in links}
    for link in links:
        for element in around[link.root]:
            if shows_photo(element) and shows_price(text_of(element) or ""):
                found.setdefault(cars[link.root] or link.attrib["href"], (element, link.attrib["href"]))
                break
    for link in links:
        elements = around[link.root]
        if not set(cars.values()) - {cars[link.root], None}:
            elements = elements[: _STEPS_OUT + 1]  # alone on its page a car has all of it for itself
        text = text_of(elements[-1]) or "" if elements else ""
        if elements and (shows_photo(elements[-1]) or shows_price(text) or _FACT.search(text)):
            found.setdefault(cars[link.root] or link.attrib["href"], (elements[-1], link.attrib["href"]))
    yield from found.values()


def _alone(link: Selector, cars: Cars) -> Iterator[Selector]:
    """Yield the elements around *link* that hold no other car, from within."""
    own = {cars[link.root], None}
    for selector in reversed(link.xpath("ancestor-or-self::*")):
        if any(cars.get(each) not in own for each in selector.root.iter("a")):
            return
        yield selector


def part_cards(cards: list[Selector], cars: Cars) -> None:
    """Put cards beside each other: a parser nests them where the end of one is missing."""
    roots = [selector.root for selector in cards]
    for root in roots:
        outer = _inmost(root.getparent(), roots) if root.getparent() is not None else None
        if outer is None:
            continue
        links = [each for each in outer.iter("a") if each in cars]
        # One that links to nothing itself, around a single card that does, is no card but a frame.
        if any(_inmost(link, roots) is outer for link in links) or len({cars[link] for link in links}) > 1:
            _part(outer, root)


def _inmost(element: Any, cards: Container[Any]) -> Any:
    return next((each for each in (element, *element.iterancestors()) if each in cards), None)


def _part_links(link: Any, other: Any) -> None:
    """Take the card of the link *other* out of the one of the link before it, if the end of that is missing.

    Each element around *other* alone has its like (of the same name and class) around *link*. If the outermost likes
    stand beside each other, so do the cards; if one holds the other, its end is missing.
    """
    around = list(link.iterancestors())
    alone = [each for each in other.iterancestors() if each not in around]
    for inner in reversed(alone):
        kind = inner.tag, inner.get("class")
        like = next((each for each in around if inner.get("class") and (each.tag, each.get("class")) == kind), None)
        if like is not None:
            if like in inner.iterancestors():
                _part(like, inner)
            return


def _part(outer: Any, inner: Any) -> None:
    """Move the element *inner*, and all that follows it inside *outer*, behind *outer*."""
    moved = [inner]
    for each in (inner, *inner.iterancestors()):
        if each is outer:
            break
        moved += each.itersiblings()
    behind = outer
    for each in moved:
        behind.addnext(each)
        behind = each
