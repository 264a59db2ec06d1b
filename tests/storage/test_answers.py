"""What S3's answers mean: the table of ``docs/storage.md``, each of its rows put to a scripted server."""

from __future__ import annotations

import functools
import io
import re
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.exceptions import ConfigurationError, StoreError, StoreRefusedError, StoreUnavailableError
from carscraper.maintenance import bucket as bucket_module
from carscraper.maintenance.bucket import Bucket, FeatureMissingError
from carscraper.maintenance.check import check_bucket
from carscraper.storage import client as client_module
from carscraper.storage import listing, objects, turns
from carscraper.storage import s3 as s3_module
from carscraper.storage.answers import FIXES
from carscraper.storage.client import S3Options
from carscraper.storage.keys import Upload
from carscraper.storage.s3 import S3Store
from tests import services
from tests.fakes import make_settings
from tests.storage.conftest import options_of
from tests.storage.scripted import Scripted, certificate, nobody, old_tls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NO_S3 = "S3 can't be used: what answers is no S3 server; check AWS_ENDPOINT_URL: it must be an S3 server's address."
UPLOAD = Upload(name="a.jpg", data=b"bytes", content_type="image/jpeg", metadata={"source": "Bílasölur"})
ACTIONS = {
    "put": "s3:PutObject",
    "get": "s3:GetObject",
    "head": "s3:",  # the listing behind it is what says why
    "list": "s3:ListBucket",
    "delete": "s3:DeleteObject",
    "configure": "s3:PutBucketVersioning",
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "_FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(turns, "_EVERY", 0.01)
    monkeypatch.setattr(client_module, "_READ_TIMEOUT", 0.3)
    monkeypatch.setattr(s3_module, "_READ_TIMEOUT", 0.3)
    monkeypatch.setattr(bucket_module, "_CONFLICTS", 1)


def table() -> Iterator[tuple[str, dict[str, str]]]:
    """Each answer of the table, and the class that it has for each operation."""
    text = (services.REPO / "docs" / "storage.md").read_text("utf-8")
    lines = text.partition("<!-- answers:")[2].partition("<!-- answers: end -->")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    for row in rows[1:]:
        for answer in re.findall("`([^`]+)`", row[0]):
            yield answer, dict(zip(rows[0][1:], row[1:], strict=True))


class Asking:
    """Every way in which this program asks one server."""

    def __init__(self, options: S3Options) -> None:
        self.store = store = S3Store(options)
        client = store.client()
        store.client = functools.cache(lambda: client)  # type: ignore[method-assign]
        client.close = lambda: None
        bucket = options.bucket
        self.ways: dict[str, list[Callable[[], Any]]] = {
            "put": [
                lambda: store.put(UPLOAD),
                lambda: objects.put(client, options, UPLOAD, replace=True, cache_control=None),
            ],
            "get": [lambda: store.get("a.jpg", max_bytes=100), lambda: objects.get(client, bucket, "a.jpg")],
            "head": [lambda: objects.head(client, bucket, "a.jpg")],
            "list": [lambda: list(listing.list_objects(client, bucket)), store.check],
            "delete": [lambda: store.delete("a.jpg"), lambda: objects.remove(client, bucket, "a.jpg", [])],
            "configure": [lambda: Bucket(client, options).put("versioning", {"Status": "Enabled"})],
        }

    def meaning(self, operation: str, way: int) -> tuple[str, str]:
        """The class of what the server answers now, in the table's word, and the sentence."""
        try:
            found = self.ways[operation][way]()
        except StoreError as error:
            said = str(error)
            if isinstance(error, FeatureMissingError):
                return "lacks", said
            return ("refused" if isinstance(error, StoreRefusedError) else "again"), said
        return ("absent" if found is None and operation in {"get", "head"} else "done"), ""


def options_for(endpoint: str, **changes: Any) -> S3Options:
    keys = {"access_key": "AKID", "secret_key": "secret"}
    return S3Options(
        bucket="car-photos", region="eu-north-1", endpoint=endpoint, retries=0, timeout=1, **keys, **changes
    )


def seen_otherwise(asking: Asking, answer: str, expected: dict[str, str]) -> Iterator[str]:
    """Each operation of which the table is not true, or whose sentence lacks a word."""
    for operation, ways in asking.ways.items():
        for way in range(len(ways)):
            found, said = asking.meaning(operation, way)
            is_check = (operation, way) == ("list", 1)  # by HEAD, which a crawl sends before all others
            if is_check and (found, answer) in {
                ("done", "403"),  # a key that may only put is allowed to crawl
                ("done", "403 AccessDenied"),
                ("again", "507 XMinioStorageFull"),
            }:
                continue
            if answer == "tls" and (operation, way) in {("put", 0), ("get", 0), ("delete", 0)}:
                continue
            status, _, code = answer.partition(" ")
            told = found not in {"refused", "again"} or (said.endswith(".") and "\n" not in said)
            if found == "refused" and code and code[0] not in "<ntu" and status.isdigit() and status[0] in "45":
                named = "MethodNotAllowed" if code == "NotImplemented" and operation != "put" else code
                told = told and code in said and FIXES.get(named, "") in said and ACTIONS[operation] in said
                told = told and "Some <words>" in said
            if found != expected[operation] or not told:
                yield f"{operation} ({way}): {found}: {said}"


def test_the_table_is_true(tmp_path: Path) -> None:
    """Whichever client asks, and whatever for: the default class of an answer is "refused"."""
    wrong = Counter[str]()
    with ExitStack() as stack:
        path, context = certificate(tmp_path, "elsewhere.example")
        plain, by_tls = (stack.enter_context(Scripted(its)) for its in (None, context))
        old = stack.enter_context(Scripted(old_tls(certificate(tmp_path, "127.0.0.1")[1])))
        special = {
            "down": options_for(f"http://{stack.enter_context(nobody())}"),
            "tls name": options_for(f"https://{by_tls.address}", ca_bundle=str(path)),
            "tls unknown": options_for(f"https://{by_tls.address}"),
            "no tls": options_for(f"https://{plain.address}"),
            "old tls": options_for(f"https://{old.address}"),
            "tls": options_for(f"http://{by_tls.address}"),
        }
        usual = Asking(options_for(plain.endpoint))
        rows = list(table())
        assert len(rows) > 40
        for answer, expected in rows:
            plain.say(answer if answer not in special else "400")
            asking = Asking(special[answer]) if answer in special else usual
            wrong.update(f"`{answer}` {each}" for each in seen_otherwise(asking, answer, expected))
    assert not wrong, "\n".join(wrong)


def test_the_table_is_true_of_real_servers(rclone_s3: services.S3, moto_s3: services.S3) -> None:
    """Rclone checks signatures, moto does not."""
    rows = dict(table())
    wrong_keys: tuple[dict[str, Any], ...] = ({"secret_key": "wrong"}, {"access_key": "WRONG"})
    for s3, all_changes in ((rclone_s3, wrong_keys), (moto_s3, ())):
        for changes in (*all_changes, {"bucket": "no-such-cars"}):
            answer = "404 NoSuchBucket" if "bucket" in changes else "403 SignatureDoesNotMatch"
            asking = Asking(options_of(s3, retries=0, timeout=5, **changes))
            for operation, ways in asking.ways.items():
                for way in range(len(ways)):
                    found = asking.meaning(operation, way)
                    assert found[0] == rows[answer][operation], (s3.kind, changes, operation, way, found)
        asking = Asking(options_of(s3, retries=0, timeout=5))
        assert [asking.meaning(each, 0)[0] for each in ("get", "head")] == ["absent", "absent"]
        assert [asking.meaning(each, 0)[0] for each in ("put", "list", "delete")] == ["done", "done", "done"]


def test_a_refused_upload_is_asked_once_and_names_the_settings_in_use() -> None:
    with Scripted() as server:
        store = S3Store(options_for(server.endpoint, sse="aws:kms", tags=(("a", "b"),)))
        for answer in ("400 InvalidArgument", "405", "400 SomethingNew"):
            server.say(answer)
            with pytest.raises(StoreRefusedError) as caught:
                store.put(UPLOAD)
            assert len(server.requests) == 1
            assert ("S3_SSE and S3_TAGS" in str(caught.value)) == (answer != "405")


def test_a_bucket_that_wants_content_md5_gets_it() -> None:
    """As with object lock; metadata, type and class are those of every upload, and nobody asks twice."""
    with Scripted() as server:
        server.want_md5()
        store = S3Store(options_for(server.endpoint, storage_class="STANDARD_IA"))
        threads = [threading.Thread(target=store.put, args=(UPLOAD,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        store.put(UPLOAD)
        client = store.client()
        client.upload_fileobj(io.BytesIO(b"bytes"), "car-photos", "log.txt")
        client.close()
        stored = [headers for _, _, headers in server.requests if "content-md5" in headers]
        refused = [headers for _, _, headers in server.requests if "content-md5" not in headers]
    assert len(stored) == 9 + 1
    assert {each["content-md5"] for each in stored} == {"SzpiGLs+OnMD6KFxpg/Pkg=="}
    stored.pop()
    for name in ("content-type", "cache-control", "x-amz-storage-class", "x-amz-meta-source"):
        assert {each[name] for each in stored} == {refused[0][name]}, name


def test_a_server_that_is_away_is_not_asked_by_everybody_again_and_again(
    moto_s3: services.S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 uploads at once with five retries each: one try each, and then one request a turn, whoever asks."""
    monkeypatch.setattr(turns, "_EVERY", 0.2)
    with Scripted() as server:
        server.say("503 SlowDown")
        store = S3Store(options_of(moto_s3, endpoint=server.endpoint, retries=5))

        def put() -> None:
            with suppress(StoreUnavailableError):
                store.put(UPLOAD)

        threads = [threading.Thread(target=put) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.times) <= 16 + 2
        count = len(server.times)
        threads = [threading.Thread(target=each) for each in (put, put, store_check(store))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.times) == count + 3, "one probe is one request"
        gaps = [after - before for before, after in zip(server.times[-4:], server.times[-3:], strict=False)]
        assert min(gaps) > 0.19


def store_check(store: S3Store) -> Callable[[], None]:
    def check() -> None:
        with suppress(StoreUnavailableError):
            store.check()

    return check


def test_what_a_vendor_does_not_have_is_said_before_it_is_asked() -> None:
    r2 = "https://0123.r2.cloudflarestorage.com"
    for wrong, said in [
        ({"AWS_ENDPOINT_URL": r2}, "AWS_S3_REGION is 'eu-north-1', which Cloudflare R2 does not have; write auto, "),
        ({"AWS_S3_REGION": "north"}, "AWS_S3_REGION is 'north'; write one of Amazon's regions, such as eu-north-1."),
        (
            {"S3_STORAGE_CLASS": "standard_ia"},
            "S3_STORAGE_CLASS is 'standard_ia', which Amazon S3 does not have; write ",
        ),
    ]:
        with pytest.raises(ConfigurationError) as caught:
            S3Options.from_settings(make_settings(AWS_S3_BUCKET="car-photos", **wrong))
        assert str(caught.value).startswith(said)
    for right in (
        {"AWS_ENDPOINT_URL": r2, "AWS_S3_REGION": "auto"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000", "AWS_S3_REGION": "fsn1", "S3_STORAGE_CLASS": "cold"},
        {"AWS_S3_REGION": "us-gov-west-1", "S3_STORAGE_CLASS": "GLACIER_IR"},
    ):
        S3Options.from_settings(make_settings(AWS_S3_BUCKET="car-photos", **right))


def test_what_keeps_a_connection_from_coming_about_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By uploads, boto3 and ``storage check`` alike."""
    wrong = []
    with Scripted() as proxy, nobody() as dead:
        proxy.say("407")
        for variables, endpoint, named in [
            ({"HTTP_PROXY": f"http://user:secret@{dead}"}, "http://s3.invalid", f"the proxy {dead} (HTTP_PROXY)"),
            ({"https_proxy": f"http://{dead}"}, "https://s3.invalid", f"the proxy {dead} (https_proxy)"),
            ({"HTTPS_PROXY": "http://proxy.invalid:8"}, "https://s3.invalid", "proxy.invalid:8 (HTTPS_PROXY) can't be"),
            ({"HTTP_PROXY": proxy.endpoint}, "http://s3.invalid", "the proxy (HTTP_PROXY) its user and password"),
            (
                {},
                "http://photos.invalid",
                "no such host (car-photos.photos.invalid); check the name in its address, or",
            ),
        ]:
            with monkeypatch.context() as patch:
                for name, value in variables.items():
                    patch.setenv(name, value)
                options = options_for(endpoint, addressing_style="path" if variables else "virtual")
                asking = Asking(options)
                said = [asking.meaning(operation, 0)[1] for operation in ("put", "list")]
                said += [f"{step.detail}; {step.fix}" for step in check_bucket(options) if step.ok is False]
                said.append(asking.meaning("list", 1)[1])
            wrong += [each for each in said if named not in each or "secret" in each] + ["missing"] * (len(said) != 4)
    assert not wrong, "\n".join(wrong)


def test_success_that_breaks_off_or_is_none_of_s3_is_no_500() -> None:
    with Scripted() as server:
        client = Asking(options_for(server.endpoint)).store.client()
        bucket = Bucket(client, options_for(server.endpoint))
        asks: tuple[Callable[[], Any], ...] = (
            lambda: list(listing.list_objects(client, "car-photos")),
            lambda: bucket.read("lifecycle"),
            lambda: bucket.read("ownership"),
        )
        for answer, said in (("200 <cut>", "S3's answer breaks off; try again later."), ("200 <html>", NO_S3)):
            server.say(answer)
            for ask in asks:
                with pytest.raises(StoreError) as caught:
                    ask()
                # Other questions may have been answered well.
                of_one = "<html>" in answer and ask is not asks[0]
                assert ("is no answer of S3's" in str(caught.value)) if of_one else (str(caught.value) == said)
