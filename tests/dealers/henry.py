"""A simulated feed of the Rögg platform, with the cars' own pages and photos beside it as on bilasolur.is.

``get.aspx?apikey=…&page=N&pagesize=50``: XML whose fields are numbered F0, F1 …, named by ``<meta fields=…>``, in an
order that is **another one on every page**. ``codes.aspx?apikey=…`` says what the numbers of fuel and equipment mean.
A wrong key is answered with 403. Everything else is `SimulatedBilasolur`'s.
"""

from __future__ import annotations

import itertools
import random
from typing import Any
from xml.sax.saxutils import quoteattr

from tests.dealers import cars as invented
from tests.dealers.bilasolur import SimulatedBilasolur
from tests.dealers.cars import Car
from tests.dealers.faults import page
from tests.dealers.photos import BODIES, COLOURS
from tests.http_server import Request, Response

KEY = "5f2c/7d1e+Henry=0451"
"""Has characters that an address has to have percent-encoded."""
MOST = 50
EQUIPMENT = ("ABS hemlakerfi", "Bakkmyndavél", "Dráttarkrókur", "Hiti í sætum", "Leðuráklæði & rafmagn")
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "eldsneyti": ("e", tuple(fuel for fuel in invented.FUELS if fuel)),
    "girartegund": ("g", invented.TRANSMISSIONS),
    "drif": ("d", invented.DRIVETRAINS),
    "litir": ("l", tuple(dict.fromkeys((*COLOURS, *itertools.chain(*invented.COLOUR_NAMES.values()))))),
    "flokkar": ("f", tuple(BODIES)),
    "aukahlutir": ("a", EQUIPMENT),
}
FIELDS = (
    *("ID", "EIGANDI", "ARGERD", "VERD", "EXT_MODFRAMLEIDANDI", "EXT_MODGERD", "EXT_ARGERD", "EXT_EKINNKM", "EKINN"),
    *("ELDSNEYTI", "GIRARTEGUND", "DRIF", "LITUR", "FLOKKUR", "DYR", "MANNA", "HESTOFL", "AUKAHLUTIR"),
    "EXT_BILASALAID",
)
KINDS = {"/get.aspx": "feed", "/codes.aspx": "codes"}


def code(group: str, name: str | None) -> str:
    """The number of a name: 101 and up, another range for each group."""
    names = GROUPS[group][1]
    return "" if name is None else str(100 * (list(GROUPS).index(group) + 1) + names.index(name) + 1)


def equipment_of(car: Car) -> list[str]:
    return [name for place, name in enumerate(EQUIPMENT) if (car.number + place) % 3 == 0]


class SimulatedHenry(SimulatedBilasolur):
    """The feed and the site.

    Args:
        echo: repeat the key in answers, as some servers do.
        records: what ``<meta records=…>`` says; None for the truth.
        stuck: every page is the first one.
        options: bilasolur's; `per_page` is the feed's page size at most.
    """

    def __init__(self, **options: Any) -> None:
        own = {"echo": False, "records": None, "stuck": False}
        for name, default in own.items():
            setattr(self, name, options.pop(name, default))
        small = {"cars": 12, "photos": 2, "per_page": 5, "photo_bytes_average": 20_000}
        super().__init__(**small | options)

    echo: bool
    records: int | None
    stuck: bool

    def classify(self, request: Request) -> tuple[str, str]:
        if request.route in KINDS:
            return KINDS[request.route], request.query.get("page", "")
        return super().classify(request)

    def answer(self, kind: str, which: str, request: Request) -> Response:
        if kind in KINDS.values():
            if request.query.get("apikey") != KEY:
                return page("403", "Aðgangur bannaður.", status=403)
            return self._feed(which, request) if kind == "feed" else self._codes()
        return super().answer(kind, which, request)

    def _codes(self) -> Response:
        groups = (
            f"<{group}>{''.join(f'<{each} id={quoteattr(code(group, n))} n={quoteattr(n)}/>' for n in names)}</{group}>"
            for group, (each, names) in GROUPS.items()
        )
        return _xml(f"<data>{''.join(groups)}{self._echoed()}</data>")

    def _echoed(self) -> str:
        return f"<query apikey={quoteattr(KEY)}/>" if self.echo else ""

    def _feed(self, which: str, request: Request) -> Response:
        size = min(int(request.query.get("pagesize") or 30), MOST, self.per_page)
        on_sale = [car for car in list(self.cars) if not car.sold]
        last = max(1, -(-len(on_sale) // size))
        asked = 1 if self.stuck else min(max(1, int(which or 1)), last)
        fields = list(FIELDS)
        random.Random(asked).shuffle(fields)
        records = len(on_sale) if self.records is None else self.records
        site = self.base_url + "/CarImage.aspx?s={v.EXT_BILASALAID}&c={v.ID}&p={p.ID}&w={width}"
        meta = (
            f'<meta fields="{",".join(fields)}" pages="{last}" records="{records}" pagesize="{size}" '
            f"imgurl={quoteattr(site)}/>"
        )
        meta += self._echoed()
        cars = "".join(self._vehicle(car, fields) for car in on_sale[(asked - 1) * size : asked * size])
        return _xml(f"<data>{meta}<vs>{cars}</vs></data>")

    def _vehicle(self, car: Car, fields: list[str]) -> str:
        values = {
            "ID": str(car.cid),
            "EIGANDI": "1",
            "VERD": "" if car.price is None else str(car.price // 1000),
            "EXT_MODFRAMLEIDANDI": car.make.upper(),
            "EXT_MODGERD": car.model,
            "EXT_ARGERD": str(car.year) if car.number % 2 else "",
            "ARGERD": "1999" if car.number % 2 else str(car.year),
            "EXT_EKINNKM": str(car.kilometers or 0) if car.number % 3 else "",
            "EKINN": "7" if car.number % 3 else str(car.kilometers or ""),
            "ELDSNEYTI": code("eldsneyti", car.fuel),
            "GIRARTEGUND": code("girartegund", car.transmission),
            "DRIF": code("drif", car.drivetrain),
            "LITUR": code("litir", car.colour),
            "FLOKKUR": code("flokkar", car.body),
            "DYR": str(car.doors),
            "MANNA": str(car.seats),
            "HESTOFL": str(car.horsepower),
            "AUKAHLUTIR": "$".join(code("aukahlutir", name) for name in equipment_of(car)),
            "EXT_BILASALAID": str(car.bid),
        }
        if self._card_faults.get(car.cid) == "no-cid":
            values["ID"] = ""
        attributes = " ".join(f"F{place}={quoteattr(values[name])}" for place, name in enumerate(fields))
        # `so` says the order, which is not that of the elements.
        order = list(enumerate(car.photos, 1))[::-1]
        photos = "".join(f'<p id="{photo.p}" so="{place * 10}"/>' for place, photo in order)
        for photo in car.photos:
            self._image(car, photo, 400, "")  # the feed, too, makes the addresses living ones
        return f"<v {attributes}><ps>{photos}</ps></v>"


def _xml(content: str) -> Response:
    return Response(body=f'<?xml version="1.0" encoding="utf-8"?>{content}', content_type="text/xml; charset=utf-8")
