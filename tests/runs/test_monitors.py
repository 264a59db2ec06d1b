"""Limits: what keeps them, what does not, and what is not measured by them."""

from __future__ import annotations

from typing import Any

import pytest

from carscraper.field_coverage import FieldCoverage
from carscraper.runs.monitors import check_limits, failed
from carscraper.runs.record import RunRecord
from tests.fakes import make_settings
from tests.runs.records import a_run

ALL = {
    "MONITOR_MIN_CARS": 50,
    "MONITOR_MAX_FAILED_PHOTOS": "0.05",
    "MONITOR_MIN_FILL": '{"price": 0.8, "readable": 0.9}',
    "MONITOR_MAX_DROP": "0.3",
    "MONITOR_HISTORY": 5,
}
FILL = FieldCoverage(100, 0, {"price": 80, "photo": 100, "unreadable": 0})
NAMES = ["min_cars", "max_failed_photos", "min_fill.price", "min_fill.readable", "max_drop"]


def looked_at(
    record: RunRecord, earlier: list[RunRecord] | None = None, fill: FieldCoverage | None = FILL, **settings: Any
) -> dict[str, bool]:
    found = check_limits(make_settings(**settings), record, [] if earlier is None else earlier, fill)
    assert all(set(each) == {"name", "passed", "said"} for each in found)
    return {each["name"]: each["passed"] for each in found}


def test_nothing_is_said_of_limits_that_are_not_set() -> None:
    assert check_limits(make_settings(), a_run(cars=0), None, None) == []


def test_a_good_run_keeps_all() -> None:
    earlier = [a_run(number) for number in range(10)]
    run = a_run(images_stored=90, images_known=5, images_failed={"http-404": 5})
    assert looked_at(run, earlier, **ALL) == dict.fromkeys(NAMES, True)


def test_with_nothing_to_look_at_none_is_kept() -> None:
    found = check_limits(make_settings(**ALL), a_run(cars=0), None, None)
    assert [each["name"] for each in found] == NAMES
    assert not any(each["passed"] for each in found)
    assert len(failed(found)) == len(NAMES)
    found = check_limits(make_settings(**ALL), a_run(cars=0), [], FieldCoverage())
    assert not any(each["passed"] for each in found)


@pytest.mark.parametrize(("cars", "kept"), [(49, False), (50, True)])
def test_fewest_cars(cars: int, kept: bool) -> None:
    settings = make_settings(MONITOR_MIN_CARS=50)
    run = a_run(cars=0, cars_new=1, cars_changed=2, cars_unchanged=cars - 3, cars_gone=40)
    (found,) = check_limits(settings, run, [], None)
    assert found == {"name": "min_cars", "passed": kept, "said": f"{cars} cars, at least 50 are expected"}


@pytest.mark.parametrize(
    ("lost", "kept"), [({}, True), ({"http-404": 29}, True), ({"http-404": 20, "truncated": 10}, False)]
)
def test_share_of_failed_photos(lost: dict[str, int], kept: bool) -> None:
    run = a_run(images_stored=21, images_linked=20, images_known=100 - 41 - sum(lost.values()), images_failed=lost)
    assert looked_at(run, MONITOR_MAX_FAILED_PHOTOS="0.29") == {"max_failed_photos": kept}


def test_photos_of_gone_cars_nobody_could_have_kept() -> None:
    run = a_run(images_stored=10, images_failed={"car-gone": 90})
    assert looked_at(run, MONITOR_MAX_FAILED_PHOTOS=0) == {"max_failed_photos": True}


def test_no_failure_at_all_may_be_asked_for() -> None:
    assert looked_at(a_run(images_stored=999, images_failed={"error": 1}), MONITOR_MAX_FAILED_PHOTOS="0") == {
        "max_failed_photos": False
    }


@pytest.mark.parametrize(
    ("fill", "kept"),
    [
        (FieldCoverage(10, 0, {"price": 8}), True),
        (FieldCoverage(10, 0, {"price": 7}), False),
        (FieldCoverage(1000, 0, {"price": 799}), False),  # shares() would round it to 79.9, others to 80
        (FieldCoverage(10, 0, {}), False),
        (FieldCoverage(0, 5, {"price": 0}), False),
        (None, False),
    ],
)
def test_share_of_cars_with_a_field(fill: FieldCoverage | None, kept: bool) -> None:
    assert looked_at(a_run(), fill=fill, MONITOR_MIN_FILL='{"price": 0.8}') == {"min_fill.price": kept}


def test_fields_of_cars_own_pages_are_of_those_that_were_read() -> None:
    settings = make_settings(MONITOR_MIN_FILL={"page.colour": 0.5, "readable": 0.9})
    found = check_limits(settings, a_run(), [], FieldCoverage(100, 4, {"page.colour": 2, "unreadable": 25}))
    assert [each["passed"] for each in found] == [True, False]
    assert found[1]["said"] == "100 of 125 cards are readable (80 %), at least 90 % are expected"


class TestDrop:
    LIMIT = {"MONITOR_MAX_DROP": "0.3", "MONITOR_HISTORY": 5}

    @pytest.mark.parametrize(("cars", "kept"), [(70, True), (69, False), (500, True), (0, False)])
    def test_below_the_median(self, cars: int, kept: bool) -> None:
        # One crawl on a bad day is no measure.
        earlier = [a_run(number, cars=number_of) for number, number_of in enumerate([90, 100, 1, 110, 120])]
        assert looked_at(a_run(cars=cars), earlier, **self.LIMIT) == {"max_drop": kept}

    def test_what_is_said(self) -> None:
        earlier = [a_run(number, cars=cars) for number, cars in enumerate([0, 100, 1000, 100])]
        (found,) = check_limits(make_settings(**self.LIMIT), a_run(cars=60), earlier, None)
        assert found["said"] == "60 cars, the median of the last 3 runs is 100, they may be 30 % fewer"
        assert failed([found]) == [f"max_drop: {found['said']}"]

    def test_the_first_run_is_the_measure_of_the_next(self) -> None:
        assert looked_at(a_run(cars=3), [], **self.LIMIT) == {"max_drop": True}
        assert looked_at(a_run(cars=0), [], **self.LIMIT) == {"max_drop": False}

    def test_unreadable_history(self) -> None:
        (found,) = check_limits(make_settings(**self.LIMIT), a_run(), None, None)
        assert not found["passed"]


@pytest.mark.parametrize("argument", [{"limit": "5"}, {"makes": "toyota"}, {"max_pages": "1"}])
def test_a_part_on_purpose_is_not_measured_against_a_whole(argument: dict[str, str]) -> None:
    run = a_run(cars=5, arguments=argument, images_stored=5)
    names = looked_at(run, [a_run(1)], **ALL)
    assert set(names) == {"max_failed_photos", "min_fill.price", "min_fill.readable"}
    whole = a_run(cars=5, arguments=dict.fromkeys(argument, " 0 "), images_stored=5)
    assert "min_cars" in looked_at(whole, [], **ALL)


def test_a_backfill_is_measured_by_its_photos_only_and_may_have_nothing_to_do() -> None:
    run = a_run(spider="backfill", source=None, cars=0)
    assert looked_at(run, fill=None, **ALL) == {"max_failed_photos": True}
    run.images_failed = {"http-404": 1}
    assert looked_at(run, fill=None, **ALL) == {"max_failed_photos": False}
