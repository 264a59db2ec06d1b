"""What a person sees of a page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from parsel import css2xpath

from carscraper import parsing

if TYPE_CHECKING:
    from scrapy.http import Response


_PRICE = re.compile(r"[0-9]\s?kr\b|\bkr\.?\s?[0-9]|\bverð\b|\btilboð\b", re.IGNORECASE)


def is_whole(response: Response) -> bool:
    """Return whether a page came to its end: a cut body, or one that stops unpacking, lacks the last tag."""
    return b"</html" in response.body.lower()


def title_of(response: Response) -> str:
    """Return the page's title, digits apart: pages of a list have the same."""
    return re.sub("[0-9]+", "", text_of(response.css("head > title")) or "")


def text_of(selector: Any) -> str | None:
    """Return the text of an element, or of the first of several, words apart."""
    first: Any = selector[:1] if isinstance(selector, list) else selector
    return parsing.clean_text(" ".join(first.css("::text").getall()))


def visible_text(response: Response, *, without: str = "") -> str:
    """Return the page's text a line for each element, without scripts, styles and the options of a search form.

    Args:
        response: the page.
        without: the elements at this selector are left out, too.
    """
    path = "//body//text()[not(ancestor::script or ancestor::style or ancestor::select or ancestor::noscript)]"
    if without:
        path = f"set:difference({path}, ({css2xpath(without)})//text())"
    lines = (parsing.clean_text(text) for text in response.xpath(path).getall())
    return "\n".join(line for line in lines if line)


def shows_price(text: str) -> bool:
    """Return whether a text has a price in it, or the word for one."""
    return bool(_PRICE.search(text))


def says(response: Response, words: str) -> bool:
    """Return whether a person sees *words* on the page."""
    return words in " ".join(visible_text(response).split())


def join(response: Response, href: str) -> str:
    """Return the whole address of a link; nothing for what is none."""
    try:
        return response.urljoin(href.strip())
    except ValueError:  # brackets that hold no IPv6 address, and the like
        return ""
