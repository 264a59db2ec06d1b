"""The files of a new dealer: what stands in them, and where they go."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from carscraper.exceptions import ConfigurationError

if TYPE_CHECKING:
    from datetime import date

KINDS = {
    "cards": "cards on pages that follow each other (CardSpider)",
    "rogg": "the Rögg platform, with the cards of bilasolur.is (RoggSpider)",
    "tiles": "the Rögg platform, with the cards of bilaland.is and br.is (RoggTileSpider)",
    "browser": "cards that are made by scripts (BrowserSpider)",
}
"""What a site can be like, and the base for it."""

_NOT_NAMES = {"backfill", "test"}


def plan(name: str, address: str, *, kind: str, today: date) -> dict[Path, str]:
    """Give the new files by their paths in the project.

    Args:
        name: of the spider, which is also that of its file.
        address: the site's, or its host.
        kind: of :data:`KINDS`.
        today: goes into the fixture as the day on which the page was seen.

    Raises:
        ConfigurationError: the name or the address is none.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or name in _NOT_NAMES:
        raise ConfigurationError(
            f"{name!r} is no name for a spider; write lower-case letters, digits and _, such as hekla."
        )
    home, host = _home(address)
    words = name.split("_")
    values = {
        "name": name,
        "classname": "".join(word.capitalize() for word in words) + "Spider",
        "source": "".join(word.capitalize() for word in words),
        "home": home,
        "host": host,
        "today": today.isoformat(),
    }
    fixture = Path("tests", "fixtures", name, "results-first")
    files = {
        Path("carscraper", "spiders", f"{name}.py"): f"{kind}.py.tmpl",
        fixture / "response.html": "response.html.tmpl",
        fixture / "meta.json": "meta.json.tmpl",
        fixture / "expected.json": "expected.json.tmpl",
        Path("docs", "sites", f"{name}.md"): "site.md.tmpl",
    }
    templates = importlib.resources.files("carscraper.templates").joinpath("dealer")  # no package: found in a zip, too
    return {
        path: Template(templates.joinpath(template).read_text("utf-8")).substitute(values)
        for path, template in files.items()
    }


def _home(address: str) -> tuple[str, str]:
    text = address if "://" in address else f"https://{address}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    good = re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", host) and port is None and "@" not in parts.netloc
    if not good or parts.scheme != "https" or parts.query:
        raise ConfigurationError(f"{address!r} is no address of a dealer's site; write one such as hekla.is.")
    return f"https://{host}/{parts.path.strip('/')}".rstrip("/") + "/", host.removeprefix("www.")


def write(root: Path, files: dict[Path, str]) -> None:
    """Write *files* below *root*, or none of them.

    Raises:
        ConfigurationError: one is there already, or *root* is no checkout of the project.
    """
    if not (root / "carscraper" / "spiders").is_dir() or not (root / "tests" / "fixtures").is_dir():
        raise ConfigurationError(f"{root} is no checkout of carscraper, with its tests: a dealer is added to one.")
    for path in files:
        if (root / path).exists():
            raise ConfigurationError(f"{path} is there already; nothing was written.")
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8")
