"""A loopback proxy before an S3 server, which counts and misbehaves."""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import socket
import struct
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, NoReturn, Self
from urllib.parse import unquote, urlsplit

from tests.processes import free_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


@dataclass(kw_only=True)
class S3Request:
    """One request that came through a proxy, there from its arrival on; its status before the client's."""

    method: str
    path: str
    """Decoded, without the query: ``/bucket/key``."""
    query: str
    headers: dict[str, str]
    """Names in lower case; without ``Authorization``."""
    signature: str
    at: float
    """``time.monotonic()`` when its head had come."""
    fault: str  # that it met, or empty
    status: int = 0  # as long as, or when, it got no answer
    received: int = 0  # bytes of its body
    answered: bool = False  # it no longer counts as under way
    seconds: float = 0  # from its head to the end of its answer; 0 while under way

    @property
    def key(self) -> str:
        return self.path.lstrip("/").partition("/")[2]

    @property
    def signed(self) -> bool:
        return bool(self.signature) or "X-Amz-Signature" in self.query

    @property
    def access_key(self) -> str:
        return self.signature.partition("Credential=")[2].partition("/")[0]


class Fault:
    """One way to misbehave, for some or all requests; a context manager that ends with its block."""

    def __init__(
        self,
        proxy: S3Proxy,
        name: str,
        options: Mapping[str, Any],
        *,
        times: int | None = None,
        methods: Iterable[str] | str = (),
        path: str = "",
        skip: int = 0,
    ) -> None:
        self._proxy = proxy
        self.name = name
        self.options = options
        self.hits = 0
        """How many requests met it."""
        self._left = times
        self._skip = skip
        self._methods = {methods} if isinstance(methods, str) else set(methods)
        self._path = re.compile(path)
        self.over = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From now on requests go through again; those that hang are let go."""
        self.over.set()
        self._proxy._forget(self)

    def _takes(self, method: str, path: str) -> bool:
        """Called under the proxy's lock."""
        if (self._methods and method not in self._methods) or not self._path.search(path) or self._left == 0:
            return False
        if self._skip > 0:
            self._skip -= 1
            return False
        if self._left is not None:
            self._left -= 1
        self.hits += 1
        return True


class S3Proxy:
    """An HTTP proxy which passes requests on unchanged, counts and misbehaves.

    ``Host`` stays as the client signed it, so signatures remain valid. The faults are switched on by the
    methods below, each for the next ``times`` requests or until ``stop()`` (or the end of its ``with``
    block), for some ``methods`` and a regular expression ``path`` only if given, after letting ``skip`` such
    requests pass; the first that fits a request is the one it meets. ``heal()`` ends all.
    """

    def __init__(self, upstream: str, *, port: int = 0) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.port = port or free_port()
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._listener: socket.socket | None = None
        self._clients: set[socket.socket] = set()
        self._busy = 0
        self.max_parallel = 0
        """The most requests that were under way at one time."""
        self.requests: deque[S3Request] = deque()
        """Every request so far, in the order in which they came."""

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()
        self.down()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Listens, on the same port every time."""
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=512)
            threading.Thread(
                target=self._accept, args=(self._listener,), name=f"s3-proxy-{self.port}", daemon=True
            ).start()

    def down(self) -> None:
        """Refuses connections and breaks off those that are open."""
        listener, self._listener = self._listener, None
        with self._lock:
            broken_off = [*([listener] if listener else []), *self._clients]
        for each in broken_off:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        if listener is not None:
            listener.close()

    # What it saw

    def counts(self) -> Counter[str]:
        """How many requests by method."""
        return Counter(request.method for request in list(self.requests))

    def count(self, *methods: str) -> int:
        """How many requests, of these methods or of all."""
        counts = self.counts()
        return sum(counts[method] for method in methods) if methods else counts.total()

    def paths(self, *methods: str) -> list[str]:
        return [request.path for request in list(self.requests) if not methods or request.method in methods]

    def forget(self) -> None:
        """Counts from nothing again."""
        self.requests.clear()
        self.max_parallel = self._busy

    # How it misbehaves

    def heal(self) -> None:
        """Ends all faults."""
        for fault in list(self._faults):
            fault.stop()

    def fail(
        self,
        status: int = 503,
        code: str = "SlowDown",
        *,
        headers: Mapping[str, str] | None = None,
        **which: Any,
    ) -> Fault:
        """Answers with an S3 error: ``fail(403, "ExpiredToken", methods="PUT", times=3)``."""
        return self._inject(f"{status} {code}", {"status": status, "code": code, "headers": headers or {}}, which)

    def reset(self, *, after: int = 0, **which: Any) -> Fault:
        """Resets the connection after ``after`` bytes of the request's body; the server sees none of it."""
        return self._inject("reset", {"after": after}, which)

    def hang(self, **which: Any) -> Fault:
        """Takes the request and never answers, until the fault is stopped: then the connection closes."""
        return self._inject("hang", {}, which)

    def lose_reply(self, **which: Any) -> Fault:
        """The server does what was asked; its answer is lost and the connection reset."""
        return self._inject("lose reply", {}, which)

    def cut(self, at: int = 0, **which: Any) -> Fault:
        """Closes after ``at`` bytes of the answer's body (of a GET, say), whatever length was announced."""
        return self._inject("cut", {"at": at}, which)

    def flip(self, at: int = 0, **which: Any) -> Fault:
        """Flips one byte of the answer's body, without a word."""
        return self._inject("flip", {"at": at}, which)

    def trickle(self, pause: float = 0.2, **which: Any) -> Fault:
        """Sends the answer byte by byte with a pause after each, so that a read time-out never fires."""
        return self._inject("trickle", {"pause": pause}, which)

    def delay(self, seconds: float, **which: Any) -> Fault:
        """Answers later; an ended delay is over at once."""
        return self._inject("delay", {"seconds": seconds}, which)

    def _inject(self, name: str, options: Mapping[str, Any], which: Mapping[str, Any]) -> Fault:
        fault = Fault(self, name, options, **which)
        with self._lock:
            self._faults.append(fault)
        return fault

    def _forget(self, fault: Fault) -> None:
        with self._lock:
            self._faults = [other for other in self._faults if other is not fault]

    # How it works

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="s3-proxy-connection", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self._clients.add(client)
        try:
            _Connection(client, None, self)  # type: ignore[arg-type] # it asks no more of its server than this
        except (OSError, ValueError, http.client.HTTPException):
            pass
        finally:
            with self._lock:
                self._clients.discard(client)
            client.close()

    def arrived(self, seen: S3Request) -> Fault | None:
        """Count a request; returns the fault that it meets."""
        with self._lock:
            self._busy += 1
            self.max_parallel = max(self.max_parallel, self._busy)
            fault = next((fault for fault in self._faults if fault._takes(seen.method, seen.path)), None)
            seen.fault = fault.name if fault else ""
            self.requests.append(seen)
        return fault

    def answered(self, seen: S3Request) -> None:
        """It no longer counts as under way, before the client can know and send the next."""
        with self._lock:
            self._busy -= not seen.answered
            seen.answered = True


class _Connection(BaseHTTPRequestHandler):
    """One connection of a client, request after request."""

    server: S3Proxy  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _take(self) -> None:
        method, target, _ = self.requestline.split(" ", 2)
        parts = urlsplit(target)
        headers = {name.lower(): value for name, value in self.headers.items()}
        named = {"headers": headers, "signature": headers.pop("authorization", ""), "query": parts.query}
        seen = S3Request(method=method, path=unquote(parts.path), at=time.monotonic(), fault="", **named)
        fault = self.server.arrived(seen)
        try:
            self._answer(seen, target, fault.name if fault else "", fault)
        finally:
            self.server.answered(seen)
            seen.seconds = time.monotonic() - seen.at

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _take  # noqa: N815 - as http.server calls them

    def _answer(self, seen: S3Request, target: str, kind: str, fault: Fault | None) -> None:
        options = fault.options if fault else {}
        if fault and kind == "delay":
            fault.over.wait(options["seconds"])
        body = bytearray()
        for part in self._body():
            seen.received += len(part)
            if kind == "reset" and seen.received >= options["after"]:
                self._reset()
            body += part
        if kind == "reset":
            self._reset()
        if fault and kind == "hang":
            fault.over.wait()
            raise ConnectionAbortedError
        if "status" in options:
            seen.status = options["status"]
            self._send(seen, *_error(seen.method, **options))
            return
        status, headers, answer = self._pass_on(target, bytes(body))
        if kind == "lose reply":
            self._reset()
        seen.status = status
        if fault and kind == "trickle":
            client, self.wfile = self.wfile, io.BytesIO()
            self._send(seen, status, headers, answer)
            whole, self.wfile = self.wfile.getvalue(), client
            for number in range(len(whole)):
                client.write(whole[number : number + 1])
                fault.over.wait(options["pause"])
        elif kind == "cut" and len(answer) > options["at"]:
            self._send(seen, status, headers, answer[: options["at"]])
            raise ConnectionAbortedError
        elif kind == "flip" and len(answer) > options["at"]:
            at = options["at"]
            self._send(seen, status, headers, answer[:at] + bytes([answer[at] ^ 0xFF]) + answer[at + 1 :])
        else:
            self._send(seen, status, headers, answer)

    def _body(self) -> Iterator[bytes]:
        """Read the request's body as it stands on the wire (chunk sizes included)."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            size = 1
            while size:
                line = self.rfile.readline()
                size = int(line.split(b";")[0], 16)
                yield line
                if size:
                    yield self.rfile.read(size + 2)
            while (line := self.rfile.readline()) not in {b"\r\n", b""}:
                yield line
            yield b"\r\n"
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            part = self.rfile.read1(min(left, 1 << 18))  # type: ignore[attr-defined]
            if not part:
                raise ConnectionAbortedError
            left -= len(part)
            yield part

    def _pass_on(self, target: str, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Ask the server; returns its status, headers and body."""
        server = http.client.HTTPConnection(self.server.upstream)
        with contextlib.closing(server):
            server.putrequest(self.command, target, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"expect", "connection"}:  # 100 Continue was answered here already
                    server.putheader(name, value)
            server.endheaders(body)
            answer = server.getresponse()
            data = answer.read()
        headers = [each for each in answer.getheaders() if each[0].lower() not in {"transfer-encoding", "connection"}]
        bare = self.command == "HEAD" or answer.status in {204, 304}
        if not bare and answer.getheader("Content-Length") is None:
            headers.append(("Content-Length", str(len(data))))
        return answer.status, headers, data

    def _send(self, seen: S3Request, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.server.answered(seen)
        self.end_headers()
        if body:
            self.wfile.write(body)

    def _reset(self) -> NoReturn:
        """As when a machine restarts."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionResetError


def _error(
    method: str, *, status: int, code: str, headers: Mapping[str, str]
) -> tuple[int, list[tuple[str, str]], bytes]:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{code}, said by the test</Message>"
        "<RequestId>TEST</RequestId><HostId>test</HostId></Error>"
    ).encode()
    lines = {"Content-Type": "application/xml", "Content-Length": str(len(body)), "x-amz-request-id": "TEST"}
    return status, [*(lines | dict(headers)).items()], b"" if method == "HEAD" or status == 204 else body
