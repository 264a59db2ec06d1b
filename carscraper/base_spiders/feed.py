"""The XML feed of the Rögg platform ("Henry"): the route that a dealer with an API key is given.

Pages of at most 50 cars whose fields are numbered; each page names them in its own order. What is known of it, and
how sure, is in ``docs/sites/henry.md``. Photos and the cars' own pages are those of the platform's sites.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

from scrapy import Request

from carscraper import parsing
from carscraper.base_spiders.base import is_web_address, reason_of, status_of
from carscraper.base_spiders.feed_xml import KeptCodes, Vehicle, number_of, place_of_photo, read_xml, with_unit
from carscraper.base_spiders.rogg import RoggSpider
from carscraper.exceptions import ConfigurationError
from carscraper.items import CarItem
from carscraper.vehicles import canonical, split_make_model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from typing import ClassVar

    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from twisted.python.failure import Failure

    from carscraper.base_spiders.feed_xml import Codes
    from carscraper.base_spiders.paging import Walk
    from carscraper.items import CarImage
    from carscraper.settings import Secret

logger = logging.getLogger(__name__)

_MISSES = 3  # pages in a row that do not come: then the rest is not asked for
_MANY = 5  # cars that can't all lack the same by chance
_REFUSED = {401, 403}
_HANDLER = "carscraper.middlewares.apikey.KeyedDownloadHandler"
_PLACEHOLDER = re.compile(r"\{(?:(?P<of>[vp])\.)?(?P<name>\w+)\}", re.IGNORECASE)


class RoggFeedSpider(RoggSpider):
    """A feed on the Rögg platform. A subclass says which settings hold its address, its key and leave to store photos.

    ``base_url`` overrides the setting with the address; all other arguments are as everywhere. There are no details
    pages to read: ``details`` changes nothing.
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
    vehicle = "vs/v"
    photo = "ps/p"
    codes_of: ClassVar[Mapping[str, str]] = {
        "eldsneyti": "e",
        "girartegund": "g",
        "drif": "d",
        "litir": "l",
        "flokkar": "f",
        "aukahlutir": "a",
    }

    # DealerSpider
    has_details = False
    changes_within = ()

    codes: Codes = MappingProxyType({})
    pages: int | None = None
    """How many there are, as the last one said."""
    records = 0
    """How many cars there are, as the last page said."""
    _last_page = 0
    _shown_photos = 0
    _lacks_codes = False

    # CardSpider
    card = "vs/v"
    card_link = "meta fields"
    card_mark = ""

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        """Send the key with the one handler that shows it to nobody."""
        super().update_settings(settings)
        handlers = settings.getdict("DOWNLOAD_HANDLERS") | dict.fromkeys(("http", "https"), _HANDLER)
        settings.set("DOWNLOAD_HANDLERS", handlers, priority="spider")

    def configure(self) -> None:
        """Turn arguments and settings into attributes.

        Raises:
            ConfigurationError: an argument is wrong, or the feed's address or key is missing.
        """
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

    # --- codes ---

    async def start(self) -> AsyncIterator[Any]:
        """Ask for the codes unless they were fetched within a day, then for the first page."""
        if self.argument_problem:
            return
        if not self.settings.getbool(self.store_setting):
            logger.warning(
                "The feed's photos are linked and not stored, as its terms are said to ask; "
                "%s=true stores them for who has leave.",
                self.store_setting,
            )
        feed = hashlib.sha256(self.base_url.encode()).hexdigest()[:8]
        folder = Path(self.settings.get("SPOOL_DIR")).parent
        self._kept_codes = KeptCodes(folder / f"{self.name}-codes-{feed}.xml", self.codes_of)
        self.codes, is_fresh = await asyncio.to_thread(self._kept_codes.read)
        if is_fresh:
            yield self._first_page()
            return
        yield Request(
            urljoin(self.base_url, self.codes_page),
            callback=self.parse_codes,
            errback=self.codes_failed,
            dont_filter=True,
            priority=20,
        )

    async def parse_codes(self, response: Response) -> AsyncIterator[Request]:
        """Keep the codes for a day."""
        data = self._redacted(response)
        try:
            self.codes = self._kept_codes.parse(data)
        except ValueError as error:
            self._without_codes(str(error))
        else:
            try:
                await asyncio.to_thread(self._kept_codes.write, data)
            except OSError as error:
                logger.warning("The feed's codes can't be kept in %s: %s", self._kept_codes.path, error.strerror)
        yield self._first_page()

    def codes_failed(self, failure: Failure) -> Iterator[Request]:
        """Go on without codes, or with those of an earlier day."""
        self._without_codes(reason_of(failure))
        yield self._first_page()

    def _without_codes(self, why: str) -> None:
        if self.codes:
            logger.warning("The feed's codes do not come (%s); those of an earlier day are used", why)
            return
        self._lacks_codes = True
        logger.error("The feed's codes do not come (%s): fuel, gears, drive, colour and equipment stay unknown", why)

    # --- pages ---

    def _address_of(self, page: int) -> str:
        return f"{urljoin(self.base_url, self.feed_page)}?page={page}&pagesize={self.page_size}"

    def _first_page(self) -> Request:
        return Request(
            self._address_of(1), callback=self.parse_results, errback=self.search_failed, dont_filter=True, priority=20
        )

    def searches(self) -> list[str | None]:
        """One: the feed has no search."""
        return [None]

    def search_failed(self, failure: Failure) -> Iterator[Request]:
        """End the crawl: the feed can't be had."""
        yield from ()  # Scrapy logs what a plain function raises here with a traceback
        url = failure.request.url  # type: ignore[attr-defined]
        if status_of(failure) in _REFUSED:
            self.fail(
                f"{url} refuses the key (HTTP {status_of(failure)}): {self.key_setting} is wrong, "
                "or this machine's address is not on the key's list."
            )
        self.fail(f"{url} can't be reached ({reason_of(failure)}).")

    async def page_failed(self, failure: Failure) -> AsyncIterator[Request]:
        """Count a page that does not come, and go on: how many there are is known. Nothing is concluded."""
        self.is_partial = True
        self.count("pages/failed")
        request: Request = failure.request  # type: ignore[attr-defined]
        page, misses = request.cb_kwargs["page"], request.cb_kwargs.get("tries", 1)
        logger.error("Page %d of the feed does not come: %r (%s)", page, request.url, reason_of(failure))
        if misses < _MISSES and page < (self.pages or 0) and page != self.max_pages:
            yield request.replace(url=self._address_of(page + 1), cb_kwargs={"page": page + 1, "tries": misses + 1})

    def lead(self, response: Response, page: int) -> tuple[str | None, bool]:
        """Return the address of the next page; the feed says how many there are."""
        self._last_page = page
        return (self._address_of(page + 1), True) if self.pages is None or page < self.pages else (None, False)

    def _not_results(self, response: Response, walk: Walk, page: int) -> str:
        """Return nothing: what is no page of the feed, or was cut, is no XML that could be read."""
        return ""

    def _again(self, request: Request, make: str | None, page: int) -> None:
        """Return none: the feed has no search that could be begun afresh."""

    def linked_cars(self, response: Response) -> set[str]:
        """Return none: a feed has no links."""
        return set()

    def says_empty(self, response: Response) -> bool:
        """Return whether the page says that there is no car."""
        return self.records == 0

    def _may_be_empty(self, response: Response, page: int) -> bool:
        if page == 1:
            self.fail(f"{response.url} is an empty feed (records={self.records}).")
        return True

    def _missing_from_all(self, response: Response, cards: list[CarItem]) -> str | None:
        """Return what no car of a full page has: then the feed has other fields."""
        if len(cards) < _MANY:
            return None
        wanted = {
            "EXT_MODFRAMLEIDANDI": any(card.make for card in cards),
            "VERD, EXT_ARGERD or EXT_EKINNKM": any(card.price or card.year or card.kilometers for card in cards),
            "a photo of its own by imgurl": any(card.images for card in cards) or not self._shown_photos,
        }
        return next((name for name, is_there in wanted.items() if not is_there), None)

    async def conclude(self) -> list[Request]:
        """Look up the cars that are no longer in the feed; nothing is concluded from one that lacks some."""
        if not self.is_partial and len(self.seen) < self.records:
            self.is_partial = True
            logger.warning(
                "The feed says that it has %d cars and showed %d: nothing is concluded", self.records, len(self.seen)
            )
            if missing := (self.pages or 0) - self._last_page:
                self.count("pages/failed", missing)
        return await super().conclude()

    async def unseen_photos(self) -> list[CarItem]:
        """Return none without leave to store the feed's photos."""
        return await super().unseen_photos() if self.settings.getbool(self.store_setting) else []

    # --- what a page says ---

    @property
    def _likely(self) -> str:
        return (
            f"Either {self.key_setting} is wrong, or this machine's address is not on the key's list, "
            "or the feed has changed."
        )

    def _redacted(self, response: Response) -> bytes:
        """Return the answer without the key, should it repeat it."""
        key: Secret | None = self.settings.get(self.key_setting)
        return key.redact(response.body) if key else response.body

    def select_cards(self, response: Response) -> Iterator[tuple[Any, str]]:
        try:
            root = read_xml(self._redacted(response))
        except ValueError as error:
            self.fail(f"{response.url} is no page of the feed: {error}. {self._likely}")
        meta = root.find("meta")
        names = [] if meta is None else [name.strip().upper() for name in meta.get("fields", "").split(",")]
        image_address = "" if meta is None else meta.get("imgurl", "")
        asked = {found["name"].upper() for found in _PLACEHOLDER.finditer(image_address) if found["of"] in {"v", "V"}}
        found = {"fields": "ID" in names, "imgurl": bool(image_address) and asked <= set(names)}
        missing = [f"good <meta {name}=…>" for name, is_there in found.items() if not is_there]
        if missing:
            self.fail(f"{response.url} is no page of the feed: there is no {' and no '.join(missing)}. {self._likely}")
        if self._lacks_codes:
            self._lacks_codes = False
            self.count("pages/failed")
        self.pages, self.records = number_of(meta.get("pages")), number_of(meta.get("records")) or 0
        for element in root.iterfind(self.vehicle):
            fields = {name: element.get(f"F{number}") or "" for number, name in enumerate(names)}
            photos = sorted(element.iterfind(self.photo), key=place_of_photo)
            yield Vehicle(fields, [each.get("id", "") for each in photos], image_address), ""

    def read_card(self, response: Response, selector: Any, link: str) -> CarItem:
        """Read a car of the feed.

        Raises:
            ValueError: it has no id.
        """
        vehicle: Vehicle = selector
        external_id = vehicle.fields["ID"].strip()
        if not re.fullmatch("[A-Za-z0-9]{1,40}", external_id):
            raise ValueError(f"no car with the id {external_id!r}")
        make, model = vehicle.text("MODFRAMLEIDANDI", "FRAMLEIDANDI"), vehicle.text("MODGERD", "GERD")
        # Without a make the model's first word is not taken for one: the feed has a field for it.
        named = canonical(*split_make_model(make, f"{make} {model or ''}")) if make else canonical(None, model)
        year, month = parsing.parse_year_month(vehicle.text("ARGERD"))
        fields = {
            "url": self._page_of(response, vehicle, external_id),
            "year": year,
            "registration_month": month,
            "price": parsing.parse_price(with_unit(vehicle.text("VERD"), "þús. kr.")).amount,
            "kilometers": parsing.parse_kilometers(with_unit(vehicle.text("EKINNKM", "EKINN"), "km")),
            "fuel": parsing.parse_fuel(self._coded(vehicle, "ELDSNEYTI", "eldsneyti")),
            "transmission": parsing.parse_transmission(self._coded(vehicle, "GIRARTEGUND", "girartegund")),
            "drivetrain": parsing.parse_drivetrain(self._coded(vehicle, "DRIF", "drif")),
            "colour": parsing.parse_colour(self._coded(vehicle, "LITUR", "litir")),
            "body": parsing.parse_body(self._coded(vehicle, "FLOKKUR", "flokkar")),
            "doors": parsing.parse_doors(vehicle.text("DYR")),
            "seats": parsing.parse_seats(vehicle.text("MANNA")),
            "horsepower": parsing.parse_horsepower(vehicle.text("HESTOFL")),
            "dealer_id": vehicle.text("BILASALAID"),
            "description": self._equipment(vehicle),
        }
        images = self._images(response, vehicle, external_id)
        return self.item_of(named, images, shown=repr((named, fields)), external_id=external_id, **fields)

    def _coded(self, vehicle: Vehicle, field: str, group: str) -> str | None:
        """Return the name of a field's code; a name that stands there itself is good, too."""
        text = vehicle.text(field)
        return self.codes.get(group, {}).get(text or "", text)

    def _equipment(self, vehicle: Vehicle) -> str | None:
        names = self.codes.get("aukahlutir", {})
        found = [names.get(code.strip(), "") for code in (vehicle.text("AUKAHLUTIR") or "").split("$")]
        return parsing.clean_text(", ".join(filter(None, found)))

    def _images(self, response: Response, vehicle: Vehicle, external_id: str) -> list[CarImage]:
        images: dict[str, CarImage] = {}
        self._shown_photos += len(vehicle.photos)
        for photo in vehicle.photos:
            image = self.image(response.urljoin, self._fill(vehicle, photo), external_id) if photo else None
            if image and image.identity not in images:
                image.position = len(images)
                images[image.identity] = image
        return list(images.values())

    def image(self, join: Any, address: str, external_id: str) -> CarImage | None:
        """Return the photo that an address names; without leave to store it, it is linked only."""
        image = super().image(join, address, external_id)
        if image and image.status == "pending" and not self.settings.getbool(self.store_setting):
            image.reason = "terms"
        return image

    def _fill(self, vehicle: Vehicle, photo: str) -> str:
        """Write a photo's address by the feed's template."""

        def value(found: re.Match[str]) -> str:
            of, name = (found["of"] or "").lower(), found["name"].upper()
            if of == "v":
                return quote(vehicle.fields.get(name, "").strip(), safe="")
            if of == "p":
                return quote(photo, safe="") if name == "ID" else ""
            return str(self.settings.getint("IMAGES_WIDTH")) if name == "WIDTH" else ""

        return _PLACEHOLDER.sub(value, vehicle.image_address)

    def _page_of(self, response: Response, vehicle: Vehicle, external_id: str) -> str:
        """Return the address of the car's own page, on the site that shows its photos."""
        site = response.urljoin(vehicle.image_address.partition("?")[0])
        if not is_web_address(site):
            raise ValueError(f"no site in imgurl={vehicle.image_address!r}")
        parts = urlsplit(site)
        dealer = vehicle.text("BILASALAID")
        return self.car_page(
            ({"bid": dealer} if dealer else {}) | {"cid": external_id}, f"{parts.scheme}://{parts.netloc}/"
        )
