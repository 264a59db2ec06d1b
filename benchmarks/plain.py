"""Scrapy's own defaults, and the few things our spider reads."""

from carscraper.settings import CRAWL_MAX_LOOKUPS, CRAWL_MAX_PAGES, CRAWL_MIN_SHARE, DETAILS_MAX_AGE_DAYS, IMAGES_WIDTH

__all__ = ["CRAWL_MAX_LOOKUPS", "CRAWL_MAX_PAGES", "CRAWL_MIN_SHARE", "DETAILS_MAX_AGE_DAYS", "IMAGES_WIDTH"]

BOT_NAME = "plain"
SPIDER_MODULES = ["benchmarks.spiders"]
EXTENSIONS = {"benchmarks.meter.Meter": 0}
# As `scrapy startproject` writes it.
ROBOTSTXT_OBEY = True
# Default DEBUG: a line for every request and every photo, which ours does not write either.
LOG_LEVEL = "INFO"
