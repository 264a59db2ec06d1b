"""The audit at the size of a suite: 50 planted faults among 3,000 photos, found by the real command."""

from __future__ import annotations

from benchmarks import audit as benchmark


def test_fifty_faults_among_three_thousand_photos() -> None:
    options = benchmark.parse(["--photos", "3000", "--no-postgresql"])
    (run,) = benchmark.measure(options)  # raises if one was not found, or something else was
    marks = {name: run.summary[name] for name in ("missing", "orphans", "differ", "wrong")}
    assert marks == {"missing": 10, "orphans": 14, "differ": 10, "wrong": 16}
    assert run.summary["same"] == 3000 - 10 - 10 - 12
    assert run.peak_memory < 200e6
    assert "50 of 50, nothing else" in benchmark.table([run], options).plain()
