"""A server that answers everything as it is told, and counts."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.server
import ipaddress
import re
import socket
import ssl
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PAGE = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>"
LATIN = "<html><body>Accès refusé</body></html>".encode("latin-1")
CUT = b'<?xml version="1.0"?><ListBucketResult><Contents><Key>a'
PAGES = {"html": PAGE, "latin-1": LATIN, "cut": CUT}


class Scripted:
    """A context manager; ``say`` is what the next requests hear."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.status, self.headers, self.body = 200, {}, b""  # type: int, Mapping[str, str], bytes
        self.requests: list[tuple[str, str, Mapping[str, str]]] = []
        """Method, path and headers (names in lower case)."""
        self.times: list[float] = []
        self.hangs = self.resets = self.is_ssh = False
        self.wants_md5 = False
        """Uploads without Content-MD5 hear ``say``'s answer, all others that they are done."""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do(self) -> None:
                outer.times.append(time.monotonic())
                outer.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if outer.hangs:
                    time.sleep(2)
                if outer.is_ssh:
                    self.wfile.write(b"SSH-2.0-OpenSSH_9.0\r\n")
                if outer.hangs or outer.resets or outer.is_ssh:
                    self.close_connection = True
                    return
                status, headers, body = outer.status, outer.headers, outer.body
                if outer.wants_md5 and (self.command != "PUT" or "Content-MD5" in self.headers):
                    status, headers, body = 200, {"ETag": '"stored"'}, b""
                self.send_response_only(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do  # noqa: N815 - names that http.server asks for

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self.endpoint = f"http://{self.address}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def want_md5(self) -> None:
        """From now on answer as a bucket with object lock does."""
        self.say("400 InvalidRequest")
        self.body = self.body.replace(b"Some &lt;words&gt;.", b"Content-MD5 is required for Put with Object Lock")
        self.wants_md5 = True

    def say(self, answer: str) -> None:
        """As the table of ``docs/storage.md`` writes it: ``timeout``, ``503 SlowDown``, ``405``, ``200 <html>``."""
        self.requests.clear()
        self.times.clear()
        self.hangs, self.resets, self.is_ssh = answer == "timeout", answer == "reset", answer == "no http"
        found = re.fullmatch(r"(\d{3})(?: <(.+)>)? ?(\S+)?", answer)
        status, page, code = found.groups() if found else ("200", None, None)
        error = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Some &lt;words&gt;.</Message></Error>"
        self.body = PAGES[page] if page else error.encode() if code else b""
        is_html = self.body in {PAGE, LATIN}
        self.status, self.headers = int(status), {"Content-Type": "text/html" if is_html else "application/xml"}


@contextlib.contextmanager
def nobody() -> Any:
    """An address at which nobody listens, and which nobody else takes."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def old_tls(context: ssl.SSLContext) -> ssl.SSLContext:
    """Let *context* speak what nobody should any more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def certificate(folder: Path, name: str, days: int = 30, *, ca: bool = False) -> tuple[Path, ssl.SSLContext]:
    """A certificate for *name*, its own authority: its PEM file and what a server needs of it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    alternative: x509.GeneralName = (
        x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=30))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = folder / "server.key"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, private)
    return path, context
