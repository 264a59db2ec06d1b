"""A new dealer: a spider, and a saved page with what must be read from it.

The addresses of cars and the photos of a car's own page are guessed from the pages themselves; the guesses stand in the
spider as attributes, to be corrected there.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from parsel import Selector

from carscraper.exceptions import ConfigurationError

if TYPE_CHECKING:
    from datetime import datetime

PAGE_KINDS = {
    "cards": ("cards", "CardSpider", "cards on pages that follow each other"),
    "rogg": ("rogg", "RoggSpider", "the Rögg platform, with the cards of bilasolur.is"),
    "tiles": ("rogg", "RoggTileSpider", "the Rögg platform, with the cards of bilaland.is and br.is"),
    "browser": ("browser", "BrowserSpider", "cards that are made by scripts"),
}
"""What a site can be like: the module and the class of its base, and words for it."""

_NOT_NAMES = {"backfill", "test"}
_GALLERY = re.compile("galler|photo|image|mynd|slid|swip", re.IGNORECASE)
_SPIDER = '''"""{host}, one line about this dealer."""

from carscraper.base_spiders.{module} import {base}


class {classname}({base}):
    """What is special about its pages."""

    # DealerSpider
    name = "{name}"
    source = "{source}"
    home = "{home}"
'''


def check_name(name: str, address: str) -> None:
    """Check what the user wrote.

    Raises:
        ConfigurationError: the name or the address is none.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or name in _NOT_NAMES:
        raise ConfigurationError(
            f"{name!r} is no name for a spider; write lower-case letters, digits and _, such as hekla."
        )
    try:
        parts = urlsplit(address)
        good = (
            parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        )
    except ValueError:
        good = False
    if not good or re.search(r"[\s\"'<>\\]", address):
        raise ConfigurationError(
            f"{address!r} is no address of a page with cars; write the whole one, such as https://www.hekla.is/bilar."
        )


def planned_files(
    name: str, address: str, *, kind: str, results: str, details: tuple[str, str] | None, now: datetime
) -> dict[Path, str]:
    """Return the new files by their paths in the project.

    Args:
        name: of the spider, which is also that of its file.
        address: of the list's first page.
        kind: of :data:`KINDS`.
        results: the page there; empty if it is still to be saved by hand.
        details: address and page of one car, if it came.
        now: when the pages were seen.
    """
    parts = urlsplit(address)
    words = name.split("_")
    module, base, _ = PAGE_KINDS[kind]
    spider = _SPIDER.format(
        name=name,
        host=(parts.hostname or "").removeprefix("www."),
        module=module,
        base=base,
        classname="".join(word.capitalize() for word in words) + "Spider",
        source="".join(word.capitalize() for word in words),
        home=f"{parts.scheme}://{parts.netloc}/",
    )
    if base in {"CardSpider", "BrowserSpider"}:
        link, pattern = guess_cars(results, address)
        spider += f'\n    # CardSpider\n    results_path = "{parts.path.strip("/")}"\n'
        spider += f'    card_link = "{link}"\n    car_in_address = r"{pattern}"\n'
        if details and (photos := guess_photos(details[1])):
            spider += f'    details_images = "{photos}"\n'
    if base == "BrowserSpider":
        spider += "\n    # BrowserSpider\n    more_button = \"button:has-text('Sjá fleiri')\"\n"
    files = {Path("carscraper", "spiders", f"{name}.py"): spider}
    pages = {"results-first": ("results", address, results)}
    if details and details[1]:
        pages["details-first"] = ("details", *details)
    for case, (what, url, page) in pages.items():
        folder = Path("tests", "fixtures", name, case)
        meta = {"url": url, "now": f"{now:%Y-%m-%dT%H:%M:%S}", "kind": what}
        files[folder / "response.html"] = (
            mask(page) or "<html><body>Replace this file with a saved page.</body></html>\n"
        )
        files[folder / "meta.json"] = json.dumps(meta, indent=2) + "\n"
    return files


def guess_cars(page: str, address: str) -> tuple[str, str]:
    r"""Return ``card_link`` and ``car_in_address`` for the links of a page that most likely lead to cars.

    >>> links = '<a href="/bilar/7000-kia">x</a><a href="/bilar/7001-bmw">y</a><a href="/um-okkur">z</a>'
    >>> guess_cars(links, "https://x.is/bilar")
    ("a[href*='/bilar/']", '/bilar/(\\d+)')
    >>> guess_cars("<a href='/bill/kia-ev6-71'>x</a><a href='/bill/bmw-i3-72'>y</a>", "https://x.is/")[1]
    '/bill/[\\w-]*?(\\d+)(?:[/?#]|$)'
    """
    found: dict[str, set[str]] = defaultdict(set)
    for href in Selector(page or "<html/>").css("a::attr(href)").getall():
        url = urljoin(address, href.strip())
        parts = urlsplit(url)
        folder, _, name = parts.path.rstrip("/").rpartition("/")
        if parts.netloc == urlsplit(address).netloc and re.search("[0-9]", name):
            found[folder + "/"].add(name)
    if not found:
        return "a[href*='/car/']", r"/car/([\w-]+)"
    folder, names = max(found.items(), key=lambda each: len(each[1]))
    if all(re.match(r"\d+(?:-|$)", name) for name in names):
        pattern = r"(\d+)"
    elif all(re.search(r"-\d+$", name) for name in names):
        pattern = r"[\w-]*?(\d+)(?:[/?#]|$)"
    else:
        pattern = r"([\w-]+)"
    return f"a[href*='{folder}']", re.escape(folder).replace(r"\-", "-") + pattern


def guess_photos(page: str) -> str | None:
    """Return ``details_images`` for a car's own page: the pictures inside the element that has most of them.

    Small ones that lead to the large are links.

    >>> guess_photos('<div class="logo"><img></div><div class="big gallery"><a><img></a><a><img></a></div>')
    '.gallery img'
    >>> guess_photos('<a class="p" href="1.jpg"><img></a><a class="p" href="2.jpg"><img></a>')
    'a.p'
    """
    counts: Counter[str] = Counter()
    for picture in Selector(page).css("img"):
        classes = picture.xpath("ancestor::*[@class][1]/@class").get("").split()
        counts.update(each for each in classes if re.fullmatch(r"[A-Za-z][\w-]*", each))
    if not counts:
        return None
    best = max(counts, key=lambda name: (counts[name], bool(_GALLERY.search(name))))
    if counts[best] < 2:
        return None
    links = [each.xpath("ancestor::a[1]") for each in Selector(page).css(f".{best} img")]
    if all(re.search(r"\.(?:jpe?g|png|webp|avif)\b", link.attrib.get("href", ""), re.IGNORECASE) for link in links):
        return f"a.{best}" if best in links[0].attrib.get("class", "").split() else f".{best} a"
    return f".{best} img"


def first_car(page: str, address: str) -> str | None:
    """Return the address of the first car that a page links to, as :func:`guess_cars` sees it."""
    _, pattern = guess_cars(page, address)
    urls = (urljoin(address, href.strip()) for href in Selector(page or "<html/>").css("a::attr(href)").getall())
    return next((url for url in urls if re.search(pattern, url)), None)


def write_files(root: Path, files: dict[Path, str]) -> None:
    """Write *files* below *root*, or none of them.

    Raises:
        ConfigurationError: one is there already, or *root* is no checkout of the project.
    """
    check_room(root, files)
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8", errors="replace")


def check_room(root: Path, files: dict[Path, str]) -> None:
    """See that *files* can be written.

    Raises:
        ConfigurationError: one is there already, or *root* is no checkout of the project.
    """
    if not (root / "carscraper" / "spiders").is_dir() or not (root / "tests" / "fixtures").is_dir():
        raise ConfigurationError(f"{root} is no checkout of carscraper, with its tests: a dealer is added to one.")
    for path in files:
        if (root / path).exists():
            raise ConfigurationError(f"{path} is there already; nothing was written.")


_GAP = r"(?:[ \u00a0.\u2010-\u2015-]|&nbsp;|&#\d{1,5};|%20)?"
_MAIL = re.compile(
    r"[\w.+-]+(?:@|\s?[(\[](?:at|hja|hjá)[)\]]\s?|&#0*64;|&#x40;|&commat;|%40|\\u0040)[\w-]+(?:\.[\w-]+)+"
    r"|(?<=data-cfemail=[\"'])[0-9a-f]+"
    r"|(?<=email-protection#)[0-9a-f]+",
    re.IGNORECASE,
)
_NUMBERS = re.compile(
    # a kennitala · a number with its country · one after its label · seven digits in two groups · seven alone, unless
    # they are an id in an address
    rf"(?<!\d)[0-7]\d[01]\d\d\d-?\d{{4}}(?!\d)"
    rf"|(?:\+|\b00|%2B|\((?=\+?354))\+?\d{{2,3}}\)?(?:{_GAP}\d){{6,10}}(?!\d)"
    rf"|\b(?:tel|phone|mobile|gsm|s[íi]m[ai]\w*|fax|s\.|callto|sms)(?:[\s:=\"'/]|&quot;|%3A){{1,4}}\+?\d(?:{_GAP}\d){{5,11}}"
    rf"|(?<![\d.,/=&_-])[4-9]\d\d(?:[ \u00a0.\u2010-\u2015-]|&nbsp;|&#\d{{1,5}};)\d{{4}}(?![\d])"
    rf"|(?<![\w.,/=&_-])[4-9]\d{{6}}(?![\w.]\d)(?!\d)",
    re.IGNORECASE,
)
_LETTER = "A-ZÁÐÉÍÓÚÝÞÆÖ"
# Before seven digits that are a number of a script, or a price.
_PRICE = re.compile(r"\":\s?$|(?:price|ver[dð]|amount|km|akstur|id)\W{1,4}$", re.IGNORECASE)
_ITSELF = rf"[{_LETTER}]{{2}}({_GAP})([{_LETTER}\d])\d{{2}}(?!\w)"
_PLATE = re.compile(rf"(?<![\w#])(){_ITSELF}")
# After its label in small letters, too.
_LABELLED = re.compile(rf"((?:númer|astnr)\.?(?:<[^>]{{0,40}}>|[\s:=\"']){{1,9}}){_ITSELF}", re.IGNORECASE)


def mask(text: str) -> str:
    """Return *text* without mail addresses, phone numbers, identity numbers and plates; its form stays.

    A model that looks like a plate is masked as well: what is sent to strangers rather lacks a model.

    >>> mask("a.b@x.is, s. 555 1234, +354 555-1234, AB 123, ABC12, 010190-2939, kr. 2.990.000, cid=296487&p=5777561")
    'post@example.is, s. 000 0000, +000 000-0000, XX 000, XXX00, 000000-0000, kr. 2.990.000, cid=296487&p=5777561'
    >>> mask('<a href="tel:5551234">x</a> {"phone":"555-1234"} <b>Nýskráning</b> 9/2020 104.709 km.')
    '<a href="tel:0000000">x</a> {"phone":"000-0000"} <b>Nýskráning</b> 9/2020 104.709 km.'
    >>> mask('{"price":7590000,"price":"7590000","phone":5551234} <i data-price="7590000" content="5551234">')
    '{"price":7590000,"price":"7590000","phone":0000000} <i data-price="7590000" content="0000000">'
    >>> mask("Fastanúmer: <b>ab 123</b>, (354) 555 1234, (12.990.000 kr.), KIA EV6, GLC 300, 7.590.000 2019")
    'Fastanúmer: <b>XX 000</b>, (000) 000 0000, (12.990.000 kr.), KIA EV6, GLC 300, 7.590.000 2019'
    """
    text = _MAIL.sub("post@example.is", text)
    text = _NUMBERS.sub(_masked_number, text)
    for pattern in (_LABELLED, _PLATE):
        text = pattern.sub(_masked_plate, text)
    return text


def _masked_number(match: re.Match[str]) -> str:
    before = match.string[max(0, match.start() - 20) : match.start()]
    return match[0] if match[0].isdigit() and _PRICE.search(before) else re.sub(r"\d", "0", match[0])


def _masked_plate(match: re.Match[str]) -> str:
    return f"{match[1]}XX{match[2]}{'0' if match[3].isdigit() else 'X'}00"
