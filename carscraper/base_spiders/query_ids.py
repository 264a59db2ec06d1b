"""Which car the query of an address names, where nobody has said so."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import parse_qsl, urlencode, urlsplit

# What may name the car, the surest first; a word that may as well be a model ("car=ev6") only if it is a number.
_ID_NAMES = ("id", "cid", "carid", "vehicleid", "billid", "bilid", "itemid", "nr", "numer", "number", "regno", "plate")
_WORDS = ("car", "vehicle", "bill", "bil")
_TRACKING = re.compile(r"utm_\w+|fbclid|gclid|msclkid", re.IGNORECASE)


def query_id(url: str) -> str | None:
    """Return the id of a car that is named by the query of *url*; ``None`` if there is no query.

    That is a parameter with the name of an id, else the only parameter if it is a number, else a digest of all
    parameters in their order by name. What only tells where a visitor came from does not count.

    >>> query_id("https://x.is/soluskra?make=12&id=7891"), query_id("https://x.is/soluskra?vehicle-id=AB-12&page=3")
    ('7891', 'AB-12')
    >>> query_id("https://x.is/soluskra?7891"), query_id("https://x.is/soluskra?skra=7891&utm_source=a")
    ('7891', '7891')
    >>> query_id("https://x.is/soluskra?b=kia&a=ev6"), query_id("https://x.is/soluskra?utm_source=a")
    ('eae9d4665cd249ca', None)
    """
    parameters = _lasting(url)
    if not parameters:
        return None
    named = {re.sub("[-_]", "", name.lower()): value.strip() for name, value in reversed(parameters)}
    for name in (*_ID_NAMES, *_WORDS):
        pattern = r"(?=.*[0-9])[A-Za-z0-9_-]{1,64}" if name in _ID_NAMES else "[0-9]{1,20}"
        if re.fullmatch(pattern, named.get(name, ""), re.ASCII):
            return named[name]
    if len(parameters) == 1:
        value = parameters[0][1].strip() or parameters[0][0]
        if re.fullmatch("[0-9]{1,20}", value):
            return value
    return hashlib.sha256(urlencode(sorted(parameters)).encode()).hexdigest()[:16]


def lasting_query(url: str) -> str:
    """Return *url* without what only tells where a visitor came from.

    >>> lasting_query("https://x.is/soluskra?id=7&utm_source=a#top"), lasting_query("https://x.is/soluskra?7891")
    ('https://x.is/soluskra?id=7', 'https://x.is/soluskra?7891')
    """
    parts = urlsplit(url)
    is_changed = _lasting(url) != parse_qsl(parts.query, keep_blank_values=True)
    return parts._replace(query=urlencode(_lasting(url)) if is_changed else parts.query, fragment="").geturl()


def _lasting(url: str) -> list[tuple[str, str]]:
    parameters = parse_qsl(urlsplit(url).query, keep_blank_values=True, errors="replace")
    return [(name, value) for name, value in parameters if name and not _TRACKING.fullmatch(name)]
