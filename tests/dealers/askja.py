"""A simulated notadir.is: an empty page, and a small script that makes the cards of what it fetches as JSON.

As on the real site, cards are there only when the script has run; the button ``Sjá fleiri`` brings the next ones and
is gone when there are no more. What else a page of this kind has is here to be refused: pictures, a web font, a
service worker, and with *abroad* a script, data and a web socket of another host.
"""

from __future__ import annotations

import html
import json
from typing import Any, ClassVar

from tests.dealers import cars as invented
from tests.dealers.cars import Car, Photo
from tests.dealers.listing import SimulatedListing, dotted
from tests.http_server import Request, Response

SCRIPT = r"""
"use strict";
const root = document.getElementById("root");
const list = document.getElementById("list");
const { mode, abroad } = root.dataset;
let shown = 0;
let busy = false;

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function card({ advertisement, make, model, price, was, facts, link, style }) {
  if (advertisement) return element("div", { class: "vehicle vehicle--ad" }, element("p", {}, advertisement));
  const amounts = [was, price].filter(Boolean).map((amount) => element("span", {}, amount));
  return element(
    "div",
    { class: "vehicle" },
    link === null ? null : element("a", { class: "vehicle__image", href: link, ...(style && { style }) }),
    element(
      "div",
      { class: "vehicle__content" },
      element("h4", { class: "vehicle__title" }, make),
      element("p", { class: "vehicle__subtitle" }, model),
      element("em", {}, ...amounts),
      element("ul", {}, ...facts.map((fact) => element("li", {}, fact))),
    ),
  );
}

function button(needed) {
  document.querySelector(".more")?.remove();
  if (!needed || mode === "scroll") return;
  const more = element("button", { class: "more", type: "button" }, "Sjá fleiri");
  if (mode !== "dead" || shown === 0) more.addEventListener("click", load);
  document.querySelector("main").append(more);
}

async function load() {
  if (busy) return;
  busy = true;
  try {
    const answer = await fetch(`/api/vehicles?offset=${shown}`);
    if (!answer.ok) return;
    const { vehicles, count, total } = await answer.json();
    shown += count;
    list.append(...vehicles.map(card));
    button(shown < total || mode === "stubborn" || mode === "dead");
  } finally {
    busy = false;
  }
}

if (mode === "scroll") {
  window.addEventListener("scroll", () => {
    if (window.innerHeight + window.scrollY >= document.body.offsetHeight - 200) load();
  });
}
if (mode === "reset") {
  // The list begins anew: the cards that were there are not any more.
  document.addEventListener("click", () => list.replaceChildren(), { capture: true });
}
navigator.serviceWorker?.register("/static/worker.js").catch(() => {});
if (abroad) {
  fetch(`${abroad}/data.json`).catch(() => {});
  fetch("/elsewhere").catch(() => {});
  new WebSocket(abroad.replace("http", "ws") + "/socket");
  document.body.append(element("script", { src: `${abroad}/tracker.js` }));
  document.body.append(element("iframe", { src: `${abroad}/frame` }));
}
load();
"""
STYLE = """
@font-face { font-family: Dealer; src: url(/static/dealer.woff2); }
body { font-family: Dealer, sans-serif; background-image: url(/static/paper.png); }
.vehicle__image { display: block; height: 400px; background-size: cover; }
"""
LAYOUTS = {
    "cards": (('class: "vehicle"', 'class: "car-tile"'),),
    "links": (("vehicle__image", "vehicle__photo"),),
    "addresses": (("href: link", 'href: link.replace("/soluskra?", "/bill?")'),),
    "broken": (("load();\n", 'throw new Error("Minified React error #31 \\n2026-01-01 forged");\n'),),
    "endless": (("shown < total", "true"), ("/api/vehicles?", "/api/vehicles?endless=1&")),
}


class SimulatedAskja(SimulatedListing):
    """The site.

    Args:
        mode: how the list grows: "button"; "scroll" (without one); "stubborn" (the button stays and brings nothing
            at the end); "dead" (it stays and does nothing at all); "reset" (each press empties the list first).
        abroad: the address of another site, from which the page wants things.
    """

    results_path = "/"
    car_path = "/soluskra"
    page_steps: ClassVar = LAYOUTS

    def __init__(self, *, mode: str = "button", abroad: str = "", **options: Any) -> None:
        super().__init__(**{"per_page": 8, "ads_every": 5} | options)
        self.mode = mode
        self.abroad = abroad

    def link(self, car: Car) -> str:
        return f"{self.car_path}?make={car.number % 10}&id={car.cid}"

    def photo_address(self, car: Car, photo: Photo) -> str:
        return f"{self.base_url}/media/{car.cid}-{photo.p}.jpg?w=784"

    def parts(self, car: Car) -> dict[str, Any]:
        """What the JSON tells of a car; every form of price, distance and address in turn."""
        price = None if car.price is None else f"{dotted(car.price)} kr."
        was = None if car.price_before_offer is None else f"{dotted(car.price_before_offer)} kr."
        style = None
        if car.photos:
            address = car.photos[0].src or self.photo_address(car, car.photos[0])
            if car.number % 2 and not car.photos[0].src:
                address = address.removeprefix(self.base_url)
            quote = ("", '"', "'")[car.number % 3]
            style = f"background-image: url({quote}{address}{quote});"
        distance = None if car.kilometers is None else f"{car.kilometers // 1000} þ.km."
        return {
            "make": car.make,
            "model": car.model,
            "price": price or "Tilboð óskast",
            "was": was,
            "facts": [str(car.year), *([distance or "Nýr"] if distance or car.is_new else [])],
            "link": self.link(car),
            "style": style,
        }

    def classify(self, request: Request) -> tuple[str, str]:
        if request.route == "/api/vehicles":
            return "list", request.query.get("offset", "")
        if request.route == self.car_path:
            return "details", request.query.get("id", "")
        if request.route.startswith("/static/"):
            name = request.route.rpartition("/")[2]
            return {"app.js": "script", "app.css": "style"}.get(name, "decoration"), name
        return super().classify(request)

    def answer(self, kind: str, which: str, request: Request) -> Response:
        if kind == "results":
            return self._shell()
        if kind == "script":
            return Response(body=SCRIPT, content_type="text/javascript; charset=utf-8")
        if kind == "style":
            return Response(body=STYLE, content_type="text/css")
        if kind == "list":
            return self._list(int(which), endless="endless" in request.query)
        if kind == "details":
            return self._shell()  # as such sites do for every address
        if request.route == "/elsewhere":
            return Response(status=302, headers=(("Location", f"{self.abroad}/redirected"),))
        return super().answer(kind, which, request)

    def _shell(self) -> Response:
        root = f'<div id="root" data-mode="{self.mode}" data-abroad="{html.escape(self.abroad)}">'
        body = f"""<!DOCTYPE html>
<html lang="is"><head><meta charset="utf-8"><title>Notaðir bílar</title>
<link rel="stylesheet" href="/static/app.css"></head>
<body><header><img src="/static/logo.png" alt=""></header>
<main>{root}<div id="list"></div></div></main>
<script src="/static/app.js" defer></script></body></html>
"""
        policy = "default-src 'self' http: ws:; script-src 'self' http:; style-src 'self' 'unsafe-inline'"
        return Response(body=body, headers=(("Content-Security-Policy", policy),))

    def _list(self, offset: int, *, endless: bool) -> Response:
        found = [car for car in list(self.cars) if not car.sold]
        if endless:
            found = [invented.make_car(number, 1, 1) for number in range(offset + self.per_page)]
        part = found[offset : offset + self.per_page]
        advertisement = {"advertisement": "Bílalán á 5 mínútum"}
        vehicles = self._with_ads((self.told(car) for car in part), (advertisement,))
        told = {"vehicles": vehicles, "count": len(part), "total": len(found)}
        return Response(body=json.dumps(told), content_type="application/json")
