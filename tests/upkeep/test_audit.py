"""The audit at the size of a suite: 50 planted faults among 3,000 photos, found by the real command."""

from __future__ import annotations

import random

from benchmarks import audit as benchmark
from carscraper.db.inventory import Sorter
from carscraper.storage.keys import key_of, published_bases
from carscraper.upkeep.audit import Finding, keep, kept


def test_fifty_faults_among_three_thousand_photos() -> None:
    options = benchmark.parse(["--photos", "3000", "--no-postgresql"])
    (run,) = benchmark.measure(options)  # raises if one was not found, or something else was
    marks = {name: run.summary[name] for name in ("missing", "orphans", "differ", "wrong")}
    assert marks == {"missing": 10, "orphans": 14, "differ": 10, "wrong": 16}
    assert run.peak_memory < 200e6
    assert "50 of 50, nothing else" in benchmark.table([run], options).plain()


class TestSorter:
    def test_the_order_is_that_of_the_bytes(self) -> None:
        names = ["a/b", "a-b", "a.b", "a", "þ", "z", "\U0001f600", "\ufffd", "Z", "a b", "a+b", ""]
        shuffled = random.Random(1).sample(names, len(names))
        with Sorter() as sorter:
            sorter.add((name, again, len(name), 1.5) for name in shuffled for again in ("x", ""))
            found = list(sorter.records())
        assert [record[0] for record in found[::2]] == sorted(names, key=str.encode)
        assert [record[1] for record in found[:2]] == ["", "x"]
        # The audit compares by Python's own order of texts.
        assert sorted(names) == sorted(names, key=str.encode)

    def test_one_of_two_alike_is_kept(self) -> None:
        with Sorter() as sorter:
            sorter.add([("a", "", 1, 0.0), ("a", "", 2, 0.0)])
            assert list(sorter.records()) == [("a", "", 2, 0.0)]

    def test_findings_are_kept_whole(self) -> None:
        finding = Finding(mark="!", key="þ\nx", reason="no-url", rows=[3], has_key="þ\nx", modified=1.5)
        with Sorter() as sorter:
            keep(sorter, finding)
            assert list(kept(sorter, "missing", "no-url")) == [finding]


def test_a_line_says_why_where_the_mark_does_not() -> None:
    assert Finding(mark="+", key="a b.jpg", reason="missing").line() == "+ a b.jpg"
    wrong = Finding(mark="*", key="a.jpg", reason="size", detail="1 bytes in the row, 2 in the bucket")
    assert wrong.line() == "* a.jpg (another size than the row says: 1 bytes in the row, 2 in the bucket)"


def test_permanent_is_what_names_a_key() -> None:
    bases = published_bases(bucket="cars", endpoint=None, public_url="https://img.example.is")
    assert key_of("https://img.example.is/a.jpg", bases) == "a.jpg"
    assert key_of("https://bilasolur.is/CarImage.aspx?c=1", bases) is None
