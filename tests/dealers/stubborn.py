"""A simulated bilasolur that leads from page to page in its own ways only, and one that is sorted anew meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.dealers.bilasolur import SimulatedBilasolur
from tests.dealers.cars import Car
from tests.http_server import Request, Response


class StubbornBilasolur(SimulatedBilasolur):
    """A site that serves pages by their number in the address up to *reach* only; further ones show that page.

    The others are at ``/SearchResults/<id>/<number>`` (*ways* ``path``), or come when the page's form is posted
    (``form``).
    *last* is how many there are by the *pager*, a key of ``STUBBORN_PAGERS``.
    """

    def __init__(self, pager: str, *, reach: int = 1, ways: str = "", last: int = 4, **options: Any) -> None:
        super().__init__(**{"photos": 0} | options)
        self.pager, self.reach, self.ways, self.last = pager, reach, ways, last

    def classify(self, request: Request) -> tuple[str, str]:
        if self.ways == "path" and request.route.startswith("/searchresults/"):
            return "results", request.route
        return super().classify(request)

    def _results(self, which: str, request: Request) -> Response:
        if which.startswith("/"):
            guid, _, which = which.removeprefix("/searchresults/").partition("/")
            return self._result_page(self._searches[guid], guid, which)
        if request.method == "POST" and self.ways == "form":
            assert request.form["__VIEWSTATE"] in self._viewstates
            assert request.form["__EVENTTARGET"] == "ctl00$pager"
            guid = request.query["id"]
            return self._result_page(self._searches[guid], guid, request.form["__EVENTARGUMENT"])
        return super()._results(str(min(int(which or 1), self.reach)), request)

    def _paging(self, asked: int, guid: str) -> str:
        numbers = [number for number in range(1, self.last + 1) if number != asked]
        inner = STUBBORN_PAGERS[self.pager](asked, self.last, guid, numbers)
        if self.ways == "form":
            hidden = {"__EVENTTARGET": "", "__EVENTARGUMENT": "", "__VIEWSTATE": self._viewstate()}
            fields = "".join(f'<input type="hidden" name="{name}" value="{value}">' for name, value in hidden.items())
            inner = f'<form method="post" action="./SearchResults.aspx?id={guid}">{fields}{inner}</form>'
        return inner if self.pager.endswith("bare") else f'<div class="pagingCell">{inner}</div>'


def _onward(link: str) -> Callable[[int, int, str, list[int]], str]:
    return lambda asked, last, guid, _: link.format(asked + 1, guid) if asked < last else ""


def _each(link: str) -> Callable[[int, int, str, list[int]], str]:
    return lambda _asked, _last, guid, numbers: " ".join(link.format(number, guid) for number in numbers)


STUBBORN_PAGERS: dict[str, Callable[[int, int, str, list[int]], str]] = {
    "none": lambda *_: "",
    "numbers": _each('<a href="SearchResults.aspx?page={0}&amp;id={1}">{0}</a>'),
    "next": _onward('<a href="SearchResults.aspx?page={0}&amp;id={1}">Næsta</a>'),
    "window": lambda asked, last, guid, numbers: _each('<a href="SearchResults.aspx?page={0}&amp;id={1}">{0}</a>')(
        asked, last, guid, [number for number in numbers if abs(number - asked) <= 2]
    ),
    "of": lambda asked, last, *_: f"{asked} / {last}",
    "of, of": lambda asked, last, *_: f"Síða {asked} af {last}",
    "of fifty": lambda asked, *_: f"{asked} / 50",
    "total": lambda *_: "<p>Fjöldi ökutækja: 28</p>",
    "a few more": lambda *_: "<p>Fundust 30 ökutæki</p>",
    "more": lambda *_: '<button type="button">Sjá fleiri</button>',
    "data": _each('<button type="button" data-page="{0}">{0}</button>'),
    "path-next": _onward('<a href="/SearchResults/{1}/{0}">Næsta</a>'),
    "path-rel": _onward('<a rel="next" href="https://www.bilasolur.is/SearchResults/{1}/{0}">&gt;</a>'),
    "path-icon": _onward('<a href="/SearchResults/{1}/{0}"><i class="bisicon bi-chevron-right"></i></a>'),
    "path-numbers": _each('<a href="/SearchResults/{1}/{0}">{0}</a>'),
    "path-bare": _each('<a href="/SearchResults/{1}/{0}">{0}</a>'),
    "form-next": _onward("""<a href="javascript:__doPostBack('ctl00$pager','{0}')">Næsta</a>"""),
    "form-numbers": _each("""<a href="javascript:__doPostBack(&#39;ctl00$pager&#39;,&#39;{0}&#39;)">{0}</a>"""),
}


class ResortedBilasolur(SimulatedBilasolur):
    """A site whose list is sorted anew *times* times, from its fifth page on."""

    def __init__(self, times: int, **options: Any) -> None:
        super().__init__(**{"cars": 85, "photos": 0, "per_page": 10} | options)
        self.times, self.random = times, random.Random(8)

    def _results(self, which: str, request: Request) -> Response:
        if self.times and int(which or 1) >= 5:
            self.times -= 1
            self.random.shuffle(self.cars)
        return super()._results(which, request)


class PromotedBilasolur(SimulatedBilasolur):
    """A site that shows its last cars on every result page as well."""

    def _card(self, car: Car, schid: int, page_number: int) -> str:
        promoted = self.cars[-10:] if self.cars.index(car) % self.per_page == 0 else []
        return "".join(super(PromotedBilasolur, self)._card(each, schid, page_number) for each in (*promoted, car))
