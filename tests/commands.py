"""``scrapy …`` in this process: as a user would call it, without the second that a process of its own takes."""

from __future__ import annotations

import argparse
import importlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scrapy.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest


@dataclass
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The JSON on stdout."""
        return json.loads(self.out)


def call(
    command: str, *words: object, settings: Mapping[str, Any], capsys: pytest.CaptureFixture[str], code: int | None = 0
) -> Said:
    """Run ``scrapy COMMAND WORDS…`` with *settings* as ``-s`` would give them; insist on its exit code (None: any).

    Nothing comes from the environment.
    """
    loaded = Settings()
    loaded.setmodule("carscraper.settings", priority="project")
    for name, value in settings.items():
        loaded.set(name, value, priority="cmdline")
    made = importlib.import_module(f"carscraper.commands.{command}").Command()
    made.settings = loaded
    parser = argparse.ArgumentParser(prog=f"scrapy {command}")
    made.add_options(parser)
    capsys.readouterr()
    try:
        options, left = parser.parse_known_args([str(word) for word in words])
        made.process_options(left, options)
        made.run(left, options)
        exitcode = made.exitcode
    except SystemExit as ended:
        exitcode = int(ended.code or 0)
    captured = capsys.readouterr()
    said = Said(exitcode, captured.out, captured.err)
    assert code is None or said.code == code, said
    return said
