"""The facts of the dealers are those of their spiders, which a crawl has loaded."""

from scrapy.spiderloader import SpiderLoader

from tests.fakes import make_settings

SpiderLoader.from_settings(make_settings())
