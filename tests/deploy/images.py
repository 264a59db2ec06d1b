"""The images are built and run: crawls, health checks, scrapyd, a browser. ``make test-images``, not ``make test``."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import services
from tests.crawl.world import IMPOLITE, SPIDERS, World, verdict
from tests.dealers.askja import SimulatedAskja
from tests.dealers.bilasolur import SimulatedBilasolur
from tests.deploy.engine import BASE, Engine, Image, missing, stop
from tests.deploy.test_scrapyd import PASSWORD, USER, Scrapyd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.timeout(900)  # the first test waits for the base image and the first build

MEGABYTES = 400
"""At most, of the image for crawls without a browser."""
STATE = "/var/lib/carscraper"

ASKED_AT_AMAZON = """
import boto3, sys
for name in ("s3", "cloudfront", "sts", "sso", "sso-oidc"):
    boto3.client(name, region_name="eu-north-1", aws_access_key_id="a", aws_secret_access_key="b")
"""
NOT_THERE = """
import importlib.util, shutil
modules = ("pip", "setuptools", "numpy", "scipy", "pytest", "playwright")
programs = ("cc", "gcc", "make", "git", "pip", "chromium", "chromium-headless-shell")
print([*filter(importlib.util.find_spec, modules), *filter(shutil.which, programs)])
"""


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    if lacking := missing():
        raise services.MissingService(f"{', '.join(lacking)}: apt-get install buildah mmdebstrap runc")
    with tempfile.TemporaryDirectory(prefix="carscraper-images-") as folder:
        # In memory: 2 GB in 100,000 files, none of which is to be on a disk, now or after a kill.
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6g", "carscraper-images", folder], check=True)
        made = Engine(Path(folder))
        try:
            made.prepare()
            yield made
        finally:
            made.close()
            subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="session")
def app(engine: Engine) -> Image:
    return engine.build("app")


@pytest.fixture(scope="session")
def browser(engine: Engine, app: Image) -> Image:
    return engine.build("browser")


@pytest.fixture(scope="session")
def scrapyd_image(engine: Engine, browser: Image) -> Image:
    return engine.build("scrapyd")


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Callable[..., World]]:
    with contextlib.ExitStack() as stack:
        sites = []

        def make(site: Any, **options: Any) -> World:
            sites.append(stack.enter_context(site))
            state = tmp_path / "state"
            return World(site=site, folder=state, database_url=f"sqlite:///{state}/var/carscraper.db", **options)

        yield make
    for each in sites:
        assert each.errors == []


def words(world: World) -> list[str]:
    """Return what goes after the image's name with ``docker run``, for a crawl of the world's site."""
    settings = [part for name, value in IMPOLITE.items() for part in ("-s", f"{name}={value}")]
    return ["crawl", world.spider, "-a", f"base_url={world.site.base_url}", *settings]


def crawl(image: Image, world: World, *, code: int = 0, **options: Any) -> services.CompletedCrawl:
    done = image.run(*words(world), state=world.folder, **options)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    return done


def test_the_image_without_a_browser_is_small_and_has_no_tools(engine: Engine, app: Image, tmp_path: Path) -> None:
    size = engine.size("app")
    assert size <= MEGABYTES, f"{size} MB, {engine.size(BASE)} MB of them Debian and Python"
    done = app.run("python", "-c", NOT_THERE, state=tmp_path / "state", entrypoint=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done
    # botocore's descriptions of other services are not there: these are.
    done = app.run("python", "-c", ASKED_AT_AMAZON, state=tmp_path / "state", entrypoint=False)
    assert done.returncode == 0, done


def test_each_image_is_nobody_in_particular(app: Image, browser: Image, scrapyd_image: Image, tmp_path: Path) -> None:
    for image, egg_only in ((app, False), (browser, False), (scrapyd_image, True)):
        assert image.config["User"] == "10001:10001", image.target
        done = image.run("python", "-c", "import carscraper", state=tmp_path / "state", entrypoint=False)
        assert (done.returncode != 0) == egg_only, "beside scrapyd it would be found before the egg"


def test_without_a_word_it_lists_its_spiders(app: Image, tmp_path: Path) -> None:
    done = app.run(state=tmp_path / "state")
    assert done.returncode == 0, done
    assert done.stdout.split() == SPIDERS


def test_a_crawl_keeps_all_in_the_volume(app: Image, worlds: Callable[..., World]) -> None:
    world = worlds(SimulatedBilasolur(cars=3, photos=2, photo_bytes_average=20_000))
    done = crawl(app, world)
    assert "bilasolur: success. 3 cars (3 new, 0 gone); 6 photos stored" in verdict(done)
    assert len(world.listings()) == 3
    for car in world.site.cars:
        for number, row in enumerate(world.images_of(car)):
            assert row["status"] == "stored"
            assert world.kept_file(row) == world.served(car, number)
    # The next container finds it all: nothing is asked for twice.
    world.site.reset()
    done = crawl(app, world)
    assert "3 cars (0 new, 0 gone); 0 photos stored" in verdict(done)
    assert world.asked("photo") == 0
    assert app.run(*app.health_check, state=world.folder, entrypoint=False).returncode == 0
    world.sql("UPDATE alembic_version SET version_num = '0001'")
    ill = app.run(*app.health_check, state=world.folder, entrypoint=False)
    assert (ill.returncode, ill.stderr[:32]) == (1, "the tables are of version 0001, ")


def test_a_container_that_is_stopped_finishes_what_is_in_flight(app: Image, worlds: Callable[..., World]) -> None:
    world = worlds(SimulatedBilasolur(cars=5, photos=2, photo_bytes_average=20_000))
    world.site.photo_latency = 0.7
    with app.start(*words(world), "-s", "IMAGES_CONCURRENCY=1", state=world.folder) as running:
        services.wait_until(lambda: world.asked("photo") >= 3, 60, "the first photos")
        stop(running)
        done = running.wait(60)
    assert done.returncode == 3, done
    assert "stopped on request; the same command goes on where this one ended" in verdict(done)
    kept = [row for row in world.images().values() if row["status"] == "stored"]
    assert 0 < len(kept) < 10
    assert all(world.kept_file(row) for row in kept)


def test_a_crawl_into_s3_and_postgresql(
    app: Image,
    worlds: Callable[..., World],
    rclone_s3: services.S3,
    postgres: services.PostgresCluster,
    postgres_url: str,
) -> None:
    postgres.folder.chmod(0o711)  # its socket is there, for the user of the image, too
    world = worlds(SimulatedBilasolur(cars=3, photos=2, photo_bytes_average=20_000))
    world.database_url = postgres_url
    env = rclone_s3.env | {"DATABASE_URL": postgres_url}
    done = crawl(app, world, env=env, postgres=postgres.folder)
    assert "3 cars (3 new, 0 gone); 6 photos stored" in verdict(done)
    kept = {
        row["key"]: world.served(car, number)
        for car in world.site.cars
        for number, row in enumerate(world.images_of(car))
    }
    assert rclone_s3.objects() == kept
    options = {"state": world.folder, "env": env, "postgres": postgres.folder}
    assert app.run(*app.health_check, entrypoint=False, **options).returncode == 0
    done = app.run("storage", "check", **options)
    assert done.returncode == 0, done


def test_a_dealer_who_needs_a_browser(app: Image, browser: Image, worlds: Callable[..., World]) -> None:
    world = worlds(SimulatedAskja(cars=10, photos=1), spider="askja")
    done = crawl(app, world, code=4)
    assert "This site needs a browser" in verdict(done)
    assert "it is `browser` that has one" in verdict(done)
    # Chromium shuts its pages in, under the list of system calls and without any rights.
    done = crawl(browser, world)
    assert "askja: success. 10 cars (10 new, 0 gone); 10 photos stored" in verdict(done)
    rows = world.images().values()
    assert [row["status"] for row in rows] == ["stored"] * 10
    assert all(world.kept_file(row) for row in rows)


class ContainedScrapyd(Scrapyd):
    """The same in a container; the checkout's ``scrapyd-deploy`` sends the egg."""

    def __init__(self, image: Image, folder: Path) -> None:
        self.image, self.folder = image, folder
        self.port = services.free_port()
        self._running = None

    def start_with(self, **environment: str) -> services.RunningCrawl:
        return self.image.start(state=self.folder, env={"SCRAPYD_HTTP_PORT": str(self.port), **environment})

    def stop(self, *, sudden: bool = False) -> None:
        if self._running is not None:
            stop(self._running)
            self._running.wait(20)
            self._running = None


def test_scrapyd_gets_an_egg_and_crawls(scrapyd_image: Image, worlds: Callable[..., World]) -> None:
    world = worlds(SimulatedBilasolur(cars=3, photos=2, photo_bytes_average=20_000))
    askja = worlds(SimulatedAskja(cars=3, photos=1), spider="askja")
    scrapyd = ContainedScrapyd(scrapyd_image, world.folder)

    def health(password: str) -> tuple[int, str]:
        access = {"SCRAPYD_HTTP_PORT": str(scrapyd.port), "SCRAPYD_USERNAME": USER, "SCRAPYD_PASSWORD": password}
        check = scrapyd_image.health_check
        done = scrapyd_image.run(*check, state=world.folder, env=access, entrypoint=False)
        return done.returncode, done.stderr

    with scrapyd.start_with() as running:
        done = running.wait(60)
    assert done.returncode == 1, done
    assert "scrapyd_username_is_not_set" in done.stderr, "no password, no API"
    with scrapyd:
        assert health(PASSWORD) == (0, "")
        assert health("guessed")[0] == 1
        deployed = scrapyd.deploy()
        assert f'"spiders": {len(SPIDERS)}' in deployed.stdout, deployed
        jobs = [scrapyd.schedule(each.spider, IMPOLITE, base_url=each.site.base_url) for each in (world, askja)]
        for job in jobs:
            services.wait_until(lambda job=job: scrapyd.state(job) == "finished", 120, f"job {job}")
    runs = world.sql("SELECT spider, status, exit_code FROM crawl_runs ORDER BY spider")
    assert [tuple(run.values()) for run in runs] == [("askja", "success", 0), ("bilasolur", "success", 0)]
    rows = world.images().values()
    assert [row["status"] for row in rows] == ["stored"] * 9
    assert all(world.kept_file(row) for row in rows)


def test_what_it_took(engine: Engine, scrapyd_image: Image) -> None:
    """Not a limit: the figures of docs/deploy.md, to be seen with ``-rP``."""
    for name in (BASE, "app", "browser", "scrapyd"):
        print(f"{name.rpartition('/')[2]}: {engine.size(name):.0f} MB")
    print(f"all in memory: {shutil.disk_usage(engine.folder).used / 1e6:.0f} MB")
    for step, seconds in engine.seconds.items():
        print(f"{step}: {seconds:.0f} s")
