"""The WebForms platform of Rögg ("Henry"), which bilasolur.is and several dealers run on.

Home → form POST → result pages → the car's own page. All selectors stand in :class:`Selectors`, so that a change on
the live site costs one edit. What is known of the site, and how sure, is in ``docs/sites/bilasolur.md``.
"""

from __future__ import annotations

import hashlib
import html
import logging
import re
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from form2request import form2request
from scrapy import Request

from carscraper import parsing
from carscraper.base_spiders.base import forget_tree, reason_of
from carscraper.base_spiders.dealer import DealerSpider
from carscraper.items import CarImage, CarItem
from carscraper.vehicles import canonical, make_slug, split_make_model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from parsel import Selector
    from scrapy.http import Response
    from twisted.python.failure import Failure

logger = logging.getLogger(__name__)

T = TypeVar("T")

_IDENTITY_PARAMETERS = ("s", "c", "p")
_CAR_PARAMETERS = ("bid", "cid", "sid")


class Selectors:
    """Where things are on the platform's pages."""

    form = "form:has([name$='btnSearch'])"
    make_select = "select[name$='search_f1']"
    submit = "[name$='btnSearch']"
    card = ".sr-item"
    card_link = "a.sr-link[href]"
    card_make = ".car-make"
    card_make_and_model = ".car-make-and-model"
    card_facts = ".tech-details div"
    card_price = ".car-price"
    card_images = "img.swiper-slide, img[src*='CarImage.aspx' i], img[data-src*='CarImage.aspx' i]"
    next_page = ".pagingCell .fa-angle-right"
    details_images = "img[src*='CarImage.aspx' i], img[data-src*='CarImage.aspx' i], img.swiper-slide"
    description = ".description p, .car-description p"
    dealer_name = ".dealer-name"


class RoggSpider(DealerSpider):
    """A site on the Rögg platform."""

    # Words that the platform itself uses.
    no_results = "Engar niðurstöður"
    gone_text = "Engar upplýsingar fundust um ökutæki"

    # --- the search ---

    def start_search(self) -> Iterator[Request]:
        """Begin at home: one search for everything, or one for each of ``makes``."""
        for make in self._searches():
            yield self._home(make)

    def _searches(self) -> list[str | None]:
        return [*self.makes] or [None]

    def _home(self, make: str | None, *, tries: int = 1) -> Request:
        return Request(
            self.base_url,
            callback=self.parse_home,
            errback=self.search_failed,
            cb_kwargs={"make": make, "tries": tries},
            dont_filter=True,  # each search needs a page state of its own
            priority=20,
        )

    def parse_home(self, response: Response, make: str | None, tries: int) -> Iterator[Request]:
        """Send the whole search form, as a browser does."""
        forms = response.css(Selectors.form)
        if not forms:
            self.fail(
                f"The search form ({Selectors.form}) is not on {response.url}: the site has changed or is closed."
            )
        data = {}
        if make:
            select = forms[0].css(Selectors.make_select)
            value = _option(select, make)
            if value is None:
                self.fail(f"makes={make!r} is not among the makes of {response.url}; write them as the site does.")
            data[select.attrib["name"]] = value
        request = form2request(forms[0], data, click=forms[0].css(Selectors.submit)[0])
        yield request.to_scrapy(
            self.parse_results,
            errback=self.search_failed,
            cb_kwargs={"make": make, "page": 1, "tries": tries},
            dont_filter=True,
            priority=20,
        )

    def search_failed(self, failure: Failure) -> Iterator[Request]:
        """Begin the search once more with a fresh page state; then the site counts as unreachable."""
        request: Request = failure.request  # type: ignore[attr-defined]
        arguments = request.cb_kwargs
        why = reason_of(failure)
        if arguments["tries"] > 1 or request.callback == self.parse_home:
            self.fail(f"{request.url} can't be reached ({why}).")
        logger.warning("The search was refused (%s); once more with a fresh form", why)
        yield self._home(arguments["make"], tries=arguments["tries"] + 1)

    # --- result pages ---

    async def parse_results(
        self, response: Response, make: str | None, page: int, tries: int = 1
    ) -> AsyncIterator[CarItem | Request]:
        """Read one result page; go on until a page adds no new car."""
        cards, unreadable = self._read_cards(response)
        if not cards:
            if unreadable or not self._says_empty(response):
                self.fail(
                    f"Result page {page} ({response.url}) has no car that can be read "
                    f"({Selectors.card} with {Selectors.card_link}): the site has changed or shows something else."
                )
            if not self.makes:
                self.fail(f"The search of the whole site found nothing ({response.url}).")
            return
        self.count("pages/results")
        new = [card for card in cards if card.external_id not in self.seen]
        for result in await self.follow_cards(cards):
            yield result
        following = self._next_page(response, make, page) if new else None
        forget_tree(response)
        if following:
            yield following
            return
        self._finished_searches += 1
        if self._finished_searches == len(self._searches()):
            for request in await self.conclude():
                yield request

    _finished_searches = 0

    def _read_cards(self, response: Response) -> tuple[list[CarItem], int]:
        cards = []
        unreadable = 0
        for selector in response.css(Selectors.card):
            if not selector.css(Selectors.card_link):
                continue  # an advertisement
            try:
                card = self.read_card(response, selector)
            except Exception as error:
                unreadable += 1
                self.count("cards/failed")
                logger.warning("A card of %r can't be read (%s: %s)", response.url, type(error).__name__, error)
                continue
            cards.append(card)
        if unreadable:
            self.is_partial = True
        return cards, unreadable

    def _says_empty(self, response: Response) -> bool:
        return _says(response, self.no_results)

    def _next_page(self, response: Response, make: str | None, page: int) -> Request | None:
        # :has() would need the paging cell to hold nothing else; the ancestor is what the arrow belongs to.
        href = response.css(Selectors.next_page).xpath("ancestor-or-self::a[@href][1]/@href").get()
        if not href or (self.limit and self.taken >= self.limit) or page == self.max_pages:
            return None
        if page >= self.settings.getint("CRAWL_MAX_PAGES"):
            self.is_partial = True
            self.count("pages/capped")
            logger.warning("Stopped after %d result pages (CRAWL_MAX_PAGES)", page)
            return None
        return Request(
            response.urljoin(href),
            callback=self.parse_results,
            errback=self.page_failed,
            cb_kwargs={"make": make, "page": page + 1},
            dont_filter=True,  # an arrow that points at its own page must end the search, not lose it
            priority=10,  # the list first: while it is read it shifts little
        )

    def page_failed(self, failure: Failure) -> None:
        """Count a result page that does not come: what follows it is unknown, so nothing is concluded."""
        self.is_partial = True
        self.count("pages/failed")
        url = failure.request.url  # type: ignore[attr-defined]
        logger.error("Result page does not come: %r (%s); the pages after it were not seen", url, reason_of(failure))

    # --- a card ---

    def read_card(self, response: Response, card: Selector) -> CarItem:
        """Read a result card.

        Raises:
            ValueError: its link does not name a car.
        """
        link = response.urljoin(card.css(Selectors.card_link).attrib["href"])
        parameters = _parameters(link)
        external_id = parameters.get("cid", "")
        if not external_id.isalnum():
            raise ValueError(f"no cid in {link!r}")
        facts = [_text(fact) for fact in card.css(Selectors.card_facts)] + [None, None]
        year, month = parsing.parse_year_month(facts[0])
        price = parsing.parse_price(_text(card.css(Selectors.card_price)))
        make, model = split_make_model(
            _text(card.css(Selectors.card_make)), _text(card.css(Selectors.card_make_and_model))
        )
        vehicle = canonical(make, model)
        images = self._images(response, card.css(Selectors.card_images), external_id)
        item = CarItem(
            source=self.source,
            external_id=external_id,
            url=self._car_url(parameters, self.base_url),
            title=" ".join(part for part in (vehicle.display_make, vehicle.display_name) if part) or None,
            make=vehicle.make,
            model=vehicle.model,
            display_make=vehicle.display_make,
            display_name=vehicle.display_name,
            year=year,
            registration_month=month,
            price=price.amount,
            price_before_offer=price.before_offer,
            price_excludes_vat=price.excludes_vat,
            kilometers=parsing.parse_kilometers(facts[1]),
            fuel=parsing.parse_fuel(facts[0]),
            transmission=parsing.parse_transmission(facts[1]),
            dealer_id=parameters.get("bid"),
            images=images,
            image_urls=[image.source_url for image in images],
        )
        item.card_hash = self._card_hash(card, images)
        return item

    @staticmethod
    def _car_url(parameters: dict[str, str], base_url: str) -> str:
        kept = {name: parameters[name] for name in _CAR_PARAMETERS if name in parameters}
        return f"{base_url}CarDetails.aspx?{urlencode(kept)}"

    def car_id(self, url: str) -> str | None:
        """Read ``cid``."""
        found = _parameters(url).get("cid", "")
        return found if found.isalnum() else None

    def canonical_url(self, url: str) -> str:
        """Keep only the parameters that name the car."""
        parts = urlsplit(url)
        return self._car_url(_parameters(url), f"{parts.scheme}://{parts.netloc}/")

    @staticmethod
    def _card_hash(card: Selector, images: list[CarImage]) -> str:
        """Name what a person sees on the card; addresses vary with the search and do not count."""
        seen = [_text(card) or "", *(image.identity for image in images)]
        return hashlib.sha256("\n".join(seen).encode("utf-8", "replace")).hexdigest()[:32]

    # --- photos ---

    def read_images(self, response: Response, external_id: str) -> list[CarImage]:
        """Read the car's photos from its own page; other cars' photos there (offers, "similar cars") are left out."""
        return self._images(response, response.css(Selectors.details_images), external_id)

    def _images(self, response: Response, pictures: Any, external_id: str) -> list[CarImage]:
        images: dict[str, CarImage] = {}
        for picture in pictures:
            # Until it is loaded, a lazy picture has a stand-in as its src.
            addresses = (picture.attrib.get(name, "").strip() for name in ("data-src", "src"))
            address = next((each for each in addresses if each and not each.lower().startswith("data:")), None)
            if address is None:
                continue
            image = self.image(response.urljoin, address, external_id)
            if image and image.identity not in images:
                image.position = len(images)
                images[image.identity] = image
        return list(images.values())

    def image(self, join: Any, address: str, external_id: str) -> CarImage | None:
        """Make of an address the photo it names; ``None`` if it is another car's.

        The identity of a photo is (c, p); spelling, width and every other parameter vary. An ambiguous address is
        refused with the raw text kept.
        """
        raw = html.unescape(address)
        refused = CarImage(identity=_by_address(raw), source_url=raw, status="failed", reason="bad-address")
        try:
            if "\\" in raw or "@" in urlsplit(raw).netloc:
                return refused
            return self._image(join, raw, external_id)
        except ValueError:  # brackets that hold no IPv6 address, and the like
            return refused

    def _image(self, join: Any, raw: str, external_id: str) -> CarImage | None:
        # Older addresses were joined without a slash: https://bilasolur.isCarImage.aspx?…
        raw = re.sub(r"^(https?://[^/?#]*?)/*(CarImage\.aspx)", r"\1/\2", raw, flags=re.IGNORECASE)
        url = join(raw)
        parts = urlsplit(url)
        parameters = _parameters(url)
        if not parts.path.lower().endswith("carimage.aspx") or not {"c", "p"} <= parameters.keys():
            return CarImage(identity=_by_address(url), source_url=url)
        if parameters["c"] != external_id:
            return None
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", parameters["p"]):
            # No id of a photo: a NUL or five kilobytes in the identity would cost the car its row.
            return CarImage(identity=_by_address(url), source_url=url)
        query = {name: parameters[name] for name in _IDENTITY_PARAMETERS if name in parameters}
        query["w"] = str(self.settings.getint("IMAGES_WIDTH"))
        path = re.sub(r"/{2,}", "/", parts.path)
        source_url = f"{parts.scheme}://{parts.netloc}{quote(path, safe='/%')}?{urlencode(query)}"
        return CarImage(identity=f"{parameters['c']}/{parameters['p']}", source_url=source_url)

    # --- the car's own page ---

    def is_gone(self, response: Response) -> bool:
        """Tell whether the page says that the car is sold or removed."""
        return _says(response, self.gone_text)

    def parse_details(self, response: Response, item: CarItem) -> Iterator[CarItem]:
        """Add to *item* what only the details page has.

        Raises:
            ValueError: it is not this car's page (a login or maintenance page with status 200).
        """
        text = _visible_text(response)
        images = self.read_images(response, item.external_id)
        if not images and any(image.identity.startswith(f"{item.external_id}/") for image in item.images):
            raise ValueError("no photo of the car is on its page, though its card shows some")
        if not images and item.external_id not in text and "hestöfl" not in text:
            raise ValueError("neither the car's photos nor its number are on the page")
        item.horsepower = _near(text, "hestöfl", parsing.parse_horsepower)
        item.city_consumption = parsing.parse_consumption(_after(text, "Innanbæjareyðsla"))
        item.source_updated_at = parsing.parse_date(_after(text, "Síðast uppfært"))
        item.drivetrain = _near(text, "hjóladrif", parsing.parse_drivetrain)
        item.doors = _near(text, "dyra", parsing.parse_doors)
        item.seats = _near(text, "manna", parsing.parse_seats)
        item.body = parsing.parse_body(_after(text, "Yfirbygging") or _after(text, "Flokkur"))
        item.colour = parsing.parse_colour(_after(text, "Litur"))
        item.description = parsing.clean_text(" ".join(response.css(Selectors.description).css("::text").getall()))
        item.dealer_name = _text(response.css(Selectors.dealer_name))
        if item.registration_month is None:
            year, month = parsing.parse_year_month(_after(text, "Nýskráning") or _after(text, "Skráning"))
            if year is not None and item.year in {None, year}:
                item.year, item.registration_month = year, month
        # What only the card shows was seen too.
        known = {image.identity for image in images}
        item.images = images + [image for image in item.images if image.identity not in known]
        for position, image in enumerate(item.images):
            image.position = position
        item.image_urls = [image.source_url for image in item.images]
        yield item


def _parameters(url: str) -> dict[str, str]:
    """Give the query of *url* by lower-case name; of several values the first."""
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(html.unescape(urlsplit(url).query)):
        parameters.setdefault(name.lower().removeprefix("amp;"), value.strip())
    return parameters


def _by_address(url: str) -> str:
    return f"url:{hashlib.sha256(url.encode('utf-8', 'replace')).hexdigest()[:32]}"


def _text(selector: Any) -> str | None:
    """Give the text of an element, or of the first of several, words apart."""
    first: Any = selector[:1] if isinstance(selector, list) else selector
    return parsing.clean_text(" ".join(first.css("::text").getall()))


def _visible_text(response: Response) -> str:
    """Give the page's text a line for each element, without scripts, styles and the options of a search form."""
    path = "//body//text()[not(ancestor::script or ancestor::style or ancestor::select or ancestor::noscript)]"
    lines = (parsing.clean_text(text) for text in response.xpath(path).getall())
    return "\n".join(line for line in lines if line)


def _says(response: Response, words: str) -> bool:
    """Tell whether a person sees *words* on the page."""
    return words in " ".join(_visible_text(response).split())


def _after(text: str, label: str) -> str | None:
    """Give the 80 characters that begin with *label*.

    >>> _after("Vél 150 hestöfl Litur: Blár", "Litur")
    'Litur: Blár'
    """
    found = re.search(rf"{re.escape(label)}[\s\S]{{0,80}}", text, re.IGNORECASE)
    return found.group(0) if found else None


def _near(text: str, word: str, parse: Callable[[str], T | None]) -> T | None:
    r"""Read the first occurrence of *word* that *parse* can read, with the line before it.

    The page may split number and word over two elements, and search forms use the same words as labels.

    >>> _near("Hestöfl frá\nVél\n150\nhestöfl\nLitur", "hestöfl", parsing.parse_horsepower)
    150
    """
    for found in re.finditer(rf"(?:[^\n]{{0,80}}\n)?[^\n]{{0,80}}{re.escape(word)}[^\n]{{0,20}}", text, re.IGNORECASE):
        value = parse(found.group(0).replace("\n", " "))
        if value is not None:
            return value
    return None


def _option(select: Any, make: str) -> str | None:
    """Find the option of a make, in whatever spelling the user writes it."""
    wanted = make_slug(make)
    for option in select.css("option"):
        if make_slug(" ".join(option.css("::text").getall())) == wanted:
            value: str | None = option.attrib.get("value")
            return value
    return None
