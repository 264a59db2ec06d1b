"""bilasolur.is, the aggregator: cars of nearly every dealer in Iceland."""

from carscraper.base_spiders.rogg import RoggSpider


class BilasolurSpider(RoggSpider):
    """Plain HTTP is enough; about 280 result pages of 40 cars."""

    # DealerSpider
    name = "bilasolur"
    source = "Bilasolur"
    home = "https://bilasolur.is/"
