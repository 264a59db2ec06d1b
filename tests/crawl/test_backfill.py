"""``scrapy crawl backfill``: what an older database points at is kept, or said to be gone."""

from __future__ import annotations

import csv
import hashlib
import re
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.crawl.backfills import rows, stored
from tests.crawl.legacy import OLD, Legacy, upgrade
from tests.crawl.world import World, last_words, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests import services
    from tests.dealers.cars import Car

KINDS = (
    *("none", "empty", "temporary", "malformed", "sold", "temporary", "malformed", "none", "404", "temporary"),
    *("virtual", "path", "lost", "away", "broken", "inactive", "elsewhere", "malformed", "temporary", "empty"),
)
"""What rows of the earlier scraper look like, and what became of their cars."""

FAST = {"CONCURRENT_REQUESTS_PER_DOMAIN": 16, "IMAGES_CONCURRENCY": 32}


def backfill(world: World, **options: Any) -> services.CompletedCrawl:
    options["settings"] = FAST | options.pop("settings", {})
    return world.crawl(spider="backfill", **options)


def page_of(car: Car, number: int) -> str:
    return f"https://bilasolur.is/CarDetails.aspx?bid={car.bid}&cid={car.cid}&sid=4&schid={7000 + number}&schpage=3"


def photo_of(car: Car, number: int = 0, host: str = "https://bilasolur.is/") -> str:
    return f"{host}CarImage.aspx?s=16&c={car.cid}&p={car.photos[number].p}&w=784"


def row_of(car: Car, number: int, **values: Any) -> dict[str, Any]:
    about = {"title": f"{car.make} {car.model}", "make": car.make.upper(), "model": car.model, "year": car.year}
    times = {"scraped_at": OLD, "last_seen_at": OLD, "is_active": True, "source": "Bilasolur"}
    return about | times | {"url": page_of(car, number)} | values


def hekla(world: World, car: Car, number: int, **values: Any) -> dict[str, Any]:
    """A row of a dealer without a spider; the simulated one serves its photo."""
    url = f"https://www.hekla.is/is/bilar/notadir-bilar/view/{number}"
    address = photo_of(car, host=f"{world.site.base_url}/")
    return row_of(car, number, source="Hekla", url=url, image_url=address) | values


def naive_replay(world: World, urls: list[str]) -> int:
    """Ask for each address as it stands there; how many photos that gives."""
    kept = 0
    for url in urls:
        address = url.replace("https://bilasolur.is/", f"{world.site.base_url}/")
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                kept += answer.read(2) == b"\xff\xd8"
        except (OSError, ValueError, urllib.error.HTTPError):
            continue
    return kept


def test_rows_of_every_kind(new_world: Callable[..., World], postgres_url: str, rclone_s3: services.S3) -> None:
    world = new_world(cars=400, photos=2, database_url=postgres_url, env=rclone_s3.env)
    site, table = world.site, Legacy(world)
    kinds: dict[str, list[Car]] = {}
    rows = []
    bucket = rclone_s3.bucket
    stock = site.cars
    for number, car in enumerate(stock):
        kind = KINDS[number % len(KINDS)]
        kinds.setdefault(kind, []).append(car)
        key = f"bilasolur/{car.year}/old/{car.cid}-0.jpg"
        image_url: str | None = {
            "none": None,
            "empty": "",
            "malformed": photo_of(car, host="https://bilasolur.is"),
            "virtual": f"https://{bucket}.s3.eu-north-1.amazonaws.com/{key}",
            "path": f"{rclone_s3.endpoint}/{bucket}/{key}",
            "lost": f"https://{bucket}.s3.eu-north-1.amazonaws.com/{key}",
            "elsewhere": "http://127.0.0.1:9/elsewhere.jpg",
        }.get(kind, photo_of(car))
        if kind in {"virtual", "path"}:
            rclone_s3.put(key, world.served(car))
        source = "Hekla" if kind == "elsewhere" else "Bilasolur"
        row = row_of(car, number, image_url=image_url, is_active=kind != "inactive", source=source)
        if source == "Hekla":
            row["url"] = f"https://www.hekla.is/is/bilar/notadir-bilar/view/{car.cid}"
        rows.append(row)
        if kind == "sold":
            site.sell(car.cid)
        elif kind == "404":
            site.fault(f"details:{car.cid}", ["404"], sticky=True)
        elif kind == "away":
            site.fault(f"details:{car.cid}", [f"redirect:{site.base_url}/"], sticky=True)
        elif kind == "broken":
            site.fault(f"details:{car.cid}", ["500"] if number % 40 < 20 else ["maintenance"], sticky=True)
    site.cars = [car for car in site.cars if car not in (*kinds["404"], *kinds["away"])]  # nor does a search find them
    table.add_all(rows)
    upgrade(world)
    before = {row["url"]: row for row in world.listings().values()}
    site.expire_all("404")
    dead = [row["image_url"] for row in rows if row["image_url"] and "CarImage" in row["image_url"]]
    assert naive_replay(world, dead[::4]) == 0, "what the earlier program's addresses give"
    site.reset()

    done = backfill(world, limit=0, code=3, timeout=200, alone=True, settings={"RETRY_TIMES": 0}, report="failures.csv")

    alive = [car for kind in ("none", "empty", "temporary", "malformed", "lost") for car in kinds[kind]]
    images = world.images()
    after = world.listings()
    for car in alive:
        for number, identity in enumerate(car.identities):
            row = images[identity]
            assert (row["status"], row["reason"]) == ("stored", None), (car, row)
            assert rclone_s3.get(row["key"])[0] == world.served(car, number)
        assert after[str(car.cid)]["image_url"] == images[car.identities[0]]["url"]
        assert after[str(car.cid)]["is_active"]
    for car in [*kinds["sold"], *kinds["404"], *kinds["away"]]:
        assert not after[str(car.cid)]["is_active"]
        assert after[str(car.cid)]["gone_at"] is not None
    for car in [*kinds["virtual"], *kinds["path"]]:
        (row,) = world.images_of(car)
        assert (row["status"], row["url"]) == ("stored", after[str(car.cid)]["image_url"])
        assert row["sha256"] == hashlib.sha256(world.served(car)).hexdigest()
        assert (row["bytes"], row["content_type"]) == (len(world.served(car)), "image/jpeg")
    untouched = [*kinds["virtual"], *kinds["path"], *kinds["broken"], *kinds["inactive"]]
    for car in untouched:
        looked_at = {"link_due": False}  # by the end of the run: whether it is another site's car, too
        assert after[str(car.cid)] == {**before[page_of(car, stock.index(car))], **looked_at}
    pages = [one.path for one in site.served.requests if one.kind == "details"]
    unasked = {car.cid for kind in ("virtual", "path", "inactive", "elsewhere") for car in kinds[kind]}
    assert unasked.isdisjoint(int(path.partition("cid=")[2].partition("&")[0]) for path in pages)
    # Every car was kept but those whose pages were broken and those of a dealer that does not answer.
    assert f"{len(kinds['broken'])} details pages unreadable or missing" in last_words(done)
    assert "20 photos failed (20 blocked-address)" in last_words(done)
    with (world.folder / "failures.csv").open() as file:
        failures = [row for row in csv.DictReader(file) if row["reason"] != "car-gone"]
    assert {(row["source"], row["reason"]) for row in failures} == {
        ("Hekla", "blocked-address"),
        ("Bilasolur", "no-page"),
    }
    assert re.search(r"Bilasolur.*\b60\b", done.stdout), done.stdout
    # A second run has only the broken pages to ask for.
    site.reset()
    backfill(world, limit=0, code=3, settings={"RETRY_TIMES": 0})
    assert world.asked("photo") == 0
    assert world.asked("details") == len(kinds["broken"])
    site.clear_faults()
    backfill(world, limit=0, code=3, settings={"RETRY_TIMES": 0})
    reasons = {row["reason"] for row in world.images().values()}
    assert reasons == {None, "car-gone", "blocked-address"}


@pytest.mark.parametrize("source", ["Bilasolur", "Hekla"])
def test_of_two_rows_of_a_car_one_gets_the_id_and_the_other_stays(
    new_world: Callable[..., World], database_url: str, rclone_s3: services.S3, source: str
) -> None:
    world = new_world(cars=1, photos=2, database_url=database_url, env=rclone_s3.env)
    (car,) = world.site.cars
    urls = [page_of(car, number) for number in (1, 2)]
    if source == "Hekla":
        urls = [f"https://www.hekla.is/is/bilar/notadir-bilar/view/77{query}" for query in ("", "?page=2")]
    address = photo_of(car, host=f"{world.site.base_url}/")
    legacy = Legacy(world)
    for url in urls:
        legacy.add(**row_of(car, 0, source=source, url=url, image_url=address))
    upgrade(world)
    before = {row["id"]: row for row in rows(world)["car_listings"]}
    backfill(world)
    after = {row["id"]: row for row in rows(world)["car_listings"]}
    assert after.keys() == before.keys()
    other, one = sorted(after.values(), key=lambda row: row["external_id"] is not None)
    assert one["external_id"] == (str(car.cid) if source == "Bilasolur" else "77")
    assert one["image_url"].startswith(rclone_s3.endpoint)
    assert other == before[other["id"]]
    assert len(stored(world)) == (2 if source == "Bilasolur" else 1)


@pytest.mark.parametrize(
    ("source", "url", "folder"),
    [
        ("Hekla", "https://www.hekla.is/is/bilar/notadir-bilar/view/4711", "hekla"),
        ("Brimborg", "https://notadir.brimborg.is/is/notadir-bilar/bill/4711", "brimborg"),
        ("Askja", "https://www.notadir.is/soluskra?car=4711", "askja"),
    ],
)
def test_an_address_of_a_dealer_whose_pages_are_not_known_is_kept_while_it_answers(
    new_world: Callable[..., World], rclone_s3: services.S3, source: str, url: str, folder: str
) -> None:
    world = new_world(cars=1, photos=1, env=rclone_s3.env)
    (car,) = world.site.cars
    Legacy(world).add_all([hekla(world, car, 0, source=source, url=url)])
    upgrade(world)
    before = dict(rows(world)["car_listings"][0]) | {"link_due": 0}
    backfill(world)
    (key,) = rclone_s3.keys()
    assert key.startswith(f"{folder}/{car.year}/")
    assert rclone_s3.get(key)[0] == world.site.photo_bytes(car.cid, car.photos[0].p, 784)
    after = dict(rows(world)["car_listings"][0])
    assert after.pop("image_url") == f"{rclone_s3.endpoint}/{rclone_s3.bucket}/{key}"
    assert after.pop("external_id").endswith("4711")
    assert after.items() <= before.items()


def test_a_page_that_nobody_can_read_is_not_asked_for(new_world: Callable[..., World], rclone_s3: services.S3) -> None:
    world = new_world(cars=1, photos=1, env=rclone_s3.env)
    world.site.fault("photo", ["404"], sticky=True)
    Legacy(world).add_all([hekla(world, world.site.cars[0], 0, url=f"{world.site.base_url}/view/4711")])
    upgrade(world)
    backfill(world, code=3)
    assert {one.kind for one in world.site.served.requests} == {"robots", "photo"}


def test_a_dead_address_of_a_dealer_without_a_spider_is_final_at_once(
    new_world: Callable[..., World], rclone_s3: services.S3
) -> None:
    """Nobody could give another one."""
    world = new_world(cars=5, photos=1, env=rclone_s3.env)
    dead, *_ = cars = world.site.cars
    world.site.fault(f"photo:{dead.cid}/{dead.photos[0].p}", ["404"], sticky=True)
    Legacy(world).add_all([hekla(world, car, number, source="Toyota") for number, car in enumerate(cars)])
    upgrade(world)
    done = backfill(world, code=3)
    assert "not kept: 1 photo failed (1 http-404)." in last_words(done)
    world.site.reset()
    done = backfill(world)
    assert "4 of 5 photos of cars for sale are stored (not stored: 1 http-404 final)." in verdict(done)
    assert world.site.served.requests == []
