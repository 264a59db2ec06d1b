"""The page of ``make demo`` that shows all cars with their photos, and how a car is told in words."""

from __future__ import annotations

import html
from types import SimpleNamespace
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Sequence


class Car(SimpleNamespace):
    """A row of ``car_listings`` with its *photos*, the rows of ``car_images``."""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.display_make, self.display_name))) or "Unnamed car"

    @property
    def stored(self) -> list[SimpleNamespace]:
        return [photo for photo in self.photos if photo.key]


def facts_of(car: Car) -> list[str]:
    driven = "" if car.kilometers is None else f"{number(car.kilometers)} km"
    return [fact for fact in (str(car.year or ""), price_of(car), driven, car.fuel or "") if fact]


def price_of(car: Car) -> str:
    return "price on request" if car.price is None else f"{number(car.price)} kr."


def number(value: int) -> str:
    """Digits in groups of three, apart by a space that does not break.

    >>> number(7990000).split()
    ['7', '990', '000']
    """
    return f"{value:,}".replace(",", "\N{NO-BREAK SPACE}")


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{
  color-scheme: light dark;
  --ground: light-dark(#f3f4f6, #14171c); --card: light-dark(#fff, #1e232b); --line: light-dark(#dfe3e8, #303742);
  --text: light-dark(#1b2430, #e8ecf1); --quiet: light-dark(#5d6875, #98a4b3); --mark: light-dark(#0b5cad, #7db8f5);
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--ground); color: var(--text); font: 15px/1.45 system-ui, sans-serif; }}
header, main, footer {{ max-width: 1500px; margin: 0 auto; padding: 0 clamp(12px, 3vw, 32px); }}
header {{ padding-top: 28px; padding-bottom: 20px; }}
h1 {{ margin: 0 0 4px; font-size: 1.7rem; }}
header p, footer {{ color: var(--quiet); }}
header p {{ margin: 0; }}
dl.totals {{ display: flex; flex-wrap: wrap; gap: 8px 36px; margin: 18px 0 0; }}
.totals div {{ display: flex; flex-direction: column-reverse; }}
.totals dt {{ color: var(--quiet); font-size: .85rem; }}
.totals dd {{ margin: 0; font-size: 1.5rem; font-weight: 650; font-variant-numeric: tabular-nums; }}
main {{ display: grid; gap: 18px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }}
article {{ display: flex; flex-direction: column; overflow: hidden; min-width: 0;
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; }}
.photos {{ display: grid; gap: 2px; grid-template-columns: repeat(4, 1fr); }}
.photos a:first-child {{ grid-column: 1 / -1; }}
.photos a:focus-visible, summary:focus-visible {{ outline: 3px solid var(--mark); outline-offset: -3px; }}
img, .none {{ display: block; width: 100%; aspect-ratio: 3 / 2; object-fit: cover; background: var(--line); }}
.none {{ grid-column: 1 / -1; display: grid; place-items: center; color: var(--quiet); }}
.about {{ padding: 12px 16px 14px; flex: 1; }}
h2 {{ margin: 0; font-size: 1.08rem; overflow-wrap: anywhere; }}
h2 span {{ font-weight: 400; }}
.price {{ font-size: 1.2rem; font-weight: 650; font-variant-numeric: tabular-nums; }}
.price s, .price small {{ margin-left: .4em; color: var(--quiet); font-size: .9rem; font-weight: 400; }}
.about p {{ margin: 2px 0 0; }}
.quiet {{ color: var(--quiet); overflow-wrap: anywhere; }}
details {{ border-top: 1px solid var(--line); padding: 8px 16px; font-size: .8rem; }}
summary {{ cursor: pointer; color: var(--mark); }}
ol {{ margin: 8px 0 4px; padding-left: 1.6em; }}
li {{ margin-bottom: 6px; overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: .92em; }}
footer {{ padding-top: 22px; padding-bottom: 36px; font-size: .9rem; }}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{subtitle}</p>
<dl class="totals">
{totals}
</dl>
</header>
<main>
{cars}
</main>
<footer>The pictures on this page are the bucket's own files, so it needs no server. The permanent URLs answer while the
demo runs; in production they stand behind your own domain name.</footer>
</body>
</html>
"""


def contact_sheet(cars: Sequence[Car], bucket: str) -> str:
    """The page that shows all cars; photos by their place beside it, ``s3/{bucket}/{key}``."""
    photos = [photo for car in cars for photo in car.stored]
    totals = {
        "cars": number(len(cars)),
        "photos": number(len(photos)),
        "megabytes": f"{sum(photo.bytes or 0 for photo in photos) / 1e6:.1f}",
        "makes": number(len({car.display_make for car in cars if car.display_make})),
    }
    return _PAGE.format(
        title="What the crawl kept",
        subtitle="scrapy crawl bilasolur, against a simulated dealer with invented cars.",
        totals="\n".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in totals.items()),
        cars="\n".join(_article(car, bucket) for car in cars),
    )


def _article(car: Car, bucket: str) -> str:
    name, year = html.escape(car.name), html.escape(str(car.year or ""))
    pictures = "".join(
        _picture(f"s3/{bucket}/{photo.key}", f"{car.name}, photo {n}") for n, photo in enumerate(car.stored, 1)
    )
    facts = [*facts_of(car)[1 + bool(car.year) :], *filter(None, [car.transmission])]
    before = f" <s>{number(car.price_before_offer)} kr.</s>" if car.price_before_offer else ""
    vat = " <small>without VAT</small>" if car.price_excludes_vat else ""
    seller = filter(None, (car.dealer_name, f"no.\N{NO-BREAK SPACE}{car.external_id}"))
    lost = [photo for photo in car.photos if not photo.key]
    kept = "".join(f"<li>{html.escape(str(photo.url))}</li>" for photo in car.stored)
    missing = "".join(f"<li>{html.escape(f'{photo.source_url}: {photo.reason}')}</li>" for photo in lost)
    return f"""<article>
<div class="photos">{pictures or '<div class="none">no photo</div>'}</div>
<div class="about">
<h2>{name} <span>{year}</span></h2>
<p class="price">{price_of(car).capitalize()}{before}{vat}</p>
<p>{html.escape(" · ".join(facts))}</p>
<p class="quiet">{html.escape(" · ".join(seller))}</p>
</div>
<details><summary>{len(car.stored)} permanent URLs</summary><ol>{kept}{missing}</ol></details>
</article>"""


def _picture(path: str, what: str) -> str:
    place = html.escape(quote(path))
    return f'<a href="{place}"><img src="{place}" alt="{html.escape(what)}" loading="lazy"></a>'
