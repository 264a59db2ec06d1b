"""The table of dealers in the README is made from the spiders: ``--regenerate`` writes it anew."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from carscraper.base_spiders.browser import BrowserSpider
from carscraper.base_spiders.dealer import DealerSpider
from carscraper.base_spiders.feed import RoggFeedSpider
from carscraper.dealers import spiders_of
from tests.fakes import make_settings
from tests.services import REPO

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGIN, END = "<!-- dealers: made from the spiders by tests/spiders/test_table.py -->", "<!-- dealers: end -->"


def rows() -> Iterator[str]:
    yield from ("| spider | site | `source` in the tables | how it is read |", "| --- | --- | --- | --- |")
    for name, spider in spiders_of(make_settings(), DealerSpider).items():
        how = "plain HTTP"
        if issubclass(spider, BrowserSpider):
            how = "Chromium, which must be installed (`apt-get install chromium`)"
        elif issubclass(spider, RoggFeedSpider):
            how = f"its XML feed, for a dealer who has a key: `{spider.address_setting}`, `{spider.key_setting}`"
        page = f"docs/sites/{name}.md"
        more = f"; [what is known]({page})" if (REPO / page).exists() else ""
        host = urlsplit(spider.home).netloc.removeprefix("www.")
        kind = ", the aggregator" if spider.is_aggregator else ""
        yield f"| `{name}` | {host}{kind} | `{spider.source}` | {how}{more} |"


def test_the_readme_has_the_dealers_as_they_are(pytestconfig: pytest.Config) -> None:
    path = REPO / "README.md"
    before, _, rest = path.read_text("utf-8").partition(BEGIN)
    table, _, after = rest.partition(END)
    made = "\n" + "\n".join(rows()) + "\n"
    if table != made and pytestconfig.getoption("--regenerate"):
        path.write_text(f"{before}{BEGIN}{made}{END}{after}", "utf-8")
        pytest.fail("README.md: the table of dealers was written anew", pytrace=False)
    assert table == made, "python -m pytest tests/spiders/test_table.py --regenerate"
