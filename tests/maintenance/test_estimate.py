"""The arithmetic of a month, and mistakes in a table of prices."""

from __future__ import annotations

import re
from typing import Any

import pytest

from carscraper.exceptions import ConfigurationError
from carscraper.maintenance import estimate as sums
from carscraper.maintenance.estimate import Stock, Usage, estimate, own_prices, read_prices

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


def stock(objects: float, size: float, storage_class: str = "STANDARD", what: str = "photos") -> Stock:
    found = Stock(what=what, storage_class=storage_class)
    found.add(size, HERE.of(storage_class), objects)
    return found


def computed(*its: Stock, region: sums.Region = HERE, prices: sums.Prices = PRICES, **usage: Any) -> sums.Estimate:
    found = estimate(Usage(**{"stock": its, "new_photos": 0, "views": 0, **usage}), region, prices)
    for line in found.lines:
        assert line.text.endswith(f"= {sums.money(line.usd, 2)}")
    return found


def test_storage() -> None:
    photos = stock(132_000, 215_000)
    found = computed(photos)
    assert [line.text for line in found.lines] == [
        "STANDARD: 132,000 photos, 28.4 GB = 28.4 GB × $0.023 = $0.65",
    ]
    assert found.sum_of(sums.STORAGE) == pytest.approx(132_000 * 215_000 / 1e9 * 0.023)
    for storage_class, wanted in [
        ("GLACIER_IR", 28.38 * 0.004),
        ("INTELLIGENT_TIERING", 28.38 * 0.023 + 132 * 0.0025),
        ("DEEP_ARCHIVE", 132_000 * (215_000 + 32_768) / 1e9 * 0.00099 + 132_000 * 8_192 / 1e9 * 0.023),
        ("SNOW", 28.38 * 0.023),
    ]:
        assert computed(stock(132_000, 215_000, storage_class)).sum_of(sums.STORAGE) == pytest.approx(wanted)
    assert computed(stock(1, 1, "SNOW")).notes == ["The storage class SNOW has no price: computed as STANDARD."]
    assert not computed().lines


def test_prices_that_fall_with_the_amount_are_for_all_of_a_class() -> None:
    prices = read_prices(SIMPLE, "x")
    found = computed(stock(8, 1e9), stock(8, 1e9, what="thumbnails"), region=prices.regions[0], prices=prices)
    assert found.sum_of(sums.STORAGE) == pytest.approx(10 * 0.02 + 6 * 0.01)
    assert [line.text for line in found.lines] == [
        "STANDARD: 8 photos, 8 GB = 8 GB × $0.02 = $0.16",
        "STANDARD: 8 thumbnails, 8 GB = 8 GB, first 2 GB × $0.02 = $0.04",
        "STANDARD: 8 thumbnails, 8 GB, then 6 GB × $0.01 = $0.06",
    ]


def test_the_rules_of_a_class_are_for_each_object() -> None:
    """Half of the objects are below STANDARD_IA's least size: their mean says nothing."""
    photos = stock(1000, 10_000, "STANDARD_IA")
    photos.add(390_000, HERE.of("STANDARD_IA"), 1000)
    assert computed(photos).sum_of(sums.STORAGE) == pytest.approx((1000 * 131_072 + 1000 * 390_000) / 1e9 * 0.0125)
    # Small objects are not watched.
    photos = stock(1000, 10_000, "INTELLIGENT_TIERING")
    assert computed(photos).sum_of(sums.STORAGE) == pytest.approx(0.01 * 0.023)


def test_amazons_own_examples() -> None:
    """Of S3's FAQ, in its dollars; there a GB is 2**30 bytes, and what is transferred costs apart."""
    # 100 GB for 15 days and 100 TB for 16: 52,900 GB-months.
    storage = computed(stock(1_000_000, 52_900e9 / 1_000_000))
    assert [round(line.usd, 2) for line in storage.lines] == [1_177.60, 37.40]
    # 10,000 files in and 20,000 out on each of 31 days.
    requests = computed(stock(1_000, 0), new_photos=10_000 * 31, views=20 * 31)
    assert round(requests.sum_of(sums.REQUESTS), 2) == 1.55
    assert round(requests.sum_of(sums.TRANSFER), 2) == 0.25


def test_views() -> None:
    photos = stock(132_000, 215_000)
    found = computed(photos, views=10)
    assert found.sum_of(sums.TRANSFER) == pytest.approx(1320 * 0.0004 + (283.8 - 100) * 0.09)
    found = computed(photos, views=100, hit_rate=0.95)
    gigabytes = 132_000 * 215_000 * 100 / 1e9
    wanted = 132_000 * 100 * 0.05 / 1000 * 0.0004 + (gigabytes - 1000) * 0.085 + 3_200_000 / 10_000 * 0.012
    assert found.sum_of(sums.CLOUDFRONT) == pytest.approx(wanted)
    found = computed(stock(1000, 200_000, "GLACIER_IR"), views=10, hit_rate=0.5)
    assert found.sum_of(sums.TRANSFER) == pytest.approx(10 * 0.01 + 2 * 0.03)
    assert found.sum_of(sums.CLOUDFRONT) == pytest.approx(5 * 0.01 + 1 * 0.03)
    assert computed(stock(1000, 200_000, what="thumbnails"), views=10).sum_of(sums.TRANSFER) == 0
    assert any("before they are restored" in note for note in computed(stock(1, 1, "GLACIER"), views=1).notes)


def test_new_photos_and_their_thumbnails() -> None:
    found = computed(new_photos=12_000, puts_per_photo=2)
    assert [line.text for line in found.lines] == [
        "PUT: 12,000 new photos × 2 objects = 24,000 requests × $0.005 per 1,000 = $0.12"
    ]


def test_the_table() -> None:
    assert {"eu-north-1", "eu-west-1", "us-east-1"} <= set(HERE.names)
    assert set(HERE.classes) >= {"STANDARD", "STANDARD_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"}
    assert PRICES.of("mars-1") == (PRICES.regions[0], False)
    assert PRICES.of("us-east-1")[1]


def test_a_mistake_in_it_is_a_sentence() -> None:
    for old, new, says in [
        ("date = 2026-01-02", "", "'date' is missing"),
        ("date = 2026-01-02", 'date = "soon"', "soon"),
        ("date = 2026-01-02", "date = = 5", "Invalid value"),
        ("put = 0.005", "", "STANDARD.put is missing, not a number of at least 0"),
        ("put = 0.005", "put = -1", "STANDARD.put is -1, not a number"),
        ("put = 0.005", "put = nan", "is nan, not a number"),
        ("put = 0.005", "put = true", "is True, not a number"),
        ("put = 0.005", 'put = "dear"', "is 'dear', not a number"),
        ("put = 0.005", "put = 1\nputt = 2", "putt"),
        ("[regions.classes.STANDARD]", "[regions.classes.OTHER]", "'classes.STANDARD' is missing"),
        ('names = ["eu-north-1"]', "", "'names' is missing"),
        ("[cloudfront]", "[cloud]", "'cloudfront' is missing"),
        ("up_to = 10, ", "", "steps whose up_to does not rise"),
        ("{usd = 0.01}", "{up_to = 5, usd = 1}", "steps whose up_to does not rise"),
        ("[{up_to = 10, usd = 0.02}, {usd = 0.01}]", "[]", "steps whose up_to does not rise"),
    ]:
        assert old in SIMPLE
        with pytest.raises(ConfigurationError, match=re.escape(says)) as caught:
            read_prices(SIMPLE.replace(old, new), "my.toml")
        assert str(caught.value).startswith("The prices of my.toml can't be used: "), new
