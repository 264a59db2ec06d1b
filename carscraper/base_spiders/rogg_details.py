"""Cars' own pages and photos on the platform of Rögg ("Henry"): two layouts, each fact read by what it looks like."""

from __future__ import annotations

import html
import re
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from carscraper import parsing, words
from carscraper.base_spiders.base import by_address
from carscraper.base_spiders.cards import CardSpider, set_images, set_vehicle
from carscraper.base_spiders.pages import first_of, number_images, read_image, text_of, visible_text
from carscraper.base_spiders.paging import parameters_of
from carscraper.items import CarImage, CarItem
from carscraper.vehicles import canonical, split_title

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scrapy.http import Response

T = TypeVar("T")

CAR_PARAMETERS = ("bid", "cid", "sid")
"""What names a car and its sale in the address of its page."""
_PERHAPS_PLUGGED = frozenset({"petrol/electric", "diesel/electric", "hybrid"})
_LEAST_PLUGGED = 5.0  # kWh; hybrids without a plug have one or two


class RoggDetailsSpider(CardSpider):
    """What the sites of the platform have in common whatever their result pages are like."""

    # Where things are.
    details_name = ".cd-make-and-model"
    details_price = ".cd-price"
    details_images = "img[src*='CarImage.aspx' i], img[data-src*='CarImage.aspx' i], img.cd-car-photo, img.swiper-slide"
    details_fuel = ".col-6.text-right .font-weight-bold"
    details_gears = ".col-6.font-weight-bold"
    description = (
        ".row.mt-3.text-overflow-ellipsis > div, .row.mt-3 > .col-12:only-child, .description p, .car-description p"
    )
    dealer_name = ".seller-name, a[href*='BilasalaDetails.aspx' i], .dealer-name"

    # Words that the platform itself uses.
    gone_texts = ("Engar upplýsingar fundust um ökutæki", "Ökutæki gæti verið selt eða finnst ekki af öðrum ástæðum")
    number_label = "Raðnúmer"
    price_before = "Verð áður"
    plug_texts = ("Tegund hleðslutengils", "Tengill fyrir heimahleðslu")

    # DealerSpider
    shared_ids = "rogg"
    has_details = True
    gone_by_status = False  # the platform says it in words

    # --- addresses ---

    def own_url(self, link: str) -> str:
        return self.car_page(parameters_of(link), self.base_url)

    def car_page(self, parameters: dict[str, str], base_url: str) -> str:
        kept = {name: parameters[name] for name in CAR_PARAMETERS if parameters.get(name)}
        return f"{base_url}CarDetails.aspx?{urlencode(kept)}"

    def car_id(self, url: str) -> str | None:
        found = parameters_of(url).get("cid", "")
        return found if found.isalnum() else None

    def car_of_image(self, address: str) -> str | None:
        found = parameters_of(address).get("c", "") if "carimage.aspx" in address.lower() else ""
        return found if found.isalnum() else None

    def canonical_url(self, url: str) -> str:
        parts = urlsplit(url)
        return self.car_page(parameters_of(url), f"{parts.scheme}://{parts.netloc}/")

    # --- photos ---

    def read_images(self, response: Response, external_id: str) -> list[CarImage]:
        """Return the car's photos on its own page; other cars' photos there (offers, "similar cars") are left out."""
        read = partial(self.image, response.urljoin, external_id=external_id)
        shown = dict.fromkeys(filter(None, map(self.picture_address, response.css(self.details_images))))
        # Photos that stand elsewhere: in a <picture>, a link, a background, the data of a script.
        text = html.unescape(response.text).replace("\\/", "/")
        elsewhere = (read(address) for address in dict.fromkeys(_photo_addresses(text)) if address not in shown)
        own = (image for image in elsewhere if image and image.identity.startswith(f"{external_id}/"))
        return number_images([*map(read, shown), *own])

    def image(self, join: Any, address: str, external_id: str) -> CarImage | None:
        # Older addresses were joined without a slash: https://bilasolur.isCarImage.aspx?…
        raw = re.sub(r"^(https?://[^/?#]*?)/*(CarImage\.aspx)", r"\1/\2", html.unescape(address), flags=re.IGNORECASE)
        return read_image(join, raw, lambda url: self._image_at(url, external_id))

    def _image_at(self, url: str, external_id: str) -> CarImage | None:
        """Return the photo of the car at *url*; its identity is (c, p), whatever its width and other parameters are."""
        parts, parameters = urlsplit(url), parameters_of(url)
        is_ours = parts.path.lower().endswith("carimage.aspx") and {"c", "p"} <= parameters.keys()
        if is_ours and parameters["c"] != external_id:
            return None
        # What is no id of a photo, such as a NUL or five kilobytes, would cost the car its row.
        if not is_ours or not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", parameters["p"]):
            return CarImage(identity=by_address(url), source_url=url)
        query = {name: parameters[name] for name in ("s", "c", "p") if parameters.get(name)}
        query["w"] = str(self.settings.getint("IMAGES_WIDTH"))
        path = quote(re.sub(r"/{2,}", "/", parts.path), safe="/%")
        source_url = f"{parts.scheme}://{parts.netloc}{path}?{urlencode(query)}"
        return CarImage(identity=f"{parameters['c']}/{parameters['p']}", source_url=source_url)

    # --- the car's own page ---

    def car_on(self, response: Response) -> str | None:
        """Return the number that the page shows, whatever its address names."""
        numbers = set(re.findall(rf"{self.number_label}\W{{0,9}}([0-9]{{5,9}})\b", visible_text(response)))
        return numbers.pop() if len(numbers) == 1 else super().car_on(response)

    def parse_details(self, response: Response, item: CarItem) -> Iterator[CarItem]:
        """Add to *item* what the card does not say.

        Raises:
            ValueError: it is not this car's page (a login or maintenance page with status 200).
        """
        text = visible_text(response)
        images = self.read_images(response, item.external_id)
        on_card = sum(image.identity.startswith(f"{item.external_id}/") for image in item.images)
        if len(images) < on_card:
            raise ValueError(f"its page shows {len(images)} of the {on_card} photos that its card shows")
        # A seller's words about horsepower and wheels are no facts.
        lines = visible_text(response, without=self.description).split("\n")
        self._read_name_and_price(response, lines, item)
        self._read_facts(response, lines, item)
        item.horsepower = _labelled(lines, "Hestöfl", words.parse_horsepower) or _alone(lines, words.parse_horsepower)
        item.city_consumption = _labelled(lines, "Innanbæjareyðsla", words.parse_consumption)
        item.source_updated_at = _labelled(lines, "Síðast uppfært", parsing.parse_date)
        item.doors = _alone(lines, words.parse_doors)
        item.seats = _alone(lines, words.parse_seats)
        item.body = _labelled(lines, "Yfirbygging", words.parse_body) or _labelled(lines, "Flokkur", words.parse_body)
        item.colour = _labelled(lines, "Litur", words.parse_colour)
        notes = " ".join(response.css(self.description).css("::text").getall())
        item.description = parsing.clean_text(notes) or item.description
        item.dealer_name = text_of(response.css(self.dealer_name))
        item.registration_plate = words.parse_registration_plate(text)
        registered = _labelled(lines, "(?:Ný)?skráning", _year_month)
        if not (item.horsepower or item.colour or item.source_updated_at or registered):
            raise ValueError("it has none of the facts of a car's own page")
        set_images(item, [*images, *item.images])  # what only the card shows was seen, too
        yield item

    def _read_name_and_price(self, response: Response, lines: list[str], item: CarItem) -> None:
        """Read what the card did not say."""
        name = text_of(response.css(self.details_name))
        if item.make is None and name:
            set_vehicle(item, canonical(*split_title(name)))
        if item.price is None and (price := text_of(response.css(self.details_price))):
            found = parsing.parse_price(price)
            item.price, item.price_excludes_vat = found.amount, found.excludes_vat
            item.price_before_offer = found.before_offer
        before = _labelled(lines, self.price_before, lambda text: parsing.parse_price(text).amount)
        if before and item.price and item.price < before:
            item.price_before_offer = before

    def _read_facts(self, response: Response, lines: list[str], item: CarItem) -> None:
        """Add to *item* the facts that one layout has on the card and another on the page."""
        if item.registration_month is None:
            year, month = _labelled(lines, "(?:Ný)?skráning", _year_month) or (None, None)
            if year is not None and item.year in {None, year}:
                item.year, item.registration_month = year, month
        if item.kilometers is None:
            item.kilometers = _labelled(lines, "Akstur", parsing.parse_kilometers)
        if item.fuel is None:
            item.fuel = (
                first_of(map(words.parse_fuel, map(text_of, response.css(self.details_fuel))))
                or _labelled(lines, "Eldsneyti", words.parse_fuel)
                or _labelled(lines, "Vél", words.parse_fuel)
            )
        if item.fuel in _PERHAPS_PLUGGED and self._has_plug(lines):
            item.fuel = "plug-in-hybrid"
        if item.transmission is None:
            gears = map(text_of, response.css(self.details_gears))
            found = first_of(map(words.parse_transmission, gears))
            item.transmission = found or _alone(lines, words.parse_transmission, words=4)
        item.drivetrain = item.drivetrain or _alone(lines, words.parse_drivetrain, words=4)

    def _has_plug(self, lines: list[str]) -> bool:
        """Return whether the equipment names a plug, or a battery that is too large for a hybrid without one."""
        if any(line.startswith(self.plug_texts) for line in lines):
            return True
        capacity = _labelled(lines, "Stærð rafhlöðu", words.parse_kilowatt_hours)
        return capacity is not None and capacity >= _LEAST_PLUGGED


def _photo_addresses(text: str) -> Iterator[str]:
    """Yield what looks like the address of a photo, wherever it stands in a page.

    >>> list(_photo_addresses("<a href='/a/CarImage.aspx?c=1&p=2'>url(CarImage.aspx?c=1&p=3)"))
    ['/a/CarImage.aspx?c=1&p=2', 'CarImage.aspx?c=1&p=3']
    """
    for found in re.finditer(r"CarImage\.aspx\?[^\"'\s<>()\\]+", text, re.IGNORECASE):
        # Looked for backwards from the name: to begin at every letter of a long word costs its square.
        before = re.search(r"[^\"'\s<>()=,]*$", text[max(0, found.start() - 300) : found.start()])
        yield (before[0] if before else "") + found[0]


def _year_month(text: str) -> tuple[int | None, int | None] | None:
    found = parsing.parse_year_month(text)
    return found if found[0] else None


def _labelled(lines: list[str], label: str, parse: Callable[[str], T | None]) -> T | None:
    """Read what follows *label*, a pattern, on its line or else on the next one.

    >>> _labelled(["Hestöfl frá", "Vél", "Hestöfl", "177 hö.", "Litur: Blár"], "Hestöfl", words.parse_horsepower)
    177
    >>> _labelled(["Verð kr.", "3.300", ".000"], "Verð", lambda text: parsing.parse_price(text).amount)
    3300000
    >>> _labelled(["Litur: Blár"], "Litur", words.parse_colour)
    'blár'
    """
    match = re.compile(rf"{label}\b\s?:?\s?(.*)", re.IGNORECASE).match
    for number, line in enumerate(lines):
        if found := match(line):
            rest = found[1]
            if re.fullmatch(r"(?:kr\.?)?", rest, re.IGNORECASE):  # a price may go on in pieces
                rest = " ".join((rest, *lines[number + 1 : number + (3 if rest else 2)]))
            value = parse(rest)
            if value is not None:
                return value
    return None


def _alone(lines: list[str], parse: Callable[[str], T | None], *, words: int = 2) -> T | None:
    """Read a fact that stands alone on its line, or with its number on the line before.

    A number alone says nothing, and neither does a fact in a sentence: a line of more than *words*.

    >>> lines = ["Um 400 hestöfl eftir breytingu", "5", "150", "hestöfl", "7 manna"]
    >>> _alone(lines, words.parse_horsepower), _alone(lines, words.parse_seats), _alone(lines, words.parse_doors)
    (150, 7, None)
    """
    for before, line in zip(["", *lines], lines, strict=False):
        if line.isdecimal():
            continue
        number = before if before.isdecimal() else ""
        for text in (line, f"{number} {line}") if number else (line,):
            value = parse(text) if len(text.split()) <= words else None
            if value is not None:
                return value
    return None
