"""What a result page says of cars after its own: ways on beside the number in its address, and what counts them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from form2request import form2request
from scrapy import Request

from carscraper import parsing
from carscraper.base_spiders.base import is_web_address
from carscraper.base_spiders.pages import join
from carscraper.base_spiders.paging import FEW, PAGER, label_of, place_of, says_next

if TYPE_CHECKING:
    from collections.abc import Callable

    from parsel import Selector
    from scrapy.http import Response

    from carscraper.base_spiders.paging import Place

_CALL = re.compile(
    r"javascript:\s*(?:__doPostBack\(|WebForm_DoPostBackWithOptions\(\s*new WebForm_PostBackOptions\()"
    r"""\s*(['"])(.*?)\1\s*,\s*(['"])(.*?)\3""",
    re.IGNORECASE,
)
_ARROW = re.compile(r"(?:chevron|angle|arrow|caret)-(?:double-)?right|(?:^|[\s-])next(?:$|\s)", re.IGNORECASE)
_MORE = re.compile(
    r"(?:(?:sjá|sýna|sækja|hlaða|skoða)\s+(?:inn\s+)?(?:fleiri|meira)|(?:load|show|see|view) more)"
    r"(?:\s+(?:bíla|ökutæki|niðurstöður|cars|results))?",
    re.IGNORECASE,
)
_CARS = r"(?:ökutæk\w+|bíl\w*|niðurst\w+|leitarniðurst\w+|cars|vehicles|results)"
_TOTAL = re.compile(
    rf"(?:fjöldi|fundust|fannst|samtals|alls|niðurstöður|found|total)\W*{_CARS}?\W*([0-9][0-9.]{{0,8}})(?:\s+{_CARS})?"
    rf"|([0-9][0-9.]{{0,8}})\s+{_CARS}\s+(?:fundust|fannst|found)",
    re.IGNORECASE,
)
_WAYS = 3  # of one page that are tried


@dataclass(slots=True)
class Signs:
    """What a result page says of cars after its own."""

    number: int
    """Its number."""
    ways: list[Request] = field(default_factory=list)
    """What may lead to the next page, beside the number in its address."""
    linked: int = 0
    """The highest number of a page after it that it links to."""
    is_last: bool = False
    """Whether its pager links to pages before it only."""
    pages: int = 0
    """How many there are, by ``N / M``."""
    total: int = 0
    """How many cars there are."""
    following: str = ""
    """The words of a link that says that it leads to the next page."""
    more: str = ""
    """The words of a button that shows more cars without leading to a page."""

    def more_than(self, cars: int, size: int, *, is_short: bool) -> str:
        """Return what says that there are more cars than were read, as a part of a sentence; nothing if nothing does.

        After a page that is less full than others only links count: words may be wrong.

        Args:
            cars: how many were read.
            size: how many are on the page.
            is_short: whether it has fewer than others.
        """
        if self.linked:
            return f"links to page {self.linked}"
        if self.following:
            return f"has a link {self.following!r}"
        if is_short:
            return ""
        if self.pages > self.number and not self.is_last:
            return f"says {self.number} / {self.pages}"
        if self.more:
            return f"has a button {self.more!r}"
        # A few of those that are counted may be sold or reserved, and not be shown.
        few = max(FEW, min(size - 1, self.total // 20))
        return f"says that there are {self.total} cars, of which {cars} were read" if self.total - cars > few else ""


def read_signs(
    response: Response, page: int, own: str, is_page: Callable[[str], bool], *, pages: int | None = None
) -> Signs:
    """Return what result page number *page* says of cars after its own.

    Args:
        response: the page.
        page: its number.
        own: the dealer's own selector of the link to the next page, or of something inside it; may be empty.
        is_page: whether an address may be a page of the dealer's site that is no car's.
        pages: how many there are by its pager.
    """
    signs = Signs(page, pages=pages or 0)
    here = place_of(response.url)
    ways: dict[str, list[Request]] = {"next": [], "number": [], "arrow": []}
    before = 0
    own_links = {each.root for each in response.css(own).xpath("ancestor-or-self::a[1]")} if own else set()
    for link in response.xpath(
        "//a | //link[@rel] | //button | //input[@type='submit' or @type='button'] | //*[@data-page]"
    ):
        if _is_disabled(link):
            continue
        label = label_of(link)
        sent = _sent_by(response, link)
        if sent is not None and not is_page(sent.url):
            continue
        place = place_of(sent.url) if sent is not None and sent.method == "GET" else None
        number = _number_of(link, label, place, here)
        before = max(before, number if number < page else 0)
        if number > page + 1 or (number == page + 1 and label == str(number)):
            signs.linked = max(signs.linked, number)
        if _MORE.fullmatch(label) and (sent is None or link.root.tag != "a"):
            signs.more = label
        if sent is None or (place and place.is_list_of(here) and place.number is not None and place.number <= page):
            continue
        is_next = says_next(link)
        if is_next and not (place and place.is_list_of(here) and place.number is None):
            signs.following = label or "next"
        if place and place.is_list_of(here):
            continue  # its number was asked for
        is_arrow = link.root in own_links or any(map(_ARROW.search, link.xpath(".//i/@class | .//svg/@class").getall()))
        # Outside a pager the number may be of something else: it is tried, and says nothing if it shows no new car.
        is_number = label == str(page + 1) and label in re.findall("[0-9]+", link.attrib.get("href", ""))
        kind = "next" if is_next else "number" if number == page + 1 else "arrow" if is_arrow or is_number else ""
        if kind:
            ways[kind].append(sent)
    signs.ways = [*ways["next"], *ways["number"], *ways["arrow"]][:_WAYS]
    signs.is_last = bool(before) and not signs.linked and not signs.following
    signs.total = _total(response)
    return signs


def _is_disabled(link: Selector) -> bool:
    classes = f"{link.attrib.get('class', '')} {link.xpath('string(parent::*/@class)').get('')}".split()
    return "disabled" in classes or "disabled" in link.attrib or link.attrib.get("aria-disabled") == "true"


def _number_of(link: Selector, label: str, place: Place | None, here: Place) -> int:
    """Return the number of the result page that a link of a pager leads to; 0 for other links."""
    if place and place.is_list_of(here):
        return int(label) if re.fullmatch("[0-9]{1,5}", label) else place.number or 0
    written = " ".join(link.attrib.get(name, "") for name in ("href", "onclick", "data-page", "value"))
    if not re.fullmatch("[0-9]{1,5}", label) or label not in re.findall("[0-9]+", written):
        return 0
    is_of_pager = "data-page" in link.attrib or _CALL.match(link.attrib.get("href", ""))
    return int(label) if is_of_pager or link.xpath(f"ancestor::{PAGER}") else 0


def _sent_by(response: Response, link: Selector) -> Request | None:
    """Return the request that a link makes: of an address, or of a form that a script sends; ``None`` without one."""
    href = link.attrib.get("href", "").strip()
    if found := _CALL.match(href):
        forms = link.xpath("ancestor::form[1]") or response.xpath("//form[.//input[@name='__VIEWSTATE']]")
        if not forms:
            return None
        data = {"__EVENTTARGET": found[2], "__EVENTARGUMENT": found[4]}
        try:
            sent = form2request(forms[0], data, click=False)
        except (ValueError, NotImplementedError):  # a form that no browser could send, or with a file
            return None
        meta = {"postback": True}
        return Request(sent.url, method=sent.method, headers=sent.headers, body=sent.body, meta=meta)
    url = join(response, href) if href else ""
    if not is_web_address(url) or urlsplit(url)._replace(fragment="") == urlsplit(response.url)._replace(fragment=""):
        return None
    return Request(url)


def _total(response: Response) -> int:
    """Return how many cars a list has by its own words; 0 if it does not say."""
    for text in response.xpath("//body//*[not(self::script or self::style)][string-length(normalize-space()) < 48]"):
        if found := _TOTAL.fullmatch((parsing.clean_text(text.xpath("string()").get("")) or "").rstrip(" .:!")):
            return int((found[1] or found[2]).replace(".", "") or 0)
    return 0
