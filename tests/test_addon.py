"""The add-on: values typed, secrets wrapped, problems kept; and a crawl that ends with the sentence of its mistake."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from scrapy.exceptions import CloseSpider
from scrapy.settings import Settings, default_settings

import carscraper.settings
from carscraper.addon import CarscraperAddon, aborting, end_as_failed
from carscraper.exceptions import ConfigurationError
from carscraper.settings import secret_names
from carscraper.state import state_of
from tests.fakes import make_crawler, make_settings


class TestAddon:
    def test_values_are_typed_and_keep_their_priority(self) -> None:
        settings = make_settings(IMAGES_WIDTH="784", USE_S3_STORAGE="no", IMAGES_THUMBS='{"small": [320, 240]}')
        assert settings["IMAGES_WIDTH"] == 784
        assert settings["USE_S3_STORAGE"] is False
        assert settings["IMAGES_THUMBS"] == {"small": (320, 240)}
        assert settings["CARSCRAPER_PROBLEMS"] == []
        assert settings.getpriority("IMAGES_WIDTH") == 40
        assert settings.getpriority("S3_MAX_RETRIES") == 20

    @pytest.mark.parametrize("name", secret_names)
    def test_secrets_are_wrapped_wherever_they_come_from(self, name: str) -> None:
        value = "postgresql://u:hunter2@h/d" if name == "DATABASE_URL" else "hunter2"
        settings = make_settings(**{name: value})
        assert settings[name].reveal() == value
        assert "hunter2" not in repr(dict(settings)) + str(settings.copy_to_dict())

    def test_every_problem_is_kept_and_none_is_raised(self) -> None:
        settings = make_settings(IMAGES_WIDTH="wide", S3_MAX_RETRIES="-1")
        assert len(settings["CARSCRAPER_PROBLEMS"]) == 2
        assert any("IMAGES_WIDTH is 'wide'" in problem for problem in settings["CARSCRAPER_PROBLEMS"])

    @pytest.mark.parametrize("name", ["DOWNLOAD_DELAY", "DOWNLOAD_TIMEOUT", "RETRY_TIMES", "AUTOTHROTTLE_ENABLED"])
    def test_a_wrong_value_that_scrapy_reads_first_does_not_end_in_its_traceback(self, name: str) -> None:
        settings = make_settings(**{name: "wrong"})
        assert settings["CARSCRAPER_PROBLEMS"][0].startswith(f"{name} is 'wrong'")
        assert settings[name] == getattr(default_settings, name)

    def test_applying_it_twice_changes_nothing(self) -> None:
        settings = make_settings(DATABASE_URL="sqlite:///x.db", IMAGES_THUMBS='{"small": [320, 240]}')
        before = settings.copy_to_dict()
        CarscraperAddon().update_settings(settings)
        assert settings.copy_to_dict() == before
        assert settings["DATABASE_URL"].reveal() == "sqlite:///x.db"

    @pytest.mark.parametrize(
        ("changes", "slot"),
        [
            ({"DOWNLOAD_DELAY": "0.4"}, {"concurrency": 8, "delay": 0.1}),
            ({"DOWNLOAD_DELAY": "0.4", "IMAGES_DOWNLOAD_DELAY": "0"}, {"concurrency": 8, "delay": 0.0}),
            ({"IMAGES_CONCURRENCY": "2", "IMAGES_DOWNLOAD_DELAY": "1.5"}, {"concurrency": 2, "delay": 1.5}),
            ({"DOWNLOAD_SLOTS": {"images": {"delay": 9}, "x": {}}}, {"delay": 9}),
        ],
    )
    def test_photos_have_a_download_slot_of_their_own(self, changes: dict[str, Any], slot: dict[str, Any]) -> None:
        assert make_settings(**changes).getdict("DOWNLOAD_SLOTS")["images"] == slot

    def test_libraries_that_log_signed_headers_are_quiet(self) -> None:
        make_settings(LOG_LEVEL="DEBUG")
        assert logging.getLogger("botocore").level == logging.WARNING

    def test_it_is_switched_on(self) -> None:
        settings = Settings()
        settings.setmodule(carscraper.settings)
        assert "carscraper.addon.CarscraperAddon" in settings.getdict("ADDONS")


class TestAborting:
    def test_a_wrong_setting_ends_the_crawl_with_its_sentence(self) -> None:
        crawler = make_crawler(IMAGES_WIDTH="wide")
        with pytest.raises(CloseSpider) as caught, aborting(crawler):
            pytest.fail("nothing is done with a wrong setting")
        assert caught.value.reason == "configuration"
        assert "IMAGES_WIDTH" in state_of(crawler).failed

    def test_a_wrong_argument_too(self) -> None:
        crawler = make_crawler()
        crawler.spider.argument_problem = "limit is 'x'."
        with pytest.raises(CloseSpider), aborting(crawler):
            pytest.fail("nothing is done with a wrong argument")
        assert state_of(crawler).failed == "limit is 'x'."

    def test_what_a_component_finds_out_later(self) -> None:
        crawler = make_crawler()
        with pytest.raises(CloseSpider), aborting(crawler):
            raise ConfigurationError("AWS_S3_BUCKET is missing.")
        assert state_of(crawler).failed == "AWS_S3_BUCKET is missing."

    def test_nothing_wrong(self) -> None:
        crawler = make_crawler()
        with aborting(crawler):
            asyncio.run(asyncio.sleep(0))
        assert state_of(crawler).failed is None

    def test_the_first_reason_stays(self) -> None:
        crawler = make_crawler()
        end_as_failed(crawler, "first")
        end_as_failed(crawler, "second")
        assert state_of(crawler).failed == "first"
