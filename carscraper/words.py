"""What a car is, in Icelandic words: fuel, gears, driven wheels, doors, power, colour, body, plate.

As in :mod:`carscraper.parsing`: pure, never an error, ``None`` for what is unknown or ambiguous.
"""

from __future__ import annotations

import re
from typing import Final

from carscraper.parsing import NOT_INSIDE, plausible, prepare, to_int

# --- technical words ---

_FUEL_WORDS = re.compile(
    r"\b(?:"
    r"(?P<plugin>plug[- ]?in\b|tengil?[- ]?tvinn\w*|phev\b)"
    r"|(?P<hybrid>hybrid\b|tvinn\w*|tvíorku\w*|m?hev\b)"
    r"|(?P<petrol>bens[íi]n(?:bíll|bifreið|vél)?\b|petrol\b|gasoline\b)"
    r"|(?P<diesel>d[íi]s[ei]l(?:bíll|bifreið|vél|olía)?\b|diesel\b|hráolí\w*)"
    r"|(?P<electric>rafmagn(?! í )(?:s?(?:bíll|bifreið))?\b|raf(?:bíll|drifinn|knúinn)\b|electric\b)"
    r"|(?P<methane>metan\w*|methane\b|cng\b)"
    r"|(?P<hydrogen>vetni\w*|hydrogen\b)"
    r")"
)
# What burns first, electric last.
_FUEL_PAIRS = ("petrol/electric", "diesel/electric", "methane/petrol", "methane/diesel", "hydrogen/electric")


def parse_fuel(text: str | None) -> str | None:
    """Return the fuel: ``petrol``, ``diesel``, ``electric``, ``methane``, ``hydrogen``, ``hybrid``, ``plug-in-hybrid``.

    The sites write ``Bensín/Rafmagn`` for hybrids with and without a plug, so a pair stays a pair, in one order.
    """
    found = {str(match.lastgroup) for match in _FUEL_WORDS.finditer(prepare(text))}
    if "plugin" in found:
        return "plug-in-hybrid"
    if "hybrid" in found:
        return "hybrid"
    if len(found) == 1:
        return found.pop()
    return next((pair for pair in _FUEL_PAIRS if set(pair.split("/")) == found), None)


def _only(choices: dict[str, re.Pattern[str]], text: str | None) -> str | None:
    """The one choice whose words are in the text; ``None`` when none or several are."""
    prepared = prepare(text)
    found = [name for name, words in choices.items() if words.search(prepared)]
    return found[0] if len(found) == 1 else None


_TRANSMISSIONS: Final = {
    "automatic": re.compile(r"\b(?:sjálfsk\w*|ssk\b|automatic\b)"),
    "manual": re.compile(r"\b(?:beinsk\w*|bsk\b|manual\b)"),
}
_DRIVETRAINS: Final = {
    "4wd": re.compile(r"\b(?:fjórhjóladr\w*|aldrif\w*|4x4|4wd|awd)\b"),
    "fwd": re.compile(r"\b(?:framhjóladr\w*|framdrif\w*|fwd)\b"),
    "rwd": re.compile(r"\b(?:afturhjóladr\w*|afturdrif\w*|rwd)\b"),
}


def parse_transmission(text: str | None) -> str | None:
    """Return ``automatic`` or ``manual``."""
    return _only(_TRANSMISSIONS, text)


def parse_drivetrain(text: str | None) -> str | None:
    """Return ``4wd``, ``fwd`` (front wheels) or ``rwd`` (rear wheels)."""
    return _only(_DRIVETRAINS, text)


_COUNT_WORDS: Final = {
    "tveggja": 2, "þriggja": 3, "fjögurra": 4, "fimm": 5, "sex": 6, "sjö": 7, "átta": 8, "níu": 9,
}  # fmt: skip
_COUNT = rf"(?<![0-9])(?<![0-9][-\u2013/.,])\b(?P<n>[0-9]{{1,2}}|{'|'.join(_COUNT_WORDS)})(?:ja|ra)?[\s-]?"
_LABELLED_COUNT = r"\s?:?\s?(?P<m>[0-9]{1,2})(?![0-9.,])"
_DOORS = re.compile(rf"{_COUNT}(?:dyra|dyrum|dyr|hurðir|hurða)\b|\b(?:fjöldi dyra|dyr|hurðir){_LABELLED_COUNT}")
_SEATS = re.compile(rf"{_COUNT}(?:manna|sæta)\b|\b(?:fjöldi sæta|sæti|sætafjöldi){_LABELLED_COUNT}")


def _count(pattern: re.Pattern[str], text: str | None, highest: int) -> int | None:
    prepared = prepare(text)
    match = pattern.search(prepared)
    if match is None:
        return plausible(int(prepared), 1, highest) if re.fullmatch("[0-9]{1,2}", prepared) else None
    number = match["n"] or match["m"]
    return plausible(_COUNT_WORDS.get(number) or int(number), 1, highest)


def parse_doors(text: str | None) -> int | None:
    """Return the number of doors, 1 to 7."""
    return _count(_DOORS, text, 7)


def parse_seats(text: str | None) -> int | None:
    """Return the number of seats, 1 to 90 (there are buses among the cars)."""
    return _count(_SEATS, text, 90)


_HORSEPOWER = re.compile(
    rf"{NOT_INSIDE}(?P<n>[0-9]\.[0-9]{{3}}|[0-9]{{1,4}})\s?(?:hest[aö]fl\w*|hestar\b|hesta\b|hö\b|b?hp\b)"
    r"|\bhestöfl\s?:?\s?(?P<m>[0-9]\.[0-9]{3}|[0-9]{1,4})(?![0-9]|[.,][0-9])"
)


def parse_horsepower(text: str | None) -> int | None:
    """Return the power in (metric) horsepower, 5 to 3,000. A power in kW is not converted."""
    prepared = prepare(text)
    match = _HORSEPOWER.search(prepared)
    if match is None:
        return plausible(int(prepared), 5, 3_000) if re.fullmatch("[0-9]{1,4}", prepared) else None
    return plausible(to_int(match["n"] or match["m"]), 5, 3_000)


_LITRES = r"[0-9]{1,2}(?:[.,][0-9]{1,2})?"
_PER_100_KM = r"(?:/|á|pr\.?|per)\s?(?:100\s?km|hundraðið)"
_CONSUMPTION = re.compile(
    rf"(?<![0-9])(?<![0-9][-\u2013.,])(?P<n>{_LITRES})\s?(?:l|ltr|lítr\w*)\b\.?\s?{_PER_100_KM}"
    rf"|\(?l\.?\s?{_PER_100_KM}\)?\s?:?\s?(?P<m>{_LITRES})(?![0-9]|[.,-][0-9])"
)


def parse_consumption(text: str | None) -> float | None:
    """Return fuel consumption in litres per 100 km, 0.3 to 60; the first one in the text."""
    match = _CONSUMPTION.search(prepare(text))
    if match is None:
        return None
    litres = float((match["n"] or match["m"]).replace(",", "."))
    return litres if 0.3 <= litres <= 60 else None


_KILOWATT_HOURS = re.compile(r"(?<![0-9.,])(?P<n>[0-9]{1,3}(?:[.,][0-9]{1,2})?)\s?kwh\b(?!\s?/)")


def parse_kilowatt_hours(text: str | None) -> float | None:
    """Return the capacity of a battery in kWh."""
    match = _KILOWATT_HOURS.search(prepare(text))
    return float(match["n"].replace(",", ".")) if match else None


# --- colour ---

_COLOURS: Final = {
    "hvítur": r"hvít(?:ur|t|a|i|ir|ar|an)?",
    "svartur": r"svart(?:ur|a|i|ir|ar|an)?|svört|svörtu",
    "grár": r"grá(?:r|tt|a|i|ir|ar|an)?",
    "rauður": r"rauð(?:ur|a|i|ir|ar|an)?|rautt",
    "blár": r"blá(?:r|tt|a|i|ir|ar|an)?",
    "grænn": r"græn(?:n|t|a|i|ir|ar|an)?",
    "gulur": r"gul(?:ur|t|a|i|ir|ar|an)?",
    "brúnn": r"brún(?:n|t|a|i|ir|ar|an)?",
    "bleikur": r"bleik(?:ur|t|a|i|ir|ar|an)?",
    "gylltur": r"gyllt(?:ur|a|i)?|gull(?:litaður|lituð|litað)?",
    "silfurgrár": r"silfur(?:grá(?:r|tt)?|litaður|lituð|litað|aður)?|silfr(?:aður|að)",
    "drapplitaður": r"drapp(?:litaður|lituð|litað)?|beige|beis",
    "vínrauður": r"vínrauð(?:ur)?|vínrautt",
    "appelsínugulur": r"appelsínugul(?:ur|t)?|orange",
    "fjólublár": r"fjólublá(?:r|tt)?",
    "steingrár": r"steingrá(?:r|tt)?",
    "koparlitaður": r"kopar(?:litaður|lituð|litað)?",
    "bronslitaður": r"brons(?:litaður|lituð|litað)?",
    "túrkísblár": r"t[úu]rk[íi]s(?:blá(?:r|tt)?)?",
    "kremlitaður": r"krem(?:litaður|lituð|litað)|kremaður",
    "kampavínslitaður": r"kampavín(?:slitaður|slituð|slitað|slitur)?",
}
_SHADES = r"(?P<shade>ljós|perlu|dökk|dimm|skær|milli|fag|him[ia]n|heið|sæ|kóng[ae]|gras|mos)"
_COLOUR = re.compile(
    rf"\b(?:{_SHADES}[ -]?)?(?:"
    + "|".join(f"(?P<c{index}>{forms})" for index, forms in enumerate(_COLOURS.values()))
    + r")(?:sans\w*|metallic|málmlitur)?(?!\w|\s(?:leður|tau|áklæð|sæti|felg|innrétt|þak|topp|skinn|rúskinn))"
)
_COLOUR_LABEL = re.compile(r"\blitur\s?:?\s?$")


def parse_colour(text: str | None) -> str | None:
    """Return the colour as an Icelandic masculine adjective in lower case (``hvít``, ``hvítt`` → ``hvítur``).

    In a longer text it is the colour after ``Litur``, the one the text begins with, or the only one there.
    The colour of seats, wheels or roof is not the car's.
    """
    prepared = prepare(text)
    found: list[str] = []
    for match in _COLOUR.finditer(prepared):
        index = next(int(name[1:]) for name, value in match.groupdict().items() if value and name != "shade")
        colour = (match["shade"] or "") + list(_COLOURS)[index]
        if match.start() == 0 or _COLOUR_LABEL.search(prepared[max(0, match.start() - 10) : match.start()]):
            return colour
        found.append(colour)
    return found[0] if len(set(found)) == 1 else None


# --- body ---

_BODY = re.compile(
    r"\b(fólksbíll|jeppi|jepplingur|sendibíll|pallbíll|skutbíll|langbakur|stallbakur|hlaðbakur|blæjubíll"
    r"|sportbíll|fjölnotabíll|smárúta|rúta|húsbíll|vörubíll)\b"
)


def parse_body(text: str | None) -> str | None:
    """Return the kind of body as the Icelandic word, in lower case; the first in the text."""
    found = _BODY.search(prepare(text))
    return found[1] if found else None


# --- plate ---

_PLATE = re.compile(
    r"\b(?:fasta(?:númer|nr)|skráningarnúmer|skráningarnr|fastnúmer|fastnr)\b\.?\s?:?\s?"
    r"(?P<letters>[a-záðéíóúýþæö]{2})[ -]?(?P<rest>[a-záðéíóúýþæö0-9][0-9]{2})(?![\w-])"
)


def parse_registration_plate(text: str | None) -> str | None:
    """Return the number on an Icelandic plate after a label such as ``Fastanúmer``: ``AB123``, or ``ABC12`` since 2007.

    Without its label it is not believed, as models look alike (``ID 350``). Vanity plates and those of before 1989
    have other forms and are ``None``; so is a text with two different numbers.
    """
    found = {(match["letters"] + match["rest"]).upper() for match in _PLATE.finditer(prepare(text))}
    return found.pop() if len(found) == 1 else None
