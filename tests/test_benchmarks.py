"""The benchmark measures what it says: everybody crawls the whole site and keeps, or doesn't keep, what it should."""

from __future__ import annotations

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import backfill
from benchmarks.contenders import LIMIT, OURS, PAGES, STOCK

IN_FLIGHT = 64
"""``IMAGES_MAX_IN_FLIGHT``."""


@pytest.fixture(scope="module")
def results() -> benchmarks.Results:
    options = benchmarks.parse(["--quick", "--photos", "20"])
    options.postgresql = False
    return benchmarks.measure(options)


def test_everybody_crawls_the_same_pages_and_photos(results: benchmarks.Results) -> None:
    for contender in (LIMIT, OURS, STOCK):
        [run] = results.first[contender]
        assert run.asked == {"robots": 1, "home": 1, "search": 1, "results": run.asked["results"]} | {
            "details": 2,
            "photo": 20,
        }
        assert run.cpu > run.start_cpu > 0
        assert run.wall > run.crawl_wall > 0
        assert run.peak_memory > 50e6


def test_a_second_crawl_of_ours_asks_for_pages_only(results: benchmarks.Results) -> None:
    [ours], [pages] = results.second[OURS], results.second[PAGES]
    assert ours.asked["photo"] == ours.asked["details"] == 0
    assert ours.asked == pages.asked


def test_requests_to_s3_are_counted(results: benchmarks.Results) -> None:
    assert results.counted[OURS] == (1 + 20, 1)  # the check at the start, and one request a photo
    assert results.counted[STOCK] == (40, 20)  # a look and an upload, then a look again


def test_tables_and_verdicts(results: benchmarks.Results) -> None:
    first, second = benchmarks.tables(results, 20)
    assert [row[0] for row in first.rows[1:]] == [LIMIT.name, OURS.name, STOCK.name]
    assert first.rows[2][4] == "21 for 20"
    assert second.rows[1][6] == "1 for 20"
    assert "| carscraper, SQLite |" in first.markdown()
    lines = [str(verdict) for verdict in benchmarks.verdicts(results)]
    assert len(lines) == 6
    assert all(line.startswith(("reached", "MISSED")) for line in lines)


def test_a_backfill_is_measured_beside_the_plan() -> None:
    options = backfill.parse(["--quick"])
    run = backfill.measure(options)
    assert run.asked["photo"] == run.photos == 40
    assert run.asked["details"] == 4
    assert run.wall > run.crawl_wall > 3 * 0.1, "robots.txt, a page and its photos come one after the other"
    assert 1 < run.uploads_at_once <= backfill.AT_ONCE
    _, ours, plan = backfill.table(run, options).rows
    assert ours[1] == f"{run.a_minute:,.0f}"
    assert plan[1:3] == ["120–150", "16–20"]


def test_an_archive_is_killed_and_taken_up_again() -> None:
    options = backfill.parse(["--archive", "--quick"])
    run = backfill.migrate(options)
    assert run.photos == 1000
    assert 400 < run.settled < 800
    assert run.asked_twice[0] == 0, "what was settled is not asked for again"
    assert run.asked_twice[1] <= IN_FLIGHT
    assert run.total_off < 0.2
    assert max(run.peak_memory) < 200e6
    assert "of others" in backfill.migration_table(run).headline
