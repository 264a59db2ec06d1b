"""A simulated notadir.brimborg.is: numbered pages of 40 cars, labels before each value."""

from __future__ import annotations

import html
from typing import ClassVar

from tests.dealers.cars import Car, Photo
from tests.dealers.listing import SimulatedListing, dotted


class SimulatedBrimborg(SimulatedListing):
    """No link says whether there is a next page."""

    page_steps: ClassVar = {"layout": (("/notadir-bilar/bill/", "/vehicle/"), ("<article", "<section"))}
    results_path = "/is"
    car_path = "/is/notadir-bilar/bill/"
    title = "Notaðir bílar - síða {}"
    ads = (
        '<article><a href="/is/fjarmognun"><img src="/media/fjarmognun.jpg">Fjármögnun</a></article>',
        '<article><img src="/media/abyrgd.jpg"><p>Ábyrgð: 12 mánuðir, verð 99.000 kr.</p></article>',
    )

    def results(self, cards: str, number: int, last: int) -> str:
        return f"""<header><img src="/img/brimborg.svg">Brimborg notaðir bílar</header>
<form action="/notadir-bilar"><select name="brand"><option value="1">Ford</option></select></form>
<main>
{cards}
</main><footer>Bíldshöfða, sími 000 0000</footer>"""

    def card(self, parts: dict[str, str]) -> str:
        lines = "".join(f"<li>{parts[name]}</li>\n" for name in ("when", "distance", "price") if parts[name])
        return f"""<article><a href="{parts["link"]}">{parts["photos"]}</a>
<h3><a href="{parts["link"]}">{parts["title"]}</a></h3>
<ul>{lines}</ul></article>"""

    def parts(self, car: Car) -> dict[str, str]:
        label = "Tilboð" if car.price_before_offer else "Verð:"
        return {
            "title": html.escape(f"{car.make} {car.model}"),
            "when": f"Árgerð (nýskráð): {f'{car.month:02}/' if car.month else ''}{car.year}",
            "distance": f"Ekinn (km): {dotted(car.kilometers)}" if car.kilometers else "",
            "price": f"{label} {dotted(car.price)} kr." if car.price else "",
            "photos": "".join(self._image(car, photo) for photo in self.shown_photos(car)),
        }

    def _image(self, car: Car, photo: Photo) -> str:
        return f'<img src="{html.escape(photo.src or f"/media/{car.cid}-{photo.p}.jpg")}">'

    def photo_address(self, car: Car, photo: Photo) -> str:
        return f"{self.base_url}/media/{car.cid}-{photo.p}.jpg"
