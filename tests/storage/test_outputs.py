"""Uploading a run's files: against both servers, through the proxy that misbehaves, and at its time-out."""

from __future__ import annotations

import itertools
import os
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.exceptions import ConfigurationError
from carscraper.storage import outputs
from carscraper.storage.client import open_client
from carscraper.storage.outputs import PART, OutputFile, OutputOptions
from tests import services
from tests.fakes import make_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FOLDER = "20261121_070409_job"


def options_of(s3: services.S3, **settings: Any) -> OutputOptions:
    """Photos stay in a folder: only the bucket and the credentials are named."""
    return OutputOptions.from_settings(make_settings(**{**s3.env, "USE_S3_STORAGE": "false", **settings}))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., OutputFile]:
    def file(options: OutputOptions, name: str = "run.log", data: bytes = b"a line\n") -> OutputFile:
        path = tmp_path / name
        path.write_bytes(data)
        key = options.key(FOLDER, name)
        return OutputFile(path=path, key=key, kind="log", date="2026-11-21", content_type="text/plain")

    return file


def test_bytes_types_tags_and_parts(s3: services.S3, make: Callable[..., OutputFile]) -> None:
    options = options_of(s3, S3_OUTPUT_CLIENT="Garage 7: a/b@c", S3_OUTPUT_PREFIX="/kept//runs")
    large = os.urandom(20 * 1024**2)
    files = [make(options), make(options, "items.jsonl.gz", large), make(options, "empty", b"")]
    with services.S3Proxy(s3.endpoint) as proxy:
        done = outputs.upload_files(options_of(s3.via(proxy), S3_OUTPUT_CLIENT="Garage 7: a/b@c"), files)
        parts = [each for each in proxy.requests if "partNumber" in each.query]
        assert not [each for each in proxy.requests if "tagging" in each.query.split("&")], "tags go with the object"
    assert done.errors == []
    names = ["run.log", "items.jsonl.gz", "empty"]
    assert done.urls == [f"s3://{s3.bucket}/kept/runs/{FOLDER}/{name}" for name in names]
    assert done.sizes == [7, len(large), 0]
    assert [each.received for each in parts] == [PART, PART, len(large) - 2 * PART]
    stored = s3.objects()
    assert stored[f"kept/runs/{FOLDER}/items.jsonl.gz"] == large
    assert stored[f"kept/runs/{FOLDER}/run.log"] == b"a line\n"
    if s3.kind == "moto":
        for name in names:
            key = f"kept/runs/{FOLDER}/{name}"
            tags = s3.client.get_object_tagging(Bucket=s3.bucket, Key=key)["TagSet"]
            assert {each["Key"]: each["Value"] for each in tags} == {
                "client": "Garage 7: a/b@c",
                "type": "log",
                "date": "2026-11-21",
            }
            assert s3.client.head_object(Bucket=s3.bucket, Key=key)["ContentType"] == "text/plain"


# --- what S3 does -----------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(moto_s3: services.S3) -> Iterator[services.S3Proxy]:
    with services.S3Proxy(moto_s3.endpoint) as running:
        yield running


def test_what_passes_is_waited_for(
    moto_s3: services.S3, proxy: services.S3Proxy, make: Callable[..., OutputFile]
) -> None:
    options = options_of(moto_s3.via(proxy))
    for number, fault in enumerate(
        (
            lambda: proxy.fail(503, "SlowDown", methods="PUT", times=1),
            lambda: proxy.reset(methods="PUT", times=1),
            lambda: proxy.lose_reply(methods="PUT", times=1),
        )
    ):
        fault()
        before = proxy.count("PUT")
        done = outputs.upload_files(options, [make(options, f"{number}.log")])
        assert (done.errors, len(done.urls)) == ([], 1), number
        assert moto_s3.objects()[f"outputs/{FOLDER}/{number}.log"] == b"a line\n"
        assert proxy.count("PUT") == before + 2, number


def test_errors_name_each_file_once(
    moto_s3: services.S3, proxy: services.S3Proxy, make: Callable[..., OutputFile]
) -> None:
    options = options_of(moto_s3.via(proxy), S3_OUTPUT_RETRIES=0)
    files = [make(options), make(options, "items.jsonl.gz"), make(options, "third")]
    cases = {
        "all alike": (proxy.reset, {}, [files]),
        "one of them": (proxy.reset, {"path": "run.log"}, [files[:1]]),
        "two in two ways": (proxy.reset, {"path": "(run.log|third)"}, [[files[0], files[2]]]),
        "refused": (lambda **which: proxy.fail(403, "AccessDenied", **which), {"path": "items"}, [files[1:]]),
    }
    for case, (fault, which, expected) in cases.items():
        with fault(**which):
            errors = outputs.upload_files(options, files).errors
        found = [error.split(": ", 1)[0].split(" and ") for error in errors]
        assert found == [[file.path.name for file in each] for each in expected], (case, errors)
        for name in ("run.log", "items.jsonl.gz", "third"):
            assert "".join(errors).count(name) <= 1, (case, errors)


def test_a_server_that_is_away_is_asked_once_a_second(
    moto_s3: services.S3, proxy: services.S3Proxy, make: Callable[..., OutputFile]
) -> None:
    options = options_of(moto_s3.via(proxy))
    proxy.fail(503, "SlowDown", times=3)
    proxy.reset(times=2)
    done = outputs.upload_files(options, [make(options), make(options, "items.jsonl.gz")])
    assert [len(done.errors), len(done.urls)] == [1, 1]
    asked = [each.at for each in proxy.requests]
    pauses = [later - before for before, later in itertools.pairwise(asked[:6])]
    assert min(pauses) > 0.95, pauses


def test_retries_end(moto_s3: services.S3, proxy: services.S3Proxy, make: Callable[..., OutputFile]) -> None:
    options = options_of(moto_s3.via(proxy), S3_OUTPUT_RETRIES=1)
    proxy.fail(503, "SlowDown", path="items")
    done = outputs.upload_files(options, [make(options, "items.jsonl.gz"), make(options)])
    assert done.urls == [f"s3://{moto_s3.bucket}/outputs/{FOLDER}/run.log"], "the other file is not given up"
    assert len(done.errors) == 1
    assert "503 SlowDown" in done.errors[0]
    assert len([each for each in proxy.paths("PUT") if "items" in each]) == 2


def test_a_server_that_does_not_answer_costs_the_timeout_and_no_more(
    moto_s3: services.S3, proxy: services.S3Proxy, make: Callable[..., OutputFile]
) -> None:
    options = options_of(moto_s3.via(proxy), S3_OUTPUT_TIMEOUT=1)
    proxy.trickle(methods="PUT", path="items")
    began = time.monotonic()
    done = outputs.upload_files(options, [make(options), make(options, "items.jsonl.gz")])
    assert 1 <= time.monotonic() - began < 4.5
    assert len(done.urls) == 1, "what is there counts"
    assert done.errors == ["items.jsonl.gz: The upload took longer than 1 s: do it again, or raise S3_OUTPUT_TIMEOUT."]


def test_a_slow_line_is_broken_off_and_leaves_no_parts(
    moto_s3: services.S3, proxy: services.S3Proxy, make: Callable[..., OutputFile]
) -> None:
    options = options_of(moto_s3.via(proxy), S3_OUTPUT_TIMEOUT=1)
    proxy.delay(0.8, methods="PUT")
    done = outputs.upload_files(options, [make(options, data=bytes(3 * PART)), make(options, "items.jsonl.gz")])
    assert done.urls == []
    said = "The upload took longer than 1 s: do it again, or raise S3_OUTPUT_TIMEOUT."
    assert done.errors == [f"run.log and items.jsonl.gz: {said}"]
    uploads = moto_s3.client.list_multipart_uploads
    services.wait_until(lambda: not uploads(Bucket=moto_s3.bucket).get("Uploads"), 10, "the parts to go")
    assert [each.method for each in proxy.requests][-1] == "DELETE"


def altered(monkeypatch: pytest.MonkeyPatch, event: str, change: Callable[..., None]) -> None:
    def opened(options: Any, **given: Any) -> Any:
        client = open_client(options, **given)
        client.meta.events.register(event, change)
        return client

    monkeypatch.setattr(outputs, "open_client", opened)


def test_another_size_does_not_count(
    moto_s3: services.S3, make: Callable[..., OutputFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    altered(monkeypatch, "after-call.s3.HeadObject", lambda parsed, **_: parsed.update(ContentLength=6))
    options = options_of(moto_s3, S3_OUTPUT_RETRIES=0)
    assert "is not what was sent" in outputs.upload_files(options, [make(options)]).errors[0]


# --- refusals ---------------------------------------------------------------------------------------------------


def test_a_refusal_is_one_sentence_and_not_repeated(rclone_s3: services.S3, make: Callable[..., OutputFile]) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"S3_OUTPUT_BUCKET": "no-such-bucket"}, r"no-such-bucket \(NoSuchBucket.*check S3_OUTPUT_BUCKET\b"),
        ({"AWS_SECRET_ACCESS_KEY": "hunter2hunter2"}, r"\(SignatureDoesNotMatch.* check AWS_SECRET_ACCESS_KEY\."),
        ({"AWS_ACCESS_KEY_ID": "AKIDNOBODY"}, r"\(InvalidAccessKeyId.* check AWS_ACCESS_KEY_ID\."),
    ]
    for settings, said in cases:
        with services.S3Proxy(rclone_s3.endpoint) as proxy:
            options = options_of(rclone_s3.via(proxy), **settings)
            done = outputs.upload_files(options, [make(options), make(options, "items.jsonl.gz")])
            assert proxy.count() == 1, settings
        assert (done.urls, len(done.errors)) == ([], 1), settings
        assert re.search(said, done.errors[0]), done
        assert "hunter2" not in str(done)


def test_a_right_that_is_missing_is_named(
    moto_s3: services.S3, proxy: services.S3Proxy, make: Callable[..., OutputFile]
) -> None:
    options = options_of(moto_s3.via(proxy))
    with proxy.fail(403, "AccessDenied", methods="PUT"):
        assert "allow s3:PutObject and s3:PutObjectTagging." in outputs.upload_files(options, [make(options)]).errors[0]
    with proxy.fail(403, "AccessDenied", methods="HEAD"):
        assert "allow s3:GetObject." in outputs.upload_files(options, [make(options)]).errors[0]
    with proxy.fail(501, "NotImplemented", methods="PUT"):
        assert "S3_OUTPUT_TAGS=false" in outputs.upload_files(options, [make(options)]).errors[0]


def test_a_file_that_is_gone_does_not_hold_up_the_others(moto_s3: services.S3, make: Callable[..., OutputFile]) -> None:
    options = options_of(moto_s3)
    gone = make(options, "items.jsonl.gz")
    gone.path.unlink()
    done = outputs.upload_files(options, [gone, make(options)])
    assert done.errors == ["items.jsonl.gz: It can't be read (No such file or directory)."]
    assert len(done.urls) == 1


def test_settings_that_can_not_do() -> None:
    with pytest.raises(ConfigurationError, match=r"^AWS_S3_BUCKET is missing"):
        OutputOptions.from_settings(make_settings())
    options = OutputOptions.from_settings(make_settings(S3_OUTPUT_BUCKET="car-outputs"))
    assert options.s3.bucket == "car-outputs"
    with pytest.raises(ConfigurationError, match=r"^There are no credentials for S3"):
        options.check()
