"""Icelandic text to values: prices, mileage, dates, fuel and the like.

Everything here is pure. Each ``parse_`` function takes any string (or ``None``), never raises, and answers
``None`` for what it does not know: never 0 and never an empty string. **A missing value is better than a
wrong one**: what is ambiguous, or outside the plausible range, is ``None``. Only the first
:data:`MAX_CHARACTERS` characters are looked at.

How Icelandic numbers are read: ``.`` or a space groups thousands (``2.990.000``, ``181 000``), a comma starts
the decimals (``5,3``).
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

__all__ = [
    "MAX_CHARACTERS",
    "Price",
    "clean_text",
    "is_new",
    "parse_body",
    "parse_colour",
    "parse_consumption",
    "parse_date",
    "parse_doors",
    "parse_drivetrain",
    "parse_fuel",
    "parse_horsepower",
    "parse_kilometers",
    "parse_kilowatt_hours",
    "parse_price",
    "parse_registration_plate",
    "parse_seats",
    "parse_transmission",
    "parse_year_month",
]

MAX_CHARACTERS: Final = 10_000
"""How much of a text the parsers look at; a hostile page must not cost more than a real one."""

MIN_PRICE: Final = 10_000
MAX_PRICE: Final = 1_000_000_000
MAX_KILOMETERS: Final = 2_000_000
MIN_YEAR: Final = 1900

# An offer is believed down to a fifth of the old price; wider apart, one of the two is something else.
_MAX_OFFER_RATIO: Final = 5


# --- text ---------------------------------------------------------------------------------------------------

# Control characters that are not whitespace, invisible ones (zero width, direction, tags), surrogates.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
# Normalising costs the square of a run of combining marks, and no real word is this long.
_MAX_WORD_TO_NORMALISE: Final = 200


def clean_text(text: str | None) -> str | None:
    r"""Collapse whitespace and drop what a database or a log cannot hold; ``None`` when nothing is left.

    NUL and other control characters, lone surrogates and zero-width characters are removed, any whitespace
    (with NBSP and line breaks) becomes one space, and words are brought to Unicode's composed form (NFC).

    >>> clean_text("  Toyota\xa0 Yaris\u200b \n")
    'Toyota Yaris'
    >>> clean_text("a\x00b\ud800")
    'ab'
    >>> clean_text(" \t\xa0") is None
    True
    """
    if not text:
        return None
    words = _INVISIBLE.sub("", text).split()
    cleaned = " ".join(
        word if word.isascii() or len(word) > _MAX_WORD_TO_NORMALISE else unicodedata.normalize("NFC", word)
        for word in words
    )
    return cleaned or None


def _prepare(text: str | None) -> str:
    """The start of *text*, cleaned and in lower case, for matching only."""
    return (clean_text(text[:MAX_CHARACTERS]) or "").lower() if text else ""


# --- numbers ------------------------------------------------------------------------------------------------

# A whole number: neither the middle of a longer one nor followed by more of one. The groups must be exact, so
# that "2.990.00" or "45.0000" is no number at all instead of a wrong one.
_NOT_INSIDE = r"(?<![0-9])(?<![0-9][.,'\u2019/])"
_NOT_CUT = r"(?![0-9])(?![.,'\u2019/][0-9])"
_WHOLE = (
    r"(?:[0-9]{1,3}(?:\.[0-9]{3})+|[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?:['\u2019][0-9]{3})+"
    r"|[0-9]{1,3}(?:[ ][0-9]{3}(?![0-9]))++|[0-9]{1,12})"  # [ ]: it is also part of a verbose pattern
)


def _join_number(prepared: str) -> str:
    """Join the thousands of a number whose groups stood in elements of their own: ``6.490 .000``."""
    return re.sub(r"(?<=[0-9]) (?=\.[0-9]{3}(?![0-9]))", "", prepared)


def _whole(digits: str) -> int:
    """The value of a grouped or plain whole number as :data:`_WHOLE` matches it."""
    return int(re.sub(r"[^0-9]", "", digits)[:20])


def _scaled(number: str, factor: int) -> int | None:
    """*number* times *factor*, where a comma, or a dot before one or two digits, starts the decimals.

    >>> _scaled("2,99", 1_000_000), _scaled("2.9", 1_000_000), _scaled("2.990", 1_000), _scaled("1,5", 1_000)
    (2990000, 2900000, 2990000, 1500)
    """
    if re.fullmatch(r"[0-9]{1,3}(?:[. ][0-9]{3})+", number):
        return _whole(number) * factor
    if re.fullmatch(r"[0-9]{1,7}(?:[.,][0-9]{1,2}|,[0-9]{3})?", number):
        return round(Decimal(number.replace(",", ".")) * factor)
    return None


def _plausible(value: int | None, lowest: int, highest: int) -> int | None:
    return value if value is not None and lowest <= value <= highest else None


# --- price --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Price:
    """A price in whole Icelandic krónur (ISK)."""

    amount: int | None = None
    """What the car costs now, ISK; ``None`` when no (plausible) price is stated."""
    before_offer: int | None = None
    """The price before the offer, ISK, always above :attr:`amount`; ``None`` when the car is not on offer."""
    excludes_vat: bool | None = None
    """``True`` for a price "án vsk." (without VAT), ``False`` for any other, ``None`` without a price."""


_CURRENCY = r"(?:kr(?:óna|ónur)?\b\.?|isk\b\.?|íslenskar[ ]krónur\b)"
_PRICE = re.compile(
    rf"""
    (?:(?P<prefix>\b{_CURRENCY})\s?:?\s?)?
    {_NOT_INSIDE}
    (?:
        (?P<scaled>[0-9]{{1,7}}(?:[.,][0-9]{{1,3}})*)\s?
        (?:(?P<million>millj(?:ón\w*)?\b\.?|m\.?\s?(?=kr\b)|mkr\b\.?)
          |(?P<thousand>(?:þúsund\b|þús\b\.?|þ\.?)(?=\s?kr\b|\s?isk\b)|þúsund\b|þús\b\.?))
      |
        (?P<whole>{_WHOLE}) (?:,[0-9]{{1,2}})? {_NOT_CUT}
    )
    (?:[.,]?-)?\.?
    (?(prefix)
        (?:\s?{_CURRENCY}(?!\.?\s?:?\s?[0-9]))?  # in "kr. 890.000 kr. 790.000" it belongs to the next number
      |
        (?:\s?(?P<suffix>{_CURRENCY}))?
    )
    """,
    re.VERBOSE,
)
# What makes a number something else than the price, before it ...
_NOT_PRICE_BEFORE = re.compile(
    r"(?:(?:afborg\w*|útborg\w*|innborg\w*|mánaðar\w*|\bafsl\w*|\bspar(?:a|að|ar|ast|naður|nað)\b"
    r"|\blækk\w* um|styrk\w*|gjald\w*|gjöld\w*"
    r"|lán(?:i|a|s|in|ið)?\b|áhvíl\w*|\bleig\w*|trygging\w*|\braðn\w*|\bsími?\b)"
    r"(?:(?!verð|tilboð|\bnú\b)[^0-9]){0,15}"
    r"|\b(?:uppítök\w*|milligj\w*|allt að)(?:(?!verð|tilboð|\bnú\b)[^0-9]){0,15}"
    r"|\b(?:ekinn?|ekið|akstur|keyrð\w*)(?: ?\(?km\.?\)?)?[ :.]{0,3})$"
)
# ... and after it.
_NOT_PRICE_AFTER = re.compile(
    r"\s?(?:km\b|kílóm|þ\.?\s?km|þús\.?\s?km|þúsund km|mílur|miles|%|€|\$|£|eur\b|usd\b|gbp\b|dkk\b|sek\b"
    r"|nok\b|kg\b|cc\b|cm|hö\b|hest|kw|wh\b|(?:á|pr\.?|per|/)?\s?mán(?:\b|uð)|(?:í\s)?afslátt|(?:í\s)?styrk)"
)
_PRICE_LABEL = re.compile(r"(?:verð\w*|tilboð\w*|\báður|\bnú|\básett|\bvar)(?: (?:áður|nú|frá|er|var))?\s?[:(]?\s?$")
_BEFORE_SPACED = re.compile(rf"(?:^|[:;,.·|(])\s?$|{_PRICE_LABEL.pattern}")
_OFFER = re.compile(r"tilboð(?! óskast)|áður|útsal|lækka|afsl")
_WITHOUT_VAT = re.compile(
    r"(?:\bán|\bex\.?|\bexcl?\.?|\bexkl\.?|\bauk|\+|\bekki með|\butan)\s?(?:vsk\b|vask|virðisauk|vat\b)"
)
_WITHOUT_VAT_BEHIND = re.compile(rf"[ .,(-]*{_WITHOUT_VAT.pattern}\.?")
_WITH_VAT = re.compile(r"(?:\bmeð|\bm\.|\bm/|\bm|\binnif\w*\.?)\s?(?:vsk\b|vask|virðisauk|vat\b)")


def parse_price(text: str | None) -> Price:
    """The price in a text, in ISK: also from a whole card's text, where other numbers stand beside it.

    Of an old and a new price, in either order, the lower is :attr:`Price.amount`. Monthly payments, discounts
    and mileage are not prices, and amounts below 10,000 or above 1,000,000,000 kr. are not believed.

    >>> parse_price("Flott verð kr. 2.990.000")
    Price(amount=2990000, before_offer=None, excludes_vat=False)
    >>> parse_price("kr. 3.190.000 án vsk.")
    Price(amount=3190000, before_offer=None, excludes_vat=True)
    >>> parse_price("Tilboð: 790.000 kr. 890.000 kr.")
    Price(amount=790000, before_offer=890000, excludes_vat=False)
    >>> parse_price("Verð áður kr. 3.490.000 Tilboð kr. 2.990.000").amount
    2990000
    >>> [parse_price(each).amount for each in ("2,99 millj.", "2,9 m.kr.", "2.990 þús. kr.", "2990000")]
    [2990000, 2900000, 2990000, 2990000]
    >>> parse_price("kr. 2.990.000 Skipti á ódýrari, allt að 1.500.000").amount, parse_price("6.490 .000 kr.").amount
    (2990000, 6490000)
    >>> parse_price("Tilboð óskast")
    Price(amount=None, before_offer=None, excludes_vat=None)
    >>> parse_price("kr. 1")
    Price(amount=None, before_offer=None, excludes_vat=None)
    """
    prepared = _join_number(_prepare(text))
    amounts, without_vat = _amounts(prepared)
    if not amounts:
        return Price()
    excludes_vat = bool(_WITHOUT_VAT.search(prepared))
    low, high = min(amounts), max(amounts)
    if len(amounts) > 2:
        low, high = _two_of(amounts)
    if low == high:
        return Price(low, None, excludes_vat)
    if low in without_vat and high not in without_vat and _is_vat_pair(low, high, prepared):
        return Price(high, None, excludes_vat=False)
    if high > low * _MAX_OFFER_RATIO:
        # No offer is like that: the small one is a fee or, where an offer is claimed, nobody knows.
        return Price() if _OFFER.search(prepared) else Price(high, None, excludes_vat)
    return Price(low, high, excludes_vat)


def _amounts(prepared: str) -> tuple[list[int], set[int]]:
    """The different plausible prices in their order, and those of them that are said to be without VAT."""
    amounts: dict[int, None] = {}
    without_vat: set[int] = set()
    told = 0  # how much of the text belongs to numbers already read
    for match in _PRICE.finditer(prepared):
        before = prepared[max(told, match.start() - 60) : match.start()]
        after = prepared[match.end() : match.end() + 40]
        told = match.end()
        if match["scaled"]:
            value = _scaled(match["scaled"], 1_000_000 if match["million"] else 1_000)
            stated = bool(match["million"] or match["prefix"] or match["suffix"])
        else:
            value = _whole(match["whole"])
            stated = bool(match["prefix"] or match["suffix"]) or match["whole"].count(".") > 1
            if " " in match["whole"] and not (match["prefix"] or _BEFORE_SPACED.search(before)):
                continue  # the first digits may be the model's: "Defender 110 890 000 kr."
        if not (stated or match.group().strip() == prepared or _PRICE_LABEL.search(before)):
            continue
        if _NOT_PRICE_BEFORE.search(before) or _NOT_PRICE_AFTER.match(after):
            continue
        amount = _plausible(value, MIN_PRICE, MAX_PRICE)
        if amount is None:
            continue
        amounts[amount] = None
        behind = _WITHOUT_VAT_BEHIND.match(after)
        if behind:
            told += behind.end()
        if behind or _WITHOUT_VAT.search(before):
            without_vat.add(amount)
    return list(amounts), without_vat


def _two_of(amounts: list[int]) -> tuple[int, int]:
    """Old and new price of three or more numbers: the difference of the two is often stated too.

    >>> _two_of([3_490_000, 2_990_000, 500_000])
    (2990000, 3490000)
    """
    high, smallest = max(amounts), min(amounts)
    if high - smallest in amounts and smallest * 2 < high:
        amounts = [each for each in amounts if each != smallest]
    return min(amounts[:2]), max(amounts[:2])


def _is_vat_pair(low: int, high: int, prepared: str) -> bool:
    """Whether the two prices are one price without and with VAT (24 %), and not an old and a new one."""
    if _WITH_VAT.search(prepared):
        return True
    return abs(high - low * 1.24) <= high * 0.005 and not _OFFER.search(prepared)


# --- mileage ------------------------------------------------------------------------------------------------

_KM = r"(?:km\b\.?|kílóm\w*)(?!\s?/)"
_THOUSAND_WORD = r"(?:þúsund\b|þús\b\.?|þ\.?)"
_KM_SCALED = re.compile(rf"{_NOT_INSIDE}(?P<n>[0-9]{{1,4}}(?:[.,][0-9]{{1,3}})?)\s?{_THOUSAND_WORD}\s?{_KM}")
_KM_WHOLE = re.compile(
    rf"{_NOT_INSIDE}(?P<n>[0-9]{{1,3}}(?:\.[0-9]{{3}})+|[0-9]{{1,3}}(?:,[0-9]{{3}})+|[0-9]{{1,3}} [0-9]{{3}}"
    rf"|[0-9]{{1,9}})(?:,[0-9]{{1,2}})?\s?{_KM}"
)
_KM_LABEL = re.compile(
    r"\b(?:ekinn?|ekið|akstur|keyrð\w*|kílómetrastaða)\s?(?P<unit>\(km\.?\))?\s?:?\s?(?:um |ca\.? )?"
    rf"{_NOT_INSIDE}(?:(?P<scaled>[0-9]{{1,4}}(?:[.,][0-9]{{1,3}})?)\s?{_THOUSAND_WORD}"
    r"(?![a-zþæöðáéíóúý]|\s?(?:míl|mi\b|kr\b))"
    rf"|(?P<whole>{_WHOLE}){_NOT_CUT}(?P<km>\s?{_KM})?(?!\s?(?:þ|míl|mi\b|miles|%|kr\b|ár|/)))"
)
_WARRANTY = re.compile(r"\s?\w*ábyrgð")
_NOT_MILEAGE_BEFORE = re.compile(
    r"(?:ábyrgð\w*(?:[^.;|·]{0,25}\bár\w*,?)?[^0-9.,;|·]{0,25}"  # "Ábyrgð 5 ár eða 100.000 km."
    r"|\b(?:dræg\w*|þjónust\w*|skoðun\w*|skipt\w*|tímareim\w*|eftir|næst\w*|hverj\w*|á rafmagni)"
    r"[^0-9.,;|·]{0,25}|[0-9] ?l\w*\.?\s?(?:á|/|pr\.?|per)\s?|[/+]\s?|[0-9][-\u2013])$"
)


def parse_kilometers(text: str | None, *, bare: bool = False) -> int | None:
    """The distance driven, in kilometres.

    *bare* also takes a number without any unit, when it is all there is in the text (``20.000``). A new car
    (:func:`is_new`) has an unknown mileage, and so has one that claims 0 km or more than 2,000,000 km.
    Electric range, consumption, service intervals and miles are not mileage.

    >>> [parse_kilometers(each) for each in ("45.000 km. · Bensín", "128 þ.km", "181 000 km.", "1,5 þ.km")]
    [45000, 128000, 181000, 1500]
    >>> parse_kilometers("ekinn 12 þúsund km"), parse_kilometers("Ábyrgð 5 ár eða 100.000 km. 45.000 km. Sjálfskipting")
    (12000, 45000)
    >>> parse_kilometers("Ekinn (km): 26.460")
    26460
    >>> parse_kilometers("20.000") is None, parse_kilometers("20.000", bare=True)
    (True, 20000)
    >>> parse_kilometers("Nýtt ökutæki") is None, parse_kilometers("270 klst.") is None
    (True, True)
    >>> parse_kilometers("5,3 l/100 km") is None
    True
    """
    prepared = _join_number(_prepare(text))
    labelled = _KM_LABEL.search(prepared)
    if labelled:
        return _labelled_kilometers(labelled)
    found: list[tuple[int, int | None]] = []
    for match in (*_KM_SCALED.finditer(prepared), *_KM_WHOLE.finditer(prepared)):
        start, number = match.start(), match["n"]
        if _NOT_MILEAGE_BEFORE.search(prepared, max(0, start - 60), start) or _WARRANTY.match(prepared, match.end()):
            continue
        if match.re is _KM_SCALED:
            found.append((start, _kilometers_in_thousands(number)))
        elif " " in number and _LONE_DIGIT.search(prepared, max(0, start - 3), start):
            found.append((start, None))
        else:
            found.append((start, _plausible(_whole(number), 1, MAX_KILOMETERS)))
    if found:
        return min(found, key=lambda each: each[0])[1]
    if bare and re.fullmatch(_WHOLE, prepared.removesuffix(".")):
        return _plausible(_whole(prepared), 1, MAX_KILOMETERS)
    return None


# "1 250 000 km" or "Polestar 2 181 000 km": nobody can tell.
_LONE_DIGIT = re.compile(r"(?:^|[^0-9])[0-9] $")


def _labelled_kilometers(match: re.Match[str]) -> int | None:
    """What :data:`_KM_LABEL` found; ``Ekinn 128``, without a unit, may mean thousands and is not believed."""
    if match["scaled"]:
        return _kilometers_in_thousands(match["scaled"])
    lowest = 1 if match["unit"] or match["km"] else 1_000
    return _plausible(_whole(match["whole"]), lowest, MAX_KILOMETERS)


def _kilometers_in_thousands(number: str) -> int | None:
    """``128`` of ``128 þ.km`` in km. ``128.000 þ.km`` says two things at once, so it says nothing."""
    if re.fullmatch(r"[0-9]+\.[0-9]{3}", number):
        return None
    return _plausible(_scaled(number, 1_000), 1, MAX_KILOMETERS)


_NEW_SEGMENT = re.compile(r"(?:(?:akstur|ekinn|ástand)\s?:?\s?)?(?:nýtt|nýr|ný|ónotað|ónotaður|new)\.?")
_NEW_CAR = re.compile(
    r"(?<!eins og )(?<!sem )(?<!ekki )(?<!nánast )(?<!næstum )\b(?:nýtt|nýr|ný|ónotað|ónotaður|ónotuð)\s"
    r"(?:og ónota\w*\s)?(?:ökutæki|bíll|bifreið)\b"
)


def is_new(text: str | None) -> bool:
    """Whether the text says that the car is new, not driven yet; new tyres or a new belt do not count.

    >>> [is_new(each) for each in ("Nýtt ökutæki · Sjálfskipting", "Nýtt", "Nýr")]
    [True, True, True]
    >>> [is_new(each) for each in ("Nýskoðaður", "Ný tímareim", "eins og nýr bíll", None)]
    [False, False, False, False]
    """
    prepared = _prepare(text)
    if _NEW_CAR.search(prepared):
        return True
    return any(_NEW_SEGMENT.fullmatch(part.strip()) for part in re.split(r"[·|,;•]", prepared))


# --- dates --------------------------------------------------------------------------------------------------

_MONTHS: Final = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "maí": 5, "mai": 5, "jún": 6, "jun": 6, "júl": 7, "jul": 7,
    "ágú": 8, "agu": 8, "ág": 8, "sep": 9, "okt": 10, "nóv": 11, "nov": 11, "des": 12,
}  # fmt: skip
_MONTH_NAME = (
    r"(?P<name>jan(?:úar|uar)?|feb(?:r|rúar|ruar)?|mars?|apr(?:íl|il)?|ma[íi]|j[úu]n[íi]?|j[úu]l[íi]?|ágú?(?:st)?"
    r"|agu(?:st)?|sept?(?:ember)?|okt(?:[óo]ber)?|n[óo]v(?:ember)?|des(?:ember)?)\b\.?"
)
_YEAR = (
    r"(?P<year>(?:19|20)[0-9]{2})(?![0-9])(?![.,][0-9])"
    r"(?!\s?(?:km|kr\b|kg|cc\b|cm|hö\b|hest|mm\b|þ\.|þús|klst|isk\b|w\b|wh\b))"
)
_START = r"(?<![0-9])(?<![0-9][.,])"
_YEAR_MONTH_FORMS = tuple(
    re.compile(form)
    for form in (
        rf"{_START}(?:0?[1-9]|[12][0-9]|3[01])\s?[./-]\s?(?P<month>0?[1-9]|1[0-2])\s?[./-]\s?{_YEAR}",
        rf"{_START}(?P<year>(?:19|20)[0-9]{{2}})-(?P<month>0[1-9]|1[0-2])(?![0-9])",
        rf"{_START}(?<![0-9][/-])(?P<month>0?[1-9]|1[0-2])\s?[/.-]\s?{_YEAR}",
        rf"\b{_MONTH_NAME},?\s?{_YEAR}",
    )
)
_YEAR_ALONE = re.compile(rf"{_START}(?:[0-9]{{1,2}}\s?[./-]\s?)?(?<![0-9]){_YEAR}")
_PEUGEOT = re.compile(r"\bpeugeot\s(?:e-)?[0-9]{4}\b")
_REGISTERED = re.compile(r"(?:\b(?:ný)?skráning\w*|\b(?:ný)?skráð\w*|\bárgerð\w*|\bárg\b\.?)[^0-9]{0,20}$")
_INSPECTION = re.compile(r"(?:skoð\w*|uppfær\w*|ábyrgð\w*|gildir)[^0-9]{0,20}$")


def parse_year_month(text: str | None, *, today: dt.date | None = None) -> tuple[int | None, int | None]:
    """The year of the car and the month of its first registration (1 to 12), as ``(year, month)``.

    Years from 1900 to two years after *today* (default: the system's date) are believed.

    >>> parse_year_month("6/2019 · Bensín"), parse_year_month("12.2023"), parse_year_month("jún. 2019")
    ((2019, 6), (2023, 12), (2019, 6))
    >>> parse_year_month("2019 · Dísel"), parse_year_month("Bensín")
    ((2019, None), (None, None))
    """
    prepared = _PEUGEOT.sub("peugeot", _prepare(text))
    last = (today or dt.datetime.now(tz=dt.UTC).date()).year + 2
    best: tuple[int, int, int | None, int] | None = None  # rank, then year and month, then where
    for level, form in enumerate((*_YEAR_MONTH_FORMS, _YEAR_ALONE)):
        for match in form.finditer(prepared):
            year = int(match["year"])
            if not MIN_YEAR <= year <= last:
                continue
            before = prepared[max(0, match.start() - 40) : match.start()]
            rank = level // len(_YEAR_MONTH_FORMS)  # with a month before without
            rank += 10 if _INSPECTION.search(before) else 0
            rank -= 4 if _REGISTERED.search(before) else 0
            if best is None or (rank, match.start()) < (best[0], best[3]):
                best = (rank, year, _month_of(match), match.start())
    return (best[1], best[2]) if best and best[0] < 6 else (None, None)


def _month_of(match: re.Match[str]) -> int | None:
    groups = match.groupdict()
    if groups.get("month"):
        return int(groups["month"])
    if groups.get("name"):
        name = groups["name"]
        return _MONTHS.get(name[:3]) or _MONTHS.get(name[:2])
    return None


_DATE_FORMS = tuple(
    re.compile(form)
    for form in (
        (
            rf"{_START}(?<![0-9][/-])(?P<day>[0-9]{{1,2}})\s?(?P<sep>[./-])\s?(?P<month>[0-9]{{1,2}})\s?(?P=sep)"
            r"\s?(?P<year>[0-9]{4})(?![0-9])"
        ),
        rf"{_START}(?P<year>[0-9]{{4}})-(?P<month>[0-9]{{2}})-(?P<day>[0-9]{{2}})(?![0-9])",
        rf"{_START}(?P<day>[0-9]{{1,2}})\.?\s?{_MONTH_NAME},?\s?(?P<year>[0-9]{{4}})(?![0-9])",
    )
)


def parse_date(text: str | None) -> dt.date | None:
    """The first full date in a text, day first as in Iceland; years 1900 to 2100.

    >>> parse_date("Síðast uppfært 2.2.2026")
    datetime.date(2026, 2, 2)
    >>> parse_date("2. febrúar 2026")
    datetime.date(2026, 2, 2)
    >>> parse_date("31.2.2026") is None
    True
    """
    prepared = _prepare(text)
    matches = [match for form in _DATE_FORMS for match in form.finditer(prepared)]
    for match in sorted(matches, key=lambda each: each.start()):
        year, month, day = int(match["year"]), _month_of(match), int(match["day"])
        if month is None or not MIN_YEAR <= year <= 2100:
            continue
        try:
            return dt.date(year, month, day)
        except ValueError:
            continue
    return None


# --- technical words ----------------------------------------------------------------------------------------

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
_FUEL_PAIRS: Final = {
    frozenset(("petrol", "electric")): "petrol/electric",
    frozenset(("diesel", "electric")): "diesel/electric",
    frozenset(("methane", "petrol")): "methane/petrol",
    frozenset(("methane", "diesel")): "methane/diesel",
    frozenset(("hydrogen", "electric")): "hydrogen/electric",
}


def parse_fuel(text: str | None) -> str | None:
    """The fuel, in canonical English words.

    One of ``petrol``, ``diesel``, ``electric``, ``methane``, ``hydrogen``, ``hybrid``, ``plug-in-hybrid``, or
    a pair: ``petrol/electric``, ``diesel/electric``, ``methane/petrol``, ``methane/diesel``,
    ``hydrogen/electric``. The sites write ``Bensín/Rafmagn`` for hybrids with and without a plug, so a pair
    stays a pair, in either order.

    >>> [parse_fuel(each) for each in ("Bensín", "Dísel/Dísel", "Rafmagn/Bensín", "Plug-in hybrid")]
    ['petrol', 'diesel', 'petrol/electric', 'plug-in-hybrid']
    >>> parse_fuel("gufa") is None
    True
    """
    found = {str(match.lastgroup) for match in _FUEL_WORDS.finditer(_prepare(text))}
    if "plugin" in found:
        return "plug-in-hybrid"
    if "hybrid" in found:
        return "hybrid"
    if len(found) == 1:
        return found.pop()
    return _FUEL_PAIRS.get(frozenset(found))


def _only(choices: dict[str, re.Pattern[str]], text: str | None) -> str | None:
    """The one choice whose words are in the text; ``None`` when none or several are."""
    prepared = _prepare(text)
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
    """``automatic`` or ``manual``.

    >>> parse_transmission("45.000 km. · Sjálfskipting"), parse_transmission("Beinskiptur")
    ('automatic', 'manual')
    """
    return _only(_TRANSMISSIONS, text)


def parse_drivetrain(text: str | None) -> str | None:
    """``4wd``, ``fwd`` (front wheels) or ``rwd`` (rear wheels).

    >>> [parse_drivetrain(each) for each in ("Fjórhjóladrif", "Framhjóladrif", "Afturhjóladrif", "Drif")]
    ['4wd', 'fwd', 'rwd', None]
    """
    return _only(_DRIVETRAINS, text)


_COUNT_WORDS: Final = {
    "tveggja": 2, "þriggja": 3, "fjögurra": 4, "fimm": 5, "sex": 6, "sjö": 7, "átta": 8, "níu": 9,
}  # fmt: skip
_COUNT = rf"(?<![0-9])(?<![0-9][-\u2013/.,])\b(?P<n>[0-9]{{1,2}}|{'|'.join(_COUNT_WORDS)})(?:ja|ra)?[\s-]?"
_LABELLED_COUNT = r"\s?:?\s?(?P<m>[0-9]{1,2})(?![0-9.,])"
_DOORS = re.compile(rf"{_COUNT}(?:dyra|dyrum|dyr|hurðir|hurða)\b|\b(?:fjöldi dyra|dyr|hurðir){_LABELLED_COUNT}")
_SEATS = re.compile(rf"{_COUNT}(?:manna|sæta)\b|\b(?:fjöldi sæta|sæti|sætafjöldi){_LABELLED_COUNT}")


def _count(pattern: re.Pattern[str], text: str | None, highest: int) -> int | None:
    prepared = _prepare(text)
    match = pattern.search(prepared)
    if match is None:
        return _plausible(int(prepared), 1, highest) if re.fullmatch("[0-9]{1,2}", prepared) else None
    number = match["n"] or match["m"]
    return _plausible(_COUNT_WORDS.get(number) or int(number), 1, highest)


def parse_doors(text: str | None) -> int | None:
    """The number of doors, 1 to 7.

    >>> parse_doors("5 dyra"), parse_doors("Dyr: 4"), parse_doors("40 dyra")
    (5, 4, None)
    """
    return _count(_DOORS, text, 7)


def parse_seats(text: str | None) -> int | None:
    """The number of seats, 1 to 90 (there are buses among the cars).

    >>> parse_seats("5 manna"), parse_seats("sjö manna"), parse_seats("manna")
    (5, 7, None)
    """
    return _count(_SEATS, text, 90)


_HORSEPOWER = re.compile(
    rf"{_NOT_INSIDE}(?P<n>[0-9]\.[0-9]{{3}}|[0-9]{{1,4}})\s?(?:hest[aö]fl\w*|hestar\b|hesta\b|hö\b|b?hp\b)"
    r"|\bhestöfl\s?:?\s?(?P<m>[0-9]\.[0-9]{3}|[0-9]{1,4})(?![0-9]|[.,][0-9])"
)


def parse_horsepower(text: str | None) -> int | None:
    """The power in (metric) horsepower, 5 to 3,000. A power in kW is not converted.

    >>> parse_horsepower("150 hestöfl"), parse_horsepower("150 hö."), parse_horsepower("220 KW")
    (150, 150, None)
    """
    prepared = _prepare(text)
    match = _HORSEPOWER.search(prepared)
    if match is None:
        return _plausible(int(prepared), 5, 3_000) if re.fullmatch("[0-9]{1,4}", prepared) else None
    return _plausible(_whole(match["n"] or match["m"]), 5, 3_000)


_LITRES = r"[0-9]{1,2}(?:[.,][0-9]{1,2})?"
_PER_100_KM = r"(?:/|á|pr\.?|per)\s?(?:100\s?km|hundraðið)"
_CONSUMPTION = re.compile(
    rf"(?<![0-9])(?<![0-9][-\u2013.,])(?P<n>{_LITRES})\s?(?:l|ltr|lítr\w*)\b\.?\s?{_PER_100_KM}"
    rf"|\(?l\.?\s?{_PER_100_KM}\)?\s?:?\s?(?P<m>{_LITRES})(?![0-9]|[.,-][0-9])"
)


def parse_consumption(text: str | None) -> float | None:
    """Fuel consumption in litres per 100 km, 0.3 to 60; the first one in the text.

    >>> parse_consumption("Innanbæjareyðsla 5,3 l/100km")
    5.3
    >>> parse_consumption("17 kWh/100km") is None
    True
    """
    match = _CONSUMPTION.search(_prepare(text))
    if match is None:
        return None
    litres = float((match["n"] or match["m"]).replace(",", "."))
    return litres if 0.3 <= litres <= 60 else None


_KILOWATT_HOURS = re.compile(r"(?<![0-9.,])(?P<n>[0-9]{1,3}(?:[.,][0-9]{1,2})?)\s?kwh\b(?!\s?/)")


def parse_kilowatt_hours(text: str | None) -> float | None:
    """Return the capacity of a battery in kWh.

    >>> [parse_kilowatt_hours(each) for each in ("Stærð rafhlöðu 80 kWh", "13,8 kWh", "17 kWh/100km")]
    [80.0, 13.8, None]
    """
    match = _KILOWATT_HOURS.search(_prepare(text))
    return float(match["n"].replace(",", ".")) if match else None


# --- colour -------------------------------------------------------------------------------------------------

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
    """The colour as an Icelandic masculine adjective in lower case (``hvít``, ``hvítt`` → ``hvítur``).

    In a longer text it is the colour after ``Litur``, the one the text begins with, or the only one there.
    The colour of seats, wheels or roof is not the car's.

    >>> [parse_colour(each) for each in ("Hvít", "Ljósgrár", "Svört", "Dökkblár (sans)", "Litur: rautt")]
    ['hvítur', 'ljósgrár', 'svartur', 'dökkblár', 'rauður']
    >>> [parse_colour(each) for each in ("Perluhvítur", "Hvítur (tvílitur)", "Kampavín")]
    ['perluhvítur', 'hvítur', 'kampavínslitaður']
    >>> parse_colour("Leðursæti") is None
    True
    """
    prepared = _prepare(text)
    found: list[str] = []
    for match in _COLOUR.finditer(prepared):
        index = next(int(name[1:]) for name, value in match.groupdict().items() if value and name != "shade")
        colour = (match["shade"] or "") + list(_COLOURS)[index]
        if match.start() == 0 or _COLOUR_LABEL.search(prepared[max(0, match.start() - 10) : match.start()]):
            return colour
        found.append(colour)
    return found[0] if len(set(found)) == 1 else None


# --- body ---------------------------------------------------------------------------------------------------

_BODY = re.compile(
    r"\b(fólksbíll|jeppi|jepplingur|sendibíll|pallbíll|skutbíll|langbakur|stallbakur|hlaðbakur|blæjubíll"
    r"|sportbíll|fjölnotabíll|smárúta|rúta|húsbíll|vörubíll)\b"
)


def parse_body(text: str | None) -> str | None:
    """The kind of body as the Icelandic word, in lower case; the first in the text.

    >>> [parse_body(each) for each in ("Yfirbygging: Jeppi", "Fólksbíll 5 dyra", "Litur: Blár")]
    ['jeppi', 'fólksbíll', None]
    """
    found = _BODY.search(_prepare(text))
    return found[1] if found else None


# --- plate --------------------------------------------------------------------------------------------------

_PLATE = re.compile(
    r"\b(?:fasta(?:númer|nr)|skráningarnúmer|skráningarnr|fastnúmer|fastnr)\b\.?\s?:?\s?"
    r"(?P<letters>[a-záðéíóúýþæö]{2})[ -]?(?P<rest>[a-záðéíóúýþæö0-9][0-9]{2})(?![\w-])"
)


def parse_registration_plate(text: str | None) -> str | None:
    """The number on an Icelandic plate after a label such as ``Fastanúmer``: ``AB123``, or ``ABC12`` since 2007.

    Without its label it is not believed, as models look alike (``ID 350``). Vanity plates and those of before 1989
    have other forms and are ``None``; so is a text with two different numbers.

    >>> parse_registration_plate("Fastanúmer: AB-123"), parse_registration_plate("Fastnr. ab c12")
    ('AB123', 'ABC12')
    >>> [parse_registration_plate(each) for each in ("AB 123", "Fastanúmer R 1234", "Skráningarnúmer: GISLI")]
    [None, None, None]
    """
    found = {(match["letters"] + match["rest"]).upper() for match in _PLATE.finditer(_prepare(text))}
    return found.pop() if len(found) == 1 else None
