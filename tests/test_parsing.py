"""Icelandic text to values: the dealers' own forms, and no text gives an error or a wrong magnitude."""

from __future__ import annotations

import datetime as dt
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from carscraper import parsing, words
from carscraper.parsing import Price

if TYPE_CHECKING:
    from collections.abc import Callable

PARSERS: dict[str, Callable[[str | None], Any]] = {
    name: parser for module in (parsing, words) for name, parser in vars(module).items() if name.startswith("parse_")
} | {"clean_text": parsing.clean_text, "kilometers bare": lambda text: parsing.parse_kilometers(text, bare=True)}

# A whole card of islandsbilar.is, and one of hekla.is with its lines joined.
ISLANDSBILAR = "LAND ROVER DEFENDER HSE 7/2020 181 000 km. Sjálfskipting Dísil Fjórhjóladrif Verð: 8.590.000 kr."
HEKLA = "VW ID.5 GTX 220 KW Verð: 6.290.000 kr. 12.2023 20.000 Rafmagn"
BRIMBORG = "Árgerð (nýskráð): 09/2023 Ekinn (km): 26.460 Verð: 7.990.000 kr."

FRAGMENTS = [
    *"0123456789.,:/- ()%+",
    *("kr.", "kr", "km.", "km", "þ.km", "þús.", "þúsund", "millj.", "m.kr.", "isk", "verð", "Tilboð", "áður", "nú"),
    *("án vsk.", "með vsk", "óskast", "á mánuði", "afsláttur", "ekinn", "akstur", "l/100km", "hestöfl", "dyra"),
    *("manna", "júní", "nýskráning", "2019", "2.990.000", "45.000", "181 000", "000", "\xa0", "\u200b", "\x00"),
    *("\ud800", "·", "\n", "hvítur", "ljós", "Bensín", "Rafmagn", "Sjálfskipting", "\u0301", "🚗", "٣", "²"),
]
any_text = st.text(st.characters(), max_size=60) | st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join)


# --- what no text may do ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARSERS)
@given(text=any_text)
@example(text="9" * 30_000)
@example(text="1.000" * 5_000)
@example(text="\ud800\x00")
def test_any_text_is_read_without_an_error(name: str, text: str) -> None:
    value = PARSERS[name](text)
    assert value is None or value != ""
    assert type(value) in {bool, Price, tuple} or value is None or bool(value)


def test_no_text_is_unknown() -> None:
    for name, parse in PARSERS.items():
        for nothing in (None, "", "  \xa0\n"):
            assert parse(nothing) in {None, False, Price(), (None, None)}, name


@given(any_text)
def test_what_is_found_is_plausible(text: str) -> None:
    price = parsing.parse_price(text)
    if price.amount is None:
        assert price == Price()
    else:
        assert 10_000 <= price.amount <= 1_000_000_000
        assert price.excludes_vat is not None
    if price.before_offer is not None:
        assert price.amount is not None
        assert price.amount < price.before_offer <= 5 * price.amount
    kilometers = parsing.parse_kilometers(text, bare=True)
    assert kilometers is None or 1 <= kilometers <= 2_000_000
    year, month = parsing.parse_year_month(text, today=dt.date(2026, 2, 1))
    assert year is None or 1900 <= year <= 2028
    assert month is None or (year is not None and 1 <= month <= 12)


@given(any_text)
def test_clean_text_is_storable_and_final(text: str) -> None:
    cleaned = parsing.clean_text(text)
    if cleaned is not None:
        assert cleaned.encode()
        assert "\x00" not in cleaned
        assert cleaned == " ".join(cleaned.split())
        assert parsing.clean_text(cleaned) == cleaned


HOSTILE_UNITS = [
    "1",
    "1.111",
    "111 ",
    "kr. 1.000.000 ",
    "á",
    "\u0301\u0316",
    "ekinn ",
    "2019 ",
    "0 l",
    "(",
    "5-",
    "1 á ",
]


def test_hostile_length_costs_little() -> None:
    for unit in HOSTILE_UNITS:
        text = unit * (1_000_000 // len(unit))
        began = time.perf_counter()
        for parse in PARSERS.values():
            parse(text)
        assert time.perf_counter() - began < 5, unit  # 0.1 s on a laptop; a quadratic pattern would take minutes


# --- price --------------------------------------------------------------------------------------------------


PRICE = [
    ("kr. 2.990.000", 2_990_000),
    ("kr.2.990.000", 2_990_000),
    ("kr.\xa02.990.000", 2_990_000),
    ("Flott verð kr. 2.990.000", 2_990_000),
    ("2.990.000 kr.", 2_990_000),
    ("2.990.000,- kr.", 2_990_000),
    ("2.990.000,00 kr", 2_990_000),
    ("ISK 2,990,000", 2_990_000),
    ("Verð: 2.990.000", 2_990_000),
    ("2.990.000", 2_990_000),
    ("2990000", 2_990_000),
    ("kr. 2 990 000", 2_990_000),
    ("2,99 millj.", 2_990_000),
    ("2.99 milljónir", 2_990_000),
    ("2,9 m.kr.", 2_900_000),
    ("2.990 þús. kr", 2_990_000),
    ("kr. 2.990 þús.", 2_990_000),
    ("2990 þ.kr.", 2_990_000),
    ("890.000 kr", 890_000),
    ("Ásett verð kr. 2.990.000 - Tilboð óskast", 2_990_000),
    ("Sparneytinn bíll. kr. 990.000", 990_000),
    ("Verð 2.990.000 kr. (62.900 kr. á mánuði)", 2_990_000),
    ("Útborgun 500.000 kr. Verð 2.990.000 kr.", 2_990_000),
    ("181.000 km. kr. 2.990.000", 2_990_000),
    (ISLANDSBILAR, 8_590_000),
    (HEKLA, 6_290_000),
    (BRIMBORG, 7_990_000),
]


NOT_A_PRICE = [
    "Tilboð óskast",
    "kr. 0",
    "kr. 1",
    "kr. 2.990.00",
    "kr. 2.990.0000",
    "Verð: 2.490",  # krónur or thousands: nobody can tell
    "kr. 25.000.000.000",
    "25.000 €",
    "1.250.000 km",
    "Ekinn (km): 1.250.000",
    "62.900 kr. á mánuði",
    "300.000 kr. afsláttur",
    "Defender 110 890 000 kr.",
    "kr. 790 000 890 000",
    "Tilboð kr. 2.990.000 kr. 299.000",  # one of the two is a slip
]


OFFERS = [
    "Tilboð: 790.000 kr. 890.000 kr.",
    "Tilboð kr. 890.000  kr. 790.000",
    "Verð áður 890.000 kr. Tilboð 790.000 kr.",
    "Verð áður 890.000 kr. Nú 790.000 kr. Þú sparar 100.000 kr.",
    "890.000 kr. 790.000 kr. 100.000 kr.",
]


VAT = [
    ("kr. 3.190.000 án vsk.", Price(3_190_000, None, excludes_vat=True)),
    ("3.190.000 kr. + vsk", Price(3_190_000, None, excludes_vat=True)),
    ("Tilboð kr. 3.190.000 kr. 2.790.000 án vsk.", Price(2_790_000, 3_190_000, excludes_vat=True)),
    ("kr. 3.190.000 án vsk. kr. 3.955.600 með vsk.", Price(3_955_600, None, excludes_vat=False)),
    ("Verð án vsk: 2.411.290 kr. Verð: 2.990.000 kr.", Price(2_990_000, None, excludes_vat=False)),
    ("kr. 3.190.000 með vsk.", Price(3_190_000, None, excludes_vat=False)),
    ("án vsk.", Price()),
]


def test_price() -> None:
    """No price is better than a wrong one."""
    cases = {text: Price(amount, None, excludes_vat=False) for text, amount in PRICE}
    cases |= dict.fromkeys(NOT_A_PRICE, Price())
    cases |= dict.fromkeys(OFFERS, Price(790_000, 890_000, excludes_vat=False))
    for text, expected in (cases | dict(VAT)).items():
        assert parsing.parse_price(text) == expected, text


def dotted(number: int) -> str:
    return f"{number:,}".replace(",", ".")


PRICE_FORMS: list[Callable[[int], str]] = [
    lambda amount: f"kr. {dotted(amount)}",
    lambda amount: f"Flott verð kr. {dotted(amount)}",
    lambda amount: f"{dotted(amount)} kr.",
    lambda amount: f"kr.\xa0{dotted(amount)} án vsk.",
    lambda amount: f"Verð: {dotted(amount)} kr.",
    lambda amount: f"TOYOTA YARIS 6/2019 45.000 km. Bensín {dotted(amount)} kr.",
    lambda amount: f"kr. {dotted(amount).replace('.', ' ')}",
    str,
]


@given(amount=st.integers(10_000, 1_000_000_000), form=st.sampled_from(PRICE_FORMS))
def test_every_form_of_a_price_gives_it_back(amount: int, form: Callable[[int], str]) -> None:
    assert parsing.parse_price(form(amount)).amount == amount


@given(amount=st.integers(), form=st.sampled_from(PRICE_FORMS))
def test_an_implausible_price_is_unknown(amount: int, form: Callable[[int], str]) -> None:
    number = parsing.parse_price(form(abs(amount))).amount
    assert number == (abs(amount) if 10_000 <= abs(amount) <= 1_000_000_000 else None)


@given(
    amount=st.integers(10_000, 1_000_000_000),
    form=st.sampled_from(PRICE_FORMS),
    noise=st.text(st.characters(), max_size=3),
    data=st.data(),
)
def test_a_damaged_price_is_the_price_or_unknown(
    amount: int, form: Callable[[int], str], noise: str, data: st.DataObject
) -> None:
    """Anything but digits, put anywhere but into the digits, must not change the number."""
    text = form(amount)
    first = next(index for index, each in enumerate(text) if each.isdigit())
    where = data.draw(st.sampled_from([0, first, len(text)]))
    letters = "".join(each for each in noise if not each.isnumeric() and each not in ".,'\u2019/")
    assert parsing.parse_price(text[:where] + letters + text[where:]).amount in {amount, None}


@given(
    old=st.integers(100_000, 50_000_000),
    percent=st.integers(1, 60),
    swapped=st.booleans(),
    form=st.sampled_from(["Tilboð kr. {} kr. {}", "Tilboð: {} kr. {} kr.", "Tilboð {} kr.\xa0 {} kr."]),
)
def test_an_offer_in_either_order(old: int, percent: int, swapped: bool, form: str) -> None:
    new = old - old * percent // 100
    first, second = (old, new) if swapped else (new, old)
    price = parsing.parse_price(form.format(dotted(first), dotted(second)))
    assert (price.amount, price.before_offer) == (new, old)


# --- mileage ------------------------------------------------------------------------------------------------


KILOMETERS = [
    ("45.000 km. · Sjálfskipting", 45_000),
    ("128 þ.km · Beinskipting", 128_000),
    ("29 þ.km.", 29_000),
    ("93 þ. km", 93_000),
    ("181 000 km.", 181_000),
    ("181\xa0000 km.", 181_000),
    ("110 181 000 km", 181_000),
    ("ekinn 12 þúsund km", 12_000),
    ("ekinn aðeins 93 þús. km", 93_000),
    ("ekinn 128 þús", 128_000),
    ("ekinn 128 km", 128),
    ("Ekinn (km): 26.460", 26_460),
    ("Ekinn (km): 15", 15),
    ("Ekinn 45 000 2019", 45_000),
    ("1,5 þ.km", 1_500),
    ("12.5 þ.km", 12_500),
    ("45,000 km", 45_000),
    ("150000km", 150_000),
    ("1.250.000 km", 1_250_000),
    ("RANGE ROVER 45.000 km", 45_000),
    ("Rafmagn 45.000 km", 45_000),
    ("Sjálfskipting 45.000 km", 45_000),
    ("2019 - 45.000 km", 45_000),
    ("Drægni 450 km. Ekinn 45.000 km.", 45_000),
    ("kr. 2.990.000 128 þ.km", 128_000),
    (ISLANDSBILAR, 181_000),
    (BRIMBORG, 26_460),
]


NOT_A_MILEAGE = [
    "Nýtt ökutæki · Sjálfskipting",
    "Nýtt",
    "0 km.",
    "þús. km",
    "20.000",
    "1 250 000 km",  # or a "Polestar 1" with 250,000 km
    "12.345.678 km",
    "45.00 km",
    "128.000 þ.km",
    "1.500 þ.km",
    "ekinn 128",
    "ekinn 50.000 mílur",
    "5,3 l/100 km",
    "7,3 l á 100 km",
    "Drægni 450 km",
    "Næsta þjónusta eftir 15.000 km",
    "180 km/klst",
]


BARE_MILEAGE = [("20.000", 20_000), ("26.460", 26_460), ("20000", 20_000), ("20 000", 20_000)]


def test_kilometers() -> None:
    """No mileage is better than a wrong one; a bare number is one only where the caller knows that it is."""
    for text, kilometers in (dict(KILOMETERS) | dict.fromkeys(NOT_A_MILEAGE)).items():
        assert parsing.parse_kilometers(text) == kilometers, text
    for text, kilometers in BARE_MILEAGE:
        assert parsing.parse_kilometers(text, bare=True) == kilometers, text
        assert parsing.parse_kilometers(text) is None, text


@given(
    kilometers=st.integers(1, 999_999),
    form=st.sampled_from(["{} km.", "{} km. · Sjálfskipting", "ekinn {} km", "Ekinn (km): {}", "6/2019 {} km"]),
    spaced=st.booleans(),
)
def test_every_form_of_a_mileage_gives_it_back(kilometers: int, form: str, spaced: bool) -> None:
    number = dotted(kilometers)
    text = form.format(number.replace(".", " ") if spaced else number)
    assert parsing.parse_kilometers(text) == kilometers


@given(st.integers(1, 2_000), st.sampled_from(["{} þ.km", "{} þ.km. · Beinskipting", "{} þús. km", "{} þúsund km"]))
def test_thousands_of_kilometers(thousands: int, form: str) -> None:
    assert parsing.parse_kilometers(form.format(thousands)) == thousands * 1_000


@given(st.integers(0, 10**15), st.sampled_from(["{} km", "{} þ.km", "ekinn {} km"]))
def test_an_implausible_mileage_is_unknown(number: int, form: str) -> None:
    value = number * 1_000 if "þ" in form else number
    found = parsing.parse_kilometers(form.format(number))
    assert found == (value if 1 <= value <= 2_000_000 else None)


# --- dates --------------------------------------------------------------------------------------------------


YEAR_AND_MONTH = [
    ("6/2019 · Bensín", (2019, 6)),
    ("2019 · Dísel", (2019, None)),
    ("12.2023", (2023, 12)),
    ("09/2023", (2023, 9)),
    ("júní 2019", (2019, 6)),
    ("jún. 2019", (2019, 6)),
    ("Ágúst 2020", (2020, 8)),
    ("ág. 2020", (2020, 8)),
    ("1. mars 2020", (2020, 3)),
    ("Nýskráning 6/2019", (2019, 6)),
    ("Skráning 15.6.2019", (2019, 6)),
    ("2019-06-15", (2019, 6)),
    ("Skoðun 5/2025 nýskráning 6/2019", (2019, 6)),
    ("PEUGEOT 2008 6/2019", (2019, 6)),
    ("PEUGEOT 2008", (None, None)),
    ("Næsta skoðun 5/2027", (None, None)),
    ("13/2019", (2019, None)),
    ("1998 cc", (None, None)),
    ("2019 km", (None, None)),
    ("kr. 2.000.000", (None, None)),
    ("1899", (None, None)),
    ("2028", (2028, None)),
    ("2029", (None, None)),
    (ISLANDSBILAR, (2020, 7)),
    (HEKLA, (2023, 12)),
    (BRIMBORG, (2023, 9)),
]


@given(st.integers(1900, 2028), st.integers(1, 12), st.sampled_from(["{m}/{y}", "{m:02}.{y}", "{m} / {y} · Bensín"]))
def test_every_year_and_month(year: int, month: int, form: str) -> None:
    assert year_and_month(form.format(y=year, m=month)) == (year, month)


DATE = [
    ("Síðast uppfært 2.2.2026", dt.date(2026, 2, 2)),
    ("02.02.2026", dt.date(2026, 2, 2)),
    ("3/2/2026 13:45", dt.date(2026, 2, 3)),
    ("2. febrúar 2026", dt.date(2026, 2, 2)),
    ("24. des. 2025", dt.date(2025, 12, 24)),
    ("2026-02-03T10:00", dt.date(2026, 2, 3)),
    ("31.2.2026", None),
    ("2.2026", None),
    ("10.2.2.2026", None),
]


@given(st.dates(dt.date(1900, 1, 1), dt.date(2100, 12, 31)))
def test_every_date(day: dt.date) -> None:
    months = ["jan", "feb", "mars", "apríl", "maí", "júní", "júlí", "ágúst", "sept", "október", "nóv", "desember"]
    assert parsing.parse_date(f"Síðast uppfært {day.day}.{day.month}.{day.year}") == day
    assert parsing.parse_date(day.isoformat()) == day
    assert parsing.parse_date(f"{day.day}. {months[day.month - 1]} {day.year}") == day


# --- words --------------------------------------------------------------------------------------------------


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


CLEAN_TEXT = [
    ("  Toyota\xa0\n Yaris ", "Toyota Yaris"),
    ("a\x00b\u200bc\ud800d\u202e", "abcd"),
    ("Sjálfskipting".replace("á", "a\u0301"), "Sjálfskipting"),
    ("\u200b\x00", None),
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


def year_and_month(text: str) -> tuple[int | None, int | None]:
    return parsing.parse_year_month(text, today=dt.date(2026, 2, 1))


TABLES: list[tuple[Callable[[str], Any], list[tuple[str, Any]]]] = [
    (year_and_month, YEAR_AND_MONTH),
    (parsing.parse_date, DATE),
    (words.parse_fuel, FUEL),
    (words.parse_registration_plate, [*PLATES.items(), *((text, None) for text in NO_PLATES)]),
    (parsing.clean_text, CLEAN_TEXT),
    *((parse, [(text, expected)]) for parse, text, expected in TECHNICAL_WORDS),
]


def test_every_other_parser_by_its_table() -> None:
    for parse, table in TABLES:
        for text, expected in table:
            assert parse(text) == expected, (parse, text)


@given(any_text, st.sampled_from(["Fastanúmer", "Skráningarnúmer:", "Fastnr.", ""]), any_text)
def test_a_plate_has_a_plates_form(before: str, label: str, after: str) -> None:
    found = words.parse_registration_plate(f"{before}{label} {after}")
    assert found is None or re.fullmatch(r"[^\W\d_]{2}(?:[^\W\d_]|\d)[0-9]{2}", found)
