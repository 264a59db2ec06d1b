"""Icelandic text to values: prices, mileage, dates; :mod:`carscraper.words` has fuel, colour and the like.

Pure: each ``parse_`` function takes any string (or ``None``), never raises, and answers ``None`` for what is unknown,
ambiguous or implausible: never 0 and never an empty string. **A missing value is better than a wrong one.**
``.`` or a space groups thousands (``2.990.000``, ``181 000``), a comma starts the decimals (``5,3``).
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

MAX_CHARACTERS: Final = 10_000
"""How much of a text the parsers look at; a hostile page must not cost more than a real one."""

MIN_PRICE: Final = 10_000
MAX_PRICE: Final = 1_000_000_000
MAX_KILOMETERS: Final = 2_000_000
MIN_YEAR: Final = 1900

# An offer is believed down to a fifth of the old price; wider apart, one of the two is something else.
_MAX_OFFER_RATIO: Final = 5


# --- text ---

# Control characters that are not whitespace, invisible ones (zero width, direction, tags), surrogates.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
# Normalising costs the square of a run of combining marks, and no real word is this long.
_MAX_WORD_TO_NORMALISE: Final = 200


def clean_text(text: str | None) -> str | None:
    """Collapse whitespace and drop what a database or a log cannot hold; ``None`` when nothing is left.

    Control characters, lone surrogates and zero-width characters go, any whitespace becomes one space, and words are
    brought to Unicode's composed form (NFC).
    """
    if not text or text.isspace():
        return None
    words = _INVISIBLE.sub("", text).split()
    cleaned = " ".join(
        word if word.isascii() or len(word) > _MAX_WORD_TO_NORMALISE else unicodedata.normalize("NFC", word)
        for word in words
    )
    return cleaned or None


def prepare(text: str | None) -> str:
    """Return the start of *text*, cleaned and in lower case, for matching only."""
    return (clean_text(text[:MAX_CHARACTERS]) or "").lower() if text else ""


# --- numbers ---

# A whole number: neither the middle of a longer one nor followed by more of one. The groups must be exact, so
# that "2.990.00" or "45.0000" is no number at all instead of a wrong one.
NOT_INSIDE = r"(?<![0-9])(?<![0-9][.,'\u2019/])"
_NOT_CUT = r"(?![0-9])(?![.,'\u2019/][0-9])"
_WHOLE = (
    r"(?:[0-9]{1,3}(?:\.[0-9]{3})+|[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?:['\u2019][0-9]{3})+"
    r"|[0-9]{1,3}(?:[ ][0-9]{3}(?![0-9]))++|[0-9]{1,12})"  # [ ]: it is also part of a verbose pattern
)


def _join_number(prepared: str) -> str:
    """Join the thousands of a number whose groups stood in elements of their own: ``6.490 .000``."""
    return re.sub(r"(?<=[0-9]) (?=\.[0-9]{3}(?![0-9]))", "", prepared)


def to_int(digits: str) -> int:
    """Return the value of a grouped or plain whole number as :data:`_WHOLE` matches it."""
    return int(re.sub(r"[^0-9]", "", digits)[:20])


def _scaled(number: str, factor: int) -> int | None:
    """Return *number* times *factor*; a comma, or a dot before one or two digits, starts the decimals."""
    if re.fullmatch(r"[0-9]{1,3}(?:[. ][0-9]{3})+", number):
        return to_int(number) * factor
    if re.fullmatch(r"[0-9]{1,7}(?:[.,][0-9]{1,2}|,[0-9]{3})?", number):
        return round(Decimal(number.replace(",", ".")) * factor)
    return None


def plausible(value: int | None, lowest: int, highest: int) -> int | None:
    """Return *value* within its bounds, else ``None``."""
    return value if value is not None and lowest <= value <= highest else None


# --- price ---


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
    {NOT_INSIDE}
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
    """Return the price in a text, in ISK: also from a whole card's text, where other numbers stand beside it.

    Of an old and a new price, in either order, the lower is :attr:`Price.amount`. Monthly payments, discounts
    and mileage are not prices, and amounts below 10,000 or above 1,000,000,000 kr. are not believed.

    >>> parse_price("Flott verð kr. 2.990.000"), parse_price("kr. 1").amount
    (Price(amount=2990000, before_offer=None, excludes_vat=False), None)
    >>> parse_price("Verð áður kr. 3.490.000 Tilboð kr. 2.990.000 án vsk.")
    Price(amount=2990000, before_offer=3490000, excludes_vat=True)
    """
    prepared = _join_number(prepare(text))
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
            value = to_int(match["whole"])
            stated = bool(match["prefix"] or match["suffix"]) or match["whole"].count(".") > 1
            if " " in match["whole"] and not (match["prefix"] or _BEFORE_SPACED.search(before)):
                continue  # the first digits may be the model's: "Defender 110 890 000 kr."
        if not (stated or match.group().strip() == prepared or _PRICE_LABEL.search(before)):
            continue
        if _NOT_PRICE_BEFORE.search(before) or _NOT_PRICE_AFTER.match(after):
            continue
        amount = plausible(value, MIN_PRICE, MAX_PRICE)
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
    """Return new and old price of three or more numbers: the difference of the two is often stated too."""
    high, smallest = max(amounts), min(amounts)
    if high - smallest in amounts and smallest * 2 < high:
        amounts = [each for each in amounts if each != smallest]
    return min(amounts[:2]), max(amounts[:2])


def _is_vat_pair(low: int, high: int, prepared: str) -> bool:
    """Return whether the two prices are one price without and with VAT (24 %), and not an old and a new one."""
    if _WITH_VAT.search(prepared):
        return True
    return abs(high - low * 1.24) <= high * 0.005 and not _OFFER.search(prepared)


# --- mileage ---

_KM = r"(?:km\b\.?|kílóm\w*)(?!\s?/)"
_THOUSAND_WORD = r"(?:þúsund\b|þús\b\.?|þ\.?)"
_KM_SCALED = re.compile(rf"{NOT_INSIDE}(?P<n>[0-9]{{1,4}}(?:[.,][0-9]{{1,3}})?)\s?{_THOUSAND_WORD}\s?{_KM}")
_KM_WHOLE = re.compile(
    rf"{NOT_INSIDE}(?P<n>[0-9]{{1,3}}(?:\.[0-9]{{3}})+|[0-9]{{1,3}}(?:,[0-9]{{3}})+|[0-9]{{1,3}} [0-9]{{3}}"
    rf"|[0-9]{{1,9}})(?:,[0-9]{{1,2}})?\s?{_KM}"
)
_KM_LABEL = re.compile(
    r"\b(?:ekinn?|ekið|akstur|keyrð\w*|kílómetrastaða)\s?(?P<unit>\(km\.?\))?\s?:?\s?(?:um |ca\.? )?"
    rf"{NOT_INSIDE}(?:(?P<scaled>[0-9]{{1,4}}(?:[.,][0-9]{{1,3}})?)\s?{_THOUSAND_WORD}"
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
    """Return the distance driven, in kilometres.

    *bare* also takes a number without any unit, when it is all there is in the text (``20.000``). A new car has an
    unknown mileage, and so has one that claims 0 km or more than 2,000,000 km.
    Electric range, consumption, service intervals and miles are not mileage.
    """
    prepared = _join_number(prepare(text))
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
            found.append((start, plausible(to_int(number), 1, MAX_KILOMETERS)))
    if found:
        return min(found, key=lambda each: each[0])[1]
    if bare and re.fullmatch(_WHOLE, prepared.removesuffix(".")):
        return plausible(to_int(prepared), 1, MAX_KILOMETERS)
    return None


# "1 250 000 km" or "Polestar 2 181 000 km": nobody can tell.
_LONE_DIGIT = re.compile(r"(?:^|[^0-9])[0-9] $")


def _labelled_kilometers(match: re.Match[str]) -> int | None:
    """What :data:`_KM_LABEL` found; ``Ekinn 128``, without a unit, may mean thousands and is not believed."""
    if match["scaled"]:
        return _kilometers_in_thousands(match["scaled"])
    lowest = 1 if match["unit"] or match["km"] else 1_000
    return plausible(to_int(match["whole"]), lowest, MAX_KILOMETERS)


def _kilometers_in_thousands(number: str) -> int | None:
    """``128`` of ``128 þ.km`` in km. ``128.000 þ.km`` says two things at once, so it says nothing."""
    if re.fullmatch(r"[0-9]+\.[0-9]{3}", number):
        return None
    return plausible(_scaled(number, 1_000), 1, MAX_KILOMETERS)


# --- dates ---

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
    """Return the year of the car and the month of its first registration (1 to 12), as ``(year, month)``.

    Years from 1900 to two years after *today* (default: the system's date) are believed.
    """
    prepared = _PEUGEOT.sub("peugeot", prepare(text))
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
    name = groups.get("name") or ""
    return _MONTHS.get(name[:3]) or _MONTHS.get(name[:2])


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
    """Return the first full date in a text, day first as in Iceland; years 1900 to 2100."""
    prepared = prepare(text)
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
