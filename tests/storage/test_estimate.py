"""The arithmetic of a month, and every mistake that a table of prices can have."""

from __future__ import annotations

import importlib.resources
import re
from typing import Any

import pytest

from carscraper.exceptions import ConfigurationError
from carscraper.storage import estimate as sums
from carscraper.storage.estimate import Stock, Usage, estimate, mixed, own_prices, read_prices

TABLE = importlib.resources.files("carscraper.data").joinpath("prices.toml").read_text("utf-8")
PRICES = own_prices()
HERE, _ = PRICES.of("eu-north-1")

SIMPLE = """
date = 2026-01-02

[[regions]]
names = ["eu-north-1"]
transfer = 0.1

[regions.classes.STANDARD]
storage = [{up_to = 10, usd = 0.02}, {usd = 0.01}]
put = 0.005
get = 0.0004
retrieval = 0

[cloudfront]
transfer = 0.05
requests = 0.01
"""


def usage(**changes: Any) -> Usage:
    known: dict[str, Any] = {"stock": mixed("photos", 132_000, 215_000, {"STANDARD": 1}), "new_photos": 0, "views": 0}
    return Usage(**{**known, **changes})


def texts(found: sums.Estimate, section: str) -> list[str]:
    return [line.text for line in found.lines if line.section == section]


class TestArithmetic:
    def test_storage(self) -> None:
        found = estimate(usage(), HERE, PRICES)
        assert texts(found, sums.STORAGE) == ["STANDARD: 132,000 photos × 215 kB = 28.4 GB × $0.023 = $0.65"]
        assert found.direct == pytest.approx(132_000 * 215_000 / 1e9 * 0.023)
        assert found.direct == pytest.approx(found.with_cloudfront)

    def test_a_mix(self) -> None:
        stock = mixed("photos", 132_000, 215_000, {"STANDARD": 70, "GLACIER_IR": 30})
        found = estimate(usage(stock=stock), HERE, PRICES)
        assert found.direct == pytest.approx(28.38 * (0.7 * 0.023 + 0.3 * 0.004))
        assert len(texts(found, sums.STORAGE)) == 2

    def test_prices_that_fall_with_the_amount(self) -> None:
        prices = read_prices(SIMPLE, "x")
        stock = (Stock(what="photos", storage_class="STANDARD", objects=25, bytes_each=1e9),)
        found = estimate(usage(stock=stock), prices.regions[0], prices)
        assert found.direct == pytest.approx(10 * 0.02 + 15 * 0.01)
        assert texts(found, sums.STORAGE) == [
            "STANDARD: 25 photos × 1,000 MB = 25 GB, first 10 GB × $0.02 = $0.20",
            "STANDARD: 25 photos × 1,000 MB, then 15 GB × $0.01 = $0.15",
        ]

    def test_steps_are_for_all_objects_of_a_class_together(self) -> None:
        prices = read_prices(SIMPLE, "x")
        stock = tuple(
            Stock(what=what, storage_class="STANDARD", objects=8, bytes_each=1e9) for what in ("photos", "thumbnails")
        )
        found = estimate(usage(stock=stock), prices.regions[0], prices)
        assert found.direct == pytest.approx(10 * 0.02 + 6 * 0.01)

    def test_small_objects_cost_as_larger_ones_in_some_classes(self) -> None:
        stock = mixed("thumbnails", 1000, 10_000, {"STANDARD_IA": 1})
        found = estimate(usage(stock=stock), HERE, PRICES)
        assert found.direct == pytest.approx(1000 * 131_072 / 1e9 * 0.0125)
        assert "at least 131.1 kB each" in texts(found, sums.STORAGE)[0]

    def test_archives_add_to_each_object_and_show_nothing(self) -> None:
        stock = mixed("photos", 1000, 200_000, {"DEEP_ARCHIVE": 1})
        found = estimate(usage(stock=stock, views=10), HERE, PRICES)
        assert found.direct == pytest.approx(1000 * 232_768 / 1e9 * 0.00099 + 1000 * 8_192 / 1e9 * 0.023)
        assert any("can't be shown before they are restored" in note for note in found.notes)

    def test_watched_objects(self) -> None:
        stock = mixed("photos", 10_000, 200_000, {"INTELLIGENT_TIERING": 1})
        assert estimate(usage(stock=stock), HERE, PRICES).direct == pytest.approx(2 * 0.023 + 10 * 0.0025)

    def test_new_photos_and_their_thumbnails(self) -> None:
        found = estimate(usage(new_photos=12_000, puts_per_photo=2), HERE, PRICES)
        assert found.sum_of(sums.REQUESTS) == pytest.approx(24 * 0.005)
        assert texts(found, sums.REQUESTS) == [
            "PUT: 12,000 new photos × 2 objects = 24,000 requests × $0.005 per 1,000 = $0.12"
        ]

    def test_views_directly(self) -> None:
        found = estimate(usage(views=10), HERE, PRICES)
        assert found.sum_of(sums.TRANSFER) == pytest.approx(1320 * 0.0004 + (283.8 - 100) * 0.09)
        assert "from S3 to the internet = 284 GB, first 100 GB × nothing = $0.00" in " ".join(
            texts(found, sums.TRANSFER)
        ).replace("283.8", "284")

    def test_views_through_cloudfront(self) -> None:
        found = estimate(usage(views=100, hit_rate=0.95), HERE, PRICES)
        gigabytes = 132_000 * 215_000 * 100 / 1e9
        wanted = 132_000 * 100 * 0.05 / 1000 * 0.0004 + (gigabytes - 1000) * 0.085 + 3_200_000 / 10_000 * 0.012
        assert found.sum_of(sums.CLOUDFRONT) == pytest.approx(wanted)
        assert found.with_cloudfront < found.direct

    def test_reading_costs_by_the_gigabyte_in_some_classes(self) -> None:
        stock = mixed("photos", 1000, 200_000, {"GLACIER_IR": 1})
        found = estimate(usage(stock=stock, views=10, hit_rate=0.5), HERE, PRICES)
        assert found.sum_of(sums.TRANSFER) == pytest.approx(10 * 0.01 + 2 * 0.03)
        assert found.sum_of(sums.CLOUDFRONT) == pytest.approx(5 * 0.01 + 1 * 0.03)

    def test_thumbnails_and_others_are_stored_but_not_viewed(self) -> None:
        stock = mixed("thumbnails", 1000, 200_000, {"STANDARD": 1})
        assert estimate(usage(stock=stock, views=10), HERE, PRICES).sum_of(sums.TRANSFER) == 0

    def test_a_class_without_a_price(self) -> None:
        stock = mixed("photos", 1000, 1_000_000, {"SNOW": 1})
        found = estimate(usage(stock=stock), HERE, PRICES)
        assert found.direct == pytest.approx(0.023)
        assert found.notes == ["The storage class SNOW has no price: computed as STANDARD."]

    def test_nothing_costs_nothing(self) -> None:
        assert estimate(usage(stock=()), HERE, PRICES).direct == 0

    def test_every_line_ends_with_its_sum(self) -> None:
        stock = mixed("photos", 5_000_000, 300_000, dict.fromkeys(HERE.classes, 1))
        found = estimate(usage(stock=stock, new_photos=10, views=20), HERE, PRICES)
        assert len(found.lines) > 20
        assert all(line.text.endswith(f"= {sums.cents(line.usd)}") for line in found.lines)
        assert found.direct == pytest.approx(sum(line.usd for line in found.lines if line.section != sums.CLOUDFRONT))


class TestTable:
    def test_ours_is_complete_and_dated(self) -> None:
        assert PRICES.date.year >= 2025
        assert {"eu-north-1", "eu-west-1", "us-east-1"} <= set(HERE.names)
        assert set(HERE.classes) >= {"STANDARD", "STANDARD_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"}

    def test_an_unknown_region_gets_the_first_table(self) -> None:
        assert PRICES.of("mars-1") == (PRICES.regions[0], False)
        assert PRICES.of("us-east-1")[1]

    def test_one_that_a_user_writes(self) -> None:
        assert read_prices(SIMPLE, "x").date.isoformat() == "2026-01-02"

    @pytest.mark.parametrize(
        ("old", "new", "sentence"),
        [
            ("date = 2026-01-02", "", "date in the prices of my.toml is missing: write a day, such as 2025-10-01."),
            ("date = 2026-01-02", 'date = "soon"', "date in the prices of my.toml is 'soon': write a day"),
            ("put = 0.005", "", "regions[0].classes.STANDARD.put in the prices of my.toml is missing: write a number"),
            (
                "put = 0.005",
                "put = -1",
                "regions[0].classes.STANDARD.put in the prices of my.toml is -1: write a number",
            ),
            ("put = 0.005", "put = nan", "is nan: write a number of at least 0."),
            ("put = 0.005", "put = true", "is True: write a number"),
            ("put = 0.005", 'put = "dear"', "is 'dear': write a number"),
            (
                "put = 0.005",
                "put = 1\nputt = 2",
                "regions[0].classes.STANDARD.putt in the prices of my.toml is unknown",
            ),
            ("put = 0.005", 'put = 1\ninstant = "no"', "STANDARD.instant in the prices of my.toml is 'no': write true"),
            (
                "[regions.classes.STANDARD]",
                "[regions.classes.OTHER]",
                "classes.STANDARD in the prices of my.toml is missing",
            ),
            (
                "[regions.classes.STANDARD]",
                "[regions.classes]\nX = 5\n[regions.classes.STANDARD]",
                "classes.X in the prices",
            ),
            ('names = ["eu-north-1"]', "names = []", "regions[0].names in the prices of my.toml is []: write a list"),
            ("[[regions]]", "[regions]", "write at least one table [[regions]]."),
            ("[cloudfront]", "[cloud]", "cloudfront in the prices of my.toml is missing: write a table."),
            ("transfer = 0.05", "", "cloudfront.transfer in the prices of my.toml is missing"),
            ("up_to = 10, ", "", "storage[0].up_to in the prices of my.toml is missing: write a number"),
            ("up_to = 10, ", "up_to = 0, ", "storage[0].up_to in the prices of my.toml is 0: write more than"),
            ("{usd = 0.01}", "{up_to = 5, usd = 1}", "write nothing there: the last step is for all the rest."),
            ("{usd = 0.01}", "5", "storage[1] in the prices of my.toml is 5: write a step"),
            (
                "[{up_to = 10, usd = 0.02}, {usd = 0.01}]",
                "[]",
                "storage in the prices of my.toml is []: write a number",
            ),
            ("date = 2026-01-02", "date = = 5", "The prices of my.toml are no TOML"),
        ],
    )
    def test_a_mistake_is_a_sentence(self, old: str, new: str, sentence: str) -> None:
        assert old in SIMPLE
        with pytest.raises(ConfigurationError, match=re.escape(sentence)) as caught:
            read_prices(SIMPLE.replace(old, new), "my.toml")
        assert str(caught.value).endswith(".")

    def test_every_mistake_is_told_at_once(self) -> None:
        wrong = SIMPLE.replace("put = 0.005", "").replace("get = 0.0004", "get = -5").replace("requests = 0.01", "")
        with pytest.raises(ConfigurationError) as caught:
            read_prices(wrong, "my.toml")
        assert str(caught.value).count("in the prices of my.toml") == 3

    @pytest.mark.parametrize(
        "line", [line for line in TABLE.splitlines() if re.match(r"(put|get|storage|retrieval) =", line)]
    )
    def test_no_price_of_ours_may_be_left_out(self, line: str) -> None:
        with pytest.raises(ConfigurationError, match="is missing"):
            read_prices(TABLE.replace(f"\n{line}\n", "\n", 1), "x")
