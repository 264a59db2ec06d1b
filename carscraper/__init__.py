"""carscraper: the scraper that never loses a car photo."""

__version__ = "0.1.0"
