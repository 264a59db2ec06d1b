"""moto posing as Amazon: virtual-hosted names over TLS, reached by a proxy, so that no name is looked up."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from tests.storage.scripted import certificate

if TYPE_CHECKING:
    from pathlib import Path

REGION = "eu-north-1"


class Amazon:
    """Answers CONNECT to every host with the certificate of ``*.s3.eu-north-1.amazonaws.com``, and asks moto."""

    def __init__(self, folder: Path, upstream: str) -> None:
        self.ca_bundle, self._context = certificate(folder, f"*.s3.{REGION}.amazonaws.com")
        self._upstream = (urlsplit(upstream).hostname, urlsplit(upstream).port)
        self.asked: list[str] = []
        """Each host, as CONNECT names it."""
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def env(self) -> dict[str, str]:
        """What leads there."""
        return {
            "HTTPS_PROXY": f"http://127.0.0.1:{self._listener.getsockname()[1]}",
            "NO_PROXY": "127.0.0.1,localhost",
            "AWS_CA_BUNDLE": str(self.ca_bundle),
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            self.asked.append(head.split()[1].decode())
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with (
                self._context.wrap_socket(client, server_side=True) as inside,
                socket.create_connection(self._upstream) as server,
            ):
                back = threading.Thread(target=_pass_on, args=(server, inside), daemon=True)
                back.start()
                _pass_on(inside, server)
                back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
