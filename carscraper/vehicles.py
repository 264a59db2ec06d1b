"""Make and model of a car: one spelling for each make, a display form, and slugs for keys.

The makes, their other spellings and their models are data, in ``data/vehicles.toml``. A make that is not
listed there passes through, cleaned: a car is never refused for its name. Models are mended conservatively,
because a dealer's words are worth more than a guess: only the known models' case and spacing, and ordinary
words.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
import tomllib
import unicodedata
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from carscraper.parsing import clean_text

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SLUG_LENGTH: Final = 60
"""The most characters in a slug: a part of a key must stay far below S3's 1,024 bytes."""

UNKNOWN: Final = "unknown"
"""The slug of nothing."""

# Longer than any real name; what is beyond is somebody's essay.
_MAX_MAKE: Final = 60
_MAX_MODEL: Final = 200
_MAX_TITLE: Final = 300
_MAX_MAKE_WORDS: Final = 4
_MAX_MODEL_WORDS: Final = 4

_PLAIN_LETTERS: Final = str.maketrans(
    {"þ": "th", "ð": "d", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ß": "ss"}
    | dict.fromkeys(("'", "\u2019", "\u00b4"), "")
)
_SEPARATORS: Final = " =+-@,;:|/\\·•\u2013"
_NOT_SLUG = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Vehicle:
    """Make and model as they are stored; ``None`` for what is unknown."""

    make: str | None = None
    """The make in plain letters: ``Toyota``, ``Skoda``, ``Mercedes-Benz``."""
    model: str | None = None
    """The model in the dealer's own words, mended: ``Land Cruiser 150 GX``. Never begins with the make."""
    display_make: str | None = None
    """The make as the brand writes it: ``Škoda``, ``KIA``."""
    display_name: str | None = None
    """The model for display: without the make, as in the column of this name."""
    known: bool = False
    """Whether the make is in the list of makes."""


@dataclass(frozen=True, slots=True)
class _Make:
    slug: str
    name: str
    display: str
    models: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Catalogue:
    names: Mapping[str, tuple[_Make, str | None]]
    """Key of every spelling → the make and, for a line like Range Rover, the model's first words."""
    trims: Mapping[str, str]


@functools.cache
def _catalogue() -> _Catalogue:
    """Return the data file; a spelling that two makes claim is a mistake in it."""
    text = importlib.resources.files("carscraper.data").joinpath("vehicles.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    names: dict[str, tuple[_Make, str | None]] = {}
    for identifier, entry in data["makes"].items():
        models = {_key(model): model for model in entry.get("models", ())}
        make = _Make(identifier, entry["name"], entry.get("display", entry["name"]), MappingProxyType(models))
        spellings: dict[str, str | None] = dict.fromkeys((identifier, entry["name"], make.display))
        spellings |= dict.fromkeys(entry.get("aliases", ()))
        spellings |= entry.get("lines", {})
        for spelling, line in spellings.items():
            if names.setdefault(_key(spelling), (make, line))[0] is not make:
                raise ValueError(f"data/vehicles.toml: {spelling!r} names two makes")
    trims = {word.upper(): word for word in data["trims"]}
    return _Catalogue(MappingProxyType(names), MappingProxyType(trims))


# --- slugs ---


def _ascii(text: str) -> str:
    """*text* in ``[a-z0-9]`` words joined by one hyphen; may be empty."""
    plain = unicodedata.normalize("NFKD", text.lower()).lower().translate(_PLAIN_LETTERS)
    kept = "".join(each if each.isascii() else " " if unicodedata.category(each)[0] in "PZ" else "" for each in plain)
    return _NOT_SLUG.sub("-", kept).strip("-")


def _key(text: str) -> str:
    """What is compared to find a make or a model: letters and digits only, so ``M.BENZ`` is ``m benz``.

    A plus is a word, as a Ka+ is not a Ka.
    """
    return _ascii(text[:_MAX_MODEL].replace("+", "plus")).replace("-", "")


@functools.lru_cache(maxsize=1024)  # a car's photos have the same
def slug(text: str | None, max_length: int = MAX_SLUG_LENGTH) -> str:
    """*text* as a part of a key: ``[a-z0-9-]``, 1 to *max_length* (at most 60) characters.

    ``unknown`` for nothing. Icelandic letters are spelled out, accents dropped, other scripts and emoji left
    out. There is no hyphen at either end and never two in a row; the slug of a slug is itself.
    """
    length = min(max(max_length, 1), MAX_SLUG_LENGTH)
    # A run of combining marks costs its square to normalise: what can't reach the slug is cut first.
    cut = _ascii((text or "")[:1_000])[:length].strip("-")
    return cut or UNKNOWN[:length]


def make_slug(make: str | None) -> str:
    """Return the slug of a make, the same for all its spellings."""
    make = _clean(make, _MAX_MAKE)
    found = _find_make(make or "")
    return slug(found[0].slug if found else make)


# --- splitting ---


def _find_make(text: str) -> tuple[_Make, str | None] | None:
    key = _key(text) if len(text) <= _MAX_MODEL else ""
    return _catalogue().names.get(key) if key else None


def _leading_make(words: list[str]) -> int:
    """Return how many of the first words name a known make; 0 for none. The longest name wins."""
    for count in range(min(_MAX_MAKE_WORDS, len(words)), 0, -1):
        # The last word must matter: "Kia -" is "Kia" and a stray hyphen.
        if _key(words[count - 1]) and _find_make(" ".join(words[:count])):
            return count
    return 0


def split_title(title: str | None) -> tuple[str | None, str | None]:
    """Return make and model of a title such as ``LAND ROVER DEFENDER HSE``, as they are written there.

    Without a known make at its beginning the first word is the make.
    """
    words = (_clean(title, _MAX_TITLE) or "").split()
    count = _leading_make(words) or 1
    return " ".join(words[:count]) or None, " ".join(words[count:]) or None


def split_make_model(make: str | None, make_and_model: str | None) -> tuple[str | None, str | None]:
    """Return make and model where the page gives the make, and the make and model together (bilasolur.is)."""
    make, text = _clean(make, _MAX_MAKE), _clean(make_and_model, _MAX_TITLE)
    if make is None:
        return split_title(text)
    return make, _without_make(make, text)


def _without_make(make: str, text: str | None) -> str | None:
    """*text* without the make (in any of its spellings) that it begins with, however often."""
    words = (text or "").split()
    found = _find_make(make)
    while words:
        if not _has_word(words[0]):
            words = words[1:]
            continue
        for count in range(min(_MAX_MAKE_WORDS, len(words)), 0, -1):
            start = " ".join(words[:count])
            other = _find_make(start)
            same = _key(start) == _key(make) if found is None else other == (found[0], None)
            if same and _key(words[count - 1]):
                words = words[count:]
                break
        else:
            break
    return " ".join(words) or None


# --- the canonical form ---


def _has_word(text: str) -> bool:
    return any(each.isalnum() for each in text)


def _clean(text: str | None, longest: int) -> str | None:
    """Clean text of at most *longest* characters; ``None`` for what has no letter or digit (``-``, ``?``).

    Separators in front are cut; with them goes what would make a spreadsheet take the text for a formula.
    """
    cleaned = ((clean_text(text[: longest * 10]) if text else None) or "").lstrip(_SEPARATORS)[:longest].rstrip()
    return cleaned if _has_word(cleaned) else None


@functools.lru_cache(maxsize=4096)  # thousands of cars are of a few hundred models
def canonical(make: str | None, model: str | None) -> Vehicle:
    """Return make and model in their one stored form; applying it to its own answer changes nothing."""
    make, model = _clean(make, _MAX_MAKE), _clean(model, _MAX_MODEL)
    if make is None:
        return Vehicle(None, model, None, model)
    found = _find_make(make)
    if found is None:
        if make.isupper() and len(make) > 4 and make.isalpha():
            make = make.capitalize()
        model = _clean(_without_make(make, model), _MAX_MODEL)
        return Vehicle(make, model, make, model)
    known, line = found
    rest = _without_make(make, model)
    if line and not _key(rest or "").startswith(_key(line)):
        rest = f"{line} {rest or ''}"
    mended = _mend(known, _without_make(known.name, rest))
    return Vehicle(known.name, mended, known.display, mended, known=True)


def _mend(make: _Make, model: str | None) -> str | None:
    """Return the model with the case and spacing of the known model that it begins with, and of ordinary words."""
    words = (model or "").split()
    start: list[str] = []
    for count in range(min(_MAX_MODEL_WORDS, len(words)), 0, -1):
        known = make.models.get(_key(" ".join(words[:count])))
        if known and _key(words[count - 1]):
            start, words = [known], words[count:]
            break
    trims = _catalogue().trims
    mended = " ".join(start + [trims.get(word, word) for word in words])
    return _clean(mended, _MAX_MODEL)
