"""``make setup`` on a machine that has nothing, when newer versions than the locked ones are out."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.services import REPO

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

BACKEND = '''
"""Builds the editable install of this test; the newest version of it builds nothing."""
import zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = "tiny-1.0.dist-info"
    with zipfile.ZipFile(f"{wheel_directory}/tiny-1.0-py3-none-any.whl", "w") as wheel:
        about = "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\nRequires-Dist: covered\\n"
        wheel.writestr(f"{name}/METADATA", about)
        wheel.writestr(f"{name}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{name}/RECORD", "")
    return "tiny-1.0-py3-none-any.whl"
'''
LOCKED = {"covered": "1.0", "measure": "1.0", "builder": "1.0"}
PROJECT = """
[build-system]
requires = ["builder"]
build-backend = "builder"
[project]
name = "tiny"
version = "1.0"
dependencies = ["covered", "measure"]
"""


def build_wheel(
    folder: Path, name: str, version: str, *, requires: Sequence[str] = (), extras: Sequence[str] = (), code: str = ""
) -> None:
    """Puts a wheel into ``folder``, with one module of the same name."""
    info = f"{name}-{version}.dist-info"
    metadata = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Provides-Extra: {extra}" for extra in extras),
        *(f"Requires-Dist: {requirement}" for requirement in requires),
    ]
    files = {
        f"{name}.py": code or f"version = {version!r}\n",
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        f"{len(text.encode())}"
        for path, text in files.items()
    ]
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")


class Machine:
    """A checkout with this repository's Makefile, a package index, and what ``make setup`` makes of both."""

    first: subprocess.CompletedProcess[str]

    def __init__(self, folder: Path, index: str, wheels: Path) -> None:
        self.folder, self.index, self.wheels = folder, index, wheels
        self.python = folder / ".venv" / "bin" / "python"
        folder.mkdir()
        shutil.copy(REPO / "Makefile", folder)
        (folder / "pyproject.toml").write_text(PROJECT)

    def lock(self, versions: Mapping[str, str]) -> None:
        """Writes ``requirements.lock`` as pip-compile does with ``--strip-extras``."""
        hashes = {
            name: hashlib.sha256((self.wheels / f"{name}-{version}-py3-none-any.whl").read_bytes()).hexdigest()
            for name, version in versions.items()
        }
        lines = (f"{name}=={version} \\\n    --hash=sha256:{hashes[name]}\n" for name, version in versions.items())
        (self.folder / "requirements.lock").write_text("".join(lines))

    def empty(self) -> None:
        """Leaves of ``.venv`` what ``python -m venv`` makes, which takes longer than all else here."""
        if names := [line.partition("=")[0] for line in self.installed()]:
            subprocess.run([self.python, "-m", "pip", "-q", "uninstall", "-y", *names], capture_output=True, check=True)
        (self.folder / ".venv" / ".stamp").unlink(missing_ok=True)
        shutil.copy(self.folder / "requirements.lock", self.folder / ".venv")

    def setup(self) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": self.index,
            "PIP_NO_CACHE_DIR": "1",
            "PIP_RETRIES": "0",
            "NO_PROXY": "127.0.0.1",
        }
        return subprocess.run(
            ["make", "setup", f"PYTHON={sys._base_executable}"],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def installed(self) -> set[str]:
        freeze = [self.python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
        done = subprocess.run(freeze, capture_output=True, text=True, check=True)
        return {line for line in done.stdout.split() if not line.startswith(("pip=", "setuptools="))}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """An index on which ``covered`` and the build tool are newer than a lock of a week ago; ``make setup`` was done."""
    tmp_path = tmp_path_factory.mktemp("machine")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for version in ("1.0", "2.0"):
        # As with coverage and pytest-cov: wanted with an extra, locked without.
        build_wheel(wheels, "covered", version, extras=["toml"])
        build_wheel(wheels, "measure", version, requires=["covered[toml]>=1.0"])
    build_wheel(wheels, "builder", "1.0", code=BACKEND)
    build_wheel(wheels, "builder", "2.0", code="raise SystemExit('the newest build tool was fetched')\n")
    build_wheel(wheels, "leftover", "1.0", requires=["covered<2"])
    for wheel in list(wheels.glob("*.whl")):
        project = tmp_path / "index" / wheel.name.partition("-")[0]
        project.mkdir(parents=True, exist_ok=True)
        shutil.copy(wheel, project)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "index")
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        made = Machine(tmp_path / "checkout", f"http://127.0.0.1:{server.server_port}/", wheels)
        made.lock(LOCKED)
        made.first = made.setup()
        yield made
        server.shutdown()


def test_setup_installs_the_lock_whatever_is_newer(machine: Machine) -> None:
    done = machine.first
    assert done.returncode == 0, done.stdout + done.stderr
    assert machine.installed() == {"covered==1.0", "measure==1.0", "builder==1.0", "tiny==1.0"}
    assert "No broken requirements found" in done.stdout
    # Nothing to do the second time.
    assert machine.setup().stdout == ""


def test_a_lock_that_is_not_whole_is_noticed(machine: Machine) -> None:
    machine.lock({"measure": "1.0", "builder": "1.0"})
    machine.empty()
    done = machine.setup()
    assert done.returncode != 0
    assert "requires covered, which is not installed" in done.stdout


def test_setup_after_a_pull_that_changed_the_lock(machine: Machine) -> None:
    machine.lock(LOCKED | {"leftover": "1.0"})
    machine.empty()
    assert machine.setup().returncode == 0
    # Another version, and a package less: it would contradict the new version if it stayed.
    machine.lock(LOCKED | {"covered": "2.0"})
    done = machine.setup()
    assert done.returncode == 0, done.stdout + done.stderr
    assert machine.installed() == {"covered==2.0", "measure==1.0", "builder==1.0", "tiny==1.0"}


def test_the_lock_is_whole_and_names_no_host() -> None:
    text = (REPO / "requirements.lock").read_text("utf-8")
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", text)
    pinned = re.findall(
        r"^(\S+)==\S+(?: ;[^\n]*)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE
    )
    assert len(pinned) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE)), "each line is a version with its hashes"
    assert not any("[" in name for name, _ in pinned), "extras are resolved already"
    assert "setuptools" in dict(pinned), "the editable install's build tool"


def test_make_lock_writes_such_a_lock() -> None:
    recipe = (REPO / "Makefile").read_text("utf-8").partition("\nlock: ")[2].partition("\n\n")[0]
    for flag in ("--all-extras", "--generate-hashes", "--strip-extras", "--no-emit-index-url", "--no-emit-find-links"):
        assert flag in recipe
    assert "--no-emit-trusted-host" in recipe
    assert 'CUSTOM_COMPILE_COMMAND="make lock"' in recipe, "else the header has the caller's own options and hosts"
