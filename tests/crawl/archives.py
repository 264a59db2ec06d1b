"""An archive that is no dealer, for tests of manifests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests import services
from tests.crawl.world import IMPOLITE
from tests.dealers.photos import Look, PhotoFactory
from tests.dealers.server import SimulatedSite
from tests.http_server import Response

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.crawl.world import World
    from tests.http_server import Request

LOOK = Look("Blár", "Jeppi")
ALLOWED = {"IMAGES_ALLOWED_HOSTS": "127.0.0.1,localhost"}


class Archive(SimulatedSite):
    """A web server that has a photo at every address below ``/auctionimages/``."""

    def __init__(self) -> None:
        super().__init__()
        self.factory = PhotoFactory(12_000)

    def classify(self, request: Request) -> tuple[str, str]:
        return ("photo" if request.route.startswith("/auctionimages/") else "other"), request.target

    def answer(self, kind: str, which: str, request: Request) -> Response:
        if kind != "photo":
            return Response(status=404)
        return Response(body=self.photo(which), content_type="image/jpeg")

    def photo(self, path: str) -> bytes:
        width = 120 if path.rpartition("/")[2].startswith("t") else 320  # a thumbnail
        parts, _ = self.factory.photo(path, LOOK, 0, width, "jpeg")
        return b"".join(parts)

    def url(self, key: str) -> str:
        return f"{self.base_url}/auctionimages/{key}"


def backfill(world: World, manifest: Path | str = "", **options: Any) -> services.CompletedCrawl:
    settings = ALLOWED | options.pop("settings", {})
    return world.crawl(spider="backfill", base_url=None, manifest=manifest or None, settings=settings, **options)


def start_backfill(world: World, manifest: Path) -> services.RunningCrawl:
    return services.start_crawl(
        "backfill",
        cwd=world.folder,
        env=world.env | {"DATABASE_URL": world.database_url},
        settings=IMPOLITE | ALLOWED,
        spider_arguments={"manifest": manifest},
    )


KEYS = [
    f"{auction}/{lot}/i{lot}-{number}.jpg" for auction, lot in ((3483, 178), (3483, 179), (12, 7)) for number in "123"
]
"""Three lots with three photos each."""


def write_lines(path: Path, entries: Iterable[Any]) -> Path:
    """JSON Lines; what is text already is a line as it is."""
    path.write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in entries))
    return path
