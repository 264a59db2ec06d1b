"""Where a car of the database and its photos can be asked for."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit, urlunsplit

from carscraper.base_spiders.base import allow_host, by_address, is_web_address
from carscraper.db.rules import ARCHIVE
from carscraper.items import CarImage, Reason, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scrapy.crawler import Crawler

    from carscraper.backfill.worklist import Worklist
    from carscraper.base_spiders.dealer import DealerSpider
    from carscraper.db.work import KnownCar


class Addresses:
    """Reads the addresses that the database holds, of which some are broken and most have expired."""

    def __init__(self, dealers: Mapping[str, DealerSpider], *, base_url: str | None, crawler: Crawler) -> None:
        """Accept the dealers by source, another address of their sites, if one is given, and the crawler."""
        self._crawler = crawler
        self._dealers = dealers
        self._base_url = base_url
        if base_url:
            allow_host(crawler, base_url)

    def at_base(self, url: str, source: str) -> str:
        """Move an address of the dealer's own site to ``base_url``."""
        dealer = self._dealers.get(source)
        if not self._base_url or not dealer:
            return url
        parts = urlsplit(url)
        home = (urlsplit(dealer.home).hostname or "").removeprefix("www.")
        if (parts.hostname or "").removeprefix("www.") != home:
            return url
        base = urlsplit(self._base_url)
        return urlunsplit((base.scheme, base.netloc, parts.path, parts.query, ""))

    def page(self, car: KnownCar) -> str | None:
        """Return the car's own page; ``None`` without an address of use, or without a parser for it."""
        return self.page_of(car.item.url, car.item.source)

    def page_of(self, address: str, source: str) -> str | None:
        """Return the page at *address*, on ``base_url`` if that is given; ``None`` if it is no page of a car."""
        dealer = self._dealers.get(source)
        if not dealer or not dealer.has_details:
            return None
        url = _repaired(address, dealer.home)
        if url is None or dealer.car_id(url) is None:
            return None
        if not self._base_url:
            # The addresses of the cars' own pages come from a crawl of ours, as base_url comes from the user.
            allow_host(self._crawler, url)
        return self.at_base(dealer.canonical_url(url), source)

    def repaired(self, car: KnownCar) -> str | None:
        """Return the address that the car's row should have; ``None`` if that can't be told."""
        dealer = self._dealers.get(car.item.source)
        return _repaired(car.item.url, dealer.home) if dealer else None

    def photos(self, car: KnownCar, worklist: Worklist, *, insist: bool) -> list[CarImage]:
        """Return the stored addresses that may still answer: of photos that are due, or the one picture of an old row.

        Args:
            car: as the tables have it.
            worklist: knows permanent URLs.
            insist: photos that were given up, too.
        """
        source = car.item.source
        if not car.images:
            found = [] if worklist.object_name(car.image_url) is not None else self._only_picture(car)
        else:
            found = [
                replace(
                    known.at_last_address(),
                    insist=insist,
                    wanted_key=known.image.identity if source == ARCHIVE else None,
                )
                for known in car.images.values()
                if known.is_wanted(insist=insist) and is_web_address(known.image.source_url)
            ]
        return [replace(image, source_url=self.at_base(image.source_url, source)) for image in found]

    def _only_picture(self, car: KnownCar) -> list[CarImage]:
        address = (car.image_url or "").strip()
        dealer = self._dealers.get(car.item.source)
        image = None
        if address and dealer:
            image = dealer.image(lambda raw: raw, address, car.item.external_id)
        elif is_web_address(address):
            image = CarImage(identity=by_address(address), source_url=address)
            if "@" in urlsplit(address).netloc:  # nobody asks with a user's name and password
                return [replace(image, status=Status.FAILED, reason=Reason.BAD_ADDRESS)]
        return [image] if image and image.status == Status.PENDING and is_web_address(image.source_url) else []


def _repaired(address: str, home: str) -> str | None:
    """Return *address* whole: older programs kept it relative, or glued to the site's name.

    >>> _repaired("https://bilasolur.isCarDetails.aspx?cid=1", "https://bilasolur.is/")
    'https://bilasolur.is/CarDetails.aspx?cid=1'
    >>> _repaired("CarDetails.aspx?cid=1", "https://bilasolur.is/")
    'https://bilasolur.is/CarDetails.aspx?cid=1'
    >>> _repaired("", "https://bilasolur.is/"), _repaired("file:///x", "https://bilasolur.is/")
    (None, None)
    """
    address = address.strip()
    host = (urlsplit(home).hostname or "").removeprefix("www.")
    glued = re.match(rf"https?://(?:www\.)?{re.escape(host)}(?=[a-z])", address, re.IGNORECASE)
    try:
        url = urljoin(home, address[glued.end() :] if glued else address) if address else ""
    except ValueError:  # brackets that hold no IPv6 address, and the like
        return None
    return url if is_web_address(url) else None


_SIGNATURE = re.compile(
    r"(?<=[?&])(?:X-(?:Amz|Goog)-[\w-]+|AWSAccessKeyId|GoogleAccessId|Signature|Expires|Key-Pair-Id|Policy)=[^&#]*&?",
    re.IGNORECASE,
)


def unsigned(url: str) -> str:
    """Return *url* without what S3, Google and CloudFront sign it with, which is another each time.

    >>> unsigned("https://a.is/1.jpg?X-Amz-Date=1&X-Amz-Signature=ab"), unsigned("https://a.is/?p=1&Expires=2&w=3")
    ('https://a.is/1.jpg?', 'https://a.is/?p=1&w=3')
    """
    return _SIGNATURE.sub("", url)
