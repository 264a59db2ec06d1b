"""br.is, a dealer on the Rögg platform."""

from carscraper.base_spiders.rogg import RoggTileSpider


class BrSpider(RoggTileSpider):
    """Its address for all makes leads to the results."""

    # DealerSpider
    name = "br"
    source = "BR"
    home = "https://br.is/"

    # RoggSpider
    home_path = "?make=-1"

    def searches(self) -> list[str | None]:
        """One for all makes, since that is what its address shows; ``makes`` chooses among the cards."""
        return [None]
