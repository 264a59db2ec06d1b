"""The smallest dealer: one page of used cars as hekla.is writes it, photos that are not there, no other page."""

from __future__ import annotations

from tests.http_server import HttpServer, Request, Response

CARD = """<div class="car"><div class="img"><img src="/photos/{n}.jpg"></div><div class="info">
<a href="/is/bilar/notadir-bilar/view/{n}">Sjá bíl</a><p>VW ID.{n} GTX</p><p>Verð: 6.290.000 kr.</p>
<p>12.2023</p><p>20.000</p><p>Rafmagn</p></div></div>"""


class UsedCars(HttpServer):
    """A running server; a context manager."""

    def __init__(self, cars: int = 3) -> None:
        super().__init__()
        self.cars = cars
        self.card = CARD
        """Of each car, with ``{n}`` for its number."""
        self.latency = 0.0
        """Seconds before each answer."""

    def respond(self, request: Request) -> Response:
        is_page = request.route.startswith("/is/bilar/notadir-bilar")
        cards = "".join(self.card.format(n=n) for n in range(1, self.cars + 1)) if is_page else ""
        body = f"<html><body>{cards}</body></html>"
        return Response(status=200 if is_page else 404, body=body, delay=self.latency)
