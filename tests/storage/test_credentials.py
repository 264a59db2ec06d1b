"""Whose credentials and addresses count: the settings', a profile's, the environment's; and nobody sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from carscraper.exceptions import ConfigurationError, StoreRefusedError
from carscraper.storage.client import S3Options
from carscraper.storage.s3 import S3Store
from tests import services
from tests.storage.test_s3 import DATA, KEY, store, upload

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def aws_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rclone_s3: services.S3) -> services.S3:
    """AWS's two files, with a profile that opens the bucket and one that does not."""
    (tmp_path / "credentials").write_text(
        f"[cars]\naws_access_key_id = {rclone_s3.access_key}\naws_secret_access_key = {rclone_s3.secret_key}\n"
        "[wrong]\naws_access_key_id = AKIDWRONG\naws_secret_access_key = wrong\n"
    )
    (tmp_path / "config").write_text("[profile cars]\nregion = us-east-1\nendpoint_url = http://127.0.0.1:9\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return rclone_s3


class TestCredentials:
    def test_the_profile_that_is_asked_for(self, aws_files: services.S3) -> None:
        backend = store(aws_files, access_key=None, secret_key=None, profile="cars")
        backend.check()
        backend.put(upload())
        assert aws_files.objects() == {KEY: DATA}
        with pytest.raises(StoreRefusedError):
            store(aws_files, access_key=None, secret_key=None, profile="wrong").check()
        with pytest.raises(ConfigurationError, match=r"^AWS_PROFILE=nobody is not in the AWS configuration files"):
            store(aws_files, access_key=None, secret_key=None, profile="nobody")

    def test_boto3s_own_variables_are_found(self, rclone_s3: services.S3, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", rclone_s3.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rclone_s3.secret_key)
        backend = store(rclone_s3, access_key=None, secret_key=None)
        backend.check()
        backend.put(upload())

    def test_ours_win_over_the_environments(self, rclone_s3: services.S3, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOTHER")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "other")
        backend = store(rclone_s3)
        backend.check()
        backend.put(upload())
        assert rclone_s3.keys() == [KEY]


def test_the_settings_win_over_what_the_clients_read_by_themselves(
    rclone_s3: services.S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SKIP_SIGNATURE", "VIRTUAL_HOSTED_STYLE_REQUEST", "S3_EXPRESS", "UNSIGNED_PAYLOAD", "DISABLE_TAGGING"):
        monkeypatch.setenv(f"AWS_{name}", "true")
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    with services.S3Proxy(rclone_s3.endpoint) as proxy:
        backend = store(rclone_s3.via(proxy), tags=(("a", "b"),))
        backend.check()
        backend.put(upload())
        (put,) = [request for request in proxy.requests if request.method == "PUT"]
    assert rclone_s3.keys() == [KEY]
    assert (put.signed, len(put.headers["x-amz-content-sha256"]), put.headers["x-amz-tagging"]) == (True, 64, "a=b")


def test_nothing_shows_the_secret_key() -> None:
    options = S3Options(bucket="car-photos", region="eu-north-1", access_key="AKID", secret_key="hunter2")
    assert "hunter2" not in repr(S3Store(options))
    assert "hunter2" not in repr(options)
