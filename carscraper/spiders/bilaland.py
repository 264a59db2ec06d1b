"""bilaland.is, a dealer on the Rögg platform."""

from carscraper.base_spiders.rogg import RoggTileSpider


class BilalandSpider(RoggTileSpider):
    """The same search as bilasolur.is; its photos are the same, too."""

    # DealerSpider
    name = "bilaland"
    source = "Bilaland"
    home = "https://bilaland.is/"
