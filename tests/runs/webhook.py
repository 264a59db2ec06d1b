"""A real web server that takes notices."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self

KEY = "T00SECRET0/B00SECRET/kSECRETkey"
"""Of its address: whoever knows it may write."""


class Webhook(ThreadingHTTPServer):
    """Keeps what it is sent; ``answer`` is the status, or a function of the handler."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: Any = 200
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self.address = f"http://127.0.0.1:{self.server_port}/services/{KEY}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def texts(self) -> list[str]:
        found = []
        for _, headers, body in self.got:
            assert headers["Content-Type"] == "application/json"
            data = json.loads(body)
            assert set(data) == {"text"}
            found.append(data["text"])
        return found


class _Handler(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), body))
        if callable(self.server.answer):
            self.server.answer(self)
            return
        self.send_response(self.server.answer)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def do_GET(self) -> None:
        self.server.got.append((self.path, {}, b"GET"))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        pass
