"""Builds the images with buildah, without a registry, and runs them with runc as ``deploy/compose.yaml`` says.

All of it lies in one folder. What is mounted, is so in a namespace of the program that mounts it, and ends with it.
Both need root, and root only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests import services
from tests.services import REPO

if TYPE_CHECKING:
    from collections.abc import Mapping

DOCKERFILE = REPO / "deploy" / "Dockerfile"
COMPOSE = REPO / "deploy" / "compose.yaml"
BASE = "docker.io/library/python:3.11-slim-bookworm"
SUITE = "bookworm"
IN_BASE = "ca-certificates,netbase,passwd,python3-venv,tzdata,usr-is-merged"
HISTORY = Path("/var/lib/containers/cache")
"""Of layers that buildah has seen; the one thing that it takes no other folder for."""
OMITTED = ("doc", "locale", "man")
"""Below /usr/share, as in Debian's own slim images."""


class Engine:
    """A container engine in a folder: the base image, what is built on it, and containers.

    The base is Debian with its own Python 3.11, made on the spot of the machine's Debian packages: it stands in for
    the official ``python`` image, which has the same at /usr/local/bin/python. Python packages are fetched by the
    machine's own pip, and the builds find them in a folder; so neither depends on how this machine reaches its
    packages.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.containers: list[str] = []
        self._had_history = HISTORY.exists()
        folder.chmod(0o755)  # apt fetches as a user of its own
        self._wheels = folder / "wheels"
        self._pip_conf = folder / "pip.conf"
        self._pip_conf.write_text("[global]\nno-index = true\nfind-links = /wheels\n", "utf-8")

    def call(self, what: str, *command: str | Path) -> str:
        """Run *command* to its end, and note how long *what* took; its standard output."""
        begin = time.monotonic()
        own = {"BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self.folder)}
        with (self.folder / f"{what}.log").open("w", encoding="utf-8") as log:
            done = subprocess.run(
                in_own_mounts(*command),
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | own,
                text=True,
                check=False,
            )
        self.seconds[what] = self.seconds.get(what, 0) + time.monotonic() - begin
        if done.returncode:
            said = (self.folder / f"{what}.log").read_text("utf-8", "replace") + done.stdout
            raise RuntimeError(f"{what}: {' '.join(map(str, command))} ended with {done.returncode}:\n{said[-5000:]}")
        return done.stdout.strip()

    @property
    def buildah(self) -> tuple[str, ...]:
        return ("buildah", "--root", str(self.folder / "images"), "--runroot", str(self.folder / "state"))

    def prepare(self) -> None:
        """Make the base image, and fetch the packages meanwhile."""
        with ThreadPoolExecutor() as pool:
            for step in [pool.submit(self._make_base), pool.submit(self._fetch_packages)]:
                step.result()

    def _make_base(self) -> None:
        root = self.folder / "base.tar"
        sources = [
            path
            for path in sorted(Path("/etc/apt").glob("**/*"))
            if path.suffix in {".list", ".sources"} and re.search(rf"\b{SUITE}\b", path.read_text("utf-8"))
        ]
        self.call(
            "base",
            *("mmdebstrap", "--mode=root", "--variant=apt", f"--include={IN_BASE}"),
            "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
            "--dpkgopt=force-unsafe-io",
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in OMITTED),
            "--customize-hook=ln -s /usr/bin/python3 $1/usr/local/bin/python",
            *(SUITE, root, *sources),
        )
        container = self.call("base", *self.buildah, "from", "scratch")
        self.call("base", *self.buildah, "add", "--quiet", container, root, "/")
        self.call("base", *self.buildah, "commit", "--quiet", "--rm", container, BASE)
        root.unlink()

    def _fetch_packages(self) -> None:
        lock = self.folder / "all.lock"
        lock.write_text(
            self.call("packages", sys.executable, REPO / "scripts/runtime_lock.py", "browser", "scrapyd"), "utf-8"
        )
        self.call(
            "packages",
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"),
            *("--python-version", "3.11", "--only-binary", ":all:", "--no-deps", "--require-hashes"),
            *("--requirement", lock, "--dest", self._wheels),
        )

    def build(self, target: str) -> Image:
        """Build the *target* of the Dockerfile, from the steps of earlier ones if they are the same."""
        self.call(
            target,
            *(*self.buildah, "build", "--layers", "--pull-never", "--format", "docker"),
            *("--file", DOCKERFILE, "--target", target, "--tag", target),
            *("--volume", f"{self._wheels}:/wheels:ro", "--volume", f"{self._pip_conf}:/etc/pip.conf:ro"),
            REPO,
        )
        return Image(self, target)

    def close(self) -> None:
        """Remove what is outside of the folder: cgroups of containers that were killed, and what buildah remembers."""
        for name in self.containers:
            for group in Path("/sys/fs/cgroup").glob(f"**/{name}"):
                group.rmdir()
        if not self._had_history:
            shutil.rmtree(HISTORY, ignore_errors=True)
            with contextlib.suppress(OSError):
                HISTORY.parent.rmdir()

    def size(self, name: str) -> float:
        """Return the size of an image in MB, of the base's part, too."""
        number, unit = self.call("size", *self.buildah, "images", "--format", "{{.Size}}", name).split()
        return float(number) * {"MB": 1, "GB": 1000}[unit]


class Image:
    """One of the images; its containers are shut in as the services of ``deploy/compose.yaml`` are."""

    def __init__(self, engine: Engine, target: str) -> None:
        self.engine, self.target = engine, target
        inspected = engine.call("inspect", *engine.buildah, "inspect", "--type", "image", target)
        self.config: dict[str, Any] = json.loads(inspected)["Docker"]["config"]
        services_ = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"].values()
        self.service: dict[str, Any] = next(
            each for each in services_ if each.get("build", {}).get("target") in {target, "browser"}
        )

    @property
    def health_check(self) -> list[str]:
        kind, *command = self.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        return list(command)

    def start(
        self, *command: str, state: Path, env: Mapping[str, str] | None = None, entrypoint: bool = True, **mounts: Path
    ) -> services.RunningCrawl:
        """Start *command* (none: the image's own) in a new container; it is killed when the context ends.

        Args:
            state: the folder in place of the volume.
            env: besides the image's own.
            entrypoint: whether *command* is arguments of the image's entry point, as with ``docker run``.
            mounts: further folders, by the path they have in both places: the values count.
        """
        state.mkdir(exist_ok=True)
        user, _, group = self.config["User"].partition(":")
        os.chown(state, int(user), int(group))
        container = self.engine.call("from", *self.engine.buildah, "from", "--pull-never", self.target)
        name = f"carscraper-{uuid.uuid4().hex[:12]}"
        self.engine.containers.append(name)
        bundle = self.engine.folder / name
        (bundle / "root").mkdir(parents=True)
        words = [*(self.config["Entrypoint"] if entrypoint else []), *(command or self.config["Cmd"] or [])]
        spec = self._spec(bundle, words, dict(env or {}), state, list(mounts.values()))
        (bundle / "config.json").write_text(json.dumps(spec), "utf-8")
        # The file system is mounted where nobody else sees it, and the container's processes die with the first one.
        mount = f'mount --bind "$({shlex.join(self.engine.buildah)} mount {container})" root'
        script = f"{mount} && exec runc --root {self.engine.folder / 'runc'} run {name}"
        return services.RunningCrawl(
            in_own_mounts("--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script),
            env={"PATH": os.environ["PATH"], "HOME": str(self.engine.folder)},
            cwd=bundle,
        )

    def run(self, *command: str, timeout: float = 120, **options: Any) -> services.CompletedCrawl:
        """Run *command* to its end; see `start`."""
        with self.start(*command, **options) as running:
            return running.wait(timeout)

    def _spec(
        self, bundle: Path, words: list[str], env: dict[str, str], state: Path, more: list[Path]
    ) -> dict[str, Any]:
        """Return what runc is told: its own example, and what the service of the compose file has."""
        subprocess.run(["runc", "spec", "--bundle", bundle], check=True)
        spec: dict[str, Any] = json.loads((bundle / "config.json").read_text("utf-8"))
        service, config = self.service, self.config
        user, _, group = config["User"].partition(":")
        own = dict(each.split("=", 1) for each in config["Env"])
        assert service["cap_drop"] == ["ALL"]
        spec["process"] |= {
            "terminal": False,
            "user": {"uid": int(user), "gid": int(group)},
            "args": words,
            "env": [f"{name}={value}" for name, value in (own | {"HOME": "/var/lib/carscraper"} | env).items()],
            "cwd": config["WorkingDir"],
            "capabilities": {},
            "noNewPrivileges": "no-new-privileges:true" in service["security_opt"],
        }
        spec["root"] = {"path": "root", "readonly": service["read_only"]}
        volume = service["volumes"][0].partition(":")[2]
        for folder, options in (each.split(":") for each in service["tmpfs"]):
            spec["mounts"].append(
                {"destination": folder, "type": "tmpfs", "source": "tmpfs", "options": options.split(",")}
            )
        for there, here in [(volume, state), *((str(path), path) for path in more)]:
            spec["mounts"].append({"destination": there, "type": "bind", "source": str(here), "options": ["bind"]})
        # The simulated sites are on this machine's loopback.
        linux = spec["linux"]
        linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != "network"]
        gigabytes = int(service["mem_limit"].removesuffix("g"))
        linux["resources"] |= {"pids": {"limit": service["pids_limit"]}, "memory": {"limit": gigabytes << 30}}
        (profile,) = (each.partition("=")[2] for each in service["security_opt"] if each.startswith("seccomp="))
        seccomp = json.loads((COMPOSE.parent / profile).read_text("utf-8"))
        for each in seccomp["syscalls"]:
            del each["comment"]
        linux["seccomp"] = seccomp
        return spec


def stop(running: services.RunningCrawl) -> None:
    """Ask a container's first process to end, as ``docker stop`` does."""
    (runc,) = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text("ascii").split()
    os.kill(int(runc), signal.SIGTERM)


def in_own_mounts(*command: str | Path) -> list[str]:
    """Return the *command* (or options of ``unshare`` before one) such that what it mounts ends with it."""
    return ["unshare", "--mount", *map(str, command)]


def missing() -> list[str]:
    """Return the programs that are wanted and not there."""
    return [name for name in ("buildah", "mmdebstrap", "runc", "unshare") if not shutil.which(name)]
