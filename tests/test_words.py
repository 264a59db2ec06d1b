"""Words of the trade to values: fuel, gears, colours, bodies, plates."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from carscraper import words
from tests.test_parsing import HEKLA, ISLANDSBILAR, any_text

if TYPE_CHECKING:
    from collections.abc import Callable

FUEL = [
    ("Bensín", "petrol"),
    ("BENSIN", "petrol"),
    ("Dísel", "diesel"),
    ("Dísil", "diesel"),
    ("Dísel/Dísel", "diesel"),
    ("Rafmagn", "electric"),
    ("Bensín/Rafmagn", "petrol/electric"),
    ("Rafmagn/Bensín", "petrol/electric"),
    ("Dísel/Rafmagn", "diesel/electric"),
    ("Metan/Bensín", "methane/petrol"),
    ("Bensín/Metan", "methane/petrol"),
    ("Vetni", "hydrogen"),
    ("Hybrid", "hybrid"),
    ("Plug-in hybrid", "plug-in-hybrid"),
    ("Tengiltvinn", "plug-in-hybrid"),
    ("Tengiltvinnbíll Bensín/Rafmagn", "plug-in-hybrid"),
    ("6/2019 · Bensín", "petrol"),
    ("Dísel, rafmagn í rúðum, bensínmiðstöð", "diesel"),
    ("Bensín/Dísel", None),
    ("Annað", None),
    (ISLANDSBILAR, "diesel"),
    (HEKLA, "electric"),
]


TECHNICAL_WORDS = [
    (words.parse_transmission, "Sjálfskiptur", "automatic"),
    (words.parse_transmission, "128 þ.km · Beinskipting", "manual"),
    (words.parse_transmission, "Sjálfskipting / Beinskipting", None),
    (words.parse_transmission, ISLANDSBILAR, "automatic"),
    (words.parse_drivetrain, "Framhjóladrif", "fwd"),
    (words.parse_drivetrain, "Afturhjóladrifinn", "rwd"),
    (words.parse_drivetrain, "4x4", "4wd"),
    (words.parse_drivetrain, ISLANDSBILAR, "4wd"),
    (words.parse_doors, "5 dyra", 5),
    (words.parse_doors, "fjögurra dyra", 4),
    (words.parse_doors, "4ra dyra", 4),
    (words.parse_doors, "Dyr: 3", 3),
    (words.parse_doors, "5", 5),
    (words.parse_doors, "4/5 dyra", None),
    (words.parse_doors, "0 dyra", None),
    (words.parse_doors, "2019 dyra", None),
    (words.parse_seats, "5 manna", 5),
    (words.parse_seats, "Fjöldi sæta: 7", 7),
    (words.parse_seats, "5 dyra 7 manna", 7),
    (words.parse_seats, "99 manna", None),
    (words.parse_horsepower, "Vél 150 hestöfl", 150),
    (words.parse_horsepower, "110 kW (150 hö.)", 150),
    (words.parse_horsepower, "1.020 hestöfl", 1_020),
    (words.parse_horsepower, "220 KW", None),
    (words.parse_horsepower, "9999 hestöfl", None),
    (words.parse_consumption, "Innanbæjareyðsla 5,3 l/100km", 5.3),
    (words.parse_consumption, "7 l á hundraðið", 7.0),
    (words.parse_consumption, "Eyðsla (l/100km): 5,3", 5.3),
    (words.parse_consumption, "0,0 l/100km", None),
    (words.parse_consumption, "17,5 kWh/100km", None),
    (words.parse_consumption, "99 l/100km", None),
    (words.parse_colour, "Hvít", "hvítur"),
    (words.parse_colour, "LJÓSGRÁR", "ljósgrár"),
    (words.parse_colour, "dökk-grár (sans)", "dökkgrár"),
    (words.parse_colour, "Svartsanseraður", "svartur"),
    (words.parse_colour, "Silfur", "silfurgrár"),
    (words.parse_colour, "svört leðursæti, hvítur", "hvítur"),
    (words.parse_colour, "Nýr og fínn, litur: rauður, blár miði", "rauður"),
    (words.parse_colour, "með rauðum og bláum röndum", None),
    (words.parse_colour, "Vel með farinn", None),
    (words.parse_colour, HEKLA, None),
    (words.parse_colour, "Kampavín", "kampavínslitaður"),
    (words.parse_colour, "Dökkblár (sans)", "dökkblár"),
    (words.parse_body, "Yfirbygging: Jeppi", "jeppi"),
    (words.parse_body, "Litur: Blár", None),
    (words.parse_kilowatt_hours, "Stærð rafhlöðu 80 kWh", 80.0),
    (words.parse_kilowatt_hours, "13,8 kWh", 13.8),
    (words.parse_kilowatt_hours, "17 kWh/100km", None),
]


PLATES = {
    "Fastanúmer AB123": "AB123",
    "Fastanúmer: AB-123": "AB123",
    "FASTANÚMER\nab 123\nLitur": "AB123",
    "Fastanr. MKL45": "MKL45",
    "Fastnr.: MK L45": "MKL45",
    "Skráningarnúmer\xa0ÞK\xa0B45": "ÞKB45",
    "Raðnúmer 123456 Fastanúmer AB123.": "AB123",
    "Fastanúmer AB123 Skráningarnúmer AB 123": "AB123",
    "Fastanúmer AB123 Fastanúmer AB124": None,
}
NO_PLATES = [
    *("AB123", "Raðnúmer 290003", "ID 350", "Kia EV6 GT", "Fastanúmer", "Fastanúmer: -", ""),
    *("Fastanúmer A1234", "Fastanúmer R 1234", "Fastanúmer AB1234", "Fastanúmer AB12", "Fastanúmer ABC123"),
    *("Fastanúmer AB1C2", "Fastanúmer AB123-4", "Skráningarnúmer GISLI", "Skráningarnúmer RÚTA1"),
]

TABLES: list[tuple[Callable[[str], Any], list[tuple[str, Any]]]] = [
    (words.parse_fuel, FUEL),
    (words.parse_registration_plate, [*PLATES.items(), *((text, None) for text in NO_PLATES)]),
    *((parse, [(text, expected)]) for parse, text, expected in TECHNICAL_WORDS),
]


def test_every_word_by_its_table() -> None:
    for parse, table in TABLES:
        for text, expected in table:
            assert parse(text) == expected, (parse, text)


@given(any_text, st.sampled_from(["Fastanúmer", "Skráningarnúmer:", "Fastnr.", ""]), any_text)
def test_a_plate_has_a_plates_form(before: str, label: str, after: str) -> None:
    found = words.parse_registration_plate(f"{before}{label} {after}")
    assert found is None or re.fullmatch(r"[^\W\d_]{2}(?:[^\W\d_]|\d)[0-9]{2}", found)
