"""``scrapy storage check``: lines, JSON and exit codes; every failure is in tests/storage/test_probe.py."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests import services

if TYPE_CHECKING:
    from tests.cli.conftest import Storage


def test_a_line_each(storage: Storage, rclone_s3: services.S3) -> None:
    storage.settings = {**rclone_s3.env, "S3_PREFIX": "/cars//is"}
    said = storage("check")
    lines = said.out.splitlines()
    assert len(lines) == 10
    assert lines[:3] == [
        "✓ credentials        settings",
        f"✓ bucket             car-photos at {rclone_s3.endpoint}",
        "– region             the server names none",
    ]
    assert re.fullmatch(r"✓ put                cars/is/_test/check-\d{8}T\d{6}-[0-9a-f]{12}\.jpg", lines[3])
    assert {line[0] for line in lines[3:]} == {"✓"}
    assert said.err == ""
    assert rclone_s3.keys() == []


def test_a_failure_has_its_cure_on_its_line(storage: Storage, rclone_s3: services.S3) -> None:
    storage.settings = {**rclone_s3.env, "AWS_S3_BUCKET": "no-such-bucket"}
    said = storage("check", code=4)
    failed, skipped = said.out.splitlines()[1:3]
    assert failed == (
        f"✗ bucket             NoSuchBucket: {rclone_s3.endpoint} has no bucket no-such-bucket → check AWS_S3_BUCKET, "
        "or make it: scrapy storage setup"
    )
    assert skipped == "– region             without the bucket"
    assert said.err == ""


def test_json(storage: Storage, moto_s3: services.S3) -> None:
    storage.settings = moto_s3.env
    found = storage("check", "--json").data
    assert (found["ok"], found["bucket"], found["endpoint"]) == (True, moto_s3.bucket, moto_s3.endpoint)
    assert found["steps"][0] == {"name": "credentials", "ok": True, "detail": "settings", "cause": "", "cure": ""}
    found = storage("check", "--json", "-s", "AWS_S3_REGION=eu-west-1", code=4).data
    assert found["ok"] is False
    assert found["steps"][2]["cure"] == "set AWS_S3_REGION=eu-north-1"
    assert {step["ok"] for step in found["steps"][3:]} == {None}


def test_what_shall_be_public(storage: Storage, moto_s3: services.S3) -> None:
    storage.settings = moto_s3.env
    assert "✗ public address " in storage("check", "--public", code=4).out
    assert "✓ public address " in storage("check", "--private").out
    assert "not allowed with argument" in storage("check", "--private", "--public", code=2).err


def test_crawls_that_do_not_use_it(storage: Storage, moto_s3: services.S3) -> None:
    storage.settings = {**moto_s3.env, "USE_S3_STORAGE": "false"}
    assert storage("check").err == "USE_S3_STORAGE is off: crawls keep photos elsewhere.\n"


def test_no_bucket_is_named(storage: Storage) -> None:
    assert storage("check", code=4).err.startswith("Photos go to a folder, there is no bucket")
