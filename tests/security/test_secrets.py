"""Where secrets lie: a file that everybody may read is spoken of, an address with a password in it is refused."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from carscraper.exceptions import ConfigurationError
from carscraper.settings import checks, secret_names
from carscraper.settings.environment import Environment
from tests.fakes import make_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests import services

SENTENCE = "has secrets in it, and everybody on this machine may read it"


def environment_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setenv("CARSCRAPER_ENV_FILE", str(path))
    return Environment()


def test_a_file_with_secrets_that_everybody_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my.env"
    for name in secret_names:
        path.write_text(f"CONTACT=a@example.is\n{name}=hunter2\n")
        for mode, exposed in ((0o644, True), (0o604, True), (0o640, False), (0o600, False)):
            path.chmod(mode)
            assert environment_of(path, monkeypatch).exposed_file() == (path if exposed else None), (name, oct(mode))
    path.chmod(0o644)
    for content in ("", "CONTACT=a@example.is\n", "AWS_SECRET_ACCESS_KEY=\n#DATABASE_URL=x\n"):
        path.write_text(content)
        assert environment_of(path, monkeypatch).exposed_file() is None, content
    path.unlink()
    assert environment_of(path, monkeypatch).exposed_file() is None


def test_a_crawl_says_so_once(tmp_path: Path, crawl: Callable[..., services.CompletedCrawl]) -> None:
    path = tmp_path / "my.env"
    path.write_text("HENRY_API_KEY=hunter2\n")
    path.chmod(0o644)
    done = crawl("bilasolur", env={"CARSCRAPER_ENV_FILE": str(path)}, spider_arguments={"limit": "none"})
    assert len(done.lines(f"{path} {SENTENCE}")) == 1, done
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "IMAGES_PUBLIC_URL"])
@pytest.mark.parametrize("address", ["https://me:hunter2@s3.example.is", "http://hunter2@127.0.0.1:9000/x"])
def test_an_address_with_a_password_is_refused_and_not_shown(
    name: str, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} is an address with a user in it") as caught:
        checks[name](address)
    assert "hunter2" not in str(caught.value)
    with caplog.at_level(logging.DEBUG):
        settings = make_settings(**{name: address})
    assert settings["CARSCRAPER_PROBLEMS"] == [str(caught.value)]
    assert "hunter2" not in caplog.text
