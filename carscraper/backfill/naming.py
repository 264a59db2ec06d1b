"""Which car a row of an older program is of: by its address, its photo's, and its source however that is spelt."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from carscraper.parsing import clean_text
from carscraper.vehicles import slug

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from carscraper.base_spiders.dealer import DealerSpider
    from carscraper.db.work import OldRow

_IDS = frozenset({"cid", "carid", "car_id", "id"})


class Naming:
    """Reads rows with the dealers' own rules; of a source without a spider nothing is concluded from shared numbers."""

    def __init__(self, dealers: Mapping[str, DealerSpider]) -> None:
        """Accept the dealers by source."""
        self._dealers = dealers
        # Of two at one address the one that shows everybody's cars.
        self._by_address = sorted(dealers.values(), key=lambda dealer: not dealer.is_aggregator)
        self._spellings = {slug(_host(each)): each.source for each in reversed(self._by_address)}
        self._spellings |= {slug(name): each.source for each in dealers.values() for name in (each.name, each.source)}

    def source(self, written: str | None) -> str | None:
        """Return *written* as the dealer's spider spells it; as a text if there is none, ``None`` for nothing."""
        plain = re.sub(r"(?i)^\s*(?:https?://)?(?:www\.)?", "", written or "")
        return self._spellings.get(slug(plain), clean_text(written)) if (written or "").strip() else None

    def cars(self, rows: Iterable[OldRow]) -> dict[int, tuple[str, str]]:
        """Return the source and the id of the cars that *rows* are of, by row id, as far as these tell it.

        Args:
            rows: without an id, or of a source that no spider has; of such a source all that there are.
        """
        rows = list(rows)
        sources = [self.source(row.source) for row in rows]
        numbers = Counter(
            (source, number)
            for row, source in zip(rows, sources, strict=True)
            for number in {row.external_id, _number(row)}
        )
        found = {}
        for row, written in zip(rows, sources, strict=True):
            source, car = written, None
            if source is None:
                source, car = self._by_addresses(row)
            elif source in self._dealers:
                car = _car_at(self._dealers[source], row) or row.external_id
            elif row.external_id:
                car = row.external_id
            else:
                number = _number(row)
                car = number if number and numbers[source, number] == 1 else _digest(row)
            if source and car:
                found[row.row_id] = source, car
        return found

    def _by_addresses(self, row: OldRow) -> tuple[str | None, str | None]:
        """Return the dealer on whose site the addresses of a row without a source are, and its car there."""
        for each in (row._replace(image_url=""), row._replace(url="")):
            for dealer in self._by_address:
                if _is_at(each.url or each.image_url, dealer) and (car := _car_at(dealer, each)):
                    return dealer.source, car
        return None, None


def _car_at(dealer: DealerSpider, row: OldRow) -> str | None:
    for read, address in ((dealer.car_id, row.url), (dealer.car_of_image, row.image_url)):
        with contextlib.suppress(ValueError):  # brackets that hold no IPv6 address
            if car := read(address):
                return car
    return None


def _is_at(address: str, dealer: DealerSpider) -> bool:
    """Return whether *address* is on the dealer's site, also glued to its name; a relative one is the aggregator's."""
    if "//" not in address:
        return dealer.is_aggregator
    host = re.escape(_host(dealer))
    return bool(re.match(rf"\s*(?:https?:)?//(?:www\.)?{host}(?=[a-z:/?]|$)", address, re.IGNORECASE))


def _host(dealer: DealerSpider) -> str:
    return (urlsplit(dealer.home).hostname or "").removeprefix("www.")


def _number(row: OldRow) -> str | None:
    """Return the parameter that names a car; else the last part of the path with a number, or the last parameter."""
    try:
        parts = urlsplit(row.url)
    except ValueError:
        return None
    parameters = parse_qsl(parts.query.replace("&amp;", "&"))
    values = [value for _, value in parameters]
    named = [value for name, value in parameters if name.lower() in _IDS]
    numbered = [part for part in (*values, *parts.path.split("/"), *named) if re.search(r"\d", part)]
    return numbered[-1] if numbered and re.fullmatch(r"[\w.~=+-]{1,100}", numbered[-1]) else None


def _digest(row: OldRow) -> str | None:
    """Return an id made of the row's addresses: the same ones are the same car, and nothing else is."""
    addresses = f"{row.url}\n{row.image_url}"
    return hashlib.sha256(addresses.encode("utf-8", "replace")).hexdigest()[:16] if addresses.strip() else None
