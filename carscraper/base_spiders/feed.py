"""The XML feed of the Rögg platform ("Henry"): the route that a dealer with an API key is given.

Pages of at most 50 cars whose fields are numbered; each page names them in its own order. What is known of it, and
how sure, is in ``docs/sites/henry.md``. Photos and the cars' own pages are those of the platform's sites.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

from scrapy import Request

from carscraper import parsing, words
from carscraper.base_spiders.base import is_web_address, status_of, why_no_page
from carscraper.base_spiders.cards import MANY
from carscraper.base_spiders.pages import number_images, read_xml
from carscraper.base_spiders.rogg_details import RoggDetailsSpider
from carscraper.exceptions import ConfigurationError
from carscraper.items import CarItem, Status
from carscraper.vehicles import canonical, split_make_model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import ClassVar

    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from twisted.python.failure import Failure

    from carscraper.items import CarImage
    from carscraper.settings import Secret

    Codes = Mapping[str, Mapping[str, str]]
    """Names by group (``eldsneyti``) and id."""

logger = logging.getLogger(__name__)

_DAY = 24 * 3600.0
_MISSES = 3  # pages in a row that do not come: then the rest is not asked for
_HANDLER = "carscraper.middlewares.handlers.KeyedDownloadHandler"
_PLACEHOLDER = re.compile(r"\{(?:(?P<of>[vp])\.)?(?P<name>\w+)\}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FeedCar:
    """A car of the feed: its fields by name, and the ids of its photos in their order."""

    fields: Mapping[str, str]
    photos: list[str]
    image_address: str
    """The feed's template of a photo's address."""

    def text(self, *names: str) -> str | None:
        """Return the first of the fields *names* that is not empty; ``EXT_…`` goes before the plain one."""
        texts = (parsing.clean_text(self.fields.get(each)) for name in names for each in (f"EXT_{name}", name))
        return next(filter(None, texts), None)


class RoggFeedSpider(RoggDetailsSpider):
    """A feed on the Rögg platform. A subclass says which settings hold its address, its key and leave to store photos.

    ``base_url`` overrides the setting with the address. There are no details pages: ``details`` changes nothing.
    """

    address_setting: ClassVar[str]
    key_setting: ClassVar[str]
    store_setting: ClassVar[str]
    """Whether the feed's photos may be stored; its terms are said to allow links only."""

    # Where things are.
    feed_page = "get.aspx"
    codes_page = "codes.aspx"
    key_parameter = "apikey"
    page_size = 50
    codes_of: ClassVar = ("eldsneyti/e", "girartegund/g", "drif/d", "litir/l", "flokkar/f", "aukahlutir/a")

    # DealerSpider
    has_details = False

    # CardSpider
    card = "vs/v"
    card_link = "meta fields"
    card_images = "ps/p"

    codes: Codes = MappingProxyType({})
    pages: int | None = None
    records = 0
    """How many pages and cars there are, as the last page said."""
    _missed = 0  # pages in a row that did not come
    _shown_photos = 0
    _lacks_codes = False

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        """Send the key with the one handler that shows it to nobody."""
        super().update_settings(settings)
        handlers = settings.getdict("DOWNLOAD_HANDLERS") | dict.fromkeys(("http", "https"), _HANDLER)
        settings.set("DOWNLOAD_HANDLERS", handlers, priority="spider")

    def configure(self) -> None:
        given = self.arguments
        address = given.get("base_url") or self.settings.get(self.address_setting)
        if "?" in given.get("base_url", ""):
            raise ConfigurationError(f"base_url has a query; the key belongs in {self.key_setting}.")
        try:
            self.arguments = given | {"base_url": address or self.home}
            super().configure()
        finally:
            self.arguments = given
        self.base_url = re.sub(rf"(?:{self.feed_page}|{self.codes_page})/$", "", self.base_url, flags=re.IGNORECASE)
        self.allowed_domains = []  # the feed says where its cars' pages and photos are
        for name, value in ((self.address_setting, address), (self.key_setting, self.settings.get(self.key_setting))):
            if not value:
                raise ConfigurationError(f"{name} is missing; the dealer gets it from the platform's owner.")

    def key_for(self, url: str) -> tuple[str, Secret] | None:
        """Return parameter and key for the feed's own two addresses; no other gets the key."""
        path = url.partition("?")[0].lower()
        own = {f"{self.base_url}{page}".lower() for page in (self.feed_page, self.codes_page)}
        return (self.key_parameter, self.settings[self.key_setting]) if path in own else None

    # --- codes, which are kept for a day in a file ---

    async def start(self) -> AsyncIterator[Any]:
        """Ask for the codes unless they were fetched within a day, then for the first page."""
        if self.argument_problem:
            return
        if not self.settings.getbool(self.store_setting):
            why = "The feed's photos are linked and not stored, as its terms are said to ask"
            logger.warning("%s; %s=true stores them for who has leave.", why, self.store_setting)
        feed = hashlib.sha256(self.base_url.encode()).hexdigest()[:8]
        self._kept_codes = Path(self.settings.get("SPOOL_DIR")).parent / f"{self.name}-codes-{feed}.xml"
        if await asyncio.to_thread(self._read_codes):
            yield self._first_page()
            return
        url = urljoin(self.base_url, self.codes_page)
        yield Request(url, callback=self.parse_codes, errback=self.codes_failed, dont_filter=True, priority=20)

    def _read_codes(self) -> bool:
        """Read the codes that were kept; true if they are less than a day old."""
        try:
            age = time.time() - self._kept_codes.stat().st_mtime
            self.codes = self._codes_in(self._kept_codes.read_bytes())
        except (OSError, ValueError):  # none yet, or broken: fetched anew
            return False
        return 0 <= age < _DAY

    def _codes_in(self, data: bytes) -> Codes:
        root = read_xml(data)
        codes = {
            path.partition("/")[0]: {each.get("id", ""): each.get("n", "") for each in root.iterfind(f".//{path}")}
            for path in self.codes_of
        }
        if not any(codes.values()):
            raise ValueError(f"it has none of {', '.join(self.codes_of)}")
        return codes

    async def parse_codes(self, response: Response) -> AsyncIterator[Request]:
        data = self._redacted(response)
        try:
            self.codes = self._codes_in(data)
            await asyncio.to_thread(self._keep_codes, data)
        except ValueError as error:
            self._without_codes(str(error))
        except OSError as error:
            logger.warning("The feed's codes can't be kept in %s: %s", self._kept_codes, error.strerror)
        yield self._first_page()

    def _keep_codes(self, data: bytes) -> None:
        self._kept_codes.parent.mkdir(parents=True, exist_ok=True)
        part = self._kept_codes.with_suffix(".part")
        part.write_bytes(data)
        part.replace(self._kept_codes)

    def codes_failed(self, failure: Failure) -> Iterator[Request]:
        self._without_codes(why_no_page(failure))
        yield self._first_page()

    def _without_codes(self, why: str) -> None:
        if self.codes:
            logger.warning("The feed's codes do not come (%s); those of an earlier day are used", why)
            return
        self._lacks_codes = True
        logger.error("The feed's codes do not come (%s): fuel, gears, drive, colour and equipment stay unknown", why)

    # --- pages: the feed says how many there are ---

    def _address_of(self, page: int) -> str:
        return f"{urljoin(self.base_url, self.feed_page)}?page={page}&pagesize={self.page_size}"

    def _first_page(self) -> Request:
        url = self._address_of(1)
        return Request(url, callback=self.parse_results, errback=self.search_failed, dont_filter=True, priority=20)

    def search_failed(self, failure: Failure) -> Iterator[Request]:
        yield from ()  # Scrapy logs what a plain function raises here with a traceback
        url, status = failure.request.url, status_of(failure)  # type: ignore[attr-defined]
        if status in {401, 403}:
            self.fail(
                f"{url} refuses the key (HTTP {status}): {self.key_setting} is wrong, "
                "or this machine's address is not on the key's list."
            )
        self.fail(f"{url} can't be reached ({why_no_page(failure)}).")

    async def parse_results(
        self, response: Response, make: str | None = None, page: int = 1, tries: int = 1
    ) -> AsyncIterator[CarItem | Request]:
        """Read one page, and go on to the last one."""
        cards, unreadable = self.read_cards(response)
        if page == 1 and not cards:
            what = f"has no car that can be read ({self.missing_sign()})" if unreadable else "is an empty feed"
            self.fail(f"{response.url} {what} (records={self.records}).")
        self.check_page(response, page, cards, unreadable)
        self.count("pages/results")
        self._missed = 0
        if not {card.external_id for card in cards} - self.seen:
            self.incomplete(f"Page {page} of the feed ({response.url}) has no car that pages before it had not.")
        for result in await self.follow_cards([card for card in cards if self.is_asked_for(card)]):
            yield result
        self.seen.update(card.external_id for card in cards)
        for each in await self._following(page):
            yield each

    async def page_failed(self, failure: Failure) -> AsyncIterator[Request]:
        """Count a page that does not come, and go on: how many there are is known. Nothing is concluded."""
        request: Request = failure.request  # type: ignore[attr-defined]
        page = request.cb_kwargs["page"]
        self.is_partial = True
        self.count("pages/failed")
        logger.error("Page %d of the feed does not come: %r (%s)", page, request.url, why_no_page(failure))
        self._missed += 1
        for each in await self._following(page) if self._missed < _MISSES else ():
            yield each

    async def _following(self, page: int) -> list[Any]:
        following = self.next_request(None, None, page)
        return [following] if following else await self.at_end()

    def next_request(self, response: Response | None, make: str | None, page: int) -> Request | None:
        if self.pages is not None and page >= self.pages:
            return None
        return next(iter(self._ask(self._address_of(page + 1), None, page + 1)), None)

    def _missing_from_all(self, response: Response, cards: list[CarItem]) -> str | None:
        """Return what no car of a full page has: then the feed has other fields."""
        if len(cards) < MANY:
            return None
        wanted = {
            "EXT_MODFRAMLEIDANDI": any(card.make for card in cards),
            "VERD, EXT_ARGERD or EXT_EKINNKM": any(card.price or card.year or card.kilometers for card in cards),
            "a photo of its own by imgurl": any(card.images for card in cards) or not self._shown_photos,
        }
        return next((name for name, is_there in wanted.items() if not is_there), None)

    async def at_end(self) -> list[CarItem | Request]:
        """Look up the cars that are no longer in the feed; nothing is concluded from one that lacks some."""
        if not self.is_partial and len(self.seen) < self.records:
            self.is_partial = True
            logger.warning(
                "The feed says that it has %d cars and showed %d: nothing is concluded", self.records, len(self.seen)
            )
        return await super().at_end()

    async def unseen_photos(self) -> list[CarItem]:
        """Return none without leave to store the feed's photos."""
        return await super().unseen_photos() if self.settings.getbool(self.store_setting) else []

    # --- what a page says ---

    def _redacted(self, response: Response) -> bytes:
        """Return the answer without the key, should it repeat it."""
        key: Secret | None = self.settings.get(self.key_setting)
        return key.redact(response.body) if key else response.body

    def _no_feed(self, response: Response, why: str) -> None:
        self.fail(
            f"{response.url} is no page of the feed: {why}. Either {self.key_setting} is wrong, or this machine's "
            "address is not on the key's list, or the feed has changed."
        )

    def select_cards(self, response: Response) -> Iterator[tuple[Any, str]]:
        try:
            root = read_xml(self._redacted(response))
        except ValueError as error:
            self._no_feed(response, str(error))
        meta = root.find("meta")
        names = [] if meta is None else [name.strip().upper() for name in meta.get("fields", "").split(",")]
        image_address = "" if meta is None else meta.get("imgurl", "")
        asked = {found["name"].upper() for found in _PLACEHOLDER.finditer(image_address) if found["of"] in {"v", "V"}}
        good = {"fields": "ID" in names, "imgurl": bool(image_address) and asked <= set(names)}
        if missing := [f"good <meta {name}=…>" for name, is_good in good.items() if not is_good]:
            self._no_feed(response, f"there is no {' and no '.join(missing)}")
        if self._lacks_codes:
            self._lacks_codes = False
            self.count("pages/failed")
        self.pages, self.records = number_of(meta.get("pages")), number_of(meta.get("records")) or 0
        for element in root.iterfind(self.card):
            fields = {name: element.get(f"F{number}") or "" for number, name in enumerate(names)}
            photos = sorted(element.iterfind(self.card_images), key=_place_of_photo)
            yield FeedCar(fields, [each.get("id", "") for each in photos], image_address), ""

    def read_card(self, response: Response, selector: Any, link: str) -> CarItem:
        """Read a car of the feed.

        Raises:
            ValueError: it has no id.
        """
        car: FeedCar = selector
        external_id = car.fields["ID"].strip()
        if not re.fullmatch("[A-Za-z0-9]{1,40}", external_id):
            raise ValueError(f"no car with the id {external_id!r}")
        names = self.codes.get("aukahlutir", {})
        equipment = [names.get(code.strip(), "") for code in (car.text("AUKAHLUTIR") or "").split("$")]
        make, model = car.text("MODFRAMLEIDANDI", "FRAMLEIDANDI"), car.text("MODGERD", "GERD")
        # Without a make the model's first word is not taken for one: the feed has a field for it.
        named = canonical(*split_make_model(make, f"{make} {model or ''}")) if make else canonical(None, model)
        year, month = parsing.parse_year_month(car.text("ARGERD"))
        fields = {
            "url": self._page_of(response, car, external_id),
            "year": year,
            "registration_month": month,
            "price": parsing.parse_price(with_unit(car.text("VERD"), "þús. kr.")).amount,
            "kilometers": parsing.parse_kilometers(with_unit(car.text("EKINNKM", "EKINN"), "km")),
            "fuel": words.parse_fuel(self._coded(car, "ELDSNEYTI", "eldsneyti")),
            "transmission": words.parse_transmission(self._coded(car, "GIRARTEGUND", "girartegund")),
            "drivetrain": words.parse_drivetrain(self._coded(car, "DRIF", "drif")),
            "colour": words.parse_colour(self._coded(car, "LITUR", "litir")),
            "body": words.parse_body(self._coded(car, "FLOKKUR", "flokkar")),
            "doors": words.parse_doors(car.text("DYR")),
            "seats": words.parse_seats(car.text("MANNA")),
            "horsepower": words.parse_horsepower(car.text("HESTOFL")),
            "dealer_id": car.text("BILASALAID"),
            "description": parsing.clean_text(", ".join(filter(None, equipment))),
        }
        self._shown_photos += len(car.photos)
        shown = (self.image(response.urljoin, self._fill(car, each), external_id) for each in car.photos if each)
        return self.item_of(named, number_images(shown), shown=repr((named, fields)), external_id=external_id, **fields)

    def _coded(self, car: FeedCar, field: str, group: str) -> str | None:
        """Return the name of a field's code; a name that stands there itself is good, too."""
        text = car.text(field)
        return self.codes.get(group, {}).get(text or "", text)

    def image(self, join: Any, address: str, external_id: str) -> CarImage | None:
        """Return the photo that an address names; without leave to store it, it is linked only."""
        image = super().image(join, address, external_id)
        if image and image.status == Status.PENDING and not self.settings.getbool(self.store_setting):
            image.reason = "terms"
        return image

    def _fill(self, car: FeedCar, photo: str) -> str:
        """Write a photo's address by the feed's template."""

        def value(found: re.Match[str]) -> str:
            of, name = (found["of"] or "").lower(), found["name"].upper()
            if of == "v":
                return quote(car.fields.get(name, "").strip(), safe="")
            if of == "p":
                return quote(photo, safe="") if name == "ID" else ""
            return str(self.settings.getint("IMAGES_WIDTH")) if name == "WIDTH" else ""

        return _PLACEHOLDER.sub(value, car.image_address)

    def _page_of(self, response: Response, car: FeedCar, external_id: str) -> str:
        """Return the address of the car's own page, on the site that shows its photos."""
        site = response.urljoin(car.image_address.partition("?")[0])
        if not is_web_address(site):
            raise ValueError(f"no site in imgurl={car.image_address!r}")
        parts, dealer = urlsplit(site), car.text("BILASALAID")
        named = ({"bid": dealer} if dealer else {}) | {"cid": external_id}
        return self.car_page(named, f"{parts.scheme}://{parts.netloc}/")


def number_of(text: str | None) -> int | None:
    """Read a whole number; ``None`` if it is none."""
    return int(text) if text and re.fullmatch(r"\s*[0-9]{1,9}\s*", text, re.ASCII) else None


def _place_of_photo(photo: Any) -> float:
    place = number_of(photo.get("so"))
    return float("inf") if place is None else place


def with_unit(text: str | None, unit: str) -> str | None:
    """Add the unit to a number that stands alone.

    >>> with_unit("2990", "þús. kr."), with_unit("45000 km", "km"), with_unit(None, "km")
    ('2990 þús. kr.', '45000 km', None)
    """
    return f"{text} {unit}" if text and re.fullmatch(r"[0-9.,]+", text) else text
