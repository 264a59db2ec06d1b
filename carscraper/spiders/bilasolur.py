"""bilasolur.is, the aggregator: cars of nearly every dealer in Iceland."""

from carscraper.base_spiders.rogg import RoggSpider


class BilasolurSpider(RoggSpider):
    """Plain HTTP is enough; 240 to 280 result pages of 48 cars, 19 to 20 photos a car."""

    # DealerSpider
    name = "bilasolur"
    source = "Bilasolur"
    home = "https://bilasolur.is/"
    is_aggregator = True
