"""The smallest dealer: one page of used cars as hekla.is writes it, photos that are not there, no other page."""

from __future__ import annotations

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CARD = """<div class="car"><div class="img"><img src="/photos/{n}.jpg"></div><div class="info">
<a href="/is/bilar/notadir-bilar/view/{n}">Sjá bíl</a><p>VW ID.{n} GTX</p><p>Verð: 6.290.000 kr.</p>
<p>12.2023</p><p>20.000</p><p>Rafmagn</p></div></div>"""


class UsedCars(ThreadingHTTPServer):
    """A running server; a context manager."""

    daemon_threads = True

    def __init__(self, cars: int = 3) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.cars = cars
        self.card = CARD
        """Of each car, with ``{n}`` for its number."""
        self.latency = 0.0
        """Seconds before each answer."""
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        super().__exit__(*args)


class _Handler(BaseHTTPRequestHandler):
    server: UsedCars

    def do_GET(self) -> None:
        is_page = self.path.startswith("/is/bilar/notadir-bilar")
        cards = "".join(self.server.card.format(n=n) for n in range(1, self.server.cars + 1)) if is_page else ""
        body = f"<html><body>{cards}</body></html>".encode()
        time.sleep(self.server.latency)
        with contextlib.suppress(OSError):
            self.send_response(200 if is_page else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass
