"""Asks a public database of vulnerabilities (OSV, through pip-audit) about every package of ``requirements.lock``.

A known vulnerability fails, unless ``scripts/accepted_vulnerabilities.toml`` names it. A database that can't be
reached, or breaks off, is one line and no failure: without a network the rest of `make lint` still says what it has
to say. What is wrong on this side (the lock can't be read, pip-audit is not there) fails.

``PIP_AUDIT_OSV_URL`` names another OSV server.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
ACCEPTED = ROOT / "scripts" / "accepted_vulnerabilities.toml"

# OSV and not the package index: an index, or a mirror of one, that has no vulnerabilities to tell answers "not found"
# for every package, which pip-audit takes for "nothing wrong".
_PIP_AUDIT = ["pip_audit", "--vulnerability-service", "osv", "--disable-pip", "--require-hashes"]
_OUTPUT = ["--format", "json", "--output", "stdout", "--progress-spinner", "off", "--timeout", "5"]
_LONGEST_REASON = 160  # characters


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """A vulnerability that is known and does no harm here."""

    id: str
    package: str
    reason: str
    date: date


def read_accepted(path: Path) -> list[Accepted]:
    """Read the accepted vulnerabilities.

    Raises:
        ValueError: an entry lacks something, or has what is not known; the sentence names the entry.
    """
    found = []
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path.name} is no TOML: {error}") from None
    if set(content) - {"accepted"}:
        raise ValueError(f"{path.name} has more than [[accepted]]: {', '.join(sorted(set(content) - {'accepted'}))}")
    for number, entry in enumerate(content.get("accepted", []), start=1):
        words = {name: entry.get(name) for name in ("id", "package", "reason")}
        good = all(isinstance(word, str) and word.strip() for word in words.values())
        if not good or type(entry.get("date")) is not date or len(entry) != 4:
            raise ValueError(f"{path.name}, entry {number}: write id, package, reason and date, and nothing else.")
        found.append(Accepted(**entry))
    return found


def pip_audit(lock: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run pip-audit on *lock*; nothing is installed or resolved."""
    command = [sys.executable, "-m", *_PIP_AUDIT, "--requirement", str(lock), *_OUTPUT, *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no word is a stranger's


def answer_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]] | None:
    """Give the packages of pip-audit's answer; ``None`` if it has none: its exit code is 1 for that, too."""
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return None
    return packages if done.returncode in {0, 1} and packages else None


def report(packages: list[dict[str, Any]], accepted: list[Accepted]) -> tuple[list[str], bool]:
    """Say what was found; true if it fails."""
    lines: list[str] = []
    fails = False
    used = set()
    for package in packages:
        name = package["name"]
        if "skip_reason" in package:
            lines.append(f"{name} was not looked at: {package['skip_reason']}")
            fails = True
        for each in package.get("vulns", []):
            ids = {each["id"], *each.get("aliases", [])}
            known = next((entry for entry in accepted if entry.package == name and entry.id in ids), None)
            called = f"{name} {package['version']}: {each['id']}"
            if known:
                used.add(known)
                lines.append(f"{called} is accepted since {known.date}: {known.reason}")
            else:
                mended = ", ".join(each.get("fix_versions", [])) or "no version yet"
                lines.append(f"{called} (mended in {mended}): {_short(each.get('description', ''))}")
                fails = True
    lines += [
        f"{entry.id} of {entry.package} is not found any more: take it out of {ACCEPTED.name}"
        for entry in accepted
        if entry not in used
    ]
    return lines, fails


def _short(text: str) -> str:
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= _LONGEST_REASON else f"{line[: _LONGEST_REASON - 1]}…"


def main(arguments: list[str] | None = None) -> int:
    """Audit; 0 for nothing known or nobody to ask, 1 for a vulnerability or a mistake on this side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lock", type=Path, default=LOCK, help="the file of pinned packages (requirements.lock)")
    parser.add_argument("--accepted", type=Path, default=ACCEPTED, help="the file of accepted vulnerabilities")
    options = parser.parse_args(arguments)
    try:
        accepted = read_accepted(options.accepted)
    except (ValueError, OSError) as error:
        print(f"Dependency audit: {error}", file=sys.stderr)
        return 1
    done = pip_audit(options.lock)
    packages = answer_of(done)
    if packages is None:
        why = _short((done.stderr.strip().splitlines() or ["it says nothing"])[-1])
        # The same without asking anybody: what fails now is wrong here, not at the service.
        if pip_audit(options.lock, "--dry-run").returncode:
            print(f"Dependency audit: pip-audit can't read {options.lock.name}: {why}", file=sys.stderr)
            return 1
        print(f"Dependency audit: left out, as the database of vulnerabilities does not answer ({why})")
        return 0
    lines, fails = report(packages, accepted)
    for line in lines:
        print(f"Dependency audit: {line}", file=sys.stderr if fails else sys.stdout)
    if not fails:
        print(f"Dependency audit: {len(packages)} packages, no vulnerability that is not accepted")
    return int(fails)


if __name__ == "__main__":
    sys.exit(main())
