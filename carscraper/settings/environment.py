"""The environment, ``.env`` and the command line: the only reader of all three, and what is wrong with their names."""

from __future__ import annotations

import difflib
import io
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

from dotenv.parser import parse_stream
from scrapy.settings import default_settings
from scrapy.utils.conf import closest_scrapy_cfg

from carscraper.settings.kinds import is_address
from carscraper.settings.table import REMOVED, SETTINGS, Setting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

scrapy_names = frozenset(name for name in dir(default_settings) if name.isupper())
_variables = {*SETTINGS, "CARSCRAPER_ENV_FILE", *(each.variable for each in SETTINGS.values() if each.variable)}
_scrapy_variables = {"SCRAPY_PROJECT", "SCRAPY_SETTINGS_MODULE", "SCRAPY_PYTHON_SHELL"}


class Environment:
    """What this process is told, and what is wrong with it: nobody can catch an exception while settings are loaded."""

    def __init__(self) -> None:
        beside_project = Path(closest_scrapy_cfg() or "scrapy.cfg").parent / ".env"
        self.file = Path(os.environ.get("CARSCRAPER_ENV_FILE") or beside_project)
        self.command = next((word for word in sys.argv[1:] if word[:1] != "-"), "")
        """Of Scrapy's commands, or whatever stands in its place."""
        self.words = [word for word in sys.argv[1:] if word != self.command]
        """The rest of the command line."""
        self.problems: list[str] = []
        """Sentences; ``addon`` ends the crawl with the first."""
        self.in_file = self._read()
        self.values = {**self.in_file, **os.environ}
        self.problems += sorted(self._wrong_names())
        self.problems += _wrong_proxies()

    def value(self, setting: Setting) -> Any:
        """Return what *setting* is set to, as it is written, or its default."""
        text = self.values.get(setting.variable, "").strip() or self.values.get(setting.name, "").strip()
        return text if text or (setting.empty and setting.name in self.values) else setting.default

    def unread(self, known: frozenset[str]) -> list[str]:
        """Return the names of settings in ``.env`` that only ``-s`` can change."""
        return sorted(self.in_file.keys() & (known - _variables))

    def exposed_file(self) -> Path | None:
        """Return the ``.env`` if it has a secret in it and everybody on this machine may read it."""
        values = (self.in_file.get(setting.name) for setting in SETTINGS.values() if setting.secret)
        if not any(value and not value.startswith("sqlite:") for value in values):
            return None
        return self.file if self.file.stat().st_mode & 0o004 else None

    def secrets(self) -> Iterator[str]:
        """Return the secrets of other programs that ``.env`` and the environment hold, such as ``PGPASSWORD``."""
        named = re.compile(r"(PASSWORD|PASSWD|SECRET|TOKEN|_KEY)$")
        return (value for name, value in self.values.items() if named.search(name))

    def _read(self) -> dict[str, str]:
        try:
            text = self.file.read_bytes().decode("utf-8-sig")
        except FileNotFoundError:
            if os.environ.get("CARSCRAPER_ENV_FILE"):
                self.problems.append(f"CARSCRAPER_ENV_FILE names {self.file}, which is not there; correct or unset it.")
            return {}
        except OSError as error:
            self._cant_read(f"can't be read ({error.strerror}); make it readable or remove it")
            return {}
        except UnicodeDecodeError:
            self._cant_read("is not in UTF-8; save it in that encoding")
            return {}
        if "\0" in text:
            if text.count("\0") > len(text) / 3:  # UTF-16 that happens to be valid UTF-8
                self._cant_read("is not in UTF-8; save it in that encoding")
            else:
                self._cant_read(f"has a NUL byte in line {text[: text.index(chr(0))].count(chr(10)) + 1}; remove it")
            return {}
        found = {}
        for each in parse_stream(io.StringIO(text)):
            if each.error:
                statement = each.original.string
                line = each.original.line + len(statement) - len(statement.lstrip("\n"))
                # Only the name is shown: the rest may be a secret.
                name = re.match(r"\s*(?:-\s+)?([A-Za-z_]\w*)\s*:", statement)
                self._cant_read(f"can't be read in line {line}; write {name[1] if name else 'NAME'}=value")
            elif each.key is not None and each.value is not None:
                found[each.key] = each.value
        return found

    def _cant_read(self, why: str) -> None:
        self.problems.append(f"The settings file {self.file} {why}.")

    def _wrong_names(self) -> Iterator[str]:
        for name in self.in_file:
            if wrong := wrong_name(name):
                yield f"{name} in {self.file} is no setting{wrong}"
        # An environment has many variables of other programs, and short names are alike by chance (LOGLEVEL).
        distinct = {"CARSCRAPER_ENV_FILE", *(name for name in SETTINGS if len(name) > 9)} - {"USER_AGENT"}
        for name in os.environ:
            same = {name.upper()} & SETTINGS.keys()
            candidates = _scrapy_variables if name.startswith("SCRAPY_") else distinct | same
            if wrong := wrong_name(name, candidates):
                yield f"{name} in the environment is no setting{wrong}"


def wrong_name(name: str, known: Iterable[str] = SETTINGS.keys() | scrapy_names) -> str | None:
    """Return what to say of the name of a removed setting, or of a misspelt one; ``None`` of any other name.

    >>> [wrong_name(name) for name in ("USE_S3_STORGE", "MY_PLUGIN", "LOG_LEVEL")]
    ['; did you mean USE_S3_STORAGE?', None, None]
    """
    if name in REMOVED:
        return f" any more: {REMOVED[name]}."
    if name in _variables | scrapy_names | _scrapy_variables:
        return None
    instead = meant(name, known)
    return f"; did you mean {instead}?" if instead else None


def meant(name: str, known: Iterable[str]) -> str | None:
    """Return the one of *known* that *name* is a misspelling of; names of other programs are no misspellings.

    >>> [meant(name, SETTINGS) for name in ("USE_S3_STORGE", "use_s3_storage", "CONTAKT")]
    ['USE_S3_STORAGE', 'USE_S3_STORAGE', 'CONTACT']
    >>> [meant(name, SETTINGS) for name in ("AWS_REGION", "AWS_ENDPOINT_URL_STS", "DATABASE_USER")]
    [None, None, None]
    """
    written = name.strip().upper()
    candidates = [each for each in known if abs(len(each) - len(written)) <= 2]
    return next(iter(difflib.get_close_matches(written, candidates, 1, 0.9 if len(written) > 9 else 0.85)), None)


def _wrong_proxies() -> Iterator[str]:
    """Find proxies that no request could go through: each would fail as if its own address were wrong."""
    for scheme in {"http", "https"} & getproxies().keys():
        address = getproxies()[scheme]
        name = next((each for each in (f"{scheme}_proxy", f"{scheme}_PROXY".upper()) if each in os.environ), None)
        if name and not is_address(address if "://" in address else f"http://{address}"):
            # Not shown: there may be a password in it.
            yield f"{name} in the environment is no address of a proxy; write http://host:port, or unset it."


def proxies_named(address: str = "") -> str:
    """Return the variables that name a proxy, or the one at *address* (``host:port``): `` (HTTPS_PROXY)``."""
    names = [
        name
        for name, value in os.environ.items()
        if re.fullmatch("(?i)(https?|all)_proxy", name) and value.rstrip("/").endswith(address.rstrip("/"))
    ]
    return f" ({' and '.join(names)})" if names else ""


def forget(names: Iterable[str]) -> None:
    """Take these variables, in any spelling, away from a library that has no option against them."""
    for name in [each for each in os.environ if each.upper() in names]:
        del os.environ[name]


ENVIRONMENT = Environment()
"""One a process: it does not change while a crawl runs."""
