"""Uploads from a page in a real Chromium: what ``presign`` gives it, and what ``setup`` lets its site do."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import async_playwright

from carscraper.base_spiders.chromium import find_chromium
from carscraper.exceptions import ConfigurationError
from tests import services
from tests.cli.in_front import ForBrowsers
from tests.conftest import service
from tests.http_server import HttpServer, Response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Storage

SCRIPT = """
async ([signed, size, type]) => {
    const bytes = new Uint8Array(size).fill(120);
    const blob = new Blob([bytes], {type});
    try {
        let answer;
        if (signed.method === "PUT") {
            answer = await fetch(signed.url, {method: "PUT", body: blob, headers: signed.headers});
        } else {
            const form = new FormData();
            for (const [name, value] of Object.entries(signed.fields))
                form.append(name, name === "Content-Type" ? type : value);
            form.append("file", blob);
            answer = await fetch(signed.url, {method: "POST", body: form});
        }
        return [answer.status, await answer.text(), answer.headers.get("ETag")];
    } catch (error) {
        return [0, String(error), null];
    }
}
"""


@contextlib.contextmanager
def chromium() -> Iterator[str]:
    try:
        yield find_chromium(None)
    except ConfigurationError as error:
        raise services.MissingService(str(error)) from None


@pytest.fixture
def program() -> Iterator[str]:
    with service(chromium) as found:
        yield found


def test_a_page_uploads_what_it_was_allowed_to(storage: Storage, moto_s3: services.S3, program: str) -> None:
    page_of = Response(body="<!doctype html><title>upload</title>")
    with ForBrowsers(moto_s3) as server, HttpServer(lambda _: page_of) as site, HttpServer(lambda _: page_of) as other:
        storage.settings = replace(moto_s3, endpoint=server.base_url).env
        put = storage("presign", "cars/by put.jpg", "--put", "--json").data
        post = storage("presign", "cars/by post.jpg", "--post", "--max-bytes", "5kB", "--json").data
        forged = post | {"fields": post["fields"] | {"key": "cars/another.jpg"}}

        async def run() -> None:
            async with async_playwright() as driver:
                sandbox = os.geteuid() != 0
                browser = await driver.chromium.launch(executable_path=program, chromium_sandbox=sandbox)
                page = await browser.new_page()

                async def sent(signed: Any, size: int = 1000, kind: str = "image/jpeg") -> Any:
                    return await page.evaluate(SCRIPT, [signed, size, kind])

                await page.goto(site.base_url)
                for words in ([], ["--cors-origin", site.base_url]):
                    storage("setup", "--yes", "--no-versioning", *words)
                    assert "Failed to fetch" in (await sent(put))[1], words
                    assert (await sent(post))[0] == 0, words
                plan = storage("setup", "--yes", "--no-versioning", "--cors-origin", site.base_url, "--upload").out
                assert f"~ CORS: carscraper-cors: GET, HEAD, POST and PUT from {site.base_url}" in plan
                status, _, etag = await sent(put)
                assert (status, bool(etag)) == (200, True)
                assert (await sent(post))[0] == 204
                for signed, size, kind, code in [
                    (post, 5001, "image/jpeg", "EntityTooLarge"),
                    (post, 0, "image/jpeg", "EntityTooLarge"),
                    (post, 1000, "text/html", "AccessDenied"),
                    (forged, 1000, "image/jpeg", "AccessDenied"),
                ]:
                    status, text, _ = await sent(signed, size, kind)
                    assert (status, code in text) == (403, True), (code, text)
                await page.goto(other.base_url)
                assert (await sent(put, 7))[0] == 0, "another site"
                await browser.close()

        asyncio.run(run())
    assert moto_s3.objects("cars/") == {"cars/by put.jpg": b"x" * 1000, "cars/by post.jpg": b"x" * 1000}


def test_a_form_without_a_browser(storage: Storage, moto_s3: services.S3) -> None:
    storage.settings = moto_s3.env
    url, line = storage("presign", "cars/it's.png", "--post", "--expires", "15m").out.splitlines()
    assert line.startswith("curl --fail --form-string Content-Type=image/png --form-string ")
    assert line.endswith(f"--form file=@FILE {url}")
    found = storage("presign", "k.jpg", "--post", "--json", settings={"AWS_SESSION_TOKEN": "t0k3n"})
    assert found.data["max_bytes"] == 20 * 1024**2
    assert "credentials that end by themselves" in found.err
    for words, code, says in [
        (["--max-bytes", "5MB"], 4, "--max-bytes belongs to --post"),
        (["--put", "--max-bytes", "5MB"], 4, "--max-bytes belongs to --post"),
        (["--content-type", "image/png"], 4, "--content-type belongs to --put and --post"),
        (["--put", "--post"], 2, "not allowed with argument"),
        (["--post", "--max-bytes", "0"], 2, "is no size"),
    ]:
        assert says in storage("presign", "k.jpg", *words, code=code).err, words
    assert "--upload needs --cors-origin" in storage("setup", "--yes", "--upload", code=4).err
