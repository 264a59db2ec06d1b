"""Notices: a real web server and a real mail server on loopback, and everything that can go wrong on the way."""

from __future__ import annotations

import contextlib
import email
import email.policy
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.controller import Controller

from carscraper.runs import notices
from carscraper.runs.notices import notice_lines, tell
from carscraper.runs.record import FAILED, INTERRUPTED, PARTIAL, SKIPPED, SUCCESS
from tests import services
from tests.fakes import make_settings
from tests.runs.records import a_run
from tests.runs.webhook import KEY, Webhook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.server import BaseHTTPRequestHandler

# apprise imports a module that Python 3.13 no longer has (and does without it there).
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

BAD: dict[str, Any] = {"status": FAILED, "exit_code": 4, "why": "bilasolur: failed. The site is down."}


@pytest.fixture
def new_webhook() -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(Webhook())


@pytest.fixture
def webhook(new_webhook: Any) -> Webhook:
    server: Webhook = new_webhook()
    return server


class _Mailbox:
    def __init__(self) -> None:
        self.got: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - the library's name
        self.got.append(envelope)
        return "250 OK"


@pytest.fixture
def mailbox() -> Iterator[Any]:
    box = _Mailbox()
    controller = Controller(box, hostname="127.0.0.1", port=services.free_port())
    controller.start()
    box.port = controller.port  # type: ignore[attr-defined]
    yield box
    controller.stop()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_webhook_hears_of_it_in_slacks_json(webhook: Webhook, caplog: pytest.LogCaptureFixture) -> None:
    run = a_run(
        7,
        status=PARTIAL,
        why="bilasolur: partial. 20 cars.",
        cars=15,
        cars_new=3,
        cars_changed=2,
        cars_gone=4,
        images_stored=30,
        images_linked=1,
        images_known=9,
        images_failed={"truncated": 1, "http-404": 2},
        bytes=6_450_000,
        requests=77,
        monitors=[
            {"name": "min_cars", "passed": False, "said": "20 cars, at least 50 are expected"},
            {"name": "max_drop", "passed": True, "said": "fine"},
        ],
        output={"status": "failed", "errors": ["AccessDenied: s3://…"]},
    )
    tell(make_settings(NOTIFY_URLS=webhook.address), run)
    assert webhook.got[0][0] == f"/services/{KEY}"
    (text,) = webhook.texts()
    assert text.split("\n") == [
        "bilasolur: partial on crawler-1 (run 7, job job-7)",
        "bilasolur: partial. 20 cars.",
        "Cars: 20 (3 new, 2 changed), 4 gone",
        "Photos: 30 stored (6.5 MB), 1 linked, 9 known before, 3 failed (2 http-404, 1 truncated)",
        "Requests: 77, in 90 s",
        "Limit not kept: min_cars: 20 cars, at least 50 are expected",
        "Outputs: upload failed",
    ]
    assert warnings(caplog) == []


def test_mail_and_several_webhooks(new_webhook: Any, mailbox: Any, caplog: pytest.LogCaptureFixture) -> None:
    one, two = new_webhook(), new_webhook()
    mail = f"mailto://127.0.0.1:{mailbox.port}?from=crawler@example.is&to=a@example.is,b@example.is"
    tell(make_settings(NOTIFY_URLS=f"{one.address}, {mail},{two.address}"), a_run(7, **BAD))
    assert one.texts() == two.texts()
    assert warnings(caplog) == []
    assert sorted(address for envelope in mailbox.got for address in envelope.rcpt_tos) == [
        "a@example.is",
        "b@example.is",
    ]
    message = email.message_from_bytes(mailbox.got[0].content, policy=email.policy.default)
    assert message["Subject"] == "bilasolur: failed on crawler-1 (run 7, job job-7)"
    assert "The site is down." in message.get_body().get_content()  # type: ignore[attr-defined]


def test_which_ends_are_told(webhook: Webhook) -> None:
    cases = [
        (None, [PARTIAL, FAILED]),
        ("success, skipped", [SUCCESS, SKIPPED]),
        ("interrupted", [INTERRUPTED]),
        ("", []),
    ]
    for on, told in cases:
        webhook.got.clear()
        more = {} if on is None else {"NOTIFY_ON": on}
        settings = make_settings(NOTIFY_URLS=webhook.address, **more)
        for word in (SUCCESS, PARTIAL, FAILED, SKIPPED, INTERRUPTED):
            tell(settings, a_run(7, status=word))
        assert [text.split()[1] for text in webhook.texts()] == told, on
    tell(make_settings(), a_run(7, **BAD))  # nobody is told by default


HOSTILE = (
    'x <!channel> @everyone <https://evil.example|click> & "q"\nforged: line\r\x1b[31m\u2028<script>alert(1)</script>'
)


def test_hostile_text_is_text(webhook: Webhook, mailbox: Any) -> None:
    run = a_run(7, **BAD | {"why": HOSTILE, "images_failed": {HOSTILE: 2}, "job_id": "a\n*b*", "host": "<h>"})
    mail = f"mailto://127.0.0.1:{mailbox.port}?from=crawler@example.is&to=a@example.is"
    tell(make_settings(NOTIFY_URLS=f"{webhook.address} {mail}"), run)
    (text,) = webhook.texts()
    assert len(text.splitlines()) == 6, "the verdict has two lines"
    assert not {"<", ">", "\x1b", "\r", "\u2028"} & set(text)
    assert "x &lt;!channel&gt; @\u200beveryone &lt;https://evil.example|click&gt; &amp; " in text
    message = email.message_from_bytes(mailbox.got[0].content, policy=email.policy.default)
    assert "\n" not in message["Subject"]
    assert [value for name, value in message.items() if name.lower() == "forged"] == []
    for part in message.walk():
        if part.get_content_type() == "text/html":
            html = part.get_content()  # type: ignore[attr-defined]
            assert "<script" not in html
            assert "&lt;script" in html
            break
    else:
        assert "alert(1)" in message.get_body().get_content()  # type: ignore[attr-defined]


def test_long_text_is_cut() -> None:
    lines = notice_lines(
        a_run(7, **BAD | {"why": "x" * 100_000, "images_failed": {f"http-{n}": 1 for n in range(5000)}})
    )
    assert max(len(line) for line in lines) <= 601
    assert lines[1].endswith("…")
    many = [{"name": f"n{number}", "passed": False, "said": "no"} for number in range(100)]
    assert len(notice_lines(a_run(7, **BAD | {"monitors": many}))) == 20


def test_a_webhook_that_refuses_is_one_line(webhook: Webhook, caplog: pytest.LogCaptureFixture) -> None:
    webhook.answer = 404
    tell(make_settings(NOTIFY_URLS=webhook.address), a_run(7, **BAD))
    (line,) = warnings(caplog)
    assert line.startswith("Notice 1 (http://127.0.0.1/…) could not be sent: it was not taken; ")


def test_a_redirect_is_not_followed(new_webhook: Any, webhook: Webhook, caplog: pytest.LogCaptureFixture) -> None:
    other = new_webhook()

    def redirect(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("Location", other.address)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    webhook.answer = redirect
    tell(make_settings(NOTIFY_URLS=webhook.address), a_run(7, **BAD))
    assert other.got == []
    assert len(warnings(caplog)) == 1


def test_what_cannot_be_sent_is_one_line_each_without_secrets(
    webhook: Webhook, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    closed = services.free_port()

    def garbage(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(f"garbage {KEY}\r\n\r\n".encode())

    webhook.answer = garbage
    addresses = [
        webhook.address,
        f"http://user:hunter2SECRET@127.0.0.1:{closed}/{KEY}",
        f"https://127.0.0.1:{webhook.server_port}/{KEY}",
        f"mailto://user:hunter2SECRET@127.0.0.1:{closed}?from=crawler@example.is&to=a@example.is",
        f"nosuchservice://{KEY}",
        "mailto://hunter2SECRET",
        f"http://127.0.0.1:99999/{KEY}",
        f"json://user:hunter2SECRET@127.0.0.1:{closed}/{KEY}",
    ]
    tell(make_settings(NOTIFY_URLS=" ".join(addresses)), a_run(7, **BAD))
    said = warnings(caplog)
    assert [line.split(" could")[0] for line in said] == [
        "Notice 1 (http://127.0.0.1/…)",
        "Notice 2 (http://127.0.0.1/…)",
        "Notice 3 (https://127.0.0.1/…)",
        "Notice 4 (mailto://…)",
        "Notice 5 (nosuchservice://…)",
        "Notice 6 (mailto://…)",
        "Notice 7 (http://127.0.0.1/…)",
        "Notice 8 (json://…)",
    ]
    assert "apprise does not know" in said[4]
    everything = caplog.text + "".join(capfd.readouterr())
    assert "SECRET" not in everything


def test_a_password_in_a_webhooks_address_is_sent_as_one(webhook: Webhook) -> None:
    address = webhook.address.replace("http://", "http://us%40er:pass%3Aword@")
    tell(make_settings(NOTIFY_URLS=address), a_run(7, **BAD))
    assert webhook.got[0][1]["Authorization"] == "Basic dXNAZXI6cGFzczp3b3Jk"
    assert "@" not in webhook.got[0][1]["Host"]


def test_time_is_bounded(
    webhook: Webhook, new_webhook: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "_ALL_WITHIN", 1.0)
    ended = threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        for letter in "HTTP/1.0 200 OK and so on":
            handler.wfile.write(letter.encode())
            handler.wfile.flush()
            if ended.wait(0.2):
                return

    webhook.answer = slow
    good = new_webhook()
    begin = time.monotonic()
    tell(make_settings(NOTIFY_URLS=f"{webhook.address} {good.address}"), a_run(7, **BAD))
    assert time.monotonic() - begin < 2
    ended.set()
    assert len(good.got) == 1, "one that does not answer keeps nobody else from hearing"
    (line,) = warnings(caplog)
    assert line.startswith("Notice 1 (http://127.0.0.1/…) could not be sent: ")
