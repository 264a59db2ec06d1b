"""``scrapy storage check``: lines, JSON and exit codes; every failure is in tests/storage/test_check.py."""

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
    assert len(lines) == 9
    assert lines[:2] == ["✓ credentials        settings", f"✓ bucket             car-photos at {rclone_s3.endpoint}"]
    assert re.fullmatch(r"✓ put                cars/is/_test/check-[0-9a-f]{18}\.jpg", lines[2])
    assert {line[0] for line in lines} == {"✓"}
    assert said.err == ""
    assert rclone_s3.keys() == []
    said = storage("check", settings={"AWS_S3_BUCKET": "no-such-bucket"}, code=4)
    failed, skipped = said.out.splitlines()[1:3]
    assert failed.startswith("✗ bucket             NoSuchBucket: ")
    assert failed.endswith("→ check AWS_S3_BUCKET, or make the bucket: scrapy storage setup")
    assert skipped == "– put                not tried without bucket"
    assert said.err == ""


def test_json(storage: Storage, moto_s3: services.S3) -> None:
    storage.settings = moto_s3.env
    found = storage("check", "--json").data
    assert (found["ok"], found["bucket"], found["endpoint"]) == (True, moto_s3.bucket, moto_s3.endpoint)
    assert found["steps"][0] == {"name": "credentials", "ok": True, "detail": "settings", "fix": ""}
    found = storage("check", "--json", "-s", "AWS_S3_BUCKET=no-such-cars", code=4).data
    assert found["ok"] is False
    assert found["steps"][1]["fix"] == "check AWS_S3_BUCKET, or make the bucket: scrapy storage setup"
    assert {step["ok"] for step in found["steps"][2:]} == {None}


def test_what_should_be_public(storage: Storage, moto_s3: services.S3) -> None:
    storage.settings = moto_s3.env
    assert "✗ public address " in storage("check", "--public", code=4).out
    assert "✓ public address " in storage("check", "--private").out
    assert "not allowed with argument" in storage("check", "--private", "--public", code=2).err


def test_crawls_that_do_not_use_it(storage: Storage, moto_s3: services.S3) -> None:
    assert storage("check", code=4).err.startswith("Photos go to a folder, there is no bucket")
    storage.settings = {**moto_s3.env, "USE_S3_STORAGE": "false"}
    assert storage("check").err == "USE_S3_STORAGE is off: crawls keep photos elsewhere.\n"
