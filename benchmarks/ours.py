"""carscraper's own settings and the meter."""

from carscraper import settings
from carscraper.settings import *  # noqa: F403 - a settings module is its names

EXTENSIONS = {**settings.EXTENSIONS, "benchmarks.meter.Meter": 0}
