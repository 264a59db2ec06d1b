"""Icelandic text to values: the dealers' own forms, and no text gives an error or a wrong magnitude."""

from __future__ import annotations

import datetime as dt
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
    *("1", "1.111", "111 ", "1 á ", "kr. 1.000.000 ", "á", "\u0301\u0316", "ekinn ", "2019 ", "0 l", "(", "5-"),
]


def test_hostile_length_costs_little() -> None:
    for unit in HOSTILE_UNITS:
        text = unit * (1_000_000 // len(unit))
        began = time.perf_counter()
        for parse in PARSERS.values():
            parse(text)
        assert time.perf_counter() - began < 5, unit  # 0.1 s on a laptop; a quadratic pattern would take minutes


# --- price --------------------------------------------------------------------------------------------------


PRICE = {
    2_990_000: [
        *("kr. 2.990.000", "kr.2.990.000", "kr.\xa02.990.000", "Flott verð kr. 2.990.000", "2.990.000 kr."),
        *("2.990.000,- kr.", "2.990.000,00 kr", "ISK 2,990,000", "Verð: 2.990.000", "2.990.000", "2990000"),
        *("kr. 2 990 000", "2,99 millj.", "2.99 milljónir", "2.990 þús. kr", "kr. 2.990 þús.", "2990 þ.kr."),
        "Ásett verð kr. 2.990.000 - Tilboð óskast",
        "Verð 2.990.000 kr. (62.900 kr. á mánuði)",
        "Útborgun 500.000 kr. Verð 2.990.000 kr.",
        "181.000 km. kr. 2.990.000",
    ],
    2_900_000: ["2,9 m.kr."],
    890_000: ["890.000 kr"],
    990_000: ["Sparneytinn bíll. kr. 990.000"],
    8_590_000: [ISLANDSBILAR],
    6_290_000: [HEKLA],
    7_990_000: [BRIMBORG],
}


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
    cases = {text: Price(amount, None, excludes_vat=False) for amount, texts in PRICE.items() for text in texts}
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


@given(amount=st.integers(10_000, 1_000_000_000) | st.integers(0), form=st.sampled_from(PRICE_FORMS))
def test_every_form_of_a_price_gives_it_back_unless_it_is_implausible(amount: int, form: Callable[[int], str]) -> None:
    number = parsing.parse_price(form(amount)).amount
    assert number == (amount if 10_000 <= amount <= 1_000_000_000 else None)


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


@given(
    st.integers(1, 2_000) | st.integers(0, 10**15),
    st.sampled_from(["{} km", "ekinn {} km", "{} þ.km", "{} þ.km. · Beinskipting", "{} þús. km", "{} þúsund km"]),
)
def test_thousands_and_implausible_mileages(number: int, form: str) -> None:
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


CLEAN_TEXT = [
    ("  Toyota\xa0\n Yaris ", "Toyota Yaris"),
    ("a\x00b\u200bc\ud800d\u202e", "abcd"),
    ("Sjálfskipting".replace("á", "a\u0301"), "Sjálfskipting"),
    ("\u200b\x00", None),
]


def year_and_month(text: str) -> tuple[int | None, int | None]:
    return parsing.parse_year_month(text, today=dt.date(2026, 2, 1))


TABLES: list[tuple[Callable[[str], Any], list[tuple[str, Any]]]] = [
    (year_and_month, YEAR_AND_MONTH),
    (parsing.parse_date, DATE),
    (parsing.clean_text, CLEAN_TEXT),
]


def test_every_other_parser_by_its_table() -> None:
    for parse, table in TABLES:
        for text, expected in table:
            assert parse(text) == expected, (parse, text)
