"""hekla.is, a dealer of several makes: used cars."""

from carscraper import parsing
from carscraper.base_spiders.cards import Card, CardSpider


class HeklaSpider(CardSpider):
    """Pages with a link to the next one; a card's lines are bare: month and year, distance, fuel."""

    # DealerSpider
    name = "hekla"
    source = "Hekla"
    home = "https://www.hekla.is/"

    # CardSpider
    results_path = "is/bilar/notadir-bilar"
    card_link = "a[href*='/bilar/notadir-bilar/view/']"
    car_in_address = r"/view/([\w-]+)"
    is_numbered = True

    def get_kilometers(self, card: Card) -> int | None:
        """Read the line that is nothing but a number and no year."""
        lines = (line for line in card.lines() if parsing.parse_year_month(line) == (None, None))
        found = (parsing.parse_kilometers(line, bare=True) for line in lines)
        return next((distance for distance in found if distance), None)
