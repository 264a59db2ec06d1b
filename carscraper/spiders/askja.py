"""notadir.is, the used cars of Askja."""

from parsel import Selector

from carscraper import parsing
from carscraper.base_spiders.browser import BrowserSpider
from carscraper.base_spiders.cards import Card
from carscraper.base_spiders.pages import background_address


class AskjaSpider(BrowserSpider):
    """Cards that are made by React; a button brings the next ones, and the query of a link names the car."""

    # DealerSpider
    name = "askja"
    source = "Askja"
    home = "https://notadir.is/"
    not_shown = ("fuel",)

    # CardSpider
    card = "div.vehicle"
    card_link = "a.vehicle__image[href*='/soluskra?']"
    card_images = "a.vehicle__image[style]"

    # BrowserSpider
    more_button = "button:has-text('Sjá fleiri'), [role='button']:has-text('Sjá fleiri'), a:text-is('Sjá fleiri')"

    def get_make_model(self, card: Card) -> tuple[str | None, str | None]:
        return card.text("h4.vehicle__title"), card.text("p.vehicle__subtitle")

    def get_price(self, card: Card) -> parsing.Price:
        return parsing.parse_price(" ".join(filter(None, card.texts("em span"))))

    def picture_address(self, picture: Selector) -> str | None:
        return background_address(picture.attrib.get("style"))
