"""The systemd units, timers and the crontab of ``deploy/``: understood, hardened, complete, and at a good tempo."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import services
from tests.services import REPO

DEPLOY = REPO / "deploy"
SYSTEMD = DEPLOY / "systemd"
SERVICES = sorted(path.name for path in SYSTEMD.glob("*.service"))
TIMERS = sorted(path.name for path in SYSTEMD.glob("*.timer"))
COMMON = SYSTEMD / "carscraper-.service.d" / "common.conf"
WEAKEST = 2.5
"""Exposure by `systemd-analyze security`; without hardening it is above 9."""


def text_of(unit: str) -> str:
    return (SYSTEMD / unit).read_text("utf-8")


def values_of(text: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)


def value_of(text: str, name: str) -> str:
    (value,) = values_of(text, name)
    return value


# --- understood by systemd --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units, with programs that are there; named as systemd starts them."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    folder = tmp_path_factory.mktemp("units")
    shutil.copytree(SYSTEMD, folder, dirs_exist_ok=True)
    for unit in folder.glob("*.service"):
        unit.write_text(re.sub(r"(?<=^ExecStart=)\S+", "/bin/true", unit.read_text("utf-8"), flags=re.MULTILINE))
    return folder


def instance(unit: str, dealer: str = "askja") -> str:
    return unit.replace("@.", f"@{dealer}.")


def analyze(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def test_systemd_understands_them(units: Path) -> None:
    names = [f"./{instance(unit)}" for unit in [*SERVICES, *TIMERS]]
    done = analyze("verify", "--man=no", *names, folder=units)
    assert not [line for line in done.stderr.splitlines() if "carscraper" in line], done.stderr
    broken = units / "carscraper-broken.service"
    broken.write_text(f"[Service]\nNoNewPrivilege=true\n{(units / SERVICES[0]).read_text()}", "utf-8")
    assert "NoNewPrivilege" in analyze("verify", "--man=no", f"./{broken.name}", folder=units).stderr
    calendars = [value_of(text_of(timer), "OnCalendar") for timer in TIMERS]
    done = analyze("calendar", *calendars, folder=units)
    assert done.returncode == 0, done.stderr


def test_they_are_shut_in(units: Path) -> None:
    for unit in SERVICES:
        done = analyze("security", "--offline=true", "--no-pager", f"./{instance(unit)}", folder=units)
        found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
        assert found, done
        assert float(found[1]) <= WEAKEST, f"{unit}: {found[0]}"


# --- what stands in them, also where there is no systemd --------------------------------------------------------


@pytest.mark.parametrize("unit", SERVICES)
def test_a_service_runs_a_command_of_ours_as_its_own_user(unit: str) -> None:
    text = text_of(unit)
    assert (value_of(text, "User"), value_of(text, "Group")) == ("carscraper", "carscraper")
    program, *words = value_of(text, "ExecStart").split()
    if unit == "carscraper-scrapyd.service":
        # A package beside scrapyd would be found before the egg: not the Python that has carscraper.
        assert program == "/opt/scrapyd/bin/scrapyd"
        return
    assert program == "/opt/carscraper/.venv/bin/scrapy"
    if words[0] == "crawl":
        assert words[1:] in (["%i"], ["backfill"])
    else:
        assert find_spec(f"carscraper.commands.{words[0]}")


def test_what_they_have_in_common_is_overridden_by_none_and_overrides_none() -> None:
    """It is read behind the unit: a name in both would be decided by it, where it is not a list."""
    common = set(re.findall(r"^(\w+)=", COMMON.read_text("utf-8"), re.MULTILINE))
    assert {"NoNewPrivileges", "ProtectSystem", "StateDirectory", "WorkingDirectory"} <= common
    for unit in SERVICES:
        own = set(re.findall(r"^(\w+)=", text_of(unit), re.MULTILINE))
        assert not common & own, unit
        assert {"MemoryMax", "TasksMax"} <= own, unit


def test_no_secret_and_no_setting_stands_in_a_unit() -> None:
    for path in (path for path in SYSTEMD.rglob("*") if path.is_file()):
        for line in values_of(path.read_text("utf-8"), "Environment"):
            assert line.split("=")[0] in {"SCRAPY_SETTINGS_MODULE", "PYTHONDONTWRITEBYTECODE"}, path


def test_the_options_that_are_used_exist(tmp_path: Path) -> None:
    words = value_of(text_of("carscraper-audit.service"), "ExecStart").split()[1:]
    done = services.run_scrapy(*words, "--help", cwd=tmp_path)
    assert done.returncode == 0, done
    assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z]+", done.stdout))


def test_it_runs_from_another_folder_as_the_units_do(tmp_path: Path) -> None:
    """Program here, state there: the settings module by its name, no ``scrapy.cfg``, paths in the working directory."""
    assert "SCRAPY_SETTINGS_MODULE=carscraper.settings" in values_of(COMMON.read_text("utf-8"), "Environment")
    environment = services.crawl_environment(tmp_path) | {"CARSCRAPER_ENV_FILE": str(tmp_path / "carscraper.env")}
    (tmp_path / "carscraper.env").write_text("CRAWL_MAX_PAGES=3\nDATABASE_URL=sqlite:///var/here.db\n", "utf-8")
    command = [sys.executable, "-m", "scrapy", "database", "upgrade"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "var" / "here.db").exists()


# --- when -------------------------------------------------------------------------------------------------------


def minutes_of(hours: str, minute: str) -> set[int]:
    """Minutes of the day."""
    return {int(hour) * 60 + int(minute) for hour in hours.split(",")}


def timer(name: str) -> set[int]:
    calendar = value_of(text_of(name), "OnCalendar")
    found = re.fullmatch(r"(?:Sun )?\*-\*-\* ([\d,]+):(\d\d):00 UTC", calendar)
    assert found, f"{name}: {calendar}"
    return minutes_of(found[1], found[2])


JOBS = ("crawlall", "backfill", "check", "audit")
"""Those that begin by themselves once they are enabled."""


def test_no_dealer_has_a_unit_of_his_own_and_a_timer_has_a_service() -> None:
    assert [name for name in TIMERS if "@" in name] == ["carscraper-crawl@.timer"]
    for name in TIMERS:
        text = text_of(name)
        assert f"{name.removesuffix('.timer')}.service" in SERVICES
        unit = ConfigParser(strict=False, interpolation=None)
        unit.read_string(text)
        assert unit["Timer"]["Persistent"] == "true"
        assert unit["Install"]["WantedBy"] == "timers.target"


def test_the_page_tells_when() -> None:
    page = (REPO / "docs" / "deploy.md").read_text("utf-8")
    rows = re.findall(r"^\| ([\w` ]+) \| ((?:Sundays )?[\d:, ]+) \|", page, re.MULTILINE)
    told = {
        name.strip("`").split()[-1]: {int(at[:2]) * 60 + int(at[3:]) for at in re.findall(r"\d\d:\d\d", times)}
        for name, times in rows
    }
    names = {"crawlall": "crawlall", "backfill": "backfill", "checkdealers": "check", "audit": "audit"}
    assert told == {name: timer(f"carscraper-{unit}.timer") for name, unit in names.items()}


def test_the_tempo_is_that_of_a_good_neighbour() -> None:
    minutes = sorted(timer("carscraper-crawlall.timer"))
    assert 2 <= len(minutes) <= 4
    # An address of a photo may live for a day: one crawl that fails must not cost it.
    assert max((after - before) % 1440 for before, after in itertools.pairwise([*minutes, minutes[0]])) <= 12 * 60
    assert any(minute < 7 * 60 for minute in minutes), "nobody shops in the night"
    assert {value_of(text_of(name), "RandomizedDelaySec") for name in TIMERS} == {"10min"}
    starts = sorted((minute, name) for name in TIMERS for minute in timer(name))
    for (before, one), (after, other) in itertools.pairwise(starts):
        assert after - before >= 30, f"{one} and {other}"


# --- the crontab ------------------------------------------------------------------------------------------------

ENTRY = re.compile(r"(#?)(\d+) ([\d,]+) \* \* ([*0]) cd /var/lib/carscraper && (?:nice )?(\S+) (.+)")
CRONTAB = (DEPLOY / "crontab").read_text("utf-8").splitlines()
ENTRIES = [found for line in CRONTAB if (found := ENTRY.fullmatch(line))]


def test_the_crontab_can_be_read() -> None:
    variables = [line for line in CRONTAB if re.fullmatch(r"[A-Z_]+=\S+", line)]
    assert "SCRAPY_SETTINGS_MODULE=carscraper.settings" in variables
    rest = [line for line in CRONTAB if line and not line.startswith("# ") and not ENTRY.fullmatch(line)]
    assert rest == variables
    assert CRONTAB[-1], "cron wants an end of line, and no more"
    assert not [found for found in ENTRIES if "%" in found[0]], "cron takes it for the end of the line"
    assert {found[5] for found in ENTRIES} == {"/opt/carscraper/.venv/bin/scrapy"}


def test_the_crontab_does_what_the_timers_do() -> None:
    does = {}
    for found in ENTRIES:
        does[found[6]] = minutes_of(found[3], found[2])
        assert (found[4] == "0") == ("audit" in found[6])
    assert len(does) == len(ENTRIES)
    expected = {}
    for name in JOBS:
        words = value_of(text_of(f"carscraper-{name}.service"), "ExecStart").split(maxsplit=1)[1]
        expected[words] = timer(f"carscraper-{name}.timer")
    assert {words.removesuffix(" --quiet"): minutes for words, minutes in does.items()} == expected
    # What can't work as it is waits for somebody to take its # away.
    assert [found[6].split()[1] for found in ENTRIES if found[1]] == ["audit"]
