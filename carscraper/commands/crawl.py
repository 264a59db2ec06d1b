"""``scrapy crawl``: Scrapy's own command, with a sentence for whatever keeps a crawl from beginning."""

from __future__ import annotations

import difflib
import sys
from typing import TYPE_CHECKING

from scrapy.commands import ScrapyCommand, crawl

from carscraper.cli.command import border
from carscraper.extensions.opening import OpeningCrawler

if TYPE_CHECKING:
    import argparse

    from scrapy import Spider
    from scrapy.crawler import Crawler


class Command(crawl.Command):
    """Takes and means what Scrapy's command does."""

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Crawl; the exit code is the verdict's, and Scrapy's own if there is no such spider."""
        assert self.crawler_process
        known = self.crawler_process.spider_loader.list()
        if len(args) == 1 and args[0] not in known:
            nearest = difflib.get_close_matches(args[0].lower(), known, 1)
            instead = f"did you mean {nearest[0]}?" if nearest else f"write one of: {', '.join(sorted(known))}."
            print(f"There is no spider {args[0]!r}; {instead}", file=sys.stderr)
            self.exitcode = 1
            return
        with border(self):
            super().run(args, opts)
        self.exitcode = max(self.exitcode, ScrapyCommand.exitcode)

    def _create_crawler(self, spidercls: type[Spider] | str) -> Crawler:
        assert self.crawler_process
        if isinstance(spidercls, str):
            spidercls = self.crawler_process.spider_loader.load(spidercls)
        crawler = OpeningCrawler(spidercls, self.crawler_process.settings)
        return self.crawler_process.create_crawler(crawler)
