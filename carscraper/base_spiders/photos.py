"""Where the photos of a page are: the addresses that an element names, and what of an address names the photo."""

from __future__ import annotations

import hashlib
import html
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

from carscraper.base_spiders.base import by_address, is_web_address
from carscraper.items import CarImage

if TYPE_CHECKING:
    from collections.abc import Callable

    from parsel import Selector

# Parameters of a photo's address that say how it is shown, not which photo it is.
_RENDITION = frozenset(
    {"w", "h", "width", "height", "size", "q", "quality", "fit", "crop", "format", "fm", "dpr", "auto"}
)
# Where a picture's address is, the largest first; the scripts that load pictures late have these names for it.
_SRCSETS = ("data-srcset", "data-lazy-srcset", "srcset")
_CSS_URL = re.compile(r"""url\(\s*(?:"([^"]*)"|'([^']*)'|((?:[^'"()\\\s]|\\.)*))\s*\)""", re.IGNORECASE)
_SRCS = ("data-src", "data-original", "data-lazy-src", "data-lazy", "src", "href")


def picture_address(picture: Selector) -> str | None:
    """Return a picture's address. Until it is loaded, a lazy picture has a stand-in as its ``src``."""
    largest = [largest_of(picture.attrib.get(name, "")) for name in _SRCSETS]
    single = [picture.attrib.get(name, "") for name in _SRCS]
    # Around a picture that is loaded late <picture> may have the addresses.
    sources = picture.xpath("ancestor::picture[1]//source")  # lxml takes it for an element with content
    beside = [largest_of(source.attrib.get(name, "")) for source in sources for name in _SRCSETS]
    stripped = (address.strip() for address in (*largest, *single, *beside))
    return next((each for each in stripped if each and not is_stand_in(each)), None)


def is_stand_in(address: str) -> bool:
    """Return whether an address is what a page shows until the photo is loaded, or an icon.

    >>> [is_stand_in(each) for each in ("data:image/gif;base64,R0", "/img/placeholder.svg", "/photos/1.jpg")]
    [True, True, False]
    """
    name = re.split("[?#]", address, maxsplit=1)[0].rpartition("/")[2].lower()
    return address.lower().startswith(("data:", "about:")) or "placeholder" in name or name.endswith(".svg")


def background_address(style: str | None) -> str | None:
    """Return the address of the first photo in a ``style``.

    >>> background_address('background-image: url("/media/1.jpg?w=600"); color: red')
    '/media/1.jpg?w=600'
    >>> background_address("background:linear-gradient(red, blue), URL( https://x.is/a.jpg )")
    'https://x.is/a.jpg'
    >>> background_address("background-image:url(data:image/gif;base64,R0), url('/b.jpg')"), background_address("url()")
    ('/b.jpg', None)
    """
    found = (
        re.sub(r"\\(.)", r"\1", "".join(match.groups(""))).strip()
        for match in _CSS_URL.finditer(html.unescape(style or ""))
    )
    return next((address for address in found if address and not is_stand_in(address)), None)


def largest_of(srcset: str) -> str:
    """Return the address of the largest picture of a ``srcset`` that is no stand-in.

    >>> largest_of("/a.jpg?w=400 400w, /a.jpg?w=1280 1280w"), largest_of("/a.jpg, /b.jpg 2x"), largest_of("")
    ('/a.jpg?w=1280', '/b.jpg', '')
    >>> largest_of("/c/w_400,h_300/a.jpg 400w,/c/w_800,h_600/a.jpg 800w, data:image/gif;base64,R0 900w")
    '/c/w_800,h_600/a.jpg'
    """
    found: list[tuple[float, str]] = []
    address, size = "", 1.0
    for word in srcset.split():
        if not address:
            address, comma, following = word.rstrip(","), word[-1] == ",", ""
        else:
            # A comma ends the sizes, and only there may the next address follow without a space.
            sizes, found_comma, following = word.partition(",")
            comma = bool(found_comma)
            size = float(sizes[:-1]) if re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]{1,6})?[wx]", sizes) else size
        if comma:
            found.append((size, address))
            address, size = following, 1.0
    found.append((size, address))
    shown = (each for each in found if each[1] and not is_stand_in(each[1]))
    return max(shown, default=(0.0, ""), key=lambda each: each[0])[1]


def refused(address: str) -> CarImage:
    """Return a photo whose address is ambiguous: it is not asked for, and its raw text is kept."""
    return CarImage(identity=by_address(address), source_url=address, status="failed", reason="bad-address")


def image_at(join: Callable[[str], str], address: str, external_id: str) -> CarImage:
    """Return the photo that an address names, by its path and what else is not a matter of size."""
    try:
        url = join(address)
        parts = urlsplit(url)
        if "\\" in address or "@" in parts.netloc or not is_web_address(url):
            return refused(address)
        query = sorted((name, value) for name, value in parse_qsl(parts.query) if name.lower() not in _RENDITION)
        lasting = f"{parts.path}?{urlencode(query)}" if query else parts.path
    except ValueError:  # brackets that hold no IPv6 address, a lone surrogate, and the like
        return refused(address)
    digest = hashlib.sha256(lasting.encode("utf-8", "replace")).hexdigest()[:24]
    return CarImage(identity=f"{external_id}/{digest}", source_url=url)
