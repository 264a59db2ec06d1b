"""A real scrapyd with ``deploy/scrapyd.conf``: the egg is deployed, crawls are scheduled, watched and cancelled."""

from __future__ import annotations

import importlib.resources
import json
import socket
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.parse
import urllib.request
import venv
import zipfile
from base64 import b64encode
from configparser import ConfigParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import sqlalchemy

from carscraper.db import schema
from tests import services
from tests.crawl.world import IMPOLITE, SPIDERS, World
from tests.dealers.bilasolur import SimulatedBilasolur
from tests.services import REPO

if TYPE_CHECKING:
    from collections.abc import Iterator

CONF = REPO / "deploy" / "scrapyd.conf"
USER, PASSWORD = "operator", "only-of-this-test"
LEFT_BY_BUILDS = ("build", "dist", "*.egg-info", "setup.cfg")
SETTINGS = IMPOLITE | {"IMAGES_ALLOWED_HOSTS": "127.0.0.1"}


class Scrapyd:
    """scrapyd as docs/deploy.md has it: a Python of its own, with what carscraper needs and without carscraper.

    A package that is installed beside scrapyd would be found before the egg.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = services.free_port()
        self._running: services.RunningCrawl | None = None
        venv.create(folder / "venv", symlinks=True, with_pip=False)
        self.python = folder / "venv" / "bin" / "python"
        packages = sysconfig.get_path("purelib", vars={"base": str(folder / "venv")})
        # Only the packages: the .pth files beside them, and so the checkout, are not looked at.
        Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
        (folder / "scrapyd.conf").write_bytes(CONF.read_bytes())

    def environment(self, **more: str) -> dict[str, str]:
        """Nothing of the developer's, and nothing that would lead to the checkout."""
        environment = services.crawl_environment(self.folder)
        for name in ("PYTHONPATH", "SCRAPY_SETTINGS_MODULE", "CARSCRAPER_ENV_FILE"):
            del environment[name]
        return environment | {"PYTHONWARNINGS": "ignore"} | more

    def start_with(self, **environment: str) -> services.RunningCrawl:
        return services.RunningCrawl(
            [self.python, "-m", "scrapyd", "--pidfile="],
            env=self.environment(SCRAPYD_HTTP_PORT=str(self.port), **environment),
            cwd=self.folder,
        )

    def start(self) -> None:
        self._running = self.start_with(SCRAPYD_USERNAME=USER, SCRAPYD_PASSWORD=PASSWORD)
        services.wait_until(self._listens, 30, "scrapyd to listen")

    def _listens(self) -> bool:
        assert self._running is not None
        assert self._running.running, self._running.wait()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self, *, sudden: bool = False) -> None:
        if self._running is not None:
            if sudden:
                self._running.kill()
            else:
                self._running.terminate()
            self._running.wait(20)
            self._running = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, path: str, *, password: str | None = PASSWORD, **form: Any) -> Any:
        """The answer: JSON, or text of a log. A *form* is posted; lists are repeated fields."""
        data = urllib.parse.urlencode(form, doseq=True).encode() if form else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", data)
        if password is not None:
            request.add_header("Authorization", f"Basic {b64encode(f'{USER}:{password}'.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read().decode()
        return json.loads(text) if ".json" in path else text

    def schedule(self, spider: str, settings: dict[str, Any], **arguments: Any) -> str:
        answer = self.ask(
            "schedule.json",
            project="carscraper",
            spider=spider,
            setting=[f"{name}={value}" for name, value in settings.items()],
            **arguments,
        )
        assert answer["status"] == "ok", answer
        job: str = answer["jobid"]
        return job

    def state(self, job: str) -> str | None:
        state: str | None = self.ask(f"status.json?project=carscraper&job={job}")["currstate"]
        return state

    def finish(self, job: str) -> str:
        """Wait for its end; its log."""
        services.wait_until(lambda: self.state(job) == "finished", 60, f"job {job}")
        return self.log(job)

    def log(self, job: str) -> str:
        log: str = self.ask(f"logs/carscraper/bilasolur/{job}.log")
        return log

    def deploy(self, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
        """``scrapyd-deploy`` in the checkout; only the address differs from scrapy.cfg."""
        config = self.folder / ".config"
        config.mkdir(exist_ok=True)
        (config / "scrapy.cfg").write_text(f"[deploy:here]\nurl = http://127.0.0.1:{self.port}\n", "utf-8")
        return subprocess.run(
            [Path(sys.executable).with_name("scrapyd-deploy"), "here"],
            cwd=REPO,
            env=self.environment(
                XDG_CONFIG_HOME=str(config), TMPDIR=str(self.folder), SCRAPYD_USERNAME=USER, SCRAPYD_PASSWORD=password
            ),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Scrapyd:
    return Scrapyd(tmp_path_factory.mktemp("scrapyd"))


@pytest.fixture(scope="module")
def scrapyd(installed: Scrapyd) -> Iterator[Scrapyd]:
    """Running, with our project deployed."""
    with installed:
        before = left_in_checkout()
        refused = installed.deploy(password="guessed")
        assert refused.returncode == 1
        assert "401" in refused.stderr
        done = installed.deploy()
        assert done.returncode == 0, done
        answer = json.loads(done.stdout)
        assert (answer["status"], answer["project"], answer["spiders"]) == ("ok", "carscraper", len(SPIDERS)), done
        assert left_in_checkout() == before, "scrapyd-deploy leaves something in the checkout"
        yield installed


@pytest.fixture
def world(tmp_path: Path, sqlite_url: str) -> Iterator[World]:
    """A site, and the database and photos of scrapyd's jobs."""
    with SimulatedBilasolur(cars=5, photos=2, photo_bytes_average=20_000) as site:
        yield World(site=site, folder=tmp_path, database_url=sqlite_url)
        assert site.errors == []


def left_in_checkout() -> set[Path]:
    return {path for name in LEFT_BY_BUILDS for path in REPO.glob(name)}


def where(world: World) -> dict[str, Any]:
    """Settings of a job that works for this test alone."""
    return SETTINGS | {
        "DATABASE_URL": world.database_url,
        "IMAGES_STORE": world.folder / "var" / "images",
        "SPOOL_DIR": world.folder / "var" / "spool",
    }


def test_it_does_not_start_without_a_password(installed: Scrapyd) -> None:
    for environment, missing in (
        ({}, "username_is_not_set"),
        ({"SCRAPYD_USERNAME": USER, "SCRAPYD_PASSWORD": ""}, "password_is_not_set"),
    ):
        with installed.start_with(**environment) as running:
            done = running.wait(30)
        assert done.returncode == 1, done
        assert f"scrapyd_{missing}" in done.stderr, done


def test_the_configuration_keeps_to_itself() -> None:
    conf = ConfigParser(interpolation=None)
    conf.read(CONF)
    section = conf["scrapyd"]
    assert section["bind_address"] == "127.0.0.1"
    assert section["items_dir"] == section["jobs_dir"] == ""
    known = ConfigParser(interpolation=None)
    known.read_string(_default_conf())
    assert set(section) <= set(known["scrapyd"]), "an option that scrapyd does not know"
    cfg = ConfigParser(interpolation=None)
    cfg.read(REPO / "scrapy.cfg")
    assert cfg["deploy"]["url"] == f"http://{section['bind_address']}:{section['http_port']}"
    assert (cfg["deploy"]["username"], cfg["deploy"]["password"]) == ("$SCRAPYD_USERNAME", "$SCRAPYD_PASSWORD")


def _default_conf() -> str:
    return importlib.resources.files("scrapyd").joinpath("default_scrapyd.conf").read_text("utf-8")


def test_only_who_has_the_password_is_heard(scrapyd: Scrapyd) -> None:
    for password in (None, "", "guessed"):
        for path in ("daemonstatus.json", "listprojects.json", "logs/", ""):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                scrapyd.ask(path, password=password)
    assert scrapyd.ask("listprojects.json")["projects"] == ["carscraper"]
    others = [address for address in listening(scrapyd) if not address.startswith("0100007F:")]
    assert not others, "it listens beyond 127.0.0.1"


def test_the_health_check_asks_as_somebody_who_knows_the_password(scrapyd: Scrapyd) -> None:
    def check(port: int, password: str) -> tuple[int, str]:
        environment = {"SCRAPYD_USERNAME": USER, "SCRAPYD_PASSWORD": password, "SCRAPYD_HTTP_PORT": str(port)}
        done = subprocess.run(
            [sys.executable, REPO / "deploy" / "healthcheck.py", "scrapyd"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        return done.returncode, done.stderr

    assert check(scrapyd.port, PASSWORD) == (0, "")
    assert check(scrapyd.port, "guessed") == (1, "scrapyd answers 401 Unauthorized\n")
    code, said = check(services.free_port(), PASSWORD)
    assert code == 1
    assert said.startswith("scrapyd does not answer: ")
    assert PASSWORD not in said


def listening(scrapyd: Scrapyd) -> list[str]:
    """Addresses (hexadecimal, as the kernel has them) on which something listens at scrapyd's port."""
    tables = [table for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if table.exists()]
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    found = [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{scrapyd.port:04X}")]
    assert found
    return found


def test_a_crawl_is_scheduled_watched_and_read(scrapyd: Scrapyd, world: World) -> None:
    job = scrapyd.schedule("bilasolur", where(world), base_url=world.site.base_url, limit=4)
    log = scrapyd.finish(job)
    assert "bilasolur: success. 4 cars (4 new, 0 gone); 8 photos stored" in log
    assert "Traceback" not in log
    assert len(world.listings()) == 4
    rows = world.images().values()
    assert [row["status"] for row in rows] == ["stored"] * 8
    assert all(world.kept_file(row) for row in rows)
    # items_dir and jobs_dir are empty: scrapyd adds neither feeds nor a job folder.
    assert "FEEDS" not in log
    assert "JOBDIR" not in log
    (run,) = world.sql(sqlalchemy.text("SELECT job_id, spider, status, exit_code FROM crawl_runs"))
    assert tuple(run.values()) == (job, "bilasolur", "success", 0)

    scrapyd.stop(sudden=True)
    scrapyd.start()
    assert job in {each["id"] for each in scrapyd.ask("listjobs.json?project=carscraper")["finished"]}
    assert "success" in scrapyd.log(job)


def test_a_cancelled_crawl_loses_nothing(scrapyd: Scrapyd, world: World) -> None:
    world.site.photo_latency = 0.7
    job = scrapyd.schedule("bilasolur", where(world) | {"IMAGES_CONCURRENCY": 1}, base_url=world.site.base_url)
    services.wait_until(lambda: world.asked("photo") >= 3, 30, "the first photos")
    assert scrapyd.state(job) == "running"
    assert scrapyd.ask("cancel.json", project="carscraper", job=job)["prevstate"] == "running"
    log = scrapyd.finish(job)
    assert "bilasolur: partial." in log
    assert "stopped on request; the same command goes on where this one ended" in log
    kept = {identity: row for identity, row in world.images().items() if row["status"] == "stored"}
    assert 0 < len(kept) < 10
    assert all(world.kept_file(row) for row in kept.values())

    world.site.photo_latency = 0
    world.site.reset()
    log = scrapyd.finish(scrapyd.schedule("bilasolur", where(world), base_url=world.site.base_url))
    assert "bilasolur: success." in log
    assert len(world.listings()) == 5
    assert [row["status"] for row in world.images().values()] == ["stored"] * 10
    assert world.asked("photo") == 10 - len(kept), "what was safe is not asked for again"


IN_THE_EGG = """
import json, sys, warnings
warnings.simplefilter("error")
try:
    import carscraper
except ImportError:
    pass
else:
    sys.exit("carscraper is there without the egg")
sys.path.append(sys.argv[1])
import carscraper
from scrapy.utils.project import get_project_settings
from carscraper import settings, vehicles
from carscraper.commands import database
from carscraper.db import schema
from carscraper.db.engine import open_engine
from carscraper.maintenance.estimate import own_prices
found = []
for url in sys.argv[2:]:
    engine = open_engine(url, timeout=10)
    found.append([schema.upgrade(engine), schema.upgrade(engine)])
    schema.ensure(engine, create=False)
    engine.dispose()
print(json.dumps({
    "file": carscraper.__file__,
    "prices": bool(own_prices()),
    "make": vehicles.canonical("SKODA", "Octavia").make,
    "pages": settings.CRAWL_MAX_PAGES,
    "spiders": get_project_settings()["SPIDER_MODULES"],
    "migrated": found,
}))
"""


def test_all_that_is_read_is_read_from_the_zip(scrapyd: Scrapyd, postgres_url: str, tmp_path: Path) -> None:
    (egg,) = (scrapyd.folder / "scrapyd" / "eggs" / "carscraper").glob("*.egg")
    assert zipfile.is_zipfile(egg)
    # As in scrapyd's working directory: .env is there, and there is no scrapy.cfg.
    (tmp_path / ".env").write_text("CRAWL_MAX_PAGES=17\n", "utf-8")
    done = subprocess.run(
        [scrapyd.python, "-c", IN_THE_EGG, egg, f"sqlite:///{tmp_path / 'new.db'}", postgres_url],
        env=scrapyd.environment(SCRAPY_SETTINGS_MODULE="carscraper.settings", TMPDIR=str(tmp_path)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["file"].startswith(f"{egg}/")
    assert told["pages"] == "17"
    assert told["prices"]
    assert told["make"] == "Skoda"
    assert told["migrated"] == [[[None, schema.HEAD], [schema.HEAD, schema.HEAD]]] * 2
    assert not list(tmp_path.glob("carscraper-*")), "the copies of the migrations are removed"
