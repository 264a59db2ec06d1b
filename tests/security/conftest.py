"""Fixtures: the worlds of ``tests/crawl``."""

from tests.crawl.conftest import new_site, new_world

__all__ = ["new_site", "new_world"]
