"""Prints the part of ``requirements.lock`` that running carscraper takes: no tools for tests, lint or builds.

Usage: runtime_lock.py [NAME ...]    (NAME: an extra of pyproject.toml that is wanted besides, such as browser, or a
package, such as scrapyd; each with what it needs)

Versions and hashes are the lock's own. Which package needs which is what pip-compile wrote beside each (``# via``).
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def canonical(name: str) -> str:
    """Give the name as the lock spells it.

    >>> canonical("SQLAlchemy"), canonical("backports.zstd"), canonical("psycopg[binary]>=3.3")
    ('sqlalchemy', 'backports-zstd', 'psycopg')
    """
    found = re.match(r"[\w.-]+", name)
    assert found, name
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def blocks(lock: str) -> dict[str, str]:
    """Give each package's lines by its name."""
    found = re.findall(r"^[a-z0-9][^\n]*==[^\n]*\n(?:    [^\n]*\n)*", lock, re.MULTILINE)
    return {canonical(block): block for block in found}


def needed_by(block: str) -> set[str]:
    """Give the packages that need the one of *block*."""
    _, _, via = block.partition("# via")
    return {canonical(line.lstrip(" #")) for line in via.splitlines() if line.strip(" #")}


def runtime(lock: str, wanted: set[str]) -> str:
    """Give the lines of the *wanted* packages and of all that they need.

    Raises:
        SystemExit: the lock does not have one of them.
    """
    known = blocks(lock)
    if missing := wanted - set(known):
        raise SystemExit(f"requirements.lock does not have {', '.join(sorted(missing))}: run make lock")
    chosen = set(wanted)
    while more := {name for name, block in known.items() if name not in chosen and needed_by(block) & chosen}:
        chosen |= more
    return "".join(known[name] for name in sorted(chosen))


def main(names: list[str]) -> None:
    """Print the lines for the project's dependencies and for the extras and packages of these *names*."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = list(project["dependencies"])
    for name in names:
        wanted += project["optional-dependencies"].get(name, [name])
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    print(runtime(lock, {canonical(each) for each in wanted}), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
