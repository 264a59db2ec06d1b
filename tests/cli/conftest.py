"""``scrapy storage`` in this process, which is quick; tests/cli/test_storage_command.py runs the real program."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from scrapy.settings import Settings

from carscraper.commands.storage import Command

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass
class Said:
    """What a verb said."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The JSON on stdout."""
        return json.loads(self.out)


class Storage:
    """Runs ``scrapy storage`` with settings of its own; nothing comes from the environment."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        self.settings: dict[str, Any] = {}
        """What each call is given, as ``-s`` would."""
        self.answer: str | None = None
        """What the person at the terminal types; ``None``: nobody is there."""

    def __call__(self, *words: object, settings: Mapping[str, Any] | None = None, code: int | None = 0) -> Said:
        """Runs a verb and insists on its exit code (``None``: any)."""
        loaded = Settings()
        loaded.setmodule("carscraper.settings", priority="project")
        for name, value in {**self.settings, **(settings or {})}.items():
            loaded.set(name, value, priority="cmdline")
        command = Command()
        command.settings = loaded
        parser = argparse.ArgumentParser(prog="scrapy storage")
        command.add_options(parser)
        self._capsys.readouterr()
        if self.answer is not None:
            self._monkeypatch.setattr(sys, "stdin", _Terminal(self.answer))
        try:
            options, left = parser.parse_known_args([str(word) for word in words])
            command.process_options(left, options)
            command.run(left, options)
            exitcode = command.exitcode
        except SystemExit as ended:
            exitcode = int(ended.code or 0)
        captured = self._capsys.readouterr()
        said = Said(exitcode, captured.out, captured.err)
        if code is not None:
            assert said.code == code, said
        return said


class _Terminal:
    def __init__(self, answer: str) -> None:
        self._answer = answer

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return f"{self._answer}\n"


@pytest.fixture
def storage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Storage:
    """``scrapy storage`` without a bucket: set ``storage.settings``, mostly to ``s3.env``."""
    return Storage(capsys, monkeypatch)
