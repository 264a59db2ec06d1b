"""How a site's pages drift: the ways in which the next redesign may differ from what a spider knows.

Each is a name and a change of the pages' text, for the simulated bilasolur of 2026 (some fit any site)::

    site.drift = "pager-gone"                       # all pages from now on
    site.fault("results:2", ["pager-gone"])         # one page, once

What a crawl makes of a drift must be whole, or not exit 0: ``tests/crawl/test_drifts.py`` walks through the table.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

from tests.http_server import Response

PAGES = frozenset({"home", "advanced", "results", "details"})
READ = frozenset({"results", "details"})
LAZY = "data:image/gif;base64,R0lGODlhAQABAAAAACw="


@dataclasses.dataclass(frozen=True)
class Drift:
    """What is replaced (patterns) in pages of these kinds, and how they are sent."""

    changes: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]] = ()
    kinds: frozenset[str] = PAGES
    encoding: str = "utf-8"
    content_type: str = "text/html; charset=utf-8"

    def change(self, kind: str, response: Response, base_url: str) -> Response:
        """Drift the answer to a request of that *kind*; ``BASE`` in a replacement is the site's address."""
        if kind not in self.kinds or response.status != 200 or not response.content_type.startswith("text/html"):
            return response
        text = b"".join(response.parts).decode("utf-8", "replace")
        for old, new in self.changes:
            text = re.sub(old, new.replace("BASE", base_url) if isinstance(new, str) else new, text, flags=re.DOTALL)
        return dataclasses.replace(
            response, body=text.encode(self.encoding, "xmlcharrefreplace"), content_type=self.content_type
        )


def renamed(name: str, new: str = "") -> tuple[str, str]:
    """The change of a class's name."""
    return rf"(class=\"(?:[^\"]* )?){re.escape(name)}(?=[ \"])", rf"\g<1>{new or 'nytt-' + name}"


def _each_text(change: Callable[[str], str]) -> tuple[str, Callable[[re.Match[str]], str]]:
    """A change of the text between two tags, in the body."""
    return r">([^<>]+)(?=<)", lambda found: ">" + change(found[1])


def _every_second(old: str, new: str) -> tuple[str, Callable[[re.Match[str]], str]]:
    seen = [0]

    def replace(found: re.Match[str]) -> str:
        seen[0] += 1
        return found[0] if seen[0] % 2 else found[0].replace(old, new)

    return old, replace


def _joined(found: re.Match[str]) -> str:
    return found[0].replace("</div><div>", " · ")


CLASSES = (
    *("car-anchor", "sr-item", "sr-link", "swiper-slide", "car-make-and-model", "car-make", "short-note"),
    *("tech-details", "car-price", "pill", "sr-page", "paging", "search-result", "featured", "btn-search"),
    *("cd-make-and-model", "cd-make", "serial-number", "cd-price", "cd-car-photo"),
    *("pswp-popup-area", "col-6", "text-right", "font-weight-bold", "text-overflow-ellipsis", "col-12"),
    *("cd-section-title", "mb-1", "seller-name", "seller-address", "swiper-container", "bisicon", "bi-chevron-right"),
)
"""Each class of the pages of 2026."""
_ICON = r'<i class="bisicon bi-chevron-(?:left|right)"></i>'
_IMAGE = r'<img class="([^"]*)" src="(CarImage[^"]*)"'
_META = '<meta charset="utf-8">'

DRIFTS: dict[str, Drift] = {f"class {name}": Drift([renamed(name)]) for name in CLASSES} | {
    "all classes": Drift([renamed(name) for name in CLASSES]),
    # The pager.
    "pager-text": Drift([(_ICON.replace("(?:left|right)", "right"), "Næsta"), (_ICON, "Fyrri")]),
    "pager-absolute": Drift([(r'href="(SearchResults\.aspx)', r'href="BASE/\1')]),
    "pager-id-first": Drift([(r"\?page=(\d+)&amp;id=([\w-]+)", r"?id=\2&amp;page=\1")]),
    "pager-bare-ampersand": Drift([(r"\?page=(\d+)&amp;id=", r"?page=\1&id=")]),
    "pager-lower-case": Drift(
        [(r'href="SearchResults\.aspx\?page=(\d+)&amp;id=', r'href="/searchresults.aspx?PAGE=\1&amp;ID=')]
    ),
    "pager-postback": Drift(
        [(r'href="SearchResults\.aspx\?page=(\d+)[^"]*"', r"""href="javascript:__doPostBack('ctl00$pager','\1')" """)]
    ),
    "pager-gone": Drift([(r'<div class="paging">.*?(?=<div class="footer">)', "")]),
    # Facts of a card.
    "facts-first-last": Drift([(r'(<div class="tech-details">)(<div>.*?</div>)(.*?)(</div>\n)', r"\1\3\2\4")]),
    "facts-parts-swapped": Drift([(r"<div>([\d/]+) · ([^<]+)</div>", r"<div>\2 · \1</div>")]),
    "facts-one-line": Drift([(r'<div class="tech-details">.*?(?=</div>\n)', _joined)]),
    "facts-spans": Drift([(r"<div>([^<·]+) · ([^<]+)</div>", r"<div><span>\1</span> · <span>\2</span></div>")]),
    "mileage-gone": Drift([(r"\s·\s[\d.]+\s(?:þ\.)?km\.?", ""), (r"Akstur <b>[^<]*</b>", "")]),
    "fuel-gone": Drift(
        [(r"(<div>|· |bold\">)(?:(?:Bensín|Dísel|Rafmagn|Metan|Vetni|Hybrid|Plug-in hybrid)[\s/]*)+(?=<)", r"\1")]
    ),
    "price-gone": Drift([(r'<div class="(?:car|cd)-price">.*?</div>', "")]),
    "year-gone": Drift(
        [(r"<div>(?:\d+/)?(?:19|20)\d\d(?: · )?", "<div>"), (r"Nýskráning <b>[^<]*</b>|Módelár \d+", "")]
    ),
    "price-in-spans": Drift([(r"(kr\. (?:<span>)?)(\d{1,3}\.\d{3})(\.\d{3})", r"\1<span>\2</span><span>\3</span>")]),
    "price-with-exchange": Drift(
        [(r'(<div class="car-price">.*?)(</div>)', r"\1 Skipti á ódýrari, allt að 1.500.000\2")], kinds=READ
    ),
    "warranty-before-mileage": Drift(
        [(r"<div>([^<·]+) · ([^<]+ km\.)</div>", r"<div>\1 · Ábyrgð 5 ár eða 100.000 km. · \2</div>")], kinds=READ
    ),
    # Photos.
    "photos-lazy": Drift([(_IMAGE, rf'<img class="\1" src="{LAZY}" data-src="\2"')]),
    "photos-lazy-src": Drift([(_IMAGE, rf'<img class="\1" src="{LAZY}" data-lazy-src="\2"')]),
    "photos-original": Drift([(_IMAGE, r'<img class="\1" src="/images/placeholder.png" data-original="\2"')]),
    "photos-picture": Drift(
        [(_IMAGE + r"[^>]*>", rf'<picture><source srcset="\2"><img class="\1" src="{LAZY}"></picture>')]
    ),
    "photos-srcset": Drift([(_IMAGE, r'<img class="\1" srcset="\2 1x"')]),
    "photos-class": Drift([(_IMAGE, r'<img class="mynd" src="\2"')]),
    "photos-no-class": Drift([(_IMAGE, r'<img src="\2"')]),
    "photos-absolute": Drift([(_IMAGE, r'<img class="\1" src="BASE/\2"')]),
    "photos-gone": Drift([(_IMAGE + r"[^>]*>", "")]),
    # The search.
    "form-id": Drift([(r'id="aspnetForm"', 'id="leit" class="form"')]),
    "form-button": Drift([(r"btnSearch", "btnLeita")]),
    "form-button-element": Drift(
        [(r'<input type="submit" (name="[^"]*btnSearch") value="Leita"[^>]*>', r"<button \1>Leita</button>")]
    ),
    "form-gone": Drift([(r"<form.*?</form>", "")]),
    # How the text is sent and written.
    "latin-1": Drift([(_META, "")], encoding="latin-1", content_type="text/html; charset=iso-8859-1"),
    "windows-1252-undeclared": Drift([(_META, "")], encoding="cp1252", content_type="text/html"),
    "windows-1252-as-utf-8": Drift(encoding="cp1252"),
    "nbsp": Drift([_each_text(lambda text: text.replace(" ", "\N{NO-BREAK SPACE}"))], kinds=READ),
    "entities": Drift(
        [_each_text(lambda text: re.sub(r"[^\x00-\x7f]", lambda c: f"&#{ord(c[0])};", text))], kinds=READ
    ),
    # Half a page.
    "half-without-cards": Drift([_every_second('<div class="sr-item">', '<div class="sr-falid">')]),
    "half-in-other-markup": Drift([_every_second('class="sr-link"', 'class="sr-hlekkur"')]),
    "half-without-marks": Drift([_every_second('class="car-anchor"', 'class="akkeri"')]),
    "half-without-anchors": Drift([_every_second("sr-item", "sr-falid"), renamed("car-anchor")]),
    "cut-in-the-middle": Drift(
        [(r'^(.*<div class="search-result">.*)$', lambda found: found[1][: len(found[1]) // 2])],
        kinds=frozenset({"results"}),
    ),
    "nothing-found": Drift(
        [(r"<body>.*</body>", "<body><p>Engar niðurstöður</p></body>")], kinds=frozenset({"results"})
    ),
}
"""By name, for ``drift`` and ``fault``."""
