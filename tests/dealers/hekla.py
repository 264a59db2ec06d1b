"""A simulated hekla.is: numbered pages with a link to the next one, photos that are loaded late, bare lines."""

from __future__ import annotations

import html
from typing import ClassVar

from tests.dealers import cars as invented
from tests.dealers.cars import Car, Photo
from tests.dealers.listing import WIDTHS, SimulatedListing, dotted

STAND_IN = "/static/placeholder.png"


class SimulatedHekla(SimulatedListing):
    """``Næsta`` leads on while there is a next page."""

    page_steps: ClassVar = {"layout": (("/notadir-bilar/view/", "/kaupa/"), ("card", "tile"))}
    results_path = "/is/bilar/notadir-bilar"
    car_path = "/is/bilar/notadir-bilar/view/"
    title = "Notaðir bílar | Hekla"
    ads = (
        """<div class="card"><div class="img"><img src="/media/lan.jpg"></div>
<div class="info">Bílalán: afborgun 49.900 kr. á mánuði</div></div>""",
        """<div class="card"><a href="/is/thjonusta"><div class="img"><img src="/media/dekk.jpg"></div></a>
<div class="info">Dekk. Verð: 89.900 kr.</div></div>""",
        # Somebody else's car, under a number that is also one of ours.
        """<div class="card"><div class="img"><img src="/media/annar.jpg"></div><div class="info">
<h3><a href="https://auglysing.example/bilar/notadir-bilar/view/290003">KIA RIO</a></h3>
Verð: 990.000 kr.</div></div>""",
    )

    def results(self, cards: str, number: int, last: int) -> str:
        makes = "".join(f'<option value="{n}">{html.escape(make)}</option>' for make, (n, _) in invented.MAKES.items())
        following = (
            f'<a href="{self.results_path}?page={number + 1}">Næsta</a>'
            if number < last and self.pager == "own"
            else ""
        )
        return f"""<header><a href="/is"><img src="/static/logo.svg"></a>
<a href="{self.results_path}">Notaðir bílar</a></header>
<form action="/is/bilar/notadir-bilar/search">
<select name="make[]"><option value="">Allir</option>{makes}</select></form>
<main><div class="grid">
{cards}
</div><nav>{following}</nav></main>"""

    def card(self, parts: dict[str, str]) -> str:
        lines = "".join(f"<span>{parts[name]}</span>\n" for name in ("when", "distance", "fuel") if parts[name])
        return f"""<div class="card"><div class="img">{parts["photos"]}</div>
<div class="info"><h3><a href="{parts["link"]}">{parts["title"]}</a></h3>
<p>{parts["price"]}</p>
{lines}</div></div>"""

    def parts(self, car: Car) -> dict[str, str]:
        label = "Tilboð:" if car.price_before_offer else "Verð:"
        return {
            "title": html.escape(f"{car.make} {car.model}"),
            "price": f"<b>{label}</b> {dotted(car.price)} kr." if car.price else "",
            "when": f"{car.month}.{car.year}" if car.month else str(car.year),
            "distance": dotted(car.kilometers) if car.kilometers else "",
            "fuel": html.escape(car.fuel or ""),
            "photos": "".join(self._image(car, photo) for photo in self.shown_photos(car))
            or f'<img src="{STAND_IN}" alt="">',
        }

    def _image(self, car: Car, photo: Photo) -> str:
        if photo.src is not None:
            return f'<img src="{html.escape(photo.src)}">'
        path = f"/media/{car.cid}-{photo.p}.jpg"
        form = car.number % 3
        if form == 0:
            return f'<img src="{STAND_IN}" data-src="{path}?w=784">'
        if form == 1:
            sizes = ", ".join(f"{path}?w={width} {width}w" for width in WIDTHS)
            return f'<img src="{path}?w=400" srcset="{sizes}">'
        return f'<img src="{path}">'

    def photo_address(self, car: Car, photo: Photo) -> str:
        query = ("?w=784", "?w=1280", "")[car.number % 3]
        return f"{self.base_url}/media/{car.cid}-{photo.p}.jpg{query}"
