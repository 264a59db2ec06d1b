"""islandsbilar.is, a dealer of all makes."""

from carscraper.base_spiders.cards import CardSpider


class IslandsbilarSpider(CardSpider):
    """Up to five photos on a card; they are on a host of their own."""

    # DealerSpider
    name = "islandsbilar"
    source = "Islandsbilar"
    home = "https://islandsbilar.is/"

    # CardSpider
    results_path = "soluskra/"
    card = ".card"
    card_link = "a[href*='/car/']"
    card_images = "img.card__img"
    car_in_address = r"/car/([\w-]+)"
    next_page = ".next, .pagination__next"
    images_home = "https://assets.mango.is/"
