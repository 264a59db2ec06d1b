"""Invented cars: the truth of a simulated site, which a crawl's result is compared with.

Car number N of a seed is always the same car. The numbers walk through every form that the site is known
to print (a price or none, an offer, without VAT, month and fuel missing, a new car, every fuel word), so
the first dozen or two show them all. Dealers are invented; no plate, name or telephone number belongs to
anybody.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import random

from tests.dealers.photos import BODIES, COLOURS, Look

FIRST_CID, CID_STEP = 290_003, 7
FIRST_PHOTO_ID = 3_000_000
PHOTO_IDS_PER_CAR = 100
PHOTO_IDS_PER_GENERATION = 100_000_000

MAKES: dict[str, tuple[int, tuple[tuple[str, str], ...]]] = {
    "Toyota": (12, (("RAV4", "Jeppi"), ("Land Cruiser 150", "Jeppi"), ("Yaris Hybrid", "Fólksbíll"))),
    "Kia": (7, (("Sportage", "Jeppi"), ("Cee'd", "Fólksbíll"), ("EV6 GT-Line", "Fólksbíll"))),
    "Volkswagen": (14, (("Golf GTE", "Fólksbíll"), ("ID.5 GTX 220 KW", "Jeppi"), ("Transporter", "Sendibíll"))),
    "Mercedes-Benz": (9, (("C 220 d 4MATIC", "Fólksbíll"), ("Sprinter 316", "Sendibíll"))),
    "Land Rover": (31, (("Defender 110 HSE", "Jeppi"), ("Discovery Sport", "Jeppi"))),
    "Škoda": (22, (("Octavia Combi", "Fólksbíll"), ("Enyaq iV 80", "Jeppi"))),
    "Ford": (4, (("F-150 Lariat", "Pallbíll"), ("Transit Custom", "Sendibíll"))),
    "Citroën": (19, (("C3 Aircross", "Fólksbíll"), ("Berlingo Van", "Sendibíll"))),
    "Tesla": (58, (("Model Y Long Range", "Jeppi"), ("Model 3", "Fólksbíll"))),
    "Mitsubishi": (10, (("Outlander PHEV", "Jeppi"), ("L200", "Pallbíll"))),
}
"""The site's number of each make, and its models with their body."""

FUELS: tuple[str | None, ...] = (
    "Bensín",
    "Dísel",
    "Rafmagn",
    "Bensín/Rafmagn",
    "Rafmagn/Bensín",
    "Metan/Bensín",
    "Bensín/Metan",
    "Vetni",
    "Hybrid",
    "Plug-in hybrid",
    "Dísel/Dísel",
    None,
)
TRANSMISSIONS = ("Sjálfskipting", "Beinskipting")
DRIVETRAINS = ("Fjórhjóladrif", "Framhjóladrif", "Afturhjóladrif")
TYRES = ("4 heilsársdekk", "4 sumardekk og 4 vetrardekk", "4 nagladekk")
DEALERS = {76: "Bílasalan Sýnishorn", 11: "Bílatorg Dæmis", 203: "Prufubílar Norðurlands", 38: "Bílasalan Líkan"}
DESCRIPTIONS = (
    "Mjög vel með farinn bíll, einn eigandi frá upphafi. Þjónustubók fylgir.",
    "Nýskoðaður án athugasemda. Dráttarkrókur, bakkmyndavél & hiti í sætum.",
    "Ath. skipti á ódýrari. Lán allt að 80% í boði.",
    "",
)
SHORT_NOTES = ("Einn eigandi, toppeintak!", "", "400 hestöfl eftir breytingu, ekinn 1.000 km á vél")
"""What sellers write on the cards of 2026, with words in it that are facts elsewhere."""
COLOUR_NAMES = {"Hvítur": ("Hvítur", "Perluhvítur", "Hvítur (tvílitur)"), "Brúnn": ("Brúnn", "Kampavín")}
"""The site's names of a colour, where it has several."""
TODAY = dt.date(2026, 2, 2)
"""The day on which the simulated sites stand still."""


@dataclasses.dataclass(slots=True)
class Photo:
    """One photo of a car."""

    p: int
    """The site's id of it, which a renumbering changes."""
    name: str
    """Names the picture itself: the same name gives the same bytes, whatever `p` is."""
    view: int
    kind: str = "jpeg"
    """A key of `photos.KINDS`."""
    src: str | None = None
    """What the pages print as the photo's address, word for word; None for the true address."""


@dataclasses.dataclass(slots=True)
class Car:
    """What is true of a car, under the names a crawl would use. Unknown is None; change it at will."""

    number: int
    cid: int
    bid: int
    sid: int
    dealer_name: str
    make: str
    """As people write it; pages show it in upper case."""
    model: str
    year: int
    month: int | None
    price: int | None
    """Krónur; None prints ``Tilboð óskast``."""
    price_before_offer: int | None
    price_excludes_vat: bool
    kilometers: int | None
    """None for a new car (the page says ``Nýtt ökutæki``) and for one whose card does not tell."""
    is_new: bool
    fuel: str | None
    """The site's words, unchanged."""
    transmission: str
    drivetrain: str
    colour: str
    body: str
    doors: int
    seats: int
    horsepower: int | None
    city_consumption: float | None
    """Litres per 100 km."""
    tyres: str
    description: str
    updated: dt.date
    """``Síðast uppfært``; a search by `modage` finds the car by it."""
    listed: dt.date
    """``Skráð á söluskrá``, which a dealer renews at will."""
    next_inspection: int
    short_note: str
    """The seller's short text on a card of 2026, "" for none."""
    hours: int | None
    """Hours of use, which stand in the place of a distance."""
    has_plug: bool
    """A plug-in hybrid: its equipment tells, its fuel is that of any other hybrid."""
    battery_kwh: int | None
    range_km: int | None
    photos: list[Photo]
    look: Look
    """What its photos show; it stays when make or model change."""
    sold: bool = False
    photos_made: int = 0

    @property
    def fuel_words(self) -> str | None:
        """The fuel as the pages of 2026 have it: some pairs with spaces."""
        return self.fuel.replace("/", " / ") if self.fuel and self.number // 24 % 2 else self.fuel

    @property
    def identities(self) -> list[str]:
        """``"<cid>/<p>"`` of each photo, in the page's order."""
        return [f"{self.cid}/{photo.p}" for photo in self.photos]


def number_of(cid: int) -> int | None:
    """The number of the car with that cid, None for a cid that is no car's."""
    number, rest = divmod(cid - FIRST_CID, CID_STEP)
    return number if number >= 0 and not rest else None


def make_car(number: int, photo_count: int | tuple[int, int], seed: int) -> Car:
    """Car *number*: the same one for the same arguments.

    Args:
        number: which one.
        photo_count: how many photos it has, or the least and the most that it may have.
        seed: another seed, other cars.
    """
    dice = random.Random(f"{seed}/{number}")
    make = list(MAKES)[number % len(MAKES)]
    models = MAKES[make][1]
    model, body = models[number // len(MAKES) % len(models)]
    assert body in BODIES
    is_new = number % 8 == 5
    year = 2026 if is_new else dice.randint(2005, 2025)
    fuel = FUELS[number % len(FUELS)]
    price = dice.randint(49, 1490) * 10_000
    price_form = number % 7
    distance = None if is_new or number % 13 == 9 else dice.randint(3, 260) * 1000 + number % 3 * dice.randint(1, 330)
    colour = dice.choice(list(COLOURS))
    names = COLOUR_NAMES.get(colour, (colour,))
    bid = list(DEALERS)[number % len(DEALERS)]
    hybrid = fuel in {"Bensín/Rafmagn", "Rafmagn/Bensín"}
    has_plug = hybrid and number // len(FUELS) % 2 == 0
    updated = TODAY - dt.timedelta(days=number % 90)
    car = Car(
        number=number,
        cid=FIRST_CID + CID_STEP * number,
        bid=bid,
        sid=500_000 + 3 * number,
        dealer_name=DEALERS[bid],
        make=make,
        model=model,
        year=year,
        month=None if number % 5 == 3 else dice.randint(1, 12),
        price=None if price_form == 4 else price,
        price_before_offer=price + dice.randint(1, 9) * 50_000 if price_form == 3 else None,
        price_excludes_vat=price_form == 2,
        kilometers=distance,
        is_new=is_new,
        fuel=fuel,
        transmission=TRANSMISSIONS[number % 2],
        drivetrain=DRIVETRAINS[number % 3],
        colour=names[number // 2 % len(names)],
        body=body,
        doors=2 + number % 4,
        seats=(5, 7, 2, 9)[number % 4],
        horsepower=dice.randint(68, 480),
        city_consumption=None if fuel in {"Rafmagn", "Vetni", None} else dice.randint(38, 162) / 10,
        tyres=TYRES[number % len(TYRES)],
        description=DESCRIPTIONS[number % len(DESCRIPTIONS)],
        updated=updated,
        listed=updated - dt.timedelta(days=number % 40),
        next_inspection=2026 + number % 4,
        short_note=SHORT_NOTES[number % len(SHORT_NOTES)],
        hours=100 + 10 * number if distance is None and not is_new and number % 2 else None,
        has_plug=has_plug,
        battery_kwh=80 if fuel == "Rafmagn" else 13 if has_plug else None,
        range_km=437 if fuel == "Rafmagn" else 56 if has_plug else None,
        photos=[],
        look=Look(colour, body, f"{make.upper()} {model} · {year}"),
    )
    if isinstance(photo_count, tuple):
        photo_count = dice.randint(*photo_count)
    for _ in range(photo_count):
        append_photo(car, seed, 0)
    return car


def append_photo(car: Car, seed: int, generation: int) -> Photo:
    """One more photo for *car*, with an id of the given *generation* of photo ids."""
    place = car.photos_made
    car.photos_made += 1
    p = FIRST_PHOTO_ID + generation * PHOTO_IDS_PER_GENERATION + car.number * PHOTO_IDS_PER_CAR + place
    photo = Photo(p=p, name=f"{seed}/{car.cid}/{place}", view=place)
    car.photos.append(photo)
    return photo
