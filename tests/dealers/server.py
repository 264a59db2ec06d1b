"""The ground every simulated dealer stands on: an HTTP/1.1 server, a request log and a control surface.

A site subclasses `SimulatedSite` and writes two methods, ``classify`` (what kind of request is this?) and
``answer`` (the response). Everything else comes from here::

    with MySite() as site:                      # own thread, own event loop, 127.0.0.1, a free port
        urllib.request.urlopen(site.base_url)
        site.served.counts["home"]              # what was asked of it
        site.fault("photo", ["503", "ok"])      # what shall go wrong next, see faults.py
        site.down = True                        # every connection is closed without an answer

From another process the same things go over HTTP, below ``/_control/`` (never counted, never faulted):
``GET served``, ``GET cars``, ``POST set`` with ``{"name": value}``, ``POST call`` with ``{"method": …,
"args": […], "kwargs": {…}}``. `Remote` wraps them under the same names as the in-process object, and
`run_as_process` starts a site as a process of its own, which a benchmark needs: in one process crawler
and site would share the GIL.

The server is a plain `asyncio.Protocol`: a photo is written as ready-made parts without a copy, so that one
process serves thousands of 200 kB photos a second and is not what a benchmark measures.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import subprocess
import sys
import threading
import time
import traceback
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar, Self

from tests.dealers.drifts import DRIFTS
from tests.dealers.faults import FaultPlan, Response, apply_step, is_step

_REASONS = {status.value: status.phrase for status in HTTPStatus}


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
    """An HTTP server on loopback with a thread and an event loop of its own, used as a context manager."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.port = port
        self.connections: set[_Connection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def respond(self, request: Request) -> Response:
        raise NotImplementedError

    def finished(self, request: Request) -> None:
        """The last byte of the answer to *request* has left, or its client has gone."""

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.port}"

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
                loop.create_server(lambda: _Connection(self), self.host, self.port, backlog=1024)
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


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """What a site was asked since it started or since `SimulatedSite.reset`."""

    counts: Counter[str]
    """Requests by kind: home, search, results, details, photo, robots, other. A missing kind counts 0."""
    photos: dict[str, int]
    """Requests by photo identity, ``"<cid>/<p>"``."""
    requests: list[Asked]
    """All of them, in order."""
    max_concurrent_photos: int
    """The most photo answers that were under way at once."""

    def as_json(self) -> dict[str, Any]:
        asked = [dataclasses.asdict(one) for one in self.requests]
        return {
            "counts": dict(self.counts),
            "photos": self.photos,
            "requests": asked,
            "max_concurrent_photos": self.max_concurrent_photos,
        }

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Served:
        requests = [Asked(**asked) for asked in told["requests"]]
        return cls(Counter(told["counts"]), told["photos"], requests, told["max_concurrent_photos"])

    def statuses(self, kind: str) -> dict[int, int]:
        """How often each status was answered to requests of *kind*."""
        return dict(Counter(asked.status for asked in self.requests if asked.kind == kind))


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """One request in the log."""

    time: float
    """`time.monotonic()` on arrival."""
    kind: str
    method: str
    path: str
    """With its query string, as it was asked."""
    status: int
    """0 when the connection was closed or left without an answer."""
    user_agent: str
    step: str
    """The fault that was injected, "" for none."""


class SimulatedSite(HttpServer):
    """A dealer site that logs what it serves and can be told to misbehave."""

    page_steps: ClassVar[dict[str, Sequence[tuple[str, str]]]] = {}
    """A site's own page faults: what they replace in the page."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self.down = False
        """True: every connection is closed without an answer."""
        self.drift = ""
        """How the site's pages have changed: a name in `drifts.DRIFTS`. (As a step of `fault`: for some pages only.)"""
        self.page_latency = 0.0
        """Seconds before a page is answered."""
        self.photo_latency = 0.0
        """Seconds before a photo is answered."""
        self.errors: list[str] = []
        """Tracebacks of mistakes in the simulation itself; a test may assert that there are none."""
        self._faults = FaultPlan()
        self._photos_under_way = 0
        self.reset()

    # what a site writes

    def classify(self, request: Request) -> tuple[str, str]:
        """The kind of *request*, and which one of it or "": ``("photo", "296487/3000001")``."""
        raise NotImplementedError

    def answer(self, kind: str, which: str, request: Request) -> Response:
        raise NotImplementedError

    def truth(self) -> list[dict[str, Any]]:
        """What ``/_control/cars`` tells."""
        return []

    # what a test asks and orders

    @property
    def served(self) -> Served:
        requests = list(self._log)
        kinds = Counter(asked.kind for asked in requests)
        return Served(kinds, dict(self._photo_counts), requests, self._max_photos)

    def reset(self) -> None:
        """Forget what was served; faults and the site's state stay."""
        self._log: list[Asked] = []
        self._photo_counts: Counter[str] = Counter()
        self._max_photos = 0

    def fault(self, target: str, steps: Sequence[str], sticky: bool = False, each: bool = False) -> None:
        """Let the next requests of *target* go wrong, one step of *steps* a request (see faults.py).

        *target* is a kind (``"details"``), one of a kind (``"details:296487"``, ``"photo:296487/3000001"``),
        or ``"page"`` for any page. With *sticky* the last step stays; with *each* every single page or photo
        of the kind goes through its own copy of the steps. No steps: the fault is taken back.

        Raises:
            ValueError: no such step.
        """
        for step in steps:
            if not is_step(step) and step not in self.page_steps and step not in DRIFTS:
                raise ValueError(f"unknown fault step {step!r}")
        self._faults.set(target, steps, sticky=sticky, each=each)

    def clear_faults(self) -> None:
        self._faults = FaultPlan()

    # the server's side

    def respond(self, request: Request) -> Response:
        try:
            if request.route.startswith("/_control/"):
                return self._control(request)
            return self._respond(request)
        except Exception:
            self.errors.append(traceback.format_exc())
            print(self.errors[-1], file=sys.stderr)
            return Response(status=500, body="The simulation itself failed:\n" + self.errors[-1])

    def _respond(self, request: Request) -> Response:
        kind, which = self.classify(request)
        request.kind = kind
        step = ""
        if self.down:
            response = Response(drop=True)
        else:
            step = self._faults.take(kind, which)
            response = self._stepped(step, kind, which, request)
            if self.drift:
                response = DRIFTS[self.drift].change(kind, response, self.base_url)
        if kind == "photo":
            self._photo_counts[which] += 1
            self._photos_under_way += 1
            self._max_photos = max(self._max_photos, self._photos_under_way)
        latency = self.photo_latency if kind == "photo" else self.page_latency
        if latency:
            response.delay += latency
        status = 0 if response.drop or response.never else response.status
        self._log.append(
            Asked(time.monotonic(), kind, request.method, request.target, status, request.header("User-Agent"), step)
        )
        return response

    def _stepped(self, step: str, kind: str, which: str, request: Request) -> Response:
        if step in {"", "ok"}:
            return self.answer(kind, which, request)
        if step in self.page_steps:
            response = self.answer(kind, which, request)
            text = b"".join(response.parts).decode("utf-8", "replace")
            for old, new in self.page_steps[step]:
                text = text.replace(old, new)
            response.body = text
            return response
        if step in DRIFTS:
            return DRIFTS[step].change(kind, self.answer(kind, which, request), self.base_url)
        return apply_step(step, lambda: self.answer(kind, which, request))

    def finished(self, request: Request) -> None:
        if request.kind == "photo":
            self._photos_under_way -= 1

    def _control(self, request: Request) -> Response:
        command = request.route.removeprefix("/_control/")
        result = self._command(command, json.loads(request.body or b"{}"))
        return Response(content_type="application/json", body=json.dumps({"result": result}, default=str))

    def _command(self, command: str, order: dict[str, Any]) -> Any:
        if command == "served":
            return self.served.as_json()
        if command == "cars":
            return self.truth()
        if command == "set":
            for name, value in order.items():
                setattr(self, name, value)
            return None
        return getattr(self, order["method"])(*order["args"], **order["kwargs"])


class Remote:
    """A site in another process under the names of the in-process object.

    Methods are called as they are (``remote.sell(296487)``), attributes are set as they are (``remote.down =
    True``); `served` and `cars` are asked. Values are what JSON makes of them.
    """

    def __init__(self, base_url: str) -> None:
        self.__dict__["base_url"] = base_url

    @property
    def served(self) -> Served:
        return Served.from_json(self._ask("served"))

    @property
    def cars(self) -> list[dict[str, Any]]:
        return list(self._ask("cars"))

    def __setattr__(self, name: str, value: object) -> None:
        self._ask("set", {name: value})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self._ask("call", {"method": name, "args": args, "kwargs": kwargs})

    def _ask(self, command: str, order: dict[str, Any] | None = None) -> Any:
        data = None if order is None else json.dumps(order).encode()
        request = urllib.request.Request(f"{self.base_url}/_control/{command}", data)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["result"]


@contextlib.contextmanager
def run_as_process(module: str, *arguments: str) -> Iterator[Remote]:
    """Run a site as ``python -m module`` during the ``with`` block; it also ends when this process dies."""
    command = [sys.executable, "-m", module, "--stop-with-stdin", *arguments]
    root = Path(__file__).parents[2]  # where "tests" is importable from
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{module} did not start")
            yield Remote(json.loads(line)["base_url"])
        finally:
            process.terminate()


def serve_until_stopped(site: HttpServer, *, stop_with_stdin: bool) -> None:
    """Start *site*, print its address as one JSON line, and serve until a signal or stdin's end."""
    with site:
        print(json.dumps({"base_url": site.base_url}), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            if stop_with_stdin:
                sys.stdin.buffer.read()
            else:
                threading.Event().wait()
