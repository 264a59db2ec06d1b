"""notadir.brimborg.is, a dealer of several makes: used cars."""

from carscraper.base_spiders.cards import CardSpider


class BrimborgSpider(CardSpider):
    """Numbered pages of 40 cars."""

    # DealerSpider
    name = "brimborg"
    source = "Brimborg"
    home = "https://notadir.brimborg.is/"
    not_shown = ("fuel",)

    # CardSpider
    results_path = "is"
    card_link = "a[href*='/notadir-bilar/bill/']"
    car_in_address = r"/bill/([\w-]+)"
    is_numbered = True
