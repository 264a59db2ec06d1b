"""What is on a page, whoever's it is: its text, its photos, the car that an address names, the bounds of its cards."""

from __future__ import annotations

import hashlib
import html
import re
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

from lxml import etree  # type: ignore[import-untyped]
from parsel import css2xpath
from scrapy.http import TextResponse

from carscraper import parsing
from carscraper.base_spiders.base import by_address, is_web_address
from carscraper.items import CarImage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from parsel import Selector
    from scrapy.http import Response

    Cars = dict[Any, str | None]
    """The car's id by the element of a link to its page; ``None`` for a link that names no car."""

T = TypeVar("T")

_PRICE = re.compile(r"[0-9]\s?kr\b|\bkr\.?\s?[0-9]|\bverð\b|\btilboð\b", re.IGNORECASE)


# --- text ---

_NAMESPACES = {"set": "http://exslt.org/sets"}


def is_html(response: Response) -> bool:
    """Return whether *response* can be read as a page: JSON, a picture and their like are no pages."""
    return isinstance(response, TextResponse) and response.selector.type in {"html", "xml"}


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


@lru_cache(maxsize=2)  # reading a car's page asks for it four times, of two kinds
def visible_text(response: Response, *, without: str = "") -> str:
    """Return the page's text a line for each element, without scripts, styles and the options of a search form.

    Args:
        response: the page.
        without: the elements at this selector are left out, too.
    """
    path = "//body//text()[not(ancestor::script or ancestor::style or ancestor::select or ancestor::noscript)]"
    if without:
        path = f"set:difference({path}, ({css2xpath(without)})//text())"
    # Without a selector for each text, which costs more than the search.
    texts = response.xpath("/*")[0].root.xpath(path, namespaces=_NAMESPACES, smart_strings=False)
    lines = map(parsing.clean_text, texts)
    return "\n".join(line for line in lines if line)


def shows_price(text: str) -> bool:
    """Return whether a text has a price in it, or the word for one."""
    return bool(_PRICE.search(text))


def says(response: Response, *words: str) -> bool:
    """Return whether a person sees one of *words* on the page."""
    text = " ".join(visible_text(response).split()) if any(words) else ""
    return any(each and each in text for each in words)


def join(response: Response, href: str) -> str:
    """Return the whole address of a link; nothing for what is none."""
    try:
        return response.urljoin(href.strip())
    except ValueError:  # brackets that hold no IPv6 address, and the like
        return ""


def read_xml(data: bytes) -> Any:
    """Parse XML from outside: no entities, no network, nothing huge.

    Raises:
        ValueError: it is no whole XML, or declares a DOCTYPE.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise ValueError(f"it is no whole XML ({(parsing.clean_text(error.msg) or 'empty')[:120]})") from None
    if root.getroottree().docinfo.doctype or root.getroottree().docinfo.internalDTD is not None:
        raise ValueError("it declares a DOCTYPE, which no feed needs")
    return root


def first_of(values: Iterable[T | None]) -> T | None:
    """Return the first value that is not ``None``."""
    return next((value for value in values if value is not None), None)


# --- the addresses of photos ---

# Parameters of a photo's address that say how it is shown, not which photo it is.
_RENDITION = frozenset(
    {"w", "h", "width", "height", "size", "q", "quality", "fit", "crop", "format", "fm", "dpr", "auto"}
)
# Where a picture's address is, the largest first; the scripts that load pictures late have these names for it.
_SRCSETS = ("data-srcset", "data-lazy-srcset", "srcset")
_SRCS = ("data-src", "data-original", "data-lazy-src", "data-lazy", "src", "href")
_CSS_URL = re.compile(r"""url\(\s*(?:"([^"]*)"|'([^']*)'|((?:[^'"()\\\s]|\\.)*))\s*\)""", re.IGNORECASE)


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
    """Return whether an address is what a page shows until the photo is loaded, or an icon."""
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
        re.sub(r"\\(.)", r"\1", "".join(url.groups(""))).strip()
        for url in _CSS_URL.finditer(html.unescape(style or ""))
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


def read_image(
    join_with: Callable[[str], str], address: str, make: Callable[[str], CarImage | None]
) -> CarImage | None:
    """Return what *make* makes of the whole address of a photo; an ambiguous one is refused, its raw text kept."""
    try:
        url = join_with(address)
        if "\\" not in address and "@" not in urlsplit(address).netloc and "@" not in urlsplit(url).netloc:
            return make(url)
    except ValueError:  # brackets that hold no IPv6 address, a lone surrogate, and the like
        pass
    return CarImage(identity=by_address(address), source_url=address, status="failed", reason="bad-address")


def image_of_path(url: str, external_id: str) -> CarImage:
    """Return the photo at *url*, identified by its path and what else is not a matter of size.

    Raises:
        ValueError: nothing can be asked for there.
    """
    if not is_web_address(url):
        raise ValueError(url)
    parts = urlsplit(url)
    query = sorted((name, value) for name, value in parse_qsl(parts.query) if name.lower() not in _RENDITION)
    lasting = f"{parts.path}?{urlencode(query)}" if query else parts.path
    digest = hashlib.sha256(lasting.encode("utf-8", "replace")).hexdigest()[:24]
    return CarImage(identity=f"{external_id}/{digest}", source_url=url)


def number_images(images: Iterable[CarImage | None]) -> list[CarImage]:
    """Return each photo once, with its position."""
    found: dict[str, CarImage] = {}
    for image in images:
        if image and image.identity not in found:
            image.position = len(found)
            found[image.identity] = image
    return list(found.values())


# --- the car that the query of an address names, where nobody has said how ---

# What may name the car, the surest first; a word that may as well be a model ("car=ev6") only if it is a number.
_ID_NAMES = ("id", "cid", "carid", "vehicleid", "billid", "bilid", "itemid", "nr", "numer", "number", "regno", "plate")
_WORDS = ("car", "vehicle", "bill", "bil")
_TRACKING = re.compile(r"utm_\w+|fbclid|gclid|msclkid", re.IGNORECASE)


def query_id(url: str) -> str | None:
    """Return the id of a car that is named by the query of *url*; ``None`` if there is no query.

    That is a parameter with the name of an id, else the only parameter if it is a number, else a digest of all
    parameters in their order by name. What only tells where a visitor came from does not count.
    """
    parameters = _lasting(url)
    if not parameters:
        return None
    named = {re.sub("[-_]", "", name.lower()): value.strip() for name, value in reversed(parameters)}
    for name in (*_ID_NAMES, *_WORDS):
        pattern = r"(?=.*[0-9])[A-Za-z0-9_-]{1,64}" if name in _ID_NAMES else "[0-9]{1,20}"
        if re.fullmatch(pattern, named.get(name, ""), re.ASCII):
            return named[name]
    if len(parameters) == 1:
        value = parameters[0][1].strip() or parameters[0][0]
        if re.fullmatch("[0-9]{1,20}", value):
            return value
    return hashlib.sha256(urlencode(sorted(parameters)).encode()).hexdigest()[:16]


def lasting_query(url: str) -> str:
    """Return *url* without what only tells where a visitor came from."""
    parts = urlsplit(url)
    is_changed = _lasting(url) != parse_qsl(parts.query, keep_blank_values=True)
    return parts._replace(query=urlencode(_lasting(url)) if is_changed else parts.query, fragment="").geturl()


def _lasting(url: str) -> list[tuple[str, str]]:
    parameters = parse_qsl(urlsplit(url).query, keep_blank_values=True, errors="replace")
    return [(name, value) for name, value in parameters if name and not _TRACKING.fullmatch(name)]


# --- where a card begins and ends, on pages whose cards have no known class or lack an end tag ---

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


def _inmost(element: Any, cards: list[Any]) -> Any:
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
