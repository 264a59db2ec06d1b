"""The ground every simulated dealer stands on: a request log, faults and a control surface.

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
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tests.dealers.drifts import DRIFTS
from tests.dealers.faults import FaultPlan, apply_step, is_step
from tests.http_server import HttpServer, Request, Response


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
