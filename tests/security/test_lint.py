"""What `make lint` adds to ruff and mypy: the audit of what is locked, and the search for secrets."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from scripts import dependency_audit
from tests import services
from tests.http_server import HttpServer, Request, Response
from tests.services import REPO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

# --- the audit --------------------------------------------------------------------------------------------------

HASH = f"--hash=sha256:{'0' * 64}"
LOCK = f"good==1.0 {HASH}\nbad-one==2.0 {HASH}\n"


def vulnerability(name: str, number: str, **more: Any) -> dict[str, Any]:
    """As OSV tells of one."""
    return {
        "id": number,
        "aliases": ["CVE-2026-7"],
        "summary": "It opens\nthe door \x1b[31m to everybody.",
        "affected": [
            {
                "package": {"name": name, "ecosystem": "PyPI"},
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.1"}]}],
            }
        ],
        **more,
    }


class Osv:
    """A service that answers as OSV does, or does not."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.known: dict[str, list[dict[str, Any]]] = {}
        """Vulnerabilities by package."""
        self.instead: Callable[[int], tuple[int, bytes] | None] = lambda _: None
        """Status and body in place of the answer to the question of that number."""
        self.url = ""

    def answer(self, question: bytes) -> tuple[int, bytes]:
        name = json.loads(question)["package"]["name"]
        self.asked.append(name)
        if (other := self.instead(len(self.asked))) is not None:
            return other
        return 200, json.dumps({"vulns": self.known[name]} if name in self.known else {}).encode()


@pytest.fixture
def osv() -> Iterator[Osv]:
    service = Osv()

    def answer(request: Request) -> Response:
        status, body = service.answer(request.body)
        return Response(status=status, body=body, drop=status == 0)

    with HttpServer(answer) as server:
        service.url = f"{server.base_url}/v1/query"
        yield service


@pytest.fixture
def audit(
    osv: Osv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Audits *lock* against the service; gives exit code and all that was said."""
    monkeypatch.setenv("PIP_AUDIT_OSV_URL", osv.url)

    def run(lock: str = LOCK, accepted: str = "") -> tuple[int, str]:
        (tmp_path / "requirements.lock").write_text(lock)
        (tmp_path / "accepted.toml").write_text(accepted)
        words = ["--lock", str(tmp_path / "requirements.lock"), "--accepted", str(tmp_path / "accepted.toml")]
        code = dependency_audit.main(words)
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


ACCEPTED = """[[accepted]]
id = "{id}"
package = "{package}"
reason = "its door is not in use here"
date = 2026-11-21
"""


class TestAudit:
    def test_nothing_is_known(self, audit: Callable[..., tuple[int, str]], osv: Osv) -> None:
        code, said = audit()
        assert (code, said) == (0, "Dependency audit: 2 packages, no vulnerability that is not accepted\n")
        assert sorted(osv.asked) == ["bad-one", "good"]

    def test_a_vulnerability_fails_in_one_line(self, audit: Callable[..., tuple[int, str]], osv: Osv) -> None:
        osv.known = {"bad-one": [vulnerability("bad-one", "PYSEC-2026-1")]}
        code, said = audit()
        assert code == 1
        assert said == (
            "Dependency audit: bad-one 2.0: PYSEC-2026-1 (mended in 2.1): It opens the door [31m to everybody.\n"
        )

    @pytest.mark.parametrize("number", ["PYSEC-2026-1", "CVE-2026-7"])
    def test_an_accepted_one_is_named_and_passes(
        self, audit: Callable[..., tuple[int, str]], osv: Osv, number: str
    ) -> None:
        osv.known = {"bad-one": [vulnerability("bad-one", "PYSEC-2026-1")]}
        code, said = audit(accepted=ACCEPTED.format(id=number, package="bad-one"))
        assert code == 0
        assert "PYSEC-2026-1 is accepted since 2026-11-21: its door is not in use here\n" in said

    def test_it_is_accepted_for_its_package_only(self, audit: Callable[..., tuple[int, str]], osv: Osv) -> None:
        osv.known = {name: [vulnerability(name, "PYSEC-2026-1")] for name in ("bad-one", "good")}
        code, said = audit(accepted=ACCEPTED.format(id="PYSEC-2026-1", package="bad-one"))
        assert code == 1
        assert "good 1.0: PYSEC-2026-1" in said

    def test_one_that_is_not_reported_any_more_is_to_be_taken_out(self, audit: Callable[..., tuple[int, str]]) -> None:
        code, said = audit(accepted=ACCEPTED.format(id="PYSEC-2026-1", package="bad-one"))
        assert code == 0
        assert "PYSEC-2026-1 of bad-one is not found any more" in said

    @pytest.mark.parametrize(
        "instead",
        [
            lambda _: (200, b"<html>Log in to this network</html>"),
            lambda number: (503, b"{}") if number == 2 else None,
        ],
        ids=["log in", "breaks off"],
    )
    def test_a_service_that_does_not_answer_is_one_line(
        self, audit: Callable[..., tuple[int, str]], osv: Osv, instead: Any
    ) -> None:
        osv.instead = instead
        code, said = audit()
        assert code == 0
        assert re.fullmatch(r"Dependency audit: left out, as the database of vulnerabilities .+ \(.+\)\n", said)

    def test_nobody_is_there(
        self, audit: Callable[..., tuple[int, str]], osv: Osv, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PIP_AUDIT_OSV_URL", f"http://127.0.0.1:{services.free_port()}/v1/query")
        code, said = audit()
        assert code == 0
        assert said.startswith("Dependency audit: left out")
        assert len(said.splitlines()) == 1

    @pytest.mark.parametrize("lock", ["good==1.0\n", "good == \n"])
    def test_a_lock_that_pins_nothing_fails(self, audit: Callable[..., tuple[int, str]], osv: Osv, lock: str) -> None:
        code, said = audit(lock=lock)
        assert code == 1, said
        assert "can't read requirements.lock" in said
        assert osv.asked == []

    @pytest.mark.parametrize(
        "accepted",
        [
            '[[accepted]]\nid = "PYSEC-2026-1"\npackage = "bad-one"\nreason = " "\ndate = 2026-11-21\n',
            '[[accepted]]\nid = "PYSEC-2026-1"\npackage = "bad-one"\nreason = "x"\n',
            '[[accepted]]\nid = "PYSEC-2026-1"\npackage = "bad-one"\nreason = "x"\ndate = "soon"\n',
            ACCEPTED.format(id="PYSEC-2026-1", package="bad-one") + "more = 1\n",
            'ids = ["PYSEC-2026-1"]\n',
            "[[accepted\n",
        ],
    )
    def test_an_entry_without_reason_or_date_fails(
        self, audit: Callable[..., tuple[int, str]], osv: Osv, accepted: str
    ) -> None:
        code, said = audit(accepted=accepted)
        assert (code, osv.asked) == (1, [])
        assert len(said.splitlines()) == 1
        assert "accepted.toml" in said

    def test_the_real_lock_is_read_whole(
        self, osv: Osv, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("PIP_AUDIT_OSV_URL", osv.url)
        assert dependency_audit.main([]) == 0
        pinned = re.findall(r"^([a-z0-9.-]+)==", dependency_audit.LOCK.read_text("utf-8"), re.MULTILINE)
        asked = set(osv.asked)
        assert len(asked) == len(osv.asked)
        # One that is for another version of Python than this is not asked for.
        assert len(pinned) - 3 <= len(asked) <= len(pinned)
        assert f"{len(asked)} packages" in capsys.readouterr().out


# --- the search for secrets -------------------------------------------------------------------------------------

# Put together here, so that this file holds none.
AWS_KEY = "AKIA" + "Q3EXV7BNTZK2M5LD"
AWS_SECRET = "kR8vQ2zLx0Wm" + "T5bYc7Hn9Jd3Fs" + "6Gp1Ua4EoIiVtX"
PRIVATE_KEY = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIBOgIBAAJBAK\n-----END RSA " + "PRIVATE KEY-----\n"
SLACK = "https://hooks.slack.com/services/" + "T0AB1CD2E/B0AB1CD2E/" + "x9Kq2Lm4Vb7N" + "w1Rt5Yc8Zd3H"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the project's own baseline."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet")
    shutil.copy(REPO / ".secrets.baseline", folder)
    (folder / ".gitignore").write_text(".env\n")
    git(folder, "add", ".")
    return folder


def git(folder: Path, *words: str) -> None:
    hermetic = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "PATH": os.environ["PATH"]}
    subprocess.run(["git", *words], cwd=folder, env=hermetic, check=True, capture_output=True)


def scan(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPO / "scripts" / "secret_scan.py"), "--root", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def places(done: subprocess.CompletedProcess[str]) -> set[str]:
    return set(re.findall(r"^Secret scan: (\S+:\d+): ", done.stderr, re.MULTILINE))


class TestSecrets:
    def test_what_is_planted_is_found_and_not_shown(self, checkout: Path) -> None:
        files = {
            "src/settings.py": f'REGION = "eu-north-1"\nAWS_ACCESS_KEY_ID = "{AWS_KEY}"\n',
            "deploy/key.pem": PRIVATE_KEY,
            # In a test, too: only guesses are silenced there.
            "tests/test_x.py": f'key = "{AWS_KEY}"\nsecret = "{AWS_SECRET}"\npassword = "hunter2hunter2"\n',
            "tests/fixtures/key": PRIVATE_KEY,
            "docs/notices.md": f"Set it to {SLACK}\n",
            "prod.conf": "url: postgresql://cars:Ungues5able@db.example.is/cars\n",
            ".env": f"AWS_ACCESS_KEY_ID={AWS_KEY}\n",  # git does not take it
        }
        for name, text in files.items():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            (checkout / name).write_text(text)
        git(checkout, "add", "src")  # found whether git has it or only would
        done = scan(checkout)
        assert done.returncode == 1, done
        assert places(done) == {
            "src/settings.py:2",
            "deploy/key.pem:1",
            "tests/test_x.py:1",
            "tests/test_x.py:2",
            "tests/fixtures/key:1",
            "docs/notices.md:1",
            "prod.conf:1",
        }
        for secret in (AWS_KEY, AWS_SECRET, "MIIBOgIBAAJBAK", "x9Kq2Lm4", "Ungues5able"):
            assert secret not in done.stdout + done.stderr

    def test_what_was_looked_at_stays_good_when_it_moves_and_only_there(self, checkout: Path) -> None:
        example = checkout / "example.md"
        example.write_text("postgresql://me:madeup1@host/cars\n")
        assert scan(checkout).returncode == 1
        updated = scan(checkout, "--update")
        assert (updated.returncode, updated.stdout) == (
            0,
            "Secret scan: from now on no secret: example.md:1: Basic Auth Credentials\n",
        )
        example.write_text("# Example\n\npostgresql://me:madeup1@host/cars\n")
        done = scan(checkout)
        assert (done.returncode, done.stderr) == (0, "")
        example.write_text("postgresql://me:another2@host/cars\n")
        (checkout / "other.md").write_text("postgresql://me:madeup1@host/cars\n")
        assert places(scan(checkout)) == {"example.md:1", "other.md:1"}

    def test_one_that_was_marked_as_real_is_not_excused(self, checkout: Path) -> None:
        (checkout / "key.pem").write_text(PRIVATE_KEY)
        scan(checkout, "--update")
        assert scan(checkout).returncode == 0
        path = checkout / ".secrets.baseline"
        path.write_text(path.read_text().replace('"is_secret": false', '"is_secret": true'))
        assert places(scan(checkout)) == {"key.pem:1"}

    def test_without_git_or_baseline_it_says_so(self, checkout: Path) -> None:
        shutil.rmtree(checkout / ".git")
        done = scan(checkout)
        assert (done.returncode, done.stdout) == (0, "Secret scan: left out, as this is no checkout of git's\n")
        (checkout / ".secrets.baseline").unlink()
        done = scan(checkout)
        assert done.returncode == 1
        assert ".secrets.baseline is not there" in done.stderr


def test_the_baseline_is_looked_at_and_names_no_machine() -> None:
    text = (REPO / ".secrets.baseline").read_text("utf-8")
    baseline = json.loads(text)
    assert "generated_at" not in baseline
    assert not re.search(r'"/|file://|\\\\', text)
    names = {plugin["name"] for plugin in baseline["plugins_used"]}
    assert {"AWSKeyDetector", "PrivateKeyDetector", "Base64HighEntropyString", "KeywordDetector"} <= names
    entries: Sequence[dict[str, Any]] = [each for found in baseline["results"].values() for each in found]
    assert entries
    assert all(each["is_secret"] is False for each in entries)


def test_lint_runs_both() -> None:
    done = subprocess.run(["make", "--dry-run", "lint"], cwd=REPO, capture_output=True, text=True, check=True)
    for script in ("secret_scan.py", "dependency_audit.py"):
        assert f"/python scripts/{script}\n" in done.stdout
