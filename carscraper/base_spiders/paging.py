"""How the result pages of a list follow each other: which is next, whether one came whole, what its pager says.

Nothing here knows a dealer. What never changes on a site is the address of its pages: the same page and the same
search, ``page`` one higher. Words, icons and classes of a pager change with every redesign, so they come after it.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

from form2request import form2request
from scrapy import Request

from carscraper import parsing
from carscraper.base_spiders.base import is_web_address
from carscraper.base_spiders.pages import join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parsel import Selector
    from scrapy.http import Response

    from carscraper.base_spiders.ways import Signs

_PAGE = "page"
_IN_PATH = re.compile(r"/(?:page|sida|s%c3%ad%c3%b0a)/([0-9]{1,6})/?$", re.IGNORECASE)
_NEXT = re.compile(r"(?:næsta|næsta síða|next|next page|áfram|[\u203a»→>⟩]+)", re.IGNORECASE)
_POSTBACK = re.compile(r"javascript:\s*(?:__doPostBack|WebForm_DoPostBack)", re.IGNORECASE)
_OF = re.compile(r"(?:síða|page)?\s*([0-9]{1,5})\s*(?:/|af|of)\s*([0-9]{1,5})", re.IGNORECASE)
FEW = 3
"""Cars that may be on two pages, or be counted and not shown, without a reason to doubt a list."""
PAGER = (
    "*[self::nav or contains(translate(@class, 'P', 'p'), 'pag') or contains(translate(@id, 'P', 'p'), 'pag')"
    " or contains(translate(@aria-label, 'P', 'p'), 'pag')]"
)


@dataclass(slots=True)
class Walk:
    """How far one list has been read."""

    url: str = ""  # of the last page that was read
    linked: bool = False  # a page led to the one that is asked for now; else its address is a guess
    # The cars.
    sizes: dict[int, int] = field(default_factory=dict)  # of each page that had a new one
    last: set[str] = field(default_factory=set)  # those of the last of these pages
    cars: int = 0  # different ones
    again: set[str] = field(default_factory=set)  # those of later pages that an earlier one had shown
    times: Counter[str] = field(default_factory=Counter)  # on how many pages each of these was, after its first
    shifted: int = 0  # of these, before the last new car: as many have come in before what had been read
    # The end.
    past: int = 0  # pages in a row that say that the list has ended
    echoed: bool = False  # a guess led to the cars of the page before
    barren: list[int] = field(default_factory=list)  # pages in a row without a new car, whatever else they say
    doubtful: set[int] = field(default_factory=set)  # such pages that were not past the end after all
    second_look: list[int] | None = None  # those still to be read once more after the end; None before it
    found: int = 0  # new cars there: as many as a page has explain one that showed only cars of others
    looked: set[str] = field(default_factory=set)  # the cars of the pages that were read once more
    twice: set[str] = field(default_factory=set)  # of these, those of two such pages
    looks_at_all: bool = False  # all pages are read once more
    after: str = ""  # what the first page after the last one shows
    # The ways on that pages show.
    latest: Response | None = None  # the last page with a new car
    signs: Signs | None = None  # what it says of pages after it, once it was asked
    by_ways: bool = False  # only the pages' own ways lead on, numbers in addresses lead nowhere
    # Pages that could not be read.
    lost: int = 0  # in all
    missing: int = 0  # in a row
    repeated: bool = False  # the page that is asked for now was asked for before
    restarted: int = 0  # the page at which the search was last begun afresh: never twice at the same one
    resume: int = 0  # where to go on after the first page of a search that was begun afresh

    def note(
        self, page: int, shown: set[str], new: set[str], *, shown_as: int | None = None, pages: int | None = None
    ) -> None:
        """Note what page number *page* says of the list's end; one that is not there has no cars.

        Args:
            page: its number.
            shown: the ids of its cars.
            new: those that no page before had.
            shown_as: its number by the address at which the site shows it.
            pages: how many there are, by its pager.
        """
        if self.second_look is not None or self.resume:
            return
        if page > 1 and page not in self.barren:
            self.times.update(shown - new)
        self.again |= shown - new if page > 1 else set()
        self.cars += len(new)
        said = int(pages == page)  # one voice among those that are needed: a pager may say 1 / 1 on every page
        if new or (shown and page == 1):
            self.sizes[page], self.last, self.shifted = len(shown), shown, self._moved()
            self.doubtful.update(self.barren)
            self.past, self.barren, self.after = said, [], ""
            return
        is_first = page not in self.barren
        self.barren.append(page)
        if pages is not None and page < pages:
            return  # whatever it repeats, it is not past the end
        repeats = 2 * len(shown & self.last) >= len(shown)
        self.after = self.after or (
            "has no car" if not shown else f"shows page {max(self.sizes)}" if repeats else "shows no new car"
        )
        moved = shown_as not in {None, page}  # the site has no such page and shows another one
        self.echoed |= bool(shown) and repeats and not self.linked and not self.past
        if is_first:  # asked for twice, a page is one voice all the same
            self.past += said + (not shown or repeats or (moved and not self.linked))

    def _moved(self) -> int:
        """Return how many cars came again, without those that most pages show, which are promoted."""
        most = max(2, len(self.sizes) // 2)
        return sum(self.times[car] < most for car in self.again)

    def look(self, shown: set[str], new: set[str]) -> None:
        """Note the cars of a page that was read once more."""
        self.found += len(new)
        self.twice |= shown & self.looked - self.again
        self.looked |= shown

    def is_unsettled(self) -> bool:
        """Return whether more cars came twice than the new ones at the front explain, a page's worth or more.

        Each car that came twice has been pushed on by one that came in before what had been read.
        """
        came_in = self.shifted if self.shifted >= max(self.sizes.values(), default=1) else 0
        return len(self.twice) > FEW or came_in - self.found > FEW

    def doubtful_pages(self) -> list[int]:
        """Return the pages that are to be read once more: what came in at the front meanwhile was on no page read."""
        first = self.shifted // max(self.sizes.values()) + 1 if self.shifted else 0
        return sorted(self.doubtful | set(range(1, first + 1)))

    def needed(self) -> int:
        """Return how many pages must say that the list has ended.

        The last page of a list is seldom full, and what comes in at the front never makes the next page repeat such a
        one. After a full page the next may repeat it for that reason, or be empty by an accident of the site.
        """
        sizes = [*self.sizes.values()]
        return 2 if len(sizes) == 1 or sizes[-1:] == [max(sizes, default=0)] else 1

    def short_pages(self, *, first_counts: bool) -> list[int]:
        """Return the pages in the middle of the list that showed far fewer cars than others.

        Args:
            first_counts: whether the first page has as many cars as the others.

        >>> Walk(sizes={1: 48, 2: 24, 3: 14}).short_pages(first_counts=True)
        [2]
        >>> Walk(sizes={1: 24, 2: 12, 3: 12, 4: 3}).short_pages(first_counts=False)
        []
        """
        numbers = list(self.sizes)[0 if first_counts else 1 :]
        full = max((self.sizes[number] for number in numbers), default=0)
        return [number for number in numbers[:-1] if self.sizes[number] * 4 <= full * 3]


@dataclass(frozen=True, slots=True)
class Place:
    """What an address of a result page says, whatever its spelling."""

    path: str
    search: frozenset[tuple[str, str]]
    """All parameters but the page's number."""
    number: int | None

    def is_list_of(self, other: Place) -> bool:
        """Return whether both are pages of the same list."""
        return (self.path, self.search) == (other.path, other.search)


def place_of(url: str) -> Place:
    """Return what the address *url* says.

    >>> one = place_of("https://x.is/SearchResults.aspx?page=2&id=AB-1")
    >>> other = place_of("/searchresults.aspx?id=ab-1&amp;page=3")
    >>> one.is_list_of(other), one.number, other.number
    (True, 2, 3)
    >>> place_of("/soluskra/").is_list_of(place_of("/soluskra/page/2/")), place_of("/a?id=1").is_list_of(place_of("/a"))
    (True, False)
    """
    parameters = {name: value.lower() for name, value in parameters_of(url).items()}
    number, path = parameters.pop(_PAGE, ""), re.sub("/{2,}", "/", html.unescape(urlsplit(url).path))
    if found := _IN_PATH.search(path):
        number, path = found[1], path[: found.start()]
    read = int(number) if re.fullmatch("[0-9]{1,6}", number) else None
    return Place(path.lower().rstrip("/"), frozenset(parameters.items()), read)


def parameters_of(url: str) -> dict[str, str]:
    """Return the query of *url* by lower-case name; of several values the first."""
    found: dict[str, str] = {}
    for name, value in parse_qsl(html.unescape(urlsplit(url).query), keep_blank_values=True, errors="replace"):
        found.setdefault(name.lower().removeprefix("amp;"), value.strip())
    return found


def asked_for(request: Request) -> str:
    """Return the address that was asked for, before the site led elsewhere."""
    addresses: list[str] = request.meta.get("redirect_urls") or [request.url]
    return addresses[0]


def numbered(url: str, number: int) -> str:
    """Return the address of page *number* of the list that *url* is a page of.

    >>> numbered("https://x.is/is?brand=4&page=1", 2), numbered("https://x.is/soluskra/", 2)
    ('https://x.is/is?brand=4&page=2', 'https://x.is/soluskra/?page=2')
    >>> numbered("https://x.is/soluskra/page/2/", 3)
    'https://x.is/soluskra/page/3/'
    """
    parts = urlsplit(url)
    if found := _IN_PATH.search(parts.path):
        path = f"{parts.path[: found.start(1)]}{number}{parts.path[found.end(1) :]}"
        return parts._replace(path=path, fragment="").geturl()
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    name = next((name for name in query if name.lower() == _PAGE), _PAGE)
    return parts._replace(query=urlencode(query | {name: str(number)}), fragment="").geturl()


def find_next(response: Response, page: int, own: str, is_page: Callable[[str], bool]) -> tuple[Request | None, bool]:
    """Find what leads from result page number *page* to the next one.

    Args:
        response: the page.
        page: its number.
        own: the dealer's own selector of the link, or of something inside it; may be empty.
        is_page: whether an address may be a page of the dealer's site that is no car's.

    Returns:
        The request, and whether the page leads on; it may do so by a script, without an address.
    """
    here = place_of(response.url)
    links = [(link, join(response, link.attrib["href"])) for link in response.css("a[href], link[rel~='next'][href]")]
    of_list = [(link, url, place_of(url)) for link, url in links if is_page(url) and place_of(url).is_list_of(here)]
    # Some sites count their pages from 0: what says that it is the next page is asked before a number is.
    said = [url for link, url, place in of_list if place.number == (here.number or 0) + 1 and says_next(link)]
    if found := next((url for url in (*said, *(url for _, url, place in of_list if place.number == page + 1))), None):
        return Request(found), True

    def leads(url: str, *, anywhere: bool = False) -> bool:
        there = place_of(url)
        near = anywhere or there.path.startswith(here.path) or here.path.startswith(there.path)
        return (
            is_page(url)
            and near
            and there.number in {None, page + 1}
            and urlsplit(url)._replace(fragment="") != urlsplit(response.url)._replace(fragment="")
        )

    # :has() would need a paging cell to hold nothing else; the ancestor is what an arrow belongs to.
    hrefs = response.css(own).xpath("ancestor-or-self::a[@href][1]/@href").getall() if own else []
    signs = [(link, url) for link, url in links if says_next(link)]
    signs += [(link, url) for link, url in links if label_of(link) == str(page + 1)]
    own_links = [url for url in (join(response, href) for href in hrefs) if leads(url, anywhere=True)]
    if found := next((url for url in (*own_links, *(url for _, url in signs if leads(url)))), None):
        return Request(found), True
    for request in _buttons(response, page):
        if leads(request.url):
            return request, True
    return None, any(_POSTBACK.match(link.attrib["href"]) for link, _ in signs)


def _buttons(response: Response, page: int) -> Iterator[Request]:
    """Yield the request of each button that says that it leads to the next page."""
    for form in response.css("form"):
        for button in form.xpath(".//button | .//input[@type='submit' or @type='image']"):
            number = (button.attrib.get("name", "").lower(), button.attrib.get("value")) == (_PAGE, str(page + 1))
            if "disabled" in button.attrib or not (number or says_next(button) or label_of(button) == str(page + 1)):
                continue
            try:
                sent = form2request(form, click=button)
            except (ValueError, NotImplementedError):  # a form that no browser could send, or with a file
                continue
            if is_web_address(sent.url):
                yield Request(sent.url, method=sent.method, headers=sent.headers, body=sent.body)


def label_of(element: Selector) -> str:
    """Return the words of a link or a button."""
    text = parsing.clean_text(" ".join(element.css("::text").getall()))
    return text or element.attrib.get("value", "").strip()


def says_next(element: Selector) -> bool:
    """Return whether a link or a button says in one of the usual ways that it leads to the next page.

    >>> from parsel import Selector
    >>> links = Selector("<a rel='prev next'>x</a> <a aria-label=Next></a> <a>Næsta</a> <a class=next>x</a> <a>2</a>")
    >>> [says_next(link) for link in links.css("a")]
    [True, True, True, True, False]
    """
    attributes = element.attrib
    if "next" in attributes.get("rel", "").lower().split():
        return True
    words = (attributes.get("aria-label", ""), attributes.get("title", ""), label_of(element))
    if any(_NEXT.fullmatch(word.strip()) for word in words):
        return True
    classes = f"{attributes.get('class', '')} {element.xpath('string(parent::li/@class)').get('')}".lower().split()
    return bool({"next", "pagination__next", "pagination-next", "page-next"} & set(classes))


def pagers(response: Response, page: int) -> Iterator[tuple[Selector, int]]:
    """Yield the elements of a pager that say ``N / M`` of page number *page*, each with M."""
    for element in response.xpath(f"//{PAGER}/descendant-or-self::*[string-length(normalize-space()) < 24]"):
        found = _OF.fullmatch(parsing.clean_text(element.xpath("string()").get("")) or "")
        if found and int(found[1]) == page:
            yield element, int(found[2])
