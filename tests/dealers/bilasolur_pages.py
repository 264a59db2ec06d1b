"""What pages of the simulated bilasolur.is look like in its two layouts: cards, cars' own pages, prices, distances."""

from __future__ import annotations

import datetime as dt
import html
import re
from collections.abc import Callable

from tests.dealers.cars import Car, Photo
from tests.http_server import Response

Image = Callable[[Car, Photo, int, str], str]
"""The markup of a photo at a width with a class."""

CARD_PHOTOS = 3
GONE = ("Engar upplýsingar fundust um ökutæki.", "Ökutæki gæti verið selt eða finnst ekki af öðrum ástæðum.")
"""What a sold car's page says; the second one that of every other car in 2026."""
ARROWS = {"2019": '<i class="fa fa-angle-{}"></i>', "2026": '<i class="bisicon bi-chevron-{}"></i>'}
NEW_LAYOUT = (
    ("sr-item", "vehicle-tile"),
    ("sr-link", "vehicle-link"),
    ("car-", "vehicle-"),
    ("cd-", "vd-"),
    ("CarImage.aspx", "media.ashx"),
    ("tech-details", "facts"),
    ("hestöfl", "hö"),
    ("Hestöfl", "Afl"),
)
"""Step ``layout``: the site was redesigned, so nothing is found where it was."""
GARBAGE = (
    ("hestöfl", "000000000000000000000 hestöfl"),
    (" hö.", "000000000000000000000 hö."),
    ("Síðast uppfært ", "Síðast uppfært 31.2."),
    ("Innanbæjareyðsla ", "Innanbæjareyðsla ∞,"),
    ("Raðnúmer", "Raðnúmer ²"),
    (" dyra", "² dyra"),
    ("CarImage.aspx?", "CarImage.aspx?p=²&amp;c=[::1&amp;"),
)
"""Step ``garbage``: values in a details page that make a careless parser raise."""
SAYS_GONE = (("<body>", f"<body><p>{GONE[0]}</p>"), ("CarImage.aspx", "Ekkert.aspx"))
"""Step ``gone``: a details page says that there is no such car, whatever there is."""
PAGE_STEPS = {
    "layout": NEW_LAYOUT,
    "garbage": GARBAGE,
    "no-days": (("search_modage", "search_age"),),
    "gone": SAYS_GONE,
}


def _framed(link: str, photos: str, text: str, fault: str) -> str:
    content = "" if fault == "bare" else text
    return f"""<div class="sr-item">
<a class="sr-link" href="{html.escape(link)}">
<div class="swiper-container"><div class="swiper-wrapper">{photos if content else ""}</div></div>
{content}
</a>
</div>
"""


def _card_of_2019(car: Car, link: str, image: Image, fault: str) -> str:
    photos = "".join(
        image(car, photo, (400, 784)[place % 2], "swiper-slide") for place, photo in enumerate(car.photos[:CARD_PHOTOS])
    )
    first, second, price = _when_and_fuel(car), _distance_and_gears(car), price_of(car)
    make, model = html.escape(car.make.upper()), html.escape(car.model)
    if fault == "garbage":
        first, second, price = "13/20x9 · ¿", "∞ km. · ", "kr. 2.99O.000,- / ²"
    text = f"""<div class="car-info">
<div class="car-make-and-model"><span class="car-make">{make}</span> {model}</div>
<div class="tech-details"><div>{first}</div><div>{second}</div></div>
<div class="car-price">{price}</div>
</div>"""
    return _framed(link, photos, text, fault)


def _card_of_2026(car: Car, link: str, image: Image, fault: str) -> str:
    photos = "".join(image(car, photo, 784, "swiper-slide") for photo in car.photos[:CARD_PHOTOS])
    facts = [" · ".join(filter(None, (_when(car), distance_of(car)))), car.fuel_words, car.drivetrain]
    price = _spanned(price_of(car, offer=car.number % 2 == 1))
    pills = [("sale", "Tilboð")] if car.price_before_offer is not None else []
    pills += [("onsite", "Á staðnum")] if car.number % 3 == 0 else []
    if fault == "garbage":
        facts, price = ["13/20x9 · ∞ km.", "¿", "·"], "kr. <span>2.99O.000,- / ²</span>"
    rows = "".join(f"<div>{html.escape(fact)}</div>" for fact in facts if fact)
    badges = "".join(f'<span class="pill pill-{css}" title="{title}">{title}</span>' for css, title in pills)
    note = f'<div class="short-note">{html.escape(car.short_note)}</div>\n' if car.short_note else ""
    text = f"""<div class="car-make-and-model"><span class="car-make">{html.escape(car.make.upper())}</span> \
{html.escape(car.model)}</div>
{note}<div class="tech-details">{rows}</div>
<div class="car-price">{price}</div>
<div class="pills">{badges}</div>"""
    anchor = f'<a class="car-anchor" name="rnr_{car.bid}_{car.cid}_{car.sid}"></a>\n'
    return anchor + _framed(link, photos, text, fault)


def _own_page_of_2019(car: Car, image: Image) -> Response:
    # Each photo twice, as a slider and its thumbnails have it: one photo, two widths.
    slides = "".join(image(car, photo, 784, "slide") for photo in car.photos)
    thumbs = "".join(image(car, photo, 400, "thumb") for photo in car.photos)
    consumption = car.city_consumption
    engine = [
        car.fuel,
        car.horsepower and f"{car.horsepower} hestöfl",
        consumption and f"Innanbæjareyðsla {consumption:.1f} l/100km".replace(".", ","),
    ]
    sections = {
        "Vél": [line for line in engine if line],
        "Drif og skipting": [car.drivetrain, car.transmission],
        "Yfirbygging": [car.body, f"{car.doors} dyra", f"{car.seats} manna", f"Litur: {car.colour}"],
        "Hjólabúnaður": [car.tyres],
    }
    blocks = "".join(_info_block(title, lines) for title, lines in sections.items())
    make, model = html.escape(car.make.upper()), html.escape(car.model)
    updated = _day(car.updated)
    return whole_page(
        f"{make} {model}",
        f"""<div class="car-details">
<div class="gallery">
{slides}</div>
<div class="thumbs">
{thumbs}</div>
<h1 class="car-make-and-model"><span class="car-make">{make}</span> {model}</h1>
<div class="car-price">{price_of(car)}</div>
<div class="tech-details"><div>{_when_and_fuel(car)}</div><div>{_distance_and_gears(car)}</div></div>
<div class="info-line">Raðnúmer {car.cid}</div>
<div class="info-line">Nýskráning {_when(car)}</div>
<div class="info-line">Síðast uppfært {updated}</div>
{blocks}<div class="description"><h3>Nánari upplýsingar</h3><p>{html.escape(car.description)}</p></div>
<div class="dealer"><h3>Söluaðili</h3><div class="dealer-name">{html.escape(car.dealer_name)}</div></div>
</div>""",
    )


def _own_page_of_2026(car: Car, image: Image) -> Response:
    photos = "".join(image(car, photo, 1280, "pswp-popup-area cd-car-photo") for photo in car.photos)
    make, model = html.escape(car.make.upper()), html.escape(car.model)
    before = car.price_before_offer
    offer = f'<div class="font-size-small text-overflow-ellipsis">Verð áður {_krona(before)}</div>' if before else ""
    facts = [
        ("Nýskráning", _when(car)),
        ("Akstur", distance_of(car)),
        ("Litur", car.colour),
    ]
    shown = "".join(
        f'<div class="col-6">{label} <b>{html.escape(value)}</b></div>\n' for label, value in facts if value
    )
    fuel = html.escape(car.fuel_words or "")
    days = {"Skráð á söluskrá": car.listed, "Síðast uppfært": car.updated}
    dates = "".join(f'<div class="col-6">{label} {_day(day)}</div>\n' for label, day in days.items())
    note = f'<div class="col-12">{html.escape(car.description)}</div>' if car.description else ""
    note = f'<div class="row mt-3 text-overflow-ellipsis">{note}</div>\n' if note else ""
    blocks = "".join(
        f'<div class="cd-section-title">{title}</div>\n'
        + "".join(f'<div class="mb-1">{html.escape(line)}</div>\n' for line in lines)
        for title, lines in _equipment(car).items()
        if lines
    )
    return whole_page(
        f"{make} {model} - Bílasölur.is",
        f"""<div class="container">
<div class="row"><div class="col-12 cd-make-and-model"><span class="cd-make">{make}</span> {model}</div>
<div class="col-6 serial-number">Raðnúmer<br>{car.cid}</div>
<div class="col-6"><div class="cd-price">{_spanned(price_of(car, offer=False))}</div>
{offer}</div></div>
<div class="swiper-container"><div class="swiper-wrapper">
{photos}</div></div>
<div class="row">
{shown}<div class="col-6 text-right"><span class="font-weight-bold">{fuel}</span></div>
<div class="col-6 font-weight-bold">{car.transmission}</div>
<div class="col-6">Næsta skoðun {car.next_inspection}</div>
{dates}</div>
{note}{blocks}<div class="seller">
<div class="seller-name"><a href="BilasalaDetails.aspx?bid={car.bid}">{html.escape(car.dealer_name)}</a></div>
<div class="seller-address"><div>Sýnisgötu {car.bid}</div><div>999 Sýnisbæ</div></div>
</div>
</div>""",
    )


CARDS = {"2019": _card_of_2019, "2026": _card_of_2026}
OWN_PAGES = {"2019": _own_page_of_2019, "2026": _own_page_of_2026}


def paging(layout: str, asked: int, guid: str) -> str:
    """What leads from a result page to the others."""
    arrow = ARROWS[layout]
    cells = []
    if asked > 1:
        cells.append(link_to(f"SearchResults.aspx?page={asked - 1}&id={guid}", arrow.format("left")))
    cells.append(f"<span>{asked}</span>")
    cells.append(link_to(f"SearchResults.aspx?page={asked + 1}&id={guid}", arrow.format("right")))  # for ever
    css = {"2019": "pagingCell", "2026": "sr-page"}[layout]
    paging = "".join(f'<div class="{css}">{cell}</div>' for cell in cells)
    if layout == "2026":
        sort = "javascript:__doPostBack('ctl00$contentCenter$sort$price','')"
        paging = link_to(sort, '<i class="bisicon bi-sort"></i> Verð') + "\n" + paging
    return f'<div class="paging">{paging}</div>'


AD_CARDS = (
    '<div class="sr-item"><div class="ad"><img src="/images/auglysing.png" alt="Auglýsing"></div></div>\n',
    '<div class="sr-item"><a class="sr-link"><div class="car-make">Auglýsing</div></a></div>\n',
    '<div class="sr-item"><a class="ad-link" href="/Ad.aspx?id=3"><div>Bílalán til sölu</div></a></div>\n',
)


def _equipment(car: Car) -> dict[str, list[str]]:
    """The equipment of a car's page of 2026: titles and lines."""
    consumption = car.city_consumption
    engine = ["Hestöfl", f"{car.horsepower} hö."] if car.horsepower else []
    engine += ["Slagrými", "1.998 cc."] if consumption else []
    engine += [f"Innanbæjareyðsla {consumption:.1f} l / 100km".replace(".", ",", 1)] if consumption else []
    engine += [f"Módelár {car.year}"]
    charging = [f"Stærð rafhlöðu {car.battery_kwh} kWh"] if car.battery_kwh else []
    charging += [f"Drægni {car.range_km} km"] if car.range_km else []
    charging += ["Tegund hleðslutengils Type 2", "Tengill fyrir heimahleðslu"] if car.battery_kwh else []
    return {
        "Vél": engine,
        "Rafmagn": charging,
        "Drif": [car.drivetrain],
        "Hjólabúnaður": [car.tyres],
        "Farþegarými": [f"{car.seats} manna", f"{car.doors} dyra"],
    }


def _spanned(price: str) -> str:
    return re.sub(r"[\d.]{5,}", r"<span>\g<0></span>", price)


def _day(day: dt.date) -> str:
    return f"{day.day}.{day.month}.{day.year}"


def whole_page(title: str, content: str) -> Response:
    body = f"""<!DOCTYPE html>
<html lang="is">
<head><meta charset="utf-8"><title>{title}</title></head>
<body>
<div class="header"><a href="/"><img src="/images/logo.png" alt="Bílasölur"></a></div>
{content}
<div class="footer">© Bílasölur</div>
</body>
</html>
"""
    # A lone surrogate in a hostile name must reach the page as something, as it would from the real server.
    return Response(body=body.encode("utf-8", "replace"))


def _info_block(title: str, lines: list[str]) -> str:
    divs = "".join(f"<div>{html.escape(line)}</div>" for line in lines)
    return f'<div class="info-block"><h3>{title}</h3>{divs}</div>\n'


def link_to(address: str, content: str) -> str:
    return f'<a href="{html.escape(address)}">{content}</a>'


def _krona(amount: int) -> str:
    return f"kr. {amount:,}".replace(",", ".")


def price_of(car: Car, *, offer: bool = True) -> str:
    """The price in the words the site has for it (HTML); without *offer* the one before an offer is left out."""
    if car.price is None:
        return "Tilboð óskast"
    price = _krona(car.price)
    if car.price_before_offer is not None and offer:
        old = f'<span class="old-price">{_krona(car.price_before_offer)}</span>'
        return f"Tilboð {old} {price}"
    if car.price_excludes_vat:
        return f"{price} án vsk."
    if car.number % 7 == 1:
        return f"Flott verð {price}"
    if car.number % 7 == 5:
        return price.replace(" ", "&nbsp;")
    return price


def _when(car: Car) -> str:
    return f"{car.month}/{car.year}" if car.month else str(car.year)


def _when_and_fuel(car: Car) -> str:
    return html.escape(" · ".join(filter(None, (_when(car), car.fuel))))


def distance_of(car: Car) -> str:
    """The distance in the words the site has for it, "" where it does not tell."""
    if car.is_new:
        distance = "Nýtt ökutæki"
    elif car.hours is not None:
        distance = f"{car.hours} klst."
    elif car.kilometers is None:
        distance = ""
    elif car.kilometers % 1000 == 0:
        distance = f"{car.kilometers // 1000} þ.km"
    else:
        distance = f"{car.kilometers:,} km.".replace(",", ".")
    if car.number % 4 == 2:
        distance = distance.replace(" ", "\N{NO-BREAK SPACE}")
    return distance


def _distance_and_gears(car: Car) -> str:
    return html.escape(" · ".join(filter(None, (distance_of(car), car.transmission))))
