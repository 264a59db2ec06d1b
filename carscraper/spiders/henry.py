"""The XML feed of the Rögg platform: the official route, for a dealer who has a key."""

from carscraper.base_spiders.feed import RoggFeedSpider


class HenrySpider(RoggFeedSpider):
    """Its photos, and the cars' own pages, are those of bilasolur.is."""

    # DealerSpider
    name = "henry"
    source = "Henry"
    home = "https://bilasolur.is/"

    # RoggFeedSpider
    address_setting = "HENRY_URL"
    key_setting = "HENRY_API_KEY"
    store_setting = "HENRY_STORE_IMAGES"
