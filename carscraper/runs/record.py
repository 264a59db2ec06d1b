"""What is known of one run: a row of ``crawl_runs``, and what is made of a crawl's stats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from scrapy.settings import SETTINGS_PRIORITIES

from carscraper.logs import SECRET_NAME, cleaned, printable
from carscraper.settings import Secret
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings

RUNNING, SUCCESS, PARTIAL, FAILED = "running", "success", "partial", "failed"
INTERRUPTED = "interrupted"
"""It never came to its end: killed, or its machine went down."""
SKIPPED = "skipped"
"""It never began: another run of the same source was under way."""
PENDING, OFF = "pending", "off"
"""Of the upload of a run's files: it is still to come, and there is to be none."""

STATUSES = (RUNNING, SUCCESS, PARTIAL, FAILED, INTERRUPTED, SKIPPED)
MISSING_OUTPUTS = (PENDING, PARTIAL, FAILED)
OUTPUT_STATUSES = (OFF, SUCCESS, *MISSING_OUTPUTS)
STATUS_OF: dict[int, str] = {ExitCode.SUCCESS: SUCCESS, ExitCode.PARTIAL: PARTIAL, ExitCode.FAILED: FAILED}
"""Of a run with such an exit code that came to its end."""

_FAILED_IMAGES = "carscraper/images/failed/"
_LONGEST = 1000  # characters of one value
_OUTPUTS = "outputs not all kept: "
_OUTPUTS_ALONE = f"partial. Its {_OUTPUTS}"


@dataclass(kw_only=True, slots=True)
class RunRecord:
    """One run. Times are UTC without a zone, as in all tables."""

    id: int | None = None
    spider: str
    source: str | None = None
    """Of a dealer's spider."""
    job_id: str
    """Scrapyd's or the queue's; else made for the run."""
    arguments: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    """Those that were overridden for this run; secrets as ``***``."""
    version: str = ""
    host: str = ""
    pid: int | None = None
    started_at: datetime
    finished_at: datetime | None = None
    status: str = RUNNING
    exit_code: int | None = None
    why: str | None = None
    """Every line of the verdict, without the spider's name."""
    complete: bool = False
    """It ended by itself, saw the whole site and did not fail: later runs can be measured by it."""
    cars_new: int = 0
    cars_changed: int = 0
    cars_unchanged: int = 0
    cars_gone: int = 0
    images_stored: int = 0
    images_linked: int = 0
    images_known: int = 0
    images_failed: dict[str, int] = field(default_factory=dict)
    """By reason."""
    images_for_sale: int | None = None
    """Photos of cars for sale in the ledger when the run ended; ``None``: not counted."""
    images_for_sale_stored: int | None = None
    """Those of them that are stored."""
    images_unstored: dict[str, int] = field(default_factory=dict)
    """The others, by reason."""
    bytes: int = 0
    """Of the photos that were stored."""
    requests: int = 0
    """To the dealer."""
    safe_p50: float | None = None
    """Seconds from a photo being seen to its bytes being safe: the median."""
    safe_p95: float | None = None
    monitors: list[dict[str, Any]] = field(default_factory=list)
    """Each limit that was looked at: ``name``, ``passed``, ``said``."""
    output: dict[str, Any] = field(default_factory=dict)
    """``enabled``, ``status`` (off, pending, success, partial, failed), ``uploadedAt``, ``s3Urls``, ``filesUploaded``,
    ``bytesUploaded``, ``errors``; and ``folder``, where the files are on this machine."""

    @property
    def reason(self) -> str:
        """Why it is no success, in one line; empty for a success and for a run under way."""
        lines = [line.strip() for line in (self.why or "").split("\n") if line.strip()]
        if self.status in {SUCCESS, RUNNING}:
            return ""
        if self.status == PARTIAL and len(lines) > 1:
            return "; ".join(lines[1:])
        return lines[0].removeprefix(f"{self.status}. ") if lines else ""

    @property
    def lacks_outputs_alone(self) -> bool:
        """Whether nothing but its files keeps it from being a success."""
        return self.status == PARTIAL and _last_line(self.why).startswith(_OUTPUTS_ALONE)

    def take_output(self, output: dict[str, Any]) -> str | None:
        """Take what became of its files, which makes a success partial, or what their absence made partial a success.

        Returns:
            The line of the verdict that says what is missing of them; ``None``: nothing.
        """
        if self.lacks_outputs_alone:
            self.status, self.exit_code = SUCCESS, ExitCode.SUCCESS
        lines = (self.why or "").split("\n")
        if lines[-1].startswith((_OUTPUTS, _OUTPUTS_ALONE)):
            del lines[-1]
        self.output, line = output, None
        if output["errors"]:
            line = f"{_OUTPUTS}{'; '.join(map(str, output['errors']))}"
            if self.status == SUCCESS:
                self.status, self.exit_code, line = PARTIAL, ExitCode.PARTIAL, f"partial. Its {line}"
            lines.append(printable(line))
        self.why = "\n".join(filter(None, lines)) or None
        return line

    @property
    def cars(self) -> int:
        """How many cars it saw."""
        return self.cars_new + self.cars_changed + self.cars_unchanged

    def as_json(self) -> dict[str, Any]:
        """Return it for people's scripts; times in ISO format."""
        found = asdict(self)
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in found.items()}

    def take(self, stats: Mapping[str, Any]) -> None:
        """Take the numbers from a crawl's *stats*."""

        def number(name: str) -> int:
            found: int = stats.get(f"carscraper/{name}", 0)
            return found

        self.cars_new, self.cars_changed = number("cars/new"), number("cars/changed")
        self.cars_unchanged, self.cars_gone = number("cars/unchanged"), number("cars/gone")
        self.images_stored, self.images_linked = number("images/stored"), number("images/linked")
        self.images_known, self.bytes = number("images/known"), number("images/bytes")
        self.images_failed = failed_images(stats)
        self.requests = stats.get("downloader/request_count", 0)
        self.safe_p50 = stats.get("carscraper/images/safe_p50")
        self.safe_p95 = stats.get("carscraper/images/safe_p95")


def _last_line(text: str | None) -> str:
    return (text or "").rpartition("\n")[2]


def failed_images(stats: Mapping[str, Any]) -> dict[str, int]:
    """Return how many photos failed in a crawl with these *stats*, by reason."""
    return {
        name.removeprefix(_FAILED_IMAGES): count
        for name, count in sorted(stats.items())
        if name.startswith(_FAILED_IMAGES) and count
    }


def overridden(settings: BaseSettings) -> dict[str, Any]:
    """Return the settings of this run alone: from the command line, from scrapyd's ``setting=``, from its spider."""
    return {
        name: _without_secrets(name, value)
        for name, value in sorted(settings.items())
        if (settings.getpriority(name) or 0) >= SETTINGS_PRIORITIES["spider"]
    }


def shown_arguments(arguments: Mapping[str, str]) -> dict[str, str]:
    """Return a spider's *arguments* without secrets.

    >>> shown_arguments({"base_url": "https://me:pw@bilasolur.is/?a=1&api_key=abc", "token": "abc", "makes": "Kia"})
    {'base_url': 'https://***@bilasolur.is/?a=1&api_key=***', 'token': '***', 'makes': 'Kia'}
    """
    return {name: "***" if SECRET_NAME.search(name) else _cleaned(value) for name, value in arguments.items()}


def _without_secrets(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Secret) or SECRET_NAME.search(name):
        return "***"
    if isinstance(value, Mapping):
        return {_cleaned(str(key)): _without_secrets(str(key), each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_without_secrets("", each) for each in value]
    return _text(str(value))


def _text(text: str) -> Any:
    if text[:1] in {"{", "["}:  # as ``-s NAME={…}`` is written
        try:
            return _without_secrets("", json.loads(text))
        except ValueError:
            return _cleaned(text)
    return _cleaned(text)


def _cleaned(text: str) -> str:
    return cleaned(text)[:_LONGEST]
