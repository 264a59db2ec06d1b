"""A simulated bilaland.is: a dealer on the platform of bilasolur.is, with other cards and a list that grows.

The search is bilasolur's. Its results are at ``SearchResults.aspx?id=<GUID>``, and what the page fetches while one
scrolls is taken to be the same address with ``page=2`` …: **nobody has seen that on the live site**. No page
links to the next one, and a page past the last repeats the last page's cars. Details pages and photos are the
platform's.
"""

from __future__ import annotations

import html
from typing import Any, ClassVar

from tests.dealers.bilasolur import SimulatedBilasolur
from tests.dealers.bilasolur_pages import PAGE_STEPS, distance_of, price_of
from tests.dealers.cars import Car

LAZY = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
"""What a lazy picture has as its ``src``."""
NEW_LAYOUT = (("sr-item", "vehicle-tile"), ("sr-link", "vehicle-link"), ("CarImage.aspx", "media.ashx"))


class SimulatedBilaland(SimulatedBilasolur):
    """The site; the arguments are bilasolur's."""

    first_page = ""
    page_steps: ClassVar = {"layout": NEW_LAYOUT, "garbage": PAGE_STEPS["garbage"]}

    def __init__(self, **options: Any) -> None:
        small = {"cars": 12, "photos": 2, "per_page": 5, "ads_every": 4, "photo_bytes_average": 20_000}
        small |= {"layout": "2019", "featured": 0}  # nobody has told whether it follows bilasolur's changes
        super().__init__(**small | options)

    def _paging(self, asked: int, guid: str) -> str:
        return '<div class="scroll-loader"></div>'

    def _card(self, car: Car, schid: int, page_number: int) -> str:
        link = self._link_of(car, schid, page_number)
        make, model = html.escape(car.make.upper()), html.escape(car.model)
        distance = html.escape("Nýtt" if car.is_new else distance_of(car))
        row = '<div class="sr-item-wrapper"><span class="pull-left">{}</span><span class="sr-right">{}</span></div>'
        rows = row.format("Akstur", distance) if distance else ""
        when = f"{car.month}/{car.year}" if car.month else str(car.year)
        picture = self._image(car, car.photos[0], 400, "sr-photo") if car.photos else ""
        if car.number % 2:  # every other one is loaded when it is scrolled to
            picture = picture.replace("src=", f'src="{LAZY}" data-src=', 1)
        return f"""<div class="sr-item">
<a class="sr-link" href="{html.escape(link)}">
<figure>{picture}</figure>
<div class="sr-title"><span class="title-text">
<span class="sr-make">{make}</span> <span class="sr-model">{model}</span>
</span></div>
<div class="sr-yr-pr"><span class="pull-left">{when}</span><span class="pull-right">{price_of(car)}</span></div>
<div class="sr-item-info">{rows}</div>
</a>
</div>
"""
