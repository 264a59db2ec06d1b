"""Looks for secrets in every file that git knows or would take (detect-secrets), and fails where it finds a new one.

``.secrets.baseline`` holds what was looked at and is no secret: as hashes, with file and kind; a moved line changes
nothing. ``--update`` takes up what is found now and names it: look at each line before you commit that.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the baseline names the filter below by its module

from detect_secrets.core import baseline  # noqa: E402 - behind the path
from detect_secrets.core.secrets_collection import SecretsCollection  # noqa: E402
from detect_secrets.exceptions import UnableToReadBaselineError  # noqa: E402

if TYPE_CHECKING:
    from detect_secrets.core.potential_secret import PotentialSecret
    from detect_secrets.plugins.base import BasePlugin

BASELINE = ".secrets.baseline"
_GUESSES = {"KeywordDetector", "BasicAuthDetector"}


def is_throwaway(filename: str, secret: str, plugin: BasePlugin) -> bool:  # noqa: ARG001 - how filters of secrets are known
    """Be a filter of detect-secrets: passwords that tests and benchmarks make up for servers of their own.

    Only the two detectors that take any word behind ``password=`` or ``user:`` are silenced there. Keys and tokens of
    a known form, private keys, and strings that look random are found in tests as everywhere.
    """
    return filename.startswith(("tests/", "benchmarks/")) and type(plugin).__name__ in _GUESSES


def files() -> list[str] | None:
    """Give the names of all files that git has, or would add; ``None`` where git is of no help."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - fixed words
    except (OSError, subprocess.CalledProcessError):
        return None
    names = dict.fromkeys(done.stdout.split("\0"))
    return [name for name in names if name and name != BASELINE and Path(name).is_file()]


def scan(names: list[str]) -> SecretsCollection:
    """Give what is found in these files, with the detectors and filters of the baseline that was loaded."""
    found = SecretsCollection()
    found.scan_files(*names)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Scan; 0 if there is nothing new, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--update", action="store_true", help="take what is found now for no secret, and name it")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (the one with this script)")
    options = parser.parse_args(arguments)
    os.chdir(options.root)
    try:
        known = baseline.load(baseline.load_from_file(BASELINE), BASELINE)
    except (UnableToReadBaselineError, KeyError):
        print(f"Secret scan: {BASELINE} is not there or can't be read: git checkout {BASELINE}", file=sys.stderr)
        return 1
    names = files()
    if names is None:
        print("Secret scan: left out, as this is no checkout of git's")
        return 0
    found = scan(names)
    # What somebody has marked as a real one (`detect-secrets audit`) is not excused by being known.
    excused = {secret for _, secret in known if secret.is_secret is False}
    new = [secret for _, secret in found if secret not in excused]
    new.sort(key=lambda secret: (secret.filename, secret.line_number))
    if options.update:
        return _update(found, new)
    for secret in new:
        print(f"Secret scan: {_place(secret)}", file=sys.stderr)
    if new:
        print(
            "Secret scan: take it out (and change it, if it was ever pushed), or if it is none: "
            ".venv/bin/python scripts/secret_scan.py --update",
            file=sys.stderr,
        )
        return 1
    print(f"Secret scan: {len(names)} files, no secret")
    return 0


def _place(secret: PotentialSecret) -> str:
    return f"{secret.filename}:{secret.line_number}: {secret.type}"


def _update(found: SecretsCollection, new: list[PotentialSecret]) -> int:
    for _, secret in found:
        secret.is_secret = False
    content = baseline.format_for_output(found)
    del content["generated_at"]  # it would change with every run, for nothing
    # Ours to set at each start; saved it would only name the file itself.
    ours = "detect_secrets.filters.common.is_baseline_file"
    content["filters_used"] = [each for each in content["filters_used"] if each["path"] != ours]
    baseline.save_to_file(content, BASELINE)
    for secret in new:
        print(f"Secret scan: from now on no secret: {_place(secret)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
