"""A simulated islandsbilar.is: facts on one line, up to five photos on a card, and a second server for photos."""

from __future__ import annotations

import html
from typing import ClassVar, Self

from tests.dealers.cars import Car, Photo
from tests.dealers.faults import page
from tests.dealers.listing import SimulatedListing, dotted
from tests.dealers.server import SimulatedSite
from tests.http_server import Request, Response


class PhotoHost(SimulatedSite):
    """The other host (``assets.mango.is`` in the real world): photos and nothing else."""

    def __init__(self, site: SimulatedIslandsbilar) -> None:
        super().__init__()
        self.site = site
        self.errors = site.errors  # a mistake here is one of the site's

    def classify(self, request: Request) -> tuple[str, str]:
        kind, which = self.site.classify(request)
        return (kind, which) if kind in {"photo", "robots"} else ("other", "")

    def answer(self, kind: str, which: str, request: Request) -> Response:
        if kind == "other":
            return page("404", "Not found.", status=404)
        return self.site.answer(kind, which, request)


class SimulatedIslandsbilar(SimulatedListing):
    """Photos are on `assets`; those whose address is a bare name a site at another address has itself."""

    page_steps: ClassVar = {
        "layout": (('class="card"', 'class="vehicle"'),),
        "photo-class": (("card__img", "vehicle__photo"),),
    }
    results_path = "/soluskra/"
    car_path = "/car/"
    title = "Söluskrá - Íslandsbílar"
    ads = (
        '<div class="card"><a href="/fjarmognun"><img class="card__img" src="/banner.jpg">Bílafjármögnun</a></div>',
        '<div class="card"><p>Vantar bíla á skrá! Verð: 0 kr.</p></div>',
    )

    def start(self) -> Self:
        self.assets = PhotoHost(self).start()
        return super().start()

    def stop(self) -> None:
        super().stop()
        self.assets.stop()

    def results(self, cards: str, number: int, last: int) -> str:
        leads = number < last and self.pager == "own"
        following = f'<a aria-label="Next" href="/soluskra/?page={number + 1}"><svg></svg></a>' if leads else ""
        return f'<div class="cards">\n{cards}\n</div>\n<div class="pages">{number} {following}</div>'

    def card(self, parts: dict[str, str]) -> str:
        words = ("title", "when", "distance", "gears", "fuel", "drive", "price")
        line = " ".join(parts[name] for name in words if parts[name])
        return f'<div class="card"><a href="{parts["link"]}">{parts["photos"]}</a><div>{line}</div></div>'

    def parts(self, car: Car) -> dict[str, str]:
        price = f"{dotted(car.price)} kr." if car.price else ""
        if price and car.price_before_offer:
            price = f"Tilboð: {price} {dotted(car.price_before_offer)} kr."
        elif price:
            price = f"Verð: {price}"
        return {
            "title": html.escape(f"{car.make} {car.model}".upper()),
            "when": f"{car.month}/{car.year}" if car.month else str(car.year),
            "distance": f"{dotted(car.kilometers).replace('.', ' ')} km." if car.kilometers else "",
            "gears": car.transmission,
            "fuel": html.escape((car.fuel or "").replace("Dísel", "Dísil")),
            "drive": car.drivetrain,
            "price": price,
            "photos": "".join(self._image(car, photo) for photo in self.shown_photos(car)),
        }

    def shown_photos(self, car: Car) -> list[Photo]:
        return car.photos[:5]

    def _image(self, car: Car, photo: Photo) -> str:
        address = photo.src
        if address is None:
            address = self.photo_address(car, photo)
            if self.is_bare(photo):
                address = address.rpartition("/")[2]
        address = html.escape(address)
        late = f'src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" data-src="{address}"'
        return f"<img class='card__img' {late}>" if car.number % 2 else f"<img class='card__img' src='{address}'>"

    def is_bare(self, photo: Photo) -> bool:
        """Whether pages print nothing but the photo's name."""
        return photo.p % 5 == 1

    def photo_address(self, car: Car, photo: Photo) -> str:
        home = self.base_url if self.is_bare(photo) else self.assets.base_url
        return f"{home}/{car.cid}-{photo.p}.jpg"
