"""A real HTTP/1.1 server for whatever a test needs one for: simulated dealers, receivers, and servers that misbehave.

It is a plain `asyncio.Protocol`: a photo is written as ready-made parts without a copy, so that one process serves
thousands of 200 kB photos a second and is not what a benchmark measures.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import urllib.parse
from http import HTTPStatus
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

_REASONS = {status.value: status.phrase for status in HTTPStatus}


@dataclasses.dataclass(slots=True)
class Response:
    """An answer, and how it is to be sent."""

    status: int = 200
    body: str | bytes | tuple[bytes, ...] = b""
    content_type: str = "text/html; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0
    """Seconds before the first byte."""
    never: bool = False
    drop: bool = False
    """Close the connection instead of answering."""
    cut_at: int | None = None
    """Send so many bytes of the body, while Content-Length promises all, and close."""
    until_close: bool = False
    """Say nothing of the body's length: it ends with the connection."""
    trickle: tuple[int, float] | None = None
    """Bytes at a time, seconds between."""
    stream: Iterator[bytes] | None = None
    """Send these chunks instead of the body, with chunked encoding."""

    @property
    def is_plain(self) -> bool:
        return not (self.delay or self.never or self.drop or self.trickle or self.stream) and self.cut_at is None

    @property
    def parts(self) -> tuple[bytes, ...]:
        if isinstance(self.body, tuple):
            return self.body
        return (self.body.encode() if isinstance(self.body, str) else self.body,)


class Request:
    """One parsed request. Names in `query` are lower-cased, as IIS does not mind their case."""

    __slots__ = ("body", "head", "keep_alive", "kind", "method", "query_string", "route", "target")

    def __init__(self, method: str, target: str, head: bytes, body: bytes, keep_alive: bool) -> None:
        self.method = method
        self.target = target
        self.head = head
        self.body = body
        self.keep_alive = keep_alive
        path, _, self.query_string = target.partition("?")
        self.route = path.lower()
        self.kind = ""

    def header(self, name: str) -> str:
        """The value of header *name*, or ""."""
        start = self.head.lower().find(b"\r\n" + name.lower().encode() + b":")
        if start < 0:
            return ""
        start += len(name) + 3
        end = self.head.find(b"\r\n", start)
        return self.head[start : end if end >= 0 else None].decode("latin-1").strip()

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def query(self) -> dict[str, str]:
        pairs = urllib.parse.parse_qsl(self.query_string, keep_blank_values=True)
        return {name.lower(): value for name, value in pairs}

    @property
    def form(self) -> dict[str, str]:
        return dict(urllib.parse.parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))


class _Connection(asyncio.Protocol):
    """One client connection: requests are answered one after the other, in order."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.buffer = bytearray()
        self.busy = False
        self.current: Request | None = None
        self.close_after = False
        self.drained: asyncio.Event = asyncio.Event()
        self.drained.set()
        self.task: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        # pause_writing() then tells whether the last byte has left: a photo is "under way" until it has.
        transport.set_write_buffer_limits(high=0)
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        if self.task is not None:
            self.task.cancel()
        self._forget_current()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._answer_waiting()

    def pause_writing(self) -> None:
        self.drained.clear()

    def resume_writing(self) -> None:
        self.drained.set()
        if self.busy and self.task is None:
            self._finish()
            self._answer_waiting()

    # ours

    def _parse(self) -> Request | None:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self.buffer[:end])
        line, _, _ = head.partition(b"\r\n")
        method, target, version = line.decode("latin-1").split(" ", 2)
        request = Request(method, target, head, b"", keep_alive=version == "HTTP/1.1")
        body_start = body_end = end + 4
        if method not in {"GET", "HEAD"}:
            body_end += int(request.header("Content-Length") or 0)
            if len(self.buffer) < body_end:
                return None
            request.body = bytes(self.buffer[body_start:body_end])
        if request.header("Connection").lower() == "close":
            request.keep_alive = False
        del self.buffer[:body_end]
        return request

    def _answer_waiting(self) -> None:
        while not (self.busy or self.close_after or self.transport.is_closing()):
            try:
                request = self._parse()
            except ValueError:
                self.transport.abort()
                return
            if request is None:
                return
            self.busy = True
            self.current = request
            self.close_after = not request.keep_alive
            response = self.server.respond(request)
            if response.is_plain:
                self._write_plain(request, response)
                if not self.drained.is_set():
                    return  # resume_writing() goes on
                self._finish()
            else:
                self.task = asyncio.get_running_loop().create_task(self._perform(request, response))

    def _head(self, response: Response, length: int | None) -> bytes:
        lines = [
            f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Unknown')}",
            "Server: Microsoft-IIS/10.0",
            f"Content-Type: {response.content_type}",
            "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}",
            f"Connection: {'close' if self.close_after else 'keep-alive'}",
        ]
        if response.until_close:
            del lines[3]
        lines += [f"{name}: {value}" for name, value in response.headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    def _write_plain(self, request: Request, response: Response) -> None:
        parts = response.parts
        head = self._head(response, sum(map(len, parts)))
        if request.method == "HEAD" or not parts:
            self.transport.write(head)
            return
        # Small leading parts go out with the head; the big last one is handed over as it is, not copied.
        *leading, last = parts
        self.transport.write(b"".join((head, *leading)))
        self.transport.write(last)

    async def _perform(self, request: Request, response: Response) -> None:
        """Everything that takes time or breaks the rules."""
        write = self.transport.write
        if response.delay:
            await asyncio.sleep(response.delay)
        if response.never:
            await asyncio.Event().wait()  # until the client hangs up or the server stops
        if response.drop:
            self.transport.abort()
            return
        if response.stream is not None:
            write(self._head(response, None))
            for chunk in response.stream:
                write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                await asyncio.sleep(0)  # a fast client must not keep the loop to itself
                await self.drained.wait()
            write(b"0\r\n\r\n")
        elif response.trickle is not None:
            size, pause = response.trickle
            body = b"".join(response.parts)
            write(self._head(response, len(body)))
            for start in range(0, len(body), size):
                write(body[start : start + size])
                await asyncio.sleep(pause)
        elif response.cut_at is not None:
            body = b"".join(response.parts)
            self.close_after = True
            write(self._head(response, len(body)))
            write(body[: response.cut_at])
        else:
            self._write_plain(request, response)
        await self.drained.wait()
        self.task = None
        self._finish()
        self._answer_waiting()

    def _finish(self) -> None:
        self._forget_current()
        self.busy = False
        if self.close_after:
            # Not at once: asyncio calls resume_writing() in the middle of its own work and would close twice.
            asyncio.get_running_loop().call_soon(self.transport.close)

    def _forget_current(self) -> None:
        if self.current is not None:
            self.server.finished(self.current)
            self.current = None


class HttpServer:
    """An HTTP server on loopback with a thread and an event loop of its own, used as a context manager.

    Args:
        answer: what answers a request, where ``respond`` is not overridden.
        host: its address.
        port: 0 for any that is free.
        tls: with a certificate, for HTTPS.
    """

    def __init__(
        self,
        answer: Callable[[Request], Response] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._answer = answer
        self._tls = tls
        self.connections: set[_Connection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def respond(self, request: Request) -> Response:
        assert self._answer
        return self._answer(request)

    def finished(self, request: Request) -> None:
        """The last byte of the answer to *request* has left, or its client has gone."""

    @property
    def base_url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    def start(self) -> Self:
        started: threading.Event = threading.Event()
        failure: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(started, failure), daemon=True, name="dealer")
        self._thread.start()
        started.wait()
        if failure:
            raise failure[0]
        return self

    def stop(self) -> None:
        if self._loop is not None and self._thread is not None:
            with contextlib.suppress(RuntimeError):  # already stopped
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def _run(self, started: threading.Event, failure: list[BaseException]) -> None:
        loop = self._loop = asyncio.new_event_loop()
        try:
            server = loop.run_until_complete(
                loop.create_server(lambda: _Connection(self), self.host, self.port, backlog=1024, ssl=self._tls)
            )
        except OSError as error:
            failure.append(error)
            loop.close()
            started.set()
            return
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        loop.run_forever()
        server.close()
        for connection in list(self.connections):
            connection.transport.abort()
        loop.run_until_complete(_end_tasks())
        loop.close()


async def _end_tasks() -> None:
    """End what waits or trickles, and let aborted connections close their sockets."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)
